"""Depth control: a simulator's metric depth as the grey picture the depth branch was trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.types import summarise

RANGE_QUANTILES = (0.005, 0.995)
"""Share of the pixels below and above the grey range: a few very near pixels must not flatten all others."""

RANGE_SAMPLES = 1_000_000
"""The range is read from at most about this many evenly spaced pixels."""


def depth_control(depth_m: Tensor) -> Tensor:
    """Inverse depth as grey levels, near = bright, scaled once for all frames.

    One scale for the whole clip, because a range per frame makes the picture flicker whenever
    something enters it. Where nothing was hit (inf), and where depth is unknown (NaN, 0 or less), it is black.

    Args:
        depth_m: [T, H, W] metres along the optical axis; pass all frames of the episode at once.

    Returns:
        [T, H, W, 3] uint8, three equal channels.

    Raises:
        UsageError: `depth_m` is not [T, H, W].
    """
    if depth_m.ndim != 3:
        raise UsageError(f"the depth control is computed from depth_m [T, H, W], got {summarise(depth_m)}")
    known = depth_m > 0  # NaN compares false
    inverse = torch.where(known, depth_m, torch.inf).float().reciprocal()  # [T, H, W], 1/m; inf -> 0
    low, high = _inverse_range(inverse)
    grey = ((inverse - low) * (255 / (high - low))).clamp_(0, 255).round_().to(torch.uint8)
    return grey[..., None].expand(-1, -1, -1, 3).contiguous()


def _inverse_range(inverse: Tensor) -> tuple[float, float]:
    """Inverse depths [1/m] shown as black and as white."""
    values = inverse[inverse > 0].cpu().numpy()
    if not values.size:
        return 0.0, 1.0
    low, high = np.quantile(values[:: max(values.size // RANGE_SAMPLES, 1)], RANGE_QUANTILES)
    if high <= low * (1 + 1e-6):  # one flat wall facing the camera: measure it from infinity
        return 0.0, float(high)
    return float(low), float(high)
