"""Training-free guided generation: hold parts of the picture at a given video while the noise is high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.sampling.solver import Denoiser

BACKGROUND_FACTOR = 2.5
"""A warped background is let go at this multiple of the threshold: it is a sketch, the foreground is the truth."""

PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 8


@dataclass(frozen=True)
class SpatiallyGuided:
    """Replace the masked part of the denoiser's input by the given video at the current noise level.

    Only what the network sees is replaced; the sampler's state follows through the estimates. Below the threshold
    the network is free: the lower it is, the more guided evaluations, the more faithful and the less free.
    Without a mask this is the wrapped denoiser and nothing else.

    Attributes:
        denoiser: what to guide; both passes of classifier-free guidance are guided if it contains them.
        clean: [B, C, T, H, W] latents of the given video.
        noise: standard normal, of the same shape, the same at every step.
        keep: [B or 1, C or 1, T, H, W] in 0..1, held while sigma > sigma_threshold; see `latent_mask`.
        background: likewise, held while sigma > 2.5 * sigma_threshold; `keep` wins where both are set.
        sigma_threshold: on the scale of the schedule. 1.2866 holds 21 of the 36 evaluations of 35 steps.
    """

    denoiser: Denoiser
    clean: Tensor
    noise: Tensor
    keep: Tensor | None
    background: Tensor | None = None
    sigma_threshold: float = 1.2866

    def __post_init__(self) -> None:
        if self.noise.shape != self.clean.shape:
            raise UsageError(f"noise is {list(self.noise.shape)}, the given latents are {list(self.clean.shape)}")
        for name, mask in (("keep", self.keep), ("background", self.background)):
            if mask is not None and not _spreads_over(mask, self.clean):
                raise UsageError(f"{name} is {list(mask.shape)}, the given latents are {list(self.clean.shape)}")

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoiser's estimate for the guided input."""
        level = float(sigma)
        if self.background is not None and level > BACKGROUND_FACTOR * self.sigma_threshold:
            x = self._held(x, level, self.background)
        if self.keep is not None and level > self.sigma_threshold:
            x = self._held(x, level, self.keep)
        return self.denoiser(x, sigma)

    def _held(self, x: Tensor, sigma: float, mask: Tensor) -> Tensor:
        # The float32 mask comes first in every product, so that bfloat16 latents are not rounded once more.
        return mask * self.clean + mask * self.noise * sigma + (1 - mask) * x


def _spreads_over(mask: Tensor, latents: Tensor) -> bool:
    same_places = mask.ndim == latents.ndim and mask.shape[2:] == latents.shape[2:]
    return same_places and all(m in (1, n) for m, n in zip(mask.shape[:2], latents.shape[:2], strict=True))


def pixel_mask(
    labels: Tensor,
    foreground: Sequence[int],
    height: int,
    width: int,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> Tensor:
    """Which pixels of the model's picture show one of the `foreground` labels.

    Resized bilinearly in steps of 1/255, rounded down, as the reference does.

    Args:
        labels: [T, h, w] uint8 labels or zone codes.
        foreground: the labels that count.
        height: rows of the picture that the network works on.
        width: its columns.
        window: the rows and columns of it that are wanted.

    Returns:
        [T, height, width] float32 in 0..1, or the window of it.
    """
    chosen = torch.isin(labels, labels.new_tensor(list(foreground))).cpu().numpy() * np.float32(255)
    resized = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)[window] for frame in chosen]
    return torch.from_numpy(np.stack(resized).astype(np.uint8)).to(torch.float32) / 255


def latent_mask(mask: Tensor, latent_size: tuple[int, int] | None = None, *, touched: bool = False) -> Tensor:
    """Bring a mask over pixels to the latents' grid: frame 0 alone, then 8 frames to one.

    Trilinear without smoothing, as the reference does: a value is the mean of the 2 x 2 x 2 pixels in the middle of
    its 8 x 8 x 8 block. So a latent whose middle is background is let go, however much of the foreground it shows
    at its edge or while something moves through; with `touched` a value is the largest of its block, and whatever
    shows foreground is held.

    Args:
        mask: [T, H, W] float32 in 0..1, T = 1 + 8k.
        latent_size: rows and columns of the latents; H/8 and W/8 if not given.
        touched: hold every latent that shows any of it.

    Returns:
        [1, 1, 1 + k, rows, columns] float32, for all channels and any batch.

    Raises:
        UsageError: T is not 1 + 8k.
    """
    num_frames, height, width = mask.shape
    if num_frames % FRAMES_PER_LATENT != 1:
        raise UsageError(f"a mask must have 1 + 8k frames, got {num_frames}")
    rows, columns = latent_size or (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)

    def shrunk(frames: Tensor, latent_frames: int) -> Tensor:
        size = (latent_frames, rows, columns)
        if touched:
            return F.adaptive_max_pool3d(frames[None, None], size)
        return F.interpolate(frames[None, None], size=size, mode="trilinear", align_corners=False)

    parts = [shrunk(mask[:1], 1)]
    if num_frames > 1:
        parts.append(shrunk(mask[1:], num_frames // FRAMES_PER_LATENT))
    return torch.cat(parts, dim=2)


def held_pixels(keep: Tensor) -> Tensor:
    """Which pixels lie in latents that are held at all.

    Args:
        keep: [1, 1, 1 + k, rows, columns], see `latent_mask`.

    Returns:
        [1 + 8k, 8 rows, 8 columns] bool.
    """
    held = keep[0, 0] > 0
    pixels = held.repeat_interleave(PIXELS_PER_LATENT, 1).repeat_interleave(PIXELS_PER_LATENT, 2)
    return torch.cat([pixels[:1], pixels[1:].repeat_interleave(FRAMES_PER_LATENT, 0)])
