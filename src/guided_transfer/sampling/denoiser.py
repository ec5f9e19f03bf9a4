"""From a raw network to a denoiser, and the wrappers that say what the video must agree with.

    denoiser = EdmDenoiser(network)                                   the network's own estimate
    denoiser = ClassifierFree(positive, negative, guidance=5.0)       ... led away from the negative prompt
    denoiser = FirstFrames(denoiser, frames, noise)                   ... continuing a clip

Each is called as `denoised = denoiser(x, sigma)`; see `solver.Denoiser`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.sampling.solver import Denoiser
from guided_transfer.types import Numerics

SIGMA_DATA = 0.5
"""Standard deviation of the latents that the network was trained on."""

FIRST_FRAMES_SIGMA = 0.001
"""Noise on the frames that a clip continues from."""

RawNetwork: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""raw = network(c_in * x [B, C, T, H, W], c_noise [B]), conditioning already bound (functools.partial)."""


class EdmScaling(NamedTuple):
    """What makes a network's input, output and noise label of unit scale at one noise level."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_scaling(sigma: Tensor) -> EdmScaling:
    """EDM preconditioning (Karras et al. 2022, table 1), computed and rounded in the dtype of `sigma`."""
    variance = sigma**2 + SIGMA_DATA**2
    return EdmScaling(
        c_skip=SIGMA_DATA**2 / variance,
        c_out=sigma * SIGMA_DATA / variance**0.5,
        c_in=1 / variance**0.5,
        c_noise=0.25 * sigma.log(),
    )


@dataclass(frozen=True)
class EdmDenoiser:
    """c_skip * x + c_out * network(c_in * x, c_noise).

    Attributes:
        network: see `RawNetwork`.
        dtype: what the network computes in.
        numerics: "exact" scales in float32, whatever the network's dtype; "reference" rounds x, sigma and all that
            follows to bfloat16, as the official run does (sigma 68.325 becomes 68.5).
    """

    network: RawNetwork
    dtype: torch.dtype = torch.float32
    numerics: Numerics = "exact"

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The network's estimate, in float32 or, for reference numerics, in bfloat16."""
        precision = torch.bfloat16 if self.numerics == "reference" else torch.float32
        x, sigma = x.to(precision), sigma.to(precision)
        scaling = edm_scaling(sigma)
        # A fill rather than a copy: the label reaches a GPU without waiting for it.
        label = torch.full((len(x),), float(scaling.c_noise), dtype=precision, device=x.device)
        raw = self.network((scaling.c_in * x).to(self.dtype), label)
        return scaling.c_skip * x + scaling.c_out * raw.to(precision)


@dataclass(frozen=True)
class ClassifierFree:
    """cond + guidance * (cond - uncond): 5 here is 6 in the convention `uncond + s * (cond - uncond)`.

    At guidance 0 the unconditional pass is not run.
    """

    conditional: Denoiser
    unconditional: Denoiser
    guidance: float

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The guided estimate."""
        conditional = self.conditional(x, sigma)
        if self.guidance == 0:
            return conditional
        return conditional + self.guidance * (conditional - self.unconditional(x, sigma))


@dataclass(frozen=True)
class FirstFrames:
    """Hold the first latent frames at those of a previous clip.

    The network sees them almost without noise, at the scale of its training whatever sigma is, and is told by its
    condition mask (`first_frames_mask`); the estimate has them unchanged. Around classifier-free guidance it serves
    both passes: where they agree, guidance adds nothing.

    Attributes:
        denoiser: whose network has the condition mask set.
        frames: [B, C, n, H, W] clean latents.
        noise: [B, C, at least n, H, W], standard normal.
    """

    denoiser: Denoiser
    frames: Tensor
    noise: Tensor

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The estimate, with the held frames as given."""
        n = self.frames.shape[2]
        held = self.frames + FIRST_FRAMES_SIGMA * self.noise[:, :, :n]
        # The denoiser will multiply by c_in(sigma); what must arrive is c_in(FIRST_FRAMES_SIGMA).
        held = held * (edm_scaling(sigma.new_tensor(FIRST_FRAMES_SIGMA)).c_in / edm_scaling(sigma).c_in)
        denoised = self.denoiser(torch.cat([held, x[:, :, n:]], dim=2), sigma)
        return torch.cat([self.frames.to(denoised.dtype), denoised[:, :, n:]], dim=2)


def first_frames_mask(num_frames: int, like: Tensor) -> Tensor:
    """The network's condition mask [B, 1, T, H, W]: 1 on the first `num_frames` latent frames of `like`.

    Raises:
        UsageError: no frame would be left to generate.
    """
    batch, _, total, height, width = like.shape
    if not 0 <= num_frames < total:
        raise UsageError(f"{num_frames} of {total} latent frames are held; accepted: 0 to {total - 1}")
    mask = like.new_zeros(batch, 1, total, height, width)
    mask[:, :, :num_frames] = 1
    return mask
