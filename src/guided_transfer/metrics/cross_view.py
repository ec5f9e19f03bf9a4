"""Do both cameras show the same room? Exact, because the simulator knows depth and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided_transfer.metrics.geometry import Lookup
from guided_transfer.metrics.similarity import GAUSSIAN, abs_diff_per_frame, masked_mean, psnr_db, ssim_map

SMALLEST_RANGE = 1 / 255
"""Below one grey level between the simulated and the shuffled pair the scale says nothing."""

SHUFFLE_SEED = 0


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
            colours read from `room` change places among the pixels seen, in one fixed random order.
    """
    seen_in_room = lookup.read(room)
    error = abs_diff(wrist, seen_in_room, lookup)
    simulated = abs_diff(simulated_wrist, lookup.read(simulated_room), lookup)
    unrelated = _shuffled(seen_in_room, lookup.seen) if unrelated_room is None else lookup.read(unrelated_room)
    shuffled = abs_diff(wrist, unrelated, lookup)
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


def abs_diff(view: Tensor, seen_in_other: Tensor, lookup: Lookup) -> float | None:
    """Mean |difference| / 255 over the pixels seen, all frames pooled."""
    return masked_mean((view.float() - seen_in_other).abs().mean(-1) / 255, lookup.seen)


def normalised(error: float | None, simulated: float | None, shuffled: float | None) -> float | None:
    """(error - simulated) / (shuffled - simulated), None where the scale is less than one grey level long."""
    if error is None or simulated is None or shuffled is None or shuffled - simulated < SMALLEST_RANGE:
        return None
    return (error - simulated) / (shuffled - simulated)


def _shuffled(colours: Tensor, seen: Tensor) -> Tensor:
    shuffled, chosen = colours.clone(), colours[seen]
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    shuffled[seen] = chosen[order]
    return shuffled
