"""Give the background in held latents the colours that are generated around it.

A latent stands for 8 x 8 pixels of 8 frames, so that the latents which hold the foreground hold a rim of the given
video's background as well. It keeps the given colours, and the network makes what lies beside it fit: a grey
simulation leaves a grey halo around everything that is held. So once, when the colours stand and the shapes are
not drawn yet, the given video is encoded again with a rim that changes as its surroundings did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.sampling.guidance import SpatiallyGuided

RIM_SIGMA = 4.0
"""Noise level, on the scale of the schedule, at or below which the match comes. Colours stand by then; later, the
network has made the surroundings fit the rim."""

SMALLEST_RADIUS_PX = 4
ENOUGH = 0.02
"""Share of a window that must lie outside for its mean to count."""


class RimMatched:
    """A guided denoiser whose given video is matched to what is generated, once.

    Args:
        guided: whose `clean` latents are replaced.
        match: estimate of the clean latents [B, C, T, H, W] -> the given video's latents with a matched rim.
    """

    def __init__(self, guided: SpatiallyGuided, match: Callable[[Tensor], Tensor]) -> None:
        self.guided = guided
        self._match: Callable[[Tensor], Tensor] | None = match
        self._estimate: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of the guided denoiser."""
        due = self.guided.sigma_threshold < float(sigma) <= RIM_SIGMA
        if due and self._match is not None and self._estimate is not None:
            clean = self._match(self._estimate).to(self.guided.clean)
            self.guided, self._match = replace(self.guided, clean=clean), None
        self._estimate = self.guided(x, sigma)
        return self._estimate


def is_ever_matched(sigmas: Tensor, sigma_threshold: float) -> bool:
    """Whether sampling at these noise levels comes to a match: the first evaluation has no estimate before it."""
    return any(sigma_threshold < sigma <= RIM_SIGMA for sigma in sigmas[1:].tolist())


def match_rim(given: Tensor, generated: Tensor, foreground: Tensor, held: Tensor) -> Tensor:
    """The given foreground in the generated picture; between them the given rim, changed as its surroundings are.

    The change of a place is the mean difference of generated and given pixels in the smallest window around it that
    shows enough of them, or of all where none does. What the given video draws in the rim, an edge or a shade,
    stays.

    Args:
        given: [T, H, W, 3] uint8.
        generated: likewise.
        foreground: [T, H, W] bool.
        held: [T, H, W] bool, whatever lies in held latents.

    Returns:
        [T, H, W, 3] uint8.
    """
    frames = zip(given.numpy(), generated.numpy(), foreground.numpy(), held.numpy(), strict=True)
    return torch.from_numpy(np.stack([_matched(*frame) for frame in frames]))


def _matched(given: np.ndarray, generated: np.ndarray, foreground: np.ndarray, held: np.ndarray) -> np.ndarray:
    """`match_rim` of one frame."""
    rim = held & ~foreground
    left, outside = rim.copy(), (~held).astype(np.float32)
    difference = (generated.astype(np.float32) - given) * outside[..., None]
    matched = given.astype(np.float32)
    radius_px = SMALLEST_RADIUS_PX
    while left.any() and radius_px < max(rim.shape):
        share = _window_mean(outside, radius_px)
        found = left & (share > ENOUGH)
        matched[found] += _window_mean(difference, radius_px)[found] / share[found, None]
        left &= ~found
        radius_px *= 2
    if left.any() and outside.any():
        matched[left] += difference.sum((0, 1)) / outside.sum()
    picture = np.where((held | foreground)[..., None], matched, generated)
    return picture.clip(0, 255).round().astype(np.uint8)


def _window_mean(values: np.ndarray, radius_px: int) -> np.ndarray:
    """Mean over a window around each place, nearer ones counting more; nothing lies beyond the border."""
    size = (2 * radius_px + 1, 2 * radius_px + 1)
    for _ in range(2):
        values = cv2.blur(values, size, borderType=cv2.BORDER_CONSTANT)
    return values
