"""Does the result follow its controls? Edge F1 and blur SSIM as in PAI-Bench-C, and depth edges without a network.

These reward changing nothing: the identity scores best. Read them beside the background change.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.metrics.similarity import UNIFORM, ssim_map

CANNY_THRESHOLDS = (100, 200)
"""Cosmos-Transfer1's "medium"."""

DEPTH_JUMP = 0.05
"""Neighbours whose depths differ by more than 5 % lie on two surfaces."""

REACH_PX = 2
"""A depth edge counts as found when the picture has an edge within this many pixels."""


def canny(rgb: Tensor) -> Tensor:
    """Edges [T, H, W] bool of [T, H, W, 3] uint8."""
    frames = [cv2.Canny(frame, *CANNY_THRESHOLDS) for frame in rgb.numpy()]
    return torch.from_numpy(np.stack(frames)) > 0


def edge_f1(source_edges: Tensor, generated_edges: Tensor) -> float | None:
    """F1 of the generated edges against the source's, pixels of all frames pooled, no tolerance.

    2 TP / (2 TP + FP + FN); PAI-Bench-C (arXiv 2512.01989). Depends on OpenCV's Canny: compare only numbers of
    the same code. None where neither has an edge.

    Args:
        source_edges: [T, H, W] bool from `canny`.
        generated_edges: likewise.
    """
    total = int(source_edges.sum()) + int(generated_edges.sum())
    return 2 * int((source_edges & generated_edges).sum()) / total if total else None


def blur_ssim(source: Tensor, generated: Tensor) -> float:
    """Mean SSIM after a bilateral filter (9 px, 75, 75) on both.

    PAI-Bench-C, but with a data range of 255: the frame's own range, used there, divides 0 by 0 on flat frames.

    Args:
        source: [T, H, W, 3] uint8.
        generated: like source.
    """
    return float(ssim_map(_bilateral(source), _bilateral(generated), UNIFORM).double().mean())


def _bilateral(rgb: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([cv2.bilateralFilter(frame, 9, 75, 75) for frame in rgb.numpy()]))


def depth_edges(depth_m: Tensor) -> Tensor:
    """Where depth jumps: [T, H, W] bool, true on the nearer pixel of two neighbours; unknown depth is no edge."""
    nearness = torch.where(depth_m > 0, depth_m, torch.nan).reciprocal()  # inf -> 0: the sky is a surface, too
    edges = torch.zeros_like(depth_m, dtype=torch.bool)
    for axis in (1, 2):
        size = depth_m.shape[axis] - 1
        first, second = nearness.narrow(axis, 0, size), nearness.narrow(axis, 1, size)
        edges.narrow(axis, 0, size).logical_or_(first > second * (1 + DEPTH_JUMP))
        edges.narrow(axis, 1, size).logical_or_(second > first * (1 + DEPTH_JUMP))
    return edges


def depth_edge_recall(edges_of_depth: Tensor, edges_of_picture: Tensor) -> float | None:
    """Share of the simulator's depth edges that the picture shows within REACH_PX (in a square).

    Stands in for depth fidelity where no depth network is at hand: a surface that was moved or melted into its
    background loses its outline. Not every depth edge is visible, so compare with the source's own recall.

    Args:
        edges_of_depth: [T, H, W] bool from `depth_edges`.
        edges_of_picture: [T, H, W] bool from `canny`.
    """
    if not bool(edges_of_depth.any()):
        return None
    kernel = np.ones((2 * REACH_PX + 1, 2 * REACH_PX + 1), np.uint8)
    grown = [cv2.dilate(frame, kernel) for frame in edges_of_picture.to(torch.uint8).numpy()]
    return float(torch.from_numpy(np.stack(grown))[edges_of_depth].double().mean())
