"""Blur control ("vis"): what is left of the picture when its details are smoothed away."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.controls.frames import Frame, map_frames, preset_named


@dataclass(frozen=True)
class Blur:
    """One strength of the blur control.

    Attributes:
        diameter_px, sigma_colour, sigma_space: of the bilateral filter.
        shrink: the bilateral filter works on a picture this many times smaller.
        pixelate: afterwards the picture goes down and up again by this factor.
    """

    diameter_px: int
    sigma_colour: float
    sigma_space: float
    shrink: int
    pixelate: int


BLURS = {
    "none": Blur(1, 1, 1, shrink=1, pixelate=1),
    "very_low": Blur(15, 100, 50, shrink=1, pixelate=4),
    "low": Blur(15, 100, 50, shrink=4, pixelate=4),
    "medium": Blur(30, 150, 100, shrink=2, pixelate=10),
    "high": Blur(50, 300, 150, shrink=1, pixelate=16),
    "very_high": Blur(50, 300, 150, shrink=4, pixelate=16),
}
"""Cosmos-Transfer1's strengths, by the names of `--blur_strength`."""


def vis_control(rgb: Tensor, preset: str = "medium") -> Tensor:
    """Smooth each frame with a bilateral filter, then by an antialiased bicubic trip to a small size and back.

    Args:
        rgb: [T, H, W, 3] uint8.
        preset: a key of BLURS (`--blur_strength`).

    Returns:
        [T, H, W, 3] uint8.

    Raises:
        UsageError: unknown preset, or frames of another shape or type.
    """
    blur = preset_named(BLURS, preset, "blur_strength")
    return map_frames(lambda frame: _pixelated(_smoothed(frame, blur), blur.pixelate), rgb)


def _smoothed(frame: Frame, blur: Blur) -> Frame:
    height, width = frame.shape[:2]
    if blur.shrink > 1:
        small = (max(width // blur.shrink, 1), max(height // blur.shrink, 1))
        frame = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    frame = cv2.bilateralFilter(frame, blur.diameter_px, blur.sigma_colour, blur.sigma_space)  # type: ignore[assignment]
    if blur.shrink > 1:
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return frame


def _pixelated(frame: Frame, factor: int) -> Frame:
    height, width = frame.shape[:2]
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None]  # [1, 3, H, W]
    small = _bicubic(picture, max(height // factor, 1), max(width // factor, 1))
    return _bicubic(small, height, width)[0].permute(1, 2, 0).numpy()


def _bicubic(picture: Tensor, height: int, width: int) -> Tensor:
    # In float and rounded after each trip, as the reference's resize does; torch's uint8 path is off by up to 4.
    resized = F.interpolate(picture.float(), (height, width), mode="bicubic", antialias=True)
    return resized.clamp_(0, 255).round_().to(torch.uint8)
