"""Do both cameras show the same room? Exact, because the simulator knows depth and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided_transfer.metrics.geometry import Lookup
from guided_transfer.metrics.similarity import (
    GAUSSIAN,
    abs_diff,
    abs_diff_per_frame,
    masked_mean,
    psnr_db,
    ssim_map,
)

SMALLEST_RANGE = 1 / 255
"""Below one grey level between the simulated and the shuffled pair the scale says nothing."""

CHANCE_SEED, CHANCE_PIXELS = 0, 100_000


@dataclass(frozen=True)
class CrossView:
    """Disagreement of two views on the surface points both see; None where they share none.

    Attributes:
        abs_diff: mean absolute difference of the colours, 0..1.
        psnr_db: of the same pixels.
        ssim: mean of the SSIM map there; what is not seen is filled with the view itself.
        simulated_abs_diff: `abs_diff` of the simulated pair: shading that depends on the view.
        shuffled_abs_diff: `abs_diff` of a pair that has nothing to do with each other.
        normalised: 0 as good as the simulated pair, 1 as bad as the shuffled one; None where these two are alike.
        coverage: share of the view's pixels that the other sees.
        time_line: `abs_diff` of each frame.
    """

    abs_diff: float | None
    psnr_db: float | None
    ssim: float | None
    simulated_abs_diff: float | None
    shuffled_abs_diff: float | None
    normalised: float | None
    coverage: float
    time_line: Sequence[float | None]


def cross_view(
    lookup: Lookup,
    wrist: Tensor,
    room: Tensor,
    simulated_wrist: Tensor,
    simulated_room: Tensor,
    sampled: Tensor,
    *,
    unrelated_room: Tensor | None = None,
) -> CrossView:
    """Compare each wrist pixel with the room picture's colour of the same surface point.

    normalised = (E - E_simulated) / (E_shuffled - E_simulated), E the mean absolute difference.

    Args:
        lookup: of the wrist view in the room view.
        wrist: [T, H, W, 3] uint8, generated.
        room: [T, h, w, 3] uint8, generated.
        simulated_wrist: the wrist view of the source.
        simulated_room: the room view of the source.
        sampled: [N] frames on which SSIM is taken.
        unrelated_room: the same episode's room view under another prompt, for E_shuffled; without it the
            colours read from `room` change places among (at most about CHANCE_PIXELS, evenly strided) pixels
            seen, in one fixed random order.
    """
    seen_in_room = lookup.read(room)
    error = abs_diff(wrist, seen_in_room, lookup.seen)
    simulated = abs_diff(simulated_wrist, lookup.read(simulated_room), lookup.seen)
    if unrelated_room is None:
        shuffled = _chance(wrist, seen_in_room, lookup)
    else:
        shuffled = abs_diff(wrist, lookup.read(unrelated_room), lookup.seen)
    rebuilt = torch.where(lookup.seen[..., None], seen_in_room.round(), wrist).to(torch.uint8)
    ssim = ssim_map(wrist[sampled], rebuilt[sampled], GAUSSIAN)
    return CrossView(
        abs_diff=error,
        psnr_db=psnr_db(wrist, rebuilt, lookup.seen),
        ssim=masked_mean(ssim, lookup.seen[sampled]),
        simulated_abs_diff=simulated,
        shuffled_abs_diff=shuffled,
        normalised=normalised(error, simulated, shuffled),
        coverage=lookup.coverage,
        time_line=abs_diff_per_frame(wrist, seen_in_room, lookup.seen),
    )


def normalised(error: float | None, simulated: float | None, shuffled: float | None) -> float | None:
    """(error - simulated) / (shuffled - simulated), None where the scale is less than one grey level long."""
    if error is None or simulated is None or shuffled is None or shuffled - simulated < SMALLEST_RANGE:
        return None
    return (error - simulated) / (shuffled - simulated)


def _chance(view: Tensor, seen_in_other: Tensor, lookup: Lookup) -> float | None:
    """`abs_diff` of pixels that belong to different points: the same colours, matched by chance."""
    chosen = lookup.seen.flatten().nonzero()[:, 0]
    if not len(chosen):
        return None
    chosen = chosen[:: max(len(chosen) // CHANCE_PIXELS, 1)]
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(CHANCE_SEED))
    here, there = view.reshape(-1, 3)[chosen].float(), seen_in_other.reshape(-1, 3)[chosen[order]]
    return float((here - there).abs().double().mean()) / 255
