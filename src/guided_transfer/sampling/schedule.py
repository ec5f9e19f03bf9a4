"""Noise levels: where the sampler stops on its way from noise to video."""

from __future__ import annotations

import torch
from torch import Tensor

from guided_transfer.errors import UsageError

SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
"""From here on the picture below the noise no longer counts; sampling starts from noise alone."""

RHO = 7.0

ONE_STEP = torch.tensor([SIGMA_MAX], dtype=torch.float64)
"""The schedule of a distilled model: no update, one clean call at the highest noise level."""


def karras_sigmas(
    num_steps: int, sigma_max: float = SIGMA_MAX, *, sigma_min: float = SIGMA_MIN, rho: float = RHO
) -> Tensor:
    """Noise levels that are evenly spaced in sigma^(1/rho) (Karras et al. 2022, equation 5).

    The reference ends at sigma_min where the paper appends a zero: the sampler's clean call takes that place.

    Args:
        num_steps: solver updates; sampling costs num_steps + 1 evaluations.
        sigma_max: first level, the standard deviation of the noise.
        sigma_min: last level.
        rho: how strongly steps crowd at low noise.

    Returns:
        float64 [num_steps + 1], falling from sigma_max to sigma_min.

    Raises:
        UsageError: no step, or levels that do not fall.
    """
    if num_steps < 1:
        raise UsageError(f"num_steps must be 1 or more, got {num_steps}")
    if not 0 < sigma_min < sigma_max < float("inf"):
        raise UsageError(f"sigma_max must lie above {sigma_min:g} and be finite, got {sigma_max}")
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    done = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    return (first + done * (last - first)) ** rho
