"""Control branches: a few blocks that see the noisy video and a hint, and steer the base network's first blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_transfer.models.transformer import TransformerConfig, Trunk, TrunkContext, patchify

PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 8


@dataclass(frozen=True)
class ControlConfig(TransformerConfig):
    """Sizes of a control branch; the defaults are the 7B branches.

    Attributes:
        hint_channels: width to which the hint's latents are filled up with zeros.
        hint_widths: widths inside the hint's MLP.
    """

    blocks: int = 3
    rope_ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)  # the base network's t ratio is 2, a branch's is 1
    hint_channels: int = 128
    hint_widths: tuple[int, ...] = (16, 16, 32, 32, 96, 96, 256)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], **settings: Any) -> Self:
        """Read every size from the shapes of a branch's tensors, see `TransformerConfig.from_state_dict`."""
        patch_area = tensors["patch_embed.weight"].shape[1] // (settings.get("latent_channels", 16) + 2)
        layers = sum(key.startswith("hint_mlp.") and key.endswith(".weight") for key in tensors)
        hint = {
            "hint_channels": tensors["hint_embed.weight"].shape[1] // patch_area - 1,
            "hint_widths": tuple(len(tensors[f"hint_mlp.{2 * i}.weight"]) for i in range(layers - 1)),
        }
        return super().from_state_dict(tensors, **hint, **settings)


class ControlBranch(Trunk):
    """One control: own embeddings and blocks, a hint added after the first block, a zero block after each."""

    config: ControlConfig

    def __init__(self, config: ControlConfig) -> None:
        super().__init__(config)
        D = config.channels
        # + 1: the padding mask is a channel beside the hint
        self.hint_embed = nn.Linear((config.hint_channels + 1) * config.patch**2, D, bias=False)
        widths = (D, *config.hint_widths, D)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.SiLU()]
        self.hint_mlp = nn.Sequential(*layers[:-1])
        self.zero_blocks = nn.ModuleList(nn.Linear(D, D) for _ in range(config.blocks))

    def hint_tokens(self, hint: Tensor, padding_mask: Tensor) -> Tensor:
        """Embed hint [B, latent_channels, T, H, W] and padding_mask [B, 1, T, H, W] as own tokens [B, N, D]."""
        zeros = hint.new_zeros(len(hint), self.config.hint_channels - hint.shape[1], *hint.shape[2:])
        stacked = torch.cat([hint, zeros, padding_mask.expand(len(hint), *padding_mask.shape[1:])], dim=1)
        stacked = stacked.to(self.hint_embed.weight.dtype)
        return self.hint_mlp(self.hint_embed(self.share.own(patchify(stacked, self.config.patch), dim=1)))

    def forward(
        self, x: Tensor, c_noise: Tensor, context: TrunkContext, hint_tokens: Tensor, weight: Tensor
    ) -> list[Tensor]:
        """Residuals [B, N, D], one per block; x [B, latent_channels + 2, T, H, W], weight [B or 1, N or 1, 1]."""
        tokens, time = self.embed(x), self.time_embed(c_noise)
        residuals = []
        for index, zero_block in enumerate(self.zero_blocks):
            tokens = self.run_block(index, tokens, time, context)
            if index == 0:
                tokens = tokens + hint_tokens
            residuals.append(zero_block(tokens) * weight)
        return residuals


def normalise_weights(
    weights: Sequence[float | Tensor],
    latent_size: Sequence[int],
    patch: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: Any = None,
) -> list[Tensor]:
    """Control weights as factors on tokens: divided by their sum over the controls where that exceeds 1.

    Args:
        weights: one per control: a number, numbers per sample [B], or a map over the clip: [H, W] for all frames,
            [T, H, W] or [B, T, H, W]; maps may have any resolution and are stretched over the clip.
        latent_size: frames, rows and columns (T, H, W) of the latents; the clip has 1 + 8 (T - 1) frames.
        patch: latents along one side of a token.
        dtype: what weights and sums are rounded to; the official run uses bfloat16.
        device: where the factors are put.

    Returns:
        One tensor [B or 1, N or 1, 1] of `dtype` per control, in the given order.
    """
    tensors = [torch.as_tensor(weight, dtype=dtype, device=device) for weight in weights]
    if any(weight.ndim > 1 for weight in tensors):
        return [_to_tokens(volume, latent_size, patch) for volume in weight_volumes(tensors, latent_size)]
    return _share([weight.reshape(-1, 1, 1) for weight in tensors])


def weight_volumes(weights: Sequence[Tensor], latent_size: Sequence[int]) -> list[Tensor]:
    """Normalised weights on every pixel of the clip, each [B or 1, 1, frames, rows, columns]."""
    return _share([_as_volume(weight, latent_size) for weight in weights])


def _share(weights: Sequence[Tensor]) -> list[Tensor]:
    """Divide by the sum over the controls, where that exceeds 1."""
    if not weights:
        return []
    stacked = torch.stack(torch.broadcast_tensors(*weights))
    return list(stacked / stacked.sum(0).clamp(min=1))


def _as_volume(weight: Tensor, latent_size: Sequence[int]) -> Tensor:
    """Any accepted weight as [B or 1, 1, frames, rows, columns] in the pixels of the clip."""
    T, H, W = latent_size
    size_px = (1 + FRAMES_PER_LATENT * (T - 1), PIXELS_PER_LATENT * H, PIXELS_PER_LATENT * W)
    if weight.ndim < 2:
        return weight.reshape(-1, 1, 1, 1, 1).expand(-1, 1, *size_px)
    if weight.ndim == 2:  # repeated before it is resized, so that bfloat16 rounds as in the official run
        weight = weight.expand(size_px[0], -1, -1)
    weight = weight.reshape(-1, 1, *weight.shape[-3:])
    return F.interpolate(weight, size=size_px, mode="trilinear", align_corners=False).clamp(min=0)


def _to_tokens(volume: Tensor, latent_size: Sequence[int], patch: int) -> Tensor:
    """[B, 1, frames, rows, columns] -> [B, N, 1]; like the latents, the first frame stands alone."""
    T, H, W = latent_size
    grid = (H // patch, W // patch)
    parts = [(volume[:, :, :1], 1), (volume[:, :, 1:], T - 1)]
    maps = [
        F.interpolate(part, size=(frames, *grid), mode="trilinear", align_corners=False)
        for part, frames in parts
        if frames
    ]
    return torch.cat(maps, dim=2).flatten(1)[..., None]
