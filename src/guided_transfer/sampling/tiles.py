"""Denoising in tiles. So far: what the reference's merge of tiles does to a picture of one tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided_transfer.sampling.solver import Denoiser

RAMP_FLOOR = 0.01
DIVISION_GUARD = 1e-6


@dataclass(frozen=True)
class ReproduceTileMerge:
    """The denoiser's estimate after the reference's merge of one single tile; for parity only.

    The reference blends tiles by ramps that fall to 0.01, even where there is nothing to blend, and divides by the
    sum of the ramps plus 1e-6. Of one tile the first row and column shrink by 1e-4 and the corner by 1 %, at every
    evaluation. Wrap it around all that shapes the estimate (classifier-free guidance, first frames).
    """

    denoiser: Denoiser

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The merged estimate."""
        denoised = self.denoiser(x, sigma)
        ramp = torch.ones_like(denoised[:1, :1, :1])
        ramp[..., 0, :] *= RAMP_FLOOR
        ramp[..., 0] *= RAMP_FLOOR
        return denoised * ramp / (ramp + DIVISION_GUARD)
