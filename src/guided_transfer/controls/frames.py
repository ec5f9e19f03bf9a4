"""Run one OpenCV step on every frame of a video, on all threads this process may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.types import summarise

Frame = np.ndarray[Any, np.dtype[np.uint8]]
Setting = TypeVar("Setting")


def map_frames(change: Callable[[Frame], Frame], rgb: Tensor) -> Tensor:
    """Apply `change` to each frame of [T, H, W, 3] uint8; the result has the same shape.

    OpenCV lets go of the interpreter while it works, so threads are enough. Their number is
    `torch.get_num_threads()`: one setting governs the whole process. The result does not depend on it.

    Raises:
        UsageError: `rgb` has another shape or type.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != torch.uint8:
        raise UsageError(f"a control is computed from uint8 [T, H, W, 3] frames, got {summarise(rgb)}")
    frames = rgb.cpu().numpy()
    out = np.empty_like(frames)

    def one(index: int) -> None:
        out[index] = change(frames[index])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(one, range(len(frames))):
            pass
    return torch.from_numpy(out)


def preset_named(presets: Mapping[str, Setting], name: str, argument: str) -> Setting:
    """Look up a preset; an unknown name is an error that lists the names and the nearest one."""
    if name in presets:
        return presets[name]
    nearest = get_close_matches(name, presets, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise UsageError(f"{argument} is {name!r}, accepted are {', '.join(presets)}{hint}")
