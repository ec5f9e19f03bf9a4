"""Does what stands still stay still, and does the join between two clips show? Camera motion is taken out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from torch import Tensor

from guided_transfer.metrics.geometry import look_up
from guided_transfer.metrics.similarity import abs_diff_per_frame
from guided_transfer.types import View

SMALLEST_DEVIATION = 0.1 / 255
"""Steps that are all equal would make any border infinitely odd; a tenth of a grey level is nothing one sees."""


def static_steps(view: View, changed: Tensor, videos: Sequence[Tensor]) -> list[list[float | None]]:
    """How much each video's background changes from one frame to the next, camera motion taken out.

    Step t compares each background pixel of frame t with the same surface point in frame t - 1, found by the
    simulator's depth and poses; what was hidden, out of frame or has moved does not count.

    Args:
        view: the simulated view, with depth_m and camera.
        changed: [T, H, W] bool, the background.
        videos: each [T, H, W, 3] uint8.

    Returns:
        For each video T - 1 numbers: mean absolute difference, 0..1; None where nothing static is seen twice.
    """
    lookup = look_up(view[1:], view[:-1])
    static = lookup.seen & changed[1:]
    return [abs_diff_per_frame(video[1:], lookup.read(video[:-1]), static) for video in videos]


def mean_known(values: Sequence[float | None]) -> float | None:
    """Mean of what is not None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def seam_z(steps: Sequence[float | None], clip_borders: Sequence[int]) -> float | None:
    """How far the oddest clip border lies from the other steps, in their standard deviations.

    Args:
        steps: T - 1 values of `static_steps`; step t - 1 leads to frame t.
        clip_borders: first frame of each clip but the first.

    Returns:
        The largest z-score over the borders; None without borders or with less than two other steps.
    """
    at_border = {border - 1 for border in clip_borders}
    inside = [step for t, step in enumerate(steps) if t not in at_border and step is not None]
    borders = [steps[t] for t in at_border]
    known = [step for step in borders if step is not None]
    if not known or len(inside) < 2:
        return None
    deviation = max(statistics.stdev(inside), SMALLEST_DEVIATION)
    return (max(known) - statistics.fmean(inside)) / deviation
