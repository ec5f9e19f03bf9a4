"""Segmentation control: labels in the colours of docs/conventions.md."""

from __future__ import annotations

import torch
from torch import Tensor

from guided_transfer.errors import EpisodeInconsistent, UsageError
from guided_transfer.types import LABEL_COLOURS, summarise


def seg_control(labels: Tensor) -> Tensor:
    """Paint each label in its colour; nothing is blended, so the labels can be read back exactly.

    Args:
        labels: [T, H, W] integer labels 0..4.

    Returns:
        [T, H, W, 3] uint8.

    Raises:
        UsageError: `labels` is not an integer [T, H, W].
        EpisodeInconsistent: a label without a colour.
    """
    if labels.ndim != 3 or labels.is_floating_point():
        raise UsageError(f"the seg control is computed from integer labels [T, H, W], got {summarise(labels)}")
    index = labels.long()
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(LABEL_COLOURS):
        foreign = sorted(set(index.unique().tolist()) - set(range(len(LABEL_COLOURS))))
        raise EpisodeInconsistent(
            f"labels {foreign} have no colour; known are 0..{len(LABEL_COLOURS) - 1} (docs/conventions.md)"
        )
    return torch.tensor(LABEL_COLOURS, dtype=torch.uint8, device=labels.device)[index]
