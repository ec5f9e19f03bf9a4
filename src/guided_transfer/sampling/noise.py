"""Where noise comes from: a view's own seed, so that no result depends on its neighbours or on the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.sampling.schedule import SIGMA_MAX
from guided_transfer.types import Numerics


def view_noise(seed: int, shape: Sequence[int], *, clip: int = 0, numerics: Numerics = "exact") -> Tensor:
    """Standard normal noise of one view's clip.

    Drawn on the CPU by NumPy's RandomState, whose stream is frozen for good. Views of a batch are drawn one by one,
    each from its own seed, and so are clips: the official run draws the same for all, and its texture comes again.

    Args:
        seed: of the view; any non-negative integer ("reference": below 2^32).
        shape: without a batch axis, for example [16, T, H, W].
        clip: index within a long video, mixed into the seed.
        numerics: "reference" draws for the first clip what the official run draws.

    Returns:
        float32 on the CPU.

    Raises:
        UsageError: a seed outside of the accepted range.
    """
    if seed < 0 or (numerics == "reference" and seed >= 2**32):
        raise UsageError(f"seed must be 0 or more, and below 2^32 for reference numerics; got {seed}")
    if numerics == "reference":
        random = np.random.RandomState(reference_seed(seed, clip))
    else:
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed, spawn_key=(clip,))))
    return torch.from_numpy(random.standard_normal(tuple(shape)).astype(np.float32))


def reference_seed(seed: int, clip: int) -> int:
    """For the official run's generators, which take 32 bits: the view's seed in its first clip, then others."""
    return int(np.random.SeedSequence(seed, spawn_key=(clip,)).generate_state(1)[0]) if clip else seed


def device_noise(
    seed: int, shape: Sequence[int], *, device: torch.device | str, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Standard normal noise from the device's own generator: differs between CPU and GPU.

    The official run draws it for partial denoising, for the held parts of guided generation, and for the distilled
    model; nothing but "reference" numerics should.
    """
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=dtype)


@dataclass(frozen=True)
class ClipNoise:
    """All the noise of one view's clip, each [C, T, H, W].

    Attributes:
        start: for `starting_state`.
        held: for the parts that spatial guidance holds; in exact numerics the same as `start`, so that what is held
            and what surrounds it belong to one noisy picture.
        first_frames: for `FirstFrames`.
    """

    start: Tensor
    held: Tensor
    first_frames: Tensor


def clip_noise(
    seed: int,
    shape: Sequence[int],
    *,
    clip: int = 0,
    sigma_max: float = SIGMA_MAX,
    numerics: Numerics = "exact",
    device: torch.device | str = "cpu",
    one_step: bool = False,
) -> ClipNoise:
    """Draw the noise of one clip; arguments as of `view_noise`, tensors on `device`.

    In exact numerics all is one float32 tensor. In reference numerics `held` is bfloat16 from the device's own
    generator, and so is `start` of a partial denoise (sigma_max below 80), and of a distilled model (one_step), for
    which each clip counts the seed up as in the official run.
    """
    noise = view_noise(seed, shape, clip=clip, numerics=numerics).to(device)
    if numerics == "exact":
        return ClipNoise(start=noise, held=noise, first_frames=noise)
    held = device_noise(seed + clip if one_step else reference_seed(seed, clip), shape, device=device)
    if one_step:
        return ClipNoise(start=held, held=held, first_frames=noise)
    return ClipNoise(start=noise if sigma_max >= SIGMA_MAX else held, held=held, first_frames=noise)


def starting_state(noise: Tensor, sigma_max: float, clean: Tensor) -> Tensor:
    """Where sampling starts: `clean` under noise of sigma_max, or noise alone from 80 on.

    The dtype is that of `noise`; a schedule must start at min(sigma_max, 80).
    """
    if sigma_max >= SIGMA_MAX:
        return SIGMA_MAX * noise
    return clean.to(noise.dtype) + sigma_max * noise
