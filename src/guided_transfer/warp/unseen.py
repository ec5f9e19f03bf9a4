"""Whether something that the source never saw may stand in the way.

The source's depth shows the fronts of things. What lies behind a front is unknown: it may be as thick as it
likes. So a target pixel is proven to show a surface only if its ray gets there through space that the source
saw to be empty, as in space carving (Kutulakos and Seitz, A Theory of Shape by Space Carving, 2000).
"""

from __future__ import annotations

import torch
from torch import Tensor

from guided_transfer.warp.geometry import Relation, follow, invert

STEPS = 16
"""Points asked along a ray, evenly spaced in depth. On the analytic scenes of `tests/warp/test_coverage.py` four
times as many would take false coverage from 1.7 to 1.6 %."""

BEHIND_M = 0.03
BEHIND_RATIO = 0.03
"""A point lies behind a surface when it is farther from the source by both 3 cm and 3 %."""


def behind_unseen(relation: Relation, inverse_depth: Tensor, depth_m: Tensor, usable: Tensor | None) -> Tensor:
    """Which target rays pass behind a surface of the source on their way.

    What lies outside the source's picture or behind its unusable pixels counts as empty.

    Args:
        relation: how the cameras relate.
        inverse_depth: [T, H', W'] 1/m, where the target's rays end; 0 = nowhere.
        depth_m: [T, H, W] the source's depth.
        usable: [T, H, W] bool, which source pixels tell anything; all when None.

    Returns:
        [T, H', W'] bool, False where a ray ends nowhere.
    """
    front = invert(depth_m) if usable is None else torch.where(usable, invert(depth_m), 0.0)
    behind = torch.zeros(inverse_depth.shape, dtype=torch.bool, device=inverse_depth.device)
    rows, columns = depth_m.shape[1:]
    for t, end in enumerate(inverse_depth):
        for step in range(1, STEPS):
            here = end * (STEPS / step)
            u, v, scale = follow(relation, t, here)
            inside = (end > 0) & (scale > 0) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
            pixel = torch.where(inside, v.floor() * columns + u.floor(), 0).long()
            surface_m, point_m = 1 / front[t].reshape(-1)[pixel], scale / here
            margin = (BEHIND_RATIO * point_m).clamp(min=BEHIND_M)
            behind[t] |= inside & (point_m - surface_m > margin)  # an unknown surface is infinitely far
    return behind
