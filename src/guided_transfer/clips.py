"""How a video of any length and size is cut and stretched for the model, and joined again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import UsageError

PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 8
PIXELS_PER_TOKEN = 16
"""8 pixels to a latent, 2 x 2 latents to a token: sides of a picture are multiples of this."""

FILTERS = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}
Filter = Literal["area", "linear", "cubic", "nearest"]

Size = tuple[int, int]
"""Rows and columns."""

UPSCALING = 3
"""So many times larger is an upscaled picture along each side."""


@dataclass(frozen=True)
class Clip:
    """One clip's share of the video.

    Attributes:
        index, count: which clip of how many.
        frames: [clip_frames] indices into the source; past its end the last frame is repeated.
        overlap: leading frames that belong to the clip before.
    """

    index: int
    count: int
    frames: Tensor
    overlap: int


def plan_clips(num_frames: int, clip_frames: int, num_input_frames: int) -> list[Clip]:
    """Cut a video of any length into clips that overlap by `num_input_frames`."""
    if num_frames < 1:
        raise UsageError("the video has no frames")
    new = clip_frames - num_input_frames
    count = max(1, math.ceil((num_frames - num_input_frames) / new))
    return [
        Clip(
            index,
            count,
            torch.arange(index * new, index * new + clip_frames).clamp(max=num_frames - 1),
            num_input_frames if index else 0,
        )
        for index in range(count)
    ]


SEAM_FRAMES = 16
"""Over so many frames the difference between two clips at their seam fades out."""

TYPICAL_VIEW: Size = (224, 224)
"""Of the integration's episodes: what is asked of a size before an episode is opened is asked of this one."""

ASPECT_SIZES: tuple[Size, ...] = ((960, 960), (704, 960), (960, 704), (704, 1280), (1280, 704))
"""Sizes of Cosmos-Transfer1 for 1:1, 4:3, 3:4, 16:9 and 9:16."""


def model_size(
    source: Size,
    native_sizes: Sequence[Size] = ASPECT_SIZES,
    resolution: str = "",
    largest: Size | None = None,
) -> Size:
    """The size that the model works at.

    Args:
        source: of the video.
        native_sizes: sizes the model was trained on; the one of the nearest aspect ratio is taken, as in the
            reference.
        resolution: "" or "native" for that; "480" for 480 pixels along the shorter side of the source's shape;
            "256x448" for rows x columns.
        largest: rows and columns that the model takes at most; None where that is not known.

    Raises:
        UsageError: a resolution that cannot be read, or that the model cannot take.
    """
    size = _asked_size(source, native_sizes, resolution)
    if largest and (size[0] > largest[0] or size[1] > largest[1]):
        raise UsageError(
            f"resolution {resolution!r} makes {size[0]} x {size[1]} of a picture of {source[0]} x {source[1]} "
            f"pixels; this model takes at most {largest[0]} x {largest[1]}"
        )
    return size


def _asked_size(source: Size, native_sizes: Sequence[Size], resolution: str) -> Size:
    height, width = source
    if resolution in ("", "native"):
        return min(native_sizes, key=lambda size: (size[1] / size[0] - width / height) ** 2)
    if resolution.isdecimal() and int(resolution):
        scale = int(resolution) / min(source)
        return _checked((_nearest_multiple(height * scale), _nearest_multiple(width * scale)), resolution)
    rows, cross, columns = resolution.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise UsageError(
            f"resolution is {resolution!r}; accepted: 480 (shorter side), 256x448 (rows x columns), native"
        )
    return _checked((int(rows), int(columns)), resolution)


def _checked(size: Size, resolution: str) -> Size:
    if any(side < PIXELS_PER_TOKEN or side % PIXELS_PER_TOKEN for side in size):
        near = "x".join(str(_nearest_multiple(side)) for side in size)
        raise UsageError(
            f"resolution {resolution!r} asks for {size[0]} x {size[1]} pixels; "
            f"both sides must be multiples of {PIXELS_PER_TOKEN}, the nearest are {near}"
        )
    return size


def _nearest_multiple(side: float) -> int:
    return max(1, round(side / PIXELS_PER_TOKEN)) * PIXELS_PER_TOKEN


def resize_frames(frames: Tensor, size: Size, how: Filter, window: tuple[slice, slice] | None = None) -> Tensor:
    """Stretch [T, H, W, ...] frames (uint8 or float32) to `size`, each with OpenCV's filter of that name.

    Args:
        frames: pictures, or maps without channels.
        size: rows and columns.
        how: the filter.
        window: keep only these rows and columns of the stretched frames; no more than one is held whole.
    """
    rows, columns = window or (slice(None), slice(None))
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames[:, rows, columns]
    shape = (len(range(size[0])[rows]), len(range(size[1])[columns]))
    out = np.empty((len(frames), *shape, *frames.shape[3:]), dtype=frames.numpy().dtype)
    for index, frame in enumerate(frames.numpy()):
        out[index] = cv2.resize(frame, (size[1], size[0]), interpolation=FILTERS[how])[rows, columns]
    return torch.from_numpy(out)


def upscaled_size(source: Size, model: Size) -> Size:
    """Three times the size that the model works at, in the shape of the source: 720 x 1280 gives 2160 x 3840."""
    scale = UPSCALING * max(model[0] / source[0], model[1] / source[1])
    return round(source[0] * scale), round(source[1] * scale)


STILL_LEVELS = 2
"""So many grey levels of change in the given video may be rounding; what changes no more stands still."""

MOTION_REACH_PX = 8
"""What moves takes the pixels around it along, as far as a latent reaches."""


def still_share(before: Tensor, after: Tensor, size: Size) -> Tensor:
    """Where one frame of the given video is like the next, 1 there and 0 where something moves, with soft edges.

    Args:
        before: [H, W, 3] uint8.
        after: likewise.
        size: rows and columns of the result.

    Returns:
        [rows, columns] float32.
    """
    change = (before.short() - after.short()).abs().amax(-1)
    moving = (change > STILL_LEVELS).to(torch.uint8).numpy()
    reach = 2 * MOTION_REACH_PX + 1
    near = cv2.dilate(moving, np.ones((reach, reach), np.uint8)).astype(np.float32)
    still = 1 - cv2.blur(near, (MOTION_REACH_PX, MOTION_REACH_PX))
    return resize_frames(torch.from_numpy(still)[None], size, "linear")[0].clamp(0, 1)


def join_clips(tail: Tensor, video: Tensor, still: Tensor) -> Tensor:
    """Let a clip depart from the one before without a jump.

    Both have decoded the last frame that they share, and not quite alike: in the new clip it has been through the
    tokenizer once more. The difference is added to the frames that follow, fading out. Where the given video
    stands still, the first new frame itself has to look like the shared one, so there the difference to that frame
    is what fades: the network does not continue a picture exactly, and the first frame of a clip, a latent frame
    of its own, is decoded unlike all others.

    Args:
        tail: [1, 3, n, H, W], the last frames of the clip before.
        video: [1, 3, T, H, W], begins with the same n frames.
        still: [H, W], see `still_share`, of the shared frame and the first new one.
    """
    n = tail.shape[2]
    shared, first = (video[:, :, index : index + 1].clamp(-1, 1) for index in (n - 1, n))
    if first.shape[2] == 0:
        return video
    difference = tail[:, :, -1:] - torch.lerp(shared, first, still.to(video))
    steps = torch.arange(1, SEAM_FRAMES + 1, device=video.device)[: video.shape[2] - n]
    share = 1 - steps / (SEAM_FRAMES + 1)
    joined = video.clone()
    joined[:, :, n : n + SEAM_FRAMES] += share.to(video.dtype).view(-1, 1, 1) * difference
    return joined
