"""How noise becomes video: one loop over noise levels, around anything that can denoise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""denoised = denoiser(x, sigma): x [B, C, T, H, W] at noise level sigma (0-d, on the CPU) -> its estimate of the
clean latents, of the same shape. Guidance, conditioning and tiling are denoisers that wrap denoisers."""

OnStep: TypeAlias = Callable[[int, Tensor], None]
"""on_step(evaluations so far, latest clean estimate), called after every evaluation."""


@torch.no_grad()
def sample(denoiser: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep | None = None) -> Tensor:
    """Follow the probability-flow ODE from x at sigmas[0] down to clean latents.

    Second-order exponential Adams-Bashforth in lambda = -ln(sigma) (Zhang et al. 2023, "Improved Order Analysis and
    Design of Exponential Integrator for Diffusion Models Sampling"), first step Euler, then one clean call at the
    last level: len(sigmas) evaluations. A schedule of one level is that call alone, as a distilled model wants it.

    The state is kept in float64, because its range falls by 4e4 while corrections shrink; the denoiser sees it, and
    sigma, in the dtype of `x`. For bfloat16 `x` this is what the reference's partial denoise does.

    Args:
        denoiser: see `Denoiser`.
        x: the state at sigmas[0].
        sigmas: falling noise levels, for example of `karras_sigmas`.
        on_step: told about every evaluation.

    Returns:
        Clean latents, shape and dtype of `x`.
    """
    state = x.to(torch.float64)
    levels = sigmas.tolist()

    def denoise(evaluation: int, sigma: float) -> Tensor:
        denoised = denoiser(state.to(x.dtype), torch.tensor(sigma, dtype=x.dtype))
        if on_step:
            on_step(evaluation, denoised)
        return denoised.to(torch.float64)

    # Before the first estimate there was one infinitely long ago: the first slope is 0, the first step is Euler's.
    lambda_before, clean_before = -math.inf, torch.zeros_like(state)
    for step, (sigma, next_sigma) in enumerate(pairwise(levels), start=1):
        clean = denoise(step, sigma)
        # The clean video is taken as a line in lambda through the last two estimates.
        lambda_ = -math.log(sigma)
        slope = (clean - clean_before) / (lambda_ - lambda_before)
        # Over a step of length h, the exact solution for such a line keeps e^-h of the state.
        h = math.log(sigma / next_sigma)
        gain = -math.expm1(-h)
        state = (1 - gain) * state + gain * clean + (h - gain) * slope
        lambda_before, clean_before = lambda_, clean
    return denoise(len(levels), levels[-1]).to(x.dtype)
