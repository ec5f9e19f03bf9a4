"""Depth control of footage without depth: what Depth Anything V2 sees, on one scale for the whole video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.controls.vision import OnFrames, Pictures, require_frames, silent
from guided_transfer.pretrained import load_pretrained

BATCH_FRAMES = 8
"""Frames that go through the model together."""


class DepthAnything:
    """transformers' `DepthAnythingForDepthEstimation` and how it wants its pictures."""

    def __init__(self, model: Any, pictures: Pictures) -> None:
        self.model = model
        self.pictures = pictures

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load the published files: in float16 on a GPU, as the reference does, else in float32.

        Raises:
            CheckpointError: they cannot be read, or lack weights.
        """
        from transformers import DepthAnythingForDepthEstimation

        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        model = load_pretrained(DepthAnythingForDepthEstimation, folder, dtype)
        return cls(model.to(device), Pictures.from_folder(folder))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def nearness(self, frames: Tensor) -> Tensor:
        """Relative inverse depth of each frame, larger = nearer; without a unit, as the model gives it.

        Args:
            frames: [N, H, W, 3] uint8.

        Returns:
            [N, h, w] float32 at the model's own size.
        """
        size = covering_size((frames.shape[1], frames.shape[2]), self.pictures)
        pixels = self.pictures.prepared(frames, size, next(self.model.parameters()))
        return self.model(pixel_values=pixels).predicted_depth.float()


def depth_control_from_rgb(rgb: Tensor, model: DepthAnything, on_frames: OnFrames = silent) -> Tensor:
    """Estimated inverse depth as grey levels, near = bright.

    Bicubic to the size of the frames, then from the least to the largest value of the whole video, fractions
    cut off: the encoding the depth branch of Cosmos-Transfer1 is given (a range per frame would flicker).

    Args:
        rgb: [T, H, W, 3] uint8; pass the whole video at once.
        model: Depth Anything V2.
        on_frames: told how far it is.

    Returns:
        [T, H, W, 3] uint8, three equal channels; black where the whole video is flat.

    Raises:
        UsageError: frames of another shape or type.
    """
    require_frames(rgb)
    small = []
    for start in range(0, len(rgb), BATCH_FRAMES):
        small.append(model.nearness(rgb[start : start + BATCH_FRAMES]).cpu())
        on_frames("depth", min(start + BATCH_FRAMES, len(rgb)), len(rgb))
    nearness, size = torch.cat(small), (rgb.shape[1], rgb.shape[2])
    # Enlarged twice, a frame at a time: the whole video in float32 at full size would be gigabytes.
    extremes = torch.stack([torch.stack(frame.aminmax()) for frame in _enlarged(nearness, size)])
    low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
    out = torch.empty(*rgb.shape, dtype=torch.uint8)
    for index, frame in enumerate(_enlarged(nearness, size)):
        out[index] = ((frame - low) / (high - low + 1e-8) * 255).to(torch.uint8)[..., None]
    return out


def _enlarged(nearness: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    for frame in nearness:
        yield F.interpolate(frame[None, None], size, mode="bicubic", align_corners=False)[0, 0]


def covering_size(source: tuple[int, int], pictures: Pictures) -> tuple[int, int]:
    """Rows and columns that the model works at: the source's shape where it is kept, in multiples of a patch.

    The side that has to be scaled least meets its target length; with 518 x 518 the shorter one of a large video.
    """
    scales = [pictures.size[side] / length for side, length in zip(("height", "width"), source, strict=True)]
    if pictures.keep_aspect_ratio:
        scales = [min(scales, key=lambda scale: abs(1 - scale))] * 2
    multiple = pictures.ensure_multiple_of
    rows, columns = (
        max(1, round(scale * length / multiple)) * multiple for scale, length in zip(scales, source, strict=True)
    )
    return rows, columns
