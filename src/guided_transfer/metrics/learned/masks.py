"""Do arm and phantom still have their outline? SAM 2, asked for what lies in the box of each label."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.metrics.learned.files import normalised, require
from guided_transfer.pretrained import load_pretrained

REPOSITORY = "facebook/sam2-hiera-large"
HOW = "get it with `guided-transfer checkpoints download --only sam2 --output_dir CHECKPOINTS`"
SMALLEST_OBJECT = 16
"""Pixels; of less than that nothing can be asked."""


class Sam2:
    """transformers' `Sam2Model`, single pictures."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load the published files.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        from transformers import Sam2Model

        require(folder / "config.json", HOW)
        return cls(load_pretrained(Sam2Model, folder).to(device))

    @torch.no_grad()
    def masks(self, frame: Tensor, boxes_px: Tensor) -> Tensor:
        """What lies in each box.

        Args:
            frame: [H, W, 3] uint8.
            boxes_px: [K, 4] left, top, right, bottom borders.

        Returns:
            [K, H, W] bool.
        """
        side, (height, width) = self.model.config.prompt_encoder_config.image_size, frame.shape[:2]
        scale = torch.tensor([side / width, side / height] * 2)
        found = self.model(
            pixel_values=normalised(frame[None], (side, side), self.model.device),
            input_boxes=(boxes_px * scale)[None].to(self.model.device),
            multimask_output=False,
        ).pred_masks[0]  # [K, 1, h, w] logits
        return F.interpolate(found, (height, width), mode="bilinear", align_corners=False)[:, 0].cpu() > 0


def mask_iou(model: Sam2, rgb: Tensor, labels: Tensor, foreground_labels: Collection[int]) -> float | None:
    """Mean intersection over union of what SAM 2 finds and what the simulator knows.

    Every label is asked for by its box in every frame; PAI-Bench-C finds the boxes by a caption instead.

    Args:
        model: the network.
        rgb: [N, H, W, 3] uint8.
        labels: [N, H, W] of the simulator.
        foreground_labels: of the objects.

    Returns:
        0..1, None where no label is in sight.
    """
    values = []
    for frame, known in zip(rgb, labels, strict=True):
        objects = [known == label for label in sorted(foreground_labels)]
        objects = [truth for truth in objects if int(truth.sum()) >= SMALLEST_OBJECT]
        if not objects:
            continue
        found = model.masks(frame, torch.stack([_box(truth) for truth in objects]))
        values += [float((a & b).sum() / (a | b).sum()) for a, b in zip(found, objects, strict=True)]
    return sum(values) / len(values) if values else None


def _box(mask: Tensor) -> Tensor:
    """Left, top, right and bottom border [px] of what is true in [H, W]."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
