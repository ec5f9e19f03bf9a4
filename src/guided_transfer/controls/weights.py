"""Weight maps: how much a control counts at each pixel of each frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import UsageError


def load_weight_map(
    file: Path | str, num_frames: int, height_px: int, width_px: int, what: str = "weight map"
) -> Tensor:
    """Read a weight map and bring it to the size of the control's frames.

    One still map counts for all frames; a map over time must have a value for each of them, so that it
    stays in step on videos of any length. Sizes are matched bilinearly (pixel centres at i + 0.5).

    Args:
        file: .pt (a tensor) or .npy (an array), [T, H, W] or [H, W]; .npz with one array; or a video, white = 1.
        num_frames: of the control's video.
        height_px: of its frames.
        width_px: of its frames.
        what: the map's name, for errors.

    Returns:
        [T, H, W] float32, not normalised over controls.

    Raises:
        UsageError: unreadable, another shape or length, negative or not finite.
    """
    return _resized(check_weight_map(file, num_frames, what), num_frames, height_px, width_px)


def _resized(weights: Tensor, num_frames: int, height_px: int, width_px: int) -> Tensor:
    if weights.shape[1:] != (height_px, width_px):
        weights = F.interpolate(weights[:, None], (height_px, width_px), mode="bilinear")[:, 0]
    return weights.expand(num_frames, -1, -1).contiguous()


def load_mask(file: Path | str, num_frames: int, height_px: int, width_px: int, what: str) -> Tensor:
    """Read a weight map as a mask, [T, H, W] bool, white from a half on; raises as `check_mask`."""
    mask = check_mask(file, num_frames, (height_px, width_px), what)
    return _resized(mask, num_frames, height_px, width_px) > 0.5


def check_mask(file: Path | str, num_frames: int, size: tuple[int, int], what: str) -> Tensor:
    """Read a mask as it is stored, and refuse one that is none of this video: it says where things are.

    Args:
        file: as for `load_weight_map`.
        num_frames: of the video.
        size: its rows and columns; a mask may have fewer or more, in the same proportion but for a pixel.
        what: the mask's name, for errors.

    Returns:
        [T or 1, h, w] float32.

    Raises:
        UsageError: as `load_weight_map`, or of another shape than the video.
    """
    mask = check_weight_map(file, num_frames, what)
    rows, columns = mask.shape[1:]
    height_px, width_px = size
    if abs(rows - columns * height_px / width_px) > 1 and abs(columns - rows * width_px / height_px) > 1:
        raise UsageError(
            f"{what} {file} has {rows} x {columns} pixels, the video {height_px} x {width_px}: another shape, so "
            "it is a mask of another picture or part"
        )
    return mask


def check_weight_map(file: Path | str, num_frames: int | None, what: str = "weight map") -> Tensor:
    """Read a weight map as it is stored; arguments and errors are those of `load_weight_map`.

    With num_frames None any length will do.

    Returns:
        [T or 1, h, w] float32.
    """
    file = Path(file)
    try:
        weights = _READERS.get(file.suffix.lower(), _from_video)(file)
    except Exception as error:  # each reader fails in its own way; the file is to blame in all of them
        raise UsageError(f"{what} {file} cannot be read: {error}") from error
    return _checked(weights, f"{what} {file}", num_frames)


def _checked(weights: Tensor, what: str, num_frames: int | None) -> Tensor:
    if weights.ndim == 2:
        weights = weights[None]
    if weights.ndim != 3 or not weights.numel():
        raise UsageError(f"{what} is {list(weights.shape)}; accepted are [T, H, W] and [H, W]")
    if len(weights) not in (1, num_frames or len(weights)):
        raise UsageError(f"{what} has {len(weights)} frames, the video has {num_frames}")
    weights = weights.float()
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise UsageError(f"{what} holds values that are negative or not finite; accepted are 0 and more")
    return weights


def _from_pt(file: Path) -> Tensor:
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Tensor):
        raise ValueError(f"holds a {type(loaded).__name__}, not one tensor")
    return loaded


def _from_npy(file: Path) -> Tensor:
    return torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))


def _from_npz(file: Path) -> Tensor:
    with np.load(file, allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            raise ValueError(f"holds the arrays {', '.join(arrays.files)}; exactly one is accepted")
        return torch.from_numpy(arrays[arrays.files[0]].astype(np.float32))


def _from_video(file: Path) -> Tensor:
    import av

    with av.open(str(file)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).float().mean(-1) / 255


_READERS = {".pt": _from_pt, ".npy": _from_npy, ".npz": _from_npz}
