"""Edge control: Canny lines at one of Cosmos-Transfer1's strengths."""

from __future__ import annotations

import cv2
from torch import Tensor

from guided_transfer.controls.frames import Frame, map_frames, preset_named

CANNY_THRESHOLDS = {
    "none": (20, 50),
    "very_low": (20, 50),
    "low": (50, 100),
    "medium": (100, 200),
    "high": (200, 300),
    "very_high": (300, 400),
}
"""Lower and upper hysteresis threshold of cv2.Canny; lower ones keep more lines."""


def edge_control(rgb: Tensor, preset: str = "medium") -> Tensor:
    """White Canny lines on black, the same in all three channels.

    Canny sees the RGB frame as it is, not a grey one: it takes the strongest of the three gradients.

    Args:
        rgb: [T, H, W, 3] uint8.
        preset: a key of CANNY_THRESHOLDS (`--canny_threshold`).

    Returns:
        [T, H, W, 3] uint8, 0 or 255.

    Raises:
        UsageError: unknown preset, or frames of another shape or type.
    """
    lower, upper = preset_named(CANNY_THRESHOLDS, preset, "canny_threshold")

    def lines(frame: Frame) -> Frame:
        return cv2.Canny(frame, lower, upper)[..., None]  # type: ignore[return-value]

    return map_frames(lines, rgb)
