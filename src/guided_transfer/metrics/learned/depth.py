"""Does the picture still look as deep as the scene is? Depth Anything V2 against the simulator's depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.metrics.learned.files import normalised, require
from guided_transfer.pretrained import load_pretrained

REPOSITORY = "depth-anything/Depth-Anything-V2-Small-hf"
HOW = "get it with `guided-transfer checkpoints download --only depth_anything --output_dir CHECKPOINTS`"
INPUT_PX = 518
"""The network's own size of the shorter side, before multiples of a patch."""


class DepthAnything:
    """transformers' `DepthAnythingForDepthEstimation`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load the published files.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        from transformers import DepthAnythingForDepthEstimation

        require(folder / "config.json", HOW)
        return cls(load_pretrained(DepthAnythingForDepthEstimation, folder).to(device))

    @torch.no_grad()
    def inverse_depth(self, rgb: Tensor) -> Tensor:
        """Inverse depth [N, H, W] of [N, H, W, 3] uint8 frames, up to a scale and a shift."""
        size, patch = rgb.shape[1:3], self.model.config.patch_size
        scale = INPUT_PX / min(size)
        rows, columns = (max(round(side * scale / patch), 1) * patch for side in size)
        pictures = (normalised(frame[None], (rows, columns), self.model.device, "bicubic") for frame in rgb)
        found = [self.model(pixel_values=picture).predicted_depth for picture in pictures]
        return F.interpolate(torch.cat(found)[:, None], size, mode="bilinear", align_corners=False)[:, 0].cpu()


def depth_error(model: DepthAnything, rgb: Tensor, depth_m: Tensor) -> dict[str, float | None]:
    """How far the depth that a network sees lies from the simulator's.

    Per frame a scale and a shift of inverse depth are fitted by least squares, because the network gives it up to
    these; PAI-Bench-C, whose two depths are both a network's, fits a scale alone. What would lie behind the
    farthest true point is put there.

    Args:
        model: the network.
        rgb: [N, H, W, 3] uint8.
        depth_m: [N, H, W] of the simulator.

    Returns:
        "depth_si_rmse_m": root mean square error, mean over frames. "depth_abs_rel": mean |error| / depth.
        None where no depth is known.
    """
    squared, relative = [], []
    for seen, truth_m in zip(model.inverse_depth(rgb), depth_m, strict=True):
        known = truth_m.isfinite() & (truth_m > 0)
        if not bool(known.any()):
            continue
        truth = truth_m[known].double()
        columns = torch.stack([seen[known].double(), torch.ones_like(truth)], -1)
        fit = torch.linalg.lstsq(columns, truth.reciprocal()[:, None], driver="gelsd").solution
        fitted = (columns @ fit)[:, 0].clamp(min=1 / float(truth.max())).reciprocal()
        squared.append(float((fitted - truth).square().mean()) ** 0.5)
        relative.append(float(((fitted - truth).abs() / truth).mean()))
    if not squared:
        return {"depth_si_rmse_m": None, "depth_abs_rel": None}
    return {"depth_si_rmse_m": sum(squared) / len(squared), "depth_abs_rel": sum(relative) / len(relative)}
