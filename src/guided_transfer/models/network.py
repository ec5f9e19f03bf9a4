"""The transfer network: a base transformer, any number of control branches, and what a clip fixes for all steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from guided_transfer.errors import DeviceError, UsageError
from guided_transfer.models.control import ControlBranch, ControlConfig, normalise_weights
from guided_transfer.models.share import ALONE, TokenShare
from guided_transfer.models.transformer import (
    SDPA_BACKENDS,
    Attention,
    AttentionBackend,
    Block,
    Modulation,
    Positions,
    Transformer,
    TransformerConfig,
    Trunk,
    TrunkContext,
)


@dataclass(frozen=True)
class BranchConditioning:
    """What one control branch knows about a clip.

    Attributes:
        context: its text keys and values, positions and rotary tables.
        hint_tokens: [B, N, D], those of this process.
        weight: [B or 1, N or 1, 1], normalised over all controls, likewise.
    """

    context: TrunkContext
    hint_tokens: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Conditioning:
    """All that stays the same over the steps of a clip; made by `TransferNetwork.prepare`.

    Attributes:
        latent_size: frames, rows and columns of the latents.
        padding_mask: [B or 1, 1, 1, H, W].
    """

    latent_size: tuple[int, int, int]
    padding_mask: Tensor
    base: TrunkContext
    branches: Mapping[str, BranchConditioning]


class TransferNetwork(nn.Module):
    """Base network and control branches by kind ("edge", "depth", ...).

    Args:
        weight_dtype: what control weights are rounded to; bfloat16 in the official run.
    """

    def __init__(
        self,
        base: Transformer,
        branches: Mapping[str, ControlBranch],
        *,
        weight_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.base = base
        self.branches = nn.ModuleDict(branches)
        self.weight_dtype = weight_dtype
        self.share = ALONE
        self.compiled = False

    @classmethod
    def from_configs(cls, base: TransformerConfig, branches: Mapping[str, ControlConfig], **settings: Any) -> Self:
        """Build the modules with their sizes; call `init_weights` before training from scratch."""
        modules = {kind: ControlBranch(config) for kind, config in branches.items()}
        return cls(Transformer(base), modules, **settings)

    def branch(self, kind: str) -> ControlBranch:
        branch = self.branches[kind]
        assert isinstance(branch, ControlBranch)
        return branch

    def prepare(
        self,
        text: Tensor,
        hints: Mapping[str, Tensor],
        weights: Mapping[str, float | Tensor],
        *,
        fps: float,
        padding_mask: Tensor | None = None,
        latent_size: Sequence[int] | None = None,
    ) -> Conditioning:
        """Compute once per clip what does not change over the steps. Differentiable.

        Args:
            text: [B, L, text_channels] embeddings.
            hints: by kind, latents [B, 16, T, H, W] of the control videos; any subset of the branches, or none.
            weights: by the same kinds, see `normalise_weights`.
            fps: frames per second of the clip.
            padding_mask: [B or 1, 1, rows, columns] in pixels, 1 where the frame is padding; None for none.
            latent_size: (T, H, W) of the latents; needed only without hints.

        Raises:
            UsageError: kinds without a branch; sizes that disagree, do not divide, exceed the position tables, or
                cannot be shared by the processes of `share_tokens`.
        """
        size = self._check(text, hints, weights, latent_size)
        dtype = self.base.patch_embed.weight.dtype
        padding = text.new_zeros(1, 1, *size[1:]) if padding_mask is None else padding_mask
        padding = nn.functional.interpolate(padding, size=size[1:], mode="nearest")[:, :, None].to(dtype)
        factors = normalise_weights(
            [weights[kind] for kind in hints],
            size,
            self.base.config.patch,
            dtype=self.weight_dtype,
            device=text.device,
        )
        branches = {}
        for (kind, hint), factor in zip(hints.items(), factors, strict=True):
            branch = self.branch(kind)
            tokens = branch.hint_tokens(hint.to(dtype), padding.expand(-1, -1, size[0], -1, -1))
            if factor.shape[1] > 1:
                factor = self.share.own(factor, dim=1)
            branches[kind] = BranchConditioning(branch.prepare(text, size, fps), tokens, factor.to(dtype))
        return Conditioning(size, padding, self.base.prepare(text, size, fps), branches)

    def with_text(self, conditioning: Conditioning, text: Tensor) -> Conditioning:
        """The same clip under another text, for example the negative prompt; shares everything else."""

        def retext(trunk: Transformer | ControlBranch, context: TrunkContext) -> TrunkContext:
            return replace(context, text=trunk.text_keys_values(text))

        branches = {
            kind: replace(branch, context=retext(self.branch(kind), branch.context))
            for kind, branch in conditioning.branches.items()
        }
        return replace(conditioning, base=retext(self.base, conditioning.base), branches=branches)

    def forward(
        self, x: Tensor, c_noise: Tensor, conditioning: Conditioning, condition_mask: Tensor | None = None
    ) -> Tensor:
        """Raw network output F for the scaled noisy latents.

        Args:
            x: [B, 16, T, H, W], already multiplied by c_in.
            c_noise: [B], a quarter of the logarithm of sigma.
            conditioning: what `prepare` returned.
            condition_mask: [B or 1, 1, T, H, W], 1 on latent frames that are given; None for none.

        Returns:
            [B, 16, T, H, W] in the dtype of the weights.

        Raises:
            UsageError: x has another size than the conditioning.
        """
        if tuple(x.shape[2:]) != conditioning.latent_size:
            raise UsageError(f"x has latents {list(x.shape[2:])}, prepared were {list(conditioning.latent_size)}")
        x = self._with_masks(x.to(self.base.patch_embed.weight.dtype), conditioning, condition_mask)
        return self.base(x, c_noise, conditioning.base, self._residuals(x, c_noise, conditioning))

    def compile_blocks(self, **options: Any) -> None:
        """Compile every block by itself (one graph serves all); `options` go to `torch.compile`."""
        for module in self.modules():
            if isinstance(module, Block):
                module.compile(**{"dynamic": False, **options})
        self.compiled = True

    def share_tokens(self, group: Any) -> None:
        """From now on, compute every clip together with the other processes of a torch process group.

        All of them make the same calls with the same values, and all get the whole result. Anything prepared
        before is of no use any more.
        """
        share = TokenShare.of(group)
        for module in self.modules():
            if isinstance(module, Attention | Trunk | TransferNetwork):
                module.share = share

    def use_attention(self, backend: AttentionBackend) -> None:
        """Choose the attention kernel: "auto" leaves it to torch, "cudnn", "flash" and "math" insist.

        Raises:
            UsageError: an unknown name.
            DeviceError: "cudnn" where there is no CUDA device.
        """
        if backend not in ("auto", *SDPA_BACKENDS):
            raise UsageError(f"attention backend {backend!r} is unknown; choose auto, {', '.join(SDPA_BACKENDS)}")
        if backend == "cudnn" and not torch.cuda.is_available():
            raise DeviceError("attention backend 'cudnn' needs a CUDA device; choose auto, flash or math")
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = backend

    def _with_masks(self, x: Tensor, conditioning: Conditioning, condition_mask: Tensor | None) -> Tensor:
        """Append the two mask channels: [B, 16, T, H, W] -> [B, 18, T, H, W]."""
        shape = (len(x), 1, *x.shape[2:])
        given = x.new_zeros(shape) if condition_mask is None else condition_mask.to(x.dtype).expand(shape)
        return torch.cat([x, given, conditioning.padding_mask.expand(shape)], dim=1)

    def _residuals(self, x: Tensor, c_noise: Tensor, conditioning: Conditioning) -> list[Tensor]:
        """Residual per base block, summed over the controls."""
        totals: list[Tensor] = []
        for kind, branch in conditioning.branches.items():
            residuals = self.branch(kind)(x, c_noise, branch.context, branch.hint_tokens, branch.weight)
            longer, shorter = (residuals, totals) if len(residuals) > len(totals) else (totals, residuals)
            totals = [a + b for a, b in zip(totals, residuals, strict=False)] + longer[len(shorter) :]
        return totals

    def _check(
        self,
        text: Tensor,
        hints: Mapping[str, Tensor],
        weights: Mapping[str, float | Tensor],
        latent_size: Sequence[int] | None,
    ) -> tuple[int, int, int]:
        """Look at everything `prepare` was given; return (T, H, W)."""
        config = self.base.config
        if text.ndim != 3 or text.shape[2] != config.text_channels:
            raise UsageError(f"text is {list(text.shape)}, this network reads [B, L, {config.text_channels}]")
        if unknown := sorted(set(hints) - set(self.branches)):
            raise UsageError(f"no control branch for {unknown}; loaded are {sorted(self.branches)}")
        if set(hints) != set(weights):
            raise UsageError(f"one weight per hint: hints are {sorted(hints)}, weights {sorted(weights)}")
        sizes = {kind: tuple(hint.shape[2:]) for kind, hint in hints.items()}
        if latent_size is not None:
            sizes["latent_size"] = tuple(latent_size)
        if len(set(sizes.values())) != 1:
            raise UsageError(f"hints and latent_size must agree on one (T, H, W), got {sizes or 'neither'}")
        T, H, W = size = next(iter(sizes.values()))
        grid = config.token_size(size)
        tables = [config.max_size, *(self.branch(kind).config.max_size for kind in hints)]
        fits = all(count <= rows for table in tables for count, rows in zip(grid, table, strict=True))
        if H % config.patch or W % config.patch or not fits:
            raise UsageError(
                f"latents are {T}x{H}x{W} (T, H, W): H and W must be multiples of {config.patch}, and their "
                f"{grid} tokens must fit into the position tables of {tables[0]}"
            )
        self.share.check(math.prod(grid))
        return T, H, W


def init_weights(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Random weights for training from scratch.

    At the start every block passes its input on, the output is zero and the controls add nothing, as in DiT and
    ControlNet: the up-projections of the modulations, their shared addend, the final layer, the last layer of the
    hint's MLP and the zero blocks are zero. Other linear layers are normal with variance 1 / inputs.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Positions):
            for table in module.parameters():
                nn.init.normal_(table, std=table.shape[1] ** -0.5, generator=generator)
    for layer in _silent_layers(network):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _silent_layers(network: nn.Module) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, Modulation):
            layers.append(module.up)
        elif isinstance(module, Transformer):
            layers += [module.final.linear, module.time_embed.addend]
        elif isinstance(module, ControlBranch):
            layers += [module.time_embed.addend, module.hint_mlp[-1], *module.zero_blocks]
    return layers
