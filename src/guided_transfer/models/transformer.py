"""The Cosmos-Transfer1 video transformer: tokens in, tokens out, in plain PyTorch.

B batch, D channels, T, H, W latent frames, rows and columns; tokens run over (t, h, w), w fastest, and there are
N = T * H/patch * W/patch of them. Everything that stays the same over the denoising steps of a clip (rotary tables,
position embedding, keys and values of the text) is computed once by `Trunk.prepare` and handed to `forward`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from guided_transfer.models.share import ALONE

RopePrecision = Literal["bf16", "fp32"]
AttentionBackend = Literal["auto", "cudnn", "flash", "math"]
KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [B, N, heads, head_dim], keys normalised (and rotated in self-attention)."""

SDPA_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "math": SDPBackend.MATH,
}
EPS = 1e-6


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a trunk; the defaults are the 7B base network.

    Attributes:
        max_size: rows of the learned position tables, in tokens along (t, h, w).
        rope_ratios: how far the rotary wavelengths are stretched along (t, h, w).
        rope_precision: "bf16" rounds the angles as the official run does (up to 0.15 rad), "fp32" does not.
        base_fps: the rate at which one latent frame is one step of the temporal rotary position.
    """

    channels: int = 4096
    heads: int = 32
    blocks: int = 28
    mlp_channels: int = 16384
    text_channels: int = 1024
    lora_channels: int = 256
    latent_channels: int = 16
    patch: int = 2
    max_size: tuple[int, int, int] = (128, 120, 120)
    rope_ratios: tuple[float, float, float] = (2.0, 1.0, 1.0)
    rope_precision: RopePrecision = "fp32"
    base_fps: float = 24.0

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], **settings: Any) -> Self:
        """Read every size from the shapes of a trunk's tensors; `settings` are the fields no tensor shows.

        Raises:
            KeyError: a tensor that shows a size is missing.
        """
        channels, patch_in = tensors["patch_embed.weight"].shape
        lora_channels, _ = tensors["blocks.0.modulation.0.down.weight"].shape
        head_dim = tensors["blocks.0.self_attn.q_norm.weight"].numel()
        latent_channels = settings.pop("latent_channels", cls.latent_channels)
        sizes = {
            "channels": channels,
            "heads": channels // head_dim,
            "blocks": 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks.")),
            "mlp_channels": len(tensors["blocks.0.mlp.up.weight"]),
            "text_channels": tensors["blocks.0.cross_attn.k.weight"].shape[1],
            "lora_channels": lora_channels,
            "latent_channels": latent_channels,
            "patch": math.isqrt(patch_in // (latent_channels + 2)),
            "max_size": tuple(len(tensors[f"positions.{axis}"]) for axis in "thw"),
        }
        return cls(**sizes, **settings)

    @property
    def head_dim(self) -> int:
        return self.channels // self.heads

    def token_size(self, latent_size: Sequence[int]) -> tuple[int, int, int]:
        """Token grid (t, h, w) of latents with (T, H, W) frames, rows and columns."""
        frames, rows, columns = latent_size
        return frames, rows // self.patch, columns // self.patch


def patchify(x: Tensor, patch: int) -> Tensor:
    """[B, C, T, H, W] -> [B, N, C * patch**2]; within a token the channel is slowest."""
    B, C, T, H, W = x.shape
    x = x.reshape(B, C, T, H // patch, patch, W // patch, patch)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(B, -1, C * patch**2)


def unpatchify(tokens: Tensor, size: tuple[int, int, int], patch: int) -> Tensor:
    """[B, N, patch**2 * C] -> [B, C, T, H, W]; here the channel is fastest, unlike in `patchify`."""
    B, (t, h, w) = len(tokens), size
    x = tokens.reshape(B, t, h, w, patch, patch, -1)
    return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(B, -1, t, h * patch, w * patch)


def rope_angles(config: TransformerConfig, size: tuple[int, int, int], fps: float, device: Any = None) -> Tensor:
    """Rotary angles in radians, [N, head_dim / 2] float32, of a token grid (t, h, w).

    The channels of a head are shared out as t, h, w, a third each with the remainder to t; wavelengths are
    stretched by NTK scaling, theta = 10000 * ratio ** (dim / (dim - 2)). With `rope_precision` "bf16" positions,
    frequencies and their products are rounded to bfloat16, as the official run does by casting its buffers.
    """
    dtype = torch.bfloat16 if config.rope_precision == "bf16" else torch.float32
    spatial_dim = config.head_dim // 6 * 2
    dims = (config.head_dim - 2 * spatial_dim, spatial_dim, spatial_dim)
    axes = []
    for axis, (count, dim, ratio) in enumerate(zip(size, dims, config.rope_ratios, strict=True)):
        theta = 10000.0 * ratio ** (dim / (dim - 2))
        exponent = (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim).to(dtype)
        position = torch.arange(count, dtype=torch.float32, device=device).to(dtype)
        if axis == 0:
            # full, not tensor: a copy from the host would wait for the device
            position = position / torch.full((), fps, dtype=dtype, device=device) * config.base_fps
        angles = position[:, None] * (1.0 / theta**exponent)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = count
        axes.append(angles.float().view(shape).expand(*size, -1))
    return torch.cat(axes, dim=-1).flatten(0, 2)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [B, N, heads, head_dim] by (cos, sin) [N, 1, head_dim / 2]; channel i pairs with i + head_dim / 2."""
    cos, sin = rope
    x1, x2 = x.float().chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(x.dtype)


class RmsNorm(nn.RMSNorm):
    """RMS norm whose weight takes the input's dtype, so that autocast keeps the fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Positions(nn.Module):
    """Learned position embedding, one table per axis, normalised to RMS 1 per token."""

    def __init__(self, size: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.t, self.h, self.w = (nn.Parameter(torch.zeros(count, channels)) for count in size)

    def forward(self, size: tuple[int, int, int]) -> Tensor:  # [N, D]
        t, h, w = size
        e = (self.t[:t, None, None] + self.h[None, :h, None] + self.w[None, None, :w]).flatten(0, 2)
        rms = torch.linalg.vector_norm(e, dim=-1, keepdim=True, dtype=torch.float32) * e.shape[-1] ** -0.5
        return e / (rms + EPS).to(e.dtype)


class TimeEmbedding(nn.Module):
    """Noise level -> (embedding [B, D], low-rank addend [B, 3 D]) for every modulation.

    The embedding is the normalised sinusoid itself; the two linear layers feed the addend alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels, bias=False)
        self.addend = nn.Linear(channels, 3 * channels, bias=False)
        self.norm = RmsNorm(channels, eps=EPS)

    def forward(self, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        half = self.hidden.in_features // 2
        exponent = torch.arange(half, dtype=torch.float32, device=c_noise.device) / half
        angles = c_noise.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.hidden.weight.dtype)
        return self.norm(sinusoid), self.addend(F.silu(self.hidden(sinusoid)))


class Modulation(nn.Module):
    """AdaLN-LoRA: `parts` vectors [B, 1, D] (shift, scale and, with three, gate) from the time embedding."""

    def __init__(self, channels: int, lora_channels: int, parts: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, lora_channels, bias=False)
        self.up = nn.Linear(lora_channels, parts * channels, bias=False)

    def forward(self, time: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        embedding, addend = time
        vectors = self.up(self.down(F.silu(embedding))) + addend[:, : self.up.out_features]
        return vectors[:, None].chunk(self.up.out_features // self.down.in_features, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys; no biases, no mask."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.backend: AttentionBackend = "auto"
        self.share = ALONE
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(context_channels, channels, bias=False)
        self.v = nn.Linear(context_channels, channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        self.q_norm = RmsNorm(channels // heads, eps=EPS)
        self.k_norm = RmsNorm(channels // heads, eps=EPS)

    def keys_values(self, context: Tensor) -> KeysValues:
        return self.k_norm(self._split(self.k(context))), self._split(self.v(context))

    def forward(self, y: Tensor, keys_values: KeysValues, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, (k, v) = self.q_norm(self._split(self.q(y))), keys_values
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
            if self.share.size > 1:
                k, v = self.share.whole(torch.stack([k, v]), dim=2)
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # [B, heads, N, head_dim]
        # Chosen around this one call, so nothing outside it changes; "auto" leaves torch its own order.
        with nullcontext() if self.backend == "auto" else sdpa_kernel(SDPA_BACKENDS[self.backend]):
            attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(channels, hidden, bias=False)
        self.down = nn.Linear(hidden, channels, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(y)))


class Block(nn.Module):
    """Self-attention, cross-attention to the text, MLP; each modulated and gated by the noise level."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.channels
        self.modulation = nn.ModuleList(Modulation(D, config.lora_channels, parts=3) for _ in range(3))
        self.self_attn = Attention(D, D, config.heads)
        self.cross_attn = Attention(D, config.text_channels, config.heads)
        self.mlp = Mlp(D, config.mlp_channels)

    def forward(
        self,
        x: Tensor,
        time: tuple[Tensor, Tensor],
        positions: Tensor,
        rope: tuple[Tensor, Tensor],
        text: KeysValues,
    ) -> Tensor:
        x = x + positions
        shift, scale, gate = self.modulation[0](time)
        y = modulate(x, shift, scale)
        x = x + gate * self.self_attn(y, self.self_attn.keys_values(y), rope)
        shift, scale, gate = self.modulation[1](time)
        x = x + gate * self.cross_attn(modulate(x, shift, scale), text)
        shift, scale, gate = self.modulation[2](time)
        return x + gate * self.mlp(modulate(x, shift, scale))


class FinalLayer(nn.Module):
    """Tokens [B, N, D] -> patches [B, N, patch**2 * latent_channels]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.modulation = Modulation(config.channels, config.lora_channels, parts=2)
        self.linear = nn.Linear(config.channels, config.latent_channels * config.patch**2, bias=False)

    def forward(self, x: Tensor, time: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale = self.modulation(time)
        return self.linear(modulate(x, shift, scale))


@dataclass(frozen=True)
class TrunkContext:
    """What one trunk knows about a clip before the first step.

    Attributes:
        size: token grid (t, h, w).
        rope: cosine and sine of the rotary angles, each [N, 1, head_dim / 2] float32, of this process's tokens.
        positions: normalised position embedding [N, D], likewise.
        text: keys and values of the text, one pair per block.
    """

    size: tuple[int, int, int]
    rope: tuple[Tensor, Tensor]
    positions: Tensor
    text: tuple[KeysValues, ...]


class Trunk(nn.Module):
    """What the base network and every control branch have in common: embeddings and blocks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.share = ALONE
        # + 2: the mask of given frames and the padding mask are channels beside the latents
        self.patch_embed = nn.Linear((config.latent_channels + 2) * config.patch**2, config.channels, bias=False)
        self.positions = Positions(config.max_size, config.channels)
        self.time_embed = TimeEmbedding(config.channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))

    def prepare(self, text: Tensor, latent_size: Sequence[int], fps: float) -> TrunkContext:
        """Compute what does not change over the steps from text [B, L, text_channels] and latents' (T, H, W)."""
        size = self.config.token_size(latent_size)
        angles = self.share.own(rope_angles(self.config, size, fps, text.device)[:, None], dim=0)
        positions = self.share.own(self.positions(size), dim=0)
        return TrunkContext(size, (angles.cos(), angles.sin()), positions, self.text_keys_values(text))

    def text_keys_values(self, text: Tensor) -> tuple[KeysValues, ...]:
        """Keys and values of text [B, L, text_channels], one pair per block."""
        text = text.to(self.patch_embed.weight.dtype)
        return tuple(block.cross_attn.keys_values(text) for block in self.blocks)  # type: ignore[union-attr, operator]

    def embed(self, x: Tensor) -> Tensor:
        """[B, latent_channels + 2, T, H, W] -> tokens [B, N, D], those of this process."""
        return self.patch_embed(self.share.own(patchify(x, self.config.patch), dim=1))

    def run_block(self, index: int, x: Tensor, time: tuple[Tensor, Tensor], context: TrunkContext) -> Tensor:
        return self.blocks[index](x, time, context.positions, context.rope, context.text[index])


class Transformer(Trunk):
    """The base network.

    Shapes: `forward` takes x [B, latent_channels + 2, T, H, W], c_noise [B], what `prepare` returned, and the
    controls' residuals [B, N, D] that are added after the first blocks; it returns [B, latent_channels, T, H, W].
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.final = FinalLayer(config)

    def forward(
        self, x: Tensor, c_noise: Tensor, context: TrunkContext, residuals: Sequence[Tensor] = ()
    ) -> Tensor:
        tokens, time = self.embed(x), self.time_embed(c_noise)
        for index in range(len(self.blocks)):
            tokens = self.run_block(index, tokens, time, context)
            if index < len(residuals):
                tokens = tokens + residuals[index]
        patches = self.share.whole(self.final(tokens, time), dim=1)
        return unpatchify(patches, context.size, self.config.patch)
