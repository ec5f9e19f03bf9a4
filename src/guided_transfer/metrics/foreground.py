"""Was the foreground kept, and did the background change? Masks come from the simulator's labels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.metrics.similarity import abs_diff, delta_e, masked_mean, psnr_db, ssim_map


@dataclass(frozen=True)
class Regions:
    """Where in the source video what is promised.

    Attributes:
        kept: [T, H, W] bool, foreground without its outermost pixel, where encoders mix both sides.
        edge: [T, H, W] bool, the outermost 3 pixels of the foreground, reported apart.
        changed: [T, H, W] bool, background at least 1 pixel away from the foreground.
    """

    kept: Tensor
    edge: Tensor
    changed: Tensor

    def __getitem__(self, frames: Tensor) -> Regions:
        return Regions(self.kept[frames], self.edge[frames], self.changed[frames])


def regions(labels: Tensor, foreground_labels: Collection[int]) -> Regions:
    """Split labels [T, H, W] into Regions."""
    foreground = torch.isin(labels, torch.tensor(sorted(foreground_labels), dtype=labels.dtype))
    kept, inner = _eroded(foreground, 1), _eroded(foreground, 3)
    return Regions(kept=kept, edge=foreground & ~inner, changed=_eroded(~foreground, 1))


def _eroded(mask: Tensor, pixels: int) -> Tensor:
    """Take `pixels` off every border (8 neighbours); the image's own border is none."""
    kernel = np.ones((3, 3), np.uint8)
    frames = [cv2.erode(frame, kernel, iterations=pixels) for frame in mask.to(torch.uint8).numpy()]
    return torch.from_numpy(np.stack(frames)).bool()


@dataclass(frozen=True)
class ForegroundFidelity:
    """How well the foreground was kept; None where there is none.

    Attributes:
        psnr_db: pooled over the episode.
        ssim: mean of the SSIM map over the foreground.
        delta_e: mean CIEDE2000.
        edge_psnr_db: the same PSNR over the outermost 3 pixels.
    """

    psnr_db: float | None
    ssim: float | None
    delta_e: float | None
    edge_psnr_db: float | None


def foreground_fidelity(source: Tensor, generated: Tensor, where: Regions, sampled: Tensor) -> ForegroundFidelity:
    """Compare two videos [T, H, W, 3] uint8 on the foreground; SSIM on the frames `sampled` [N] only."""
    ssim = ssim_map(source[sampled], generated[sampled])
    return ForegroundFidelity(
        psnr_db=psnr_db(source, generated, where.kept),
        ssim=masked_mean(ssim, where.kept[sampled]),
        delta_e=delta_e(source, generated, where.kept),
        edge_psnr_db=psnr_db(source, generated, where.edge),
    )


@dataclass(frozen=True)
class BackgroundChange:
    """How much the background changed: it should, or nothing was transferred.

    Attributes:
        delta_e: mean CIEDE2000.
        abs_diff: mean absolute difference, 0..1.
    """

    delta_e: float | None
    abs_diff: float | None


def background_change(source: Tensor, generated: Tensor, where: Regions) -> BackgroundChange:
    """Compare two videos [T, H, W, 3] uint8 away from the foreground."""
    return BackgroundChange(delta_e(source, generated, where.changed), abs_diff(source, generated, where.changed))
