"""How far the videos as a set lie from real ones: Fréchet distance of V-JEPA 2 features.

The usual FVD takes the features of an I3D network, which looks at single frames more than at motion (arXiv
2404.12391) and is published as a program, not as data. V-JEPA 2 (MIT licence) is a video network by training. The
numbers of the two have nothing to do with each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.metrics.learned.files import normalised, require
from guided_transfer.pretrained import load_pretrained

REPOSITORY = "facebook/vjepa2-vitl-fpc64-256"
HOW = f"get it with `hf download {REPOSITORY} --local-dir CHECKPOINTS/{REPOSITORY}`"
CLIP_FRAMES = 16


class VideoFeatures:
    """transformers' `VJEPA2Model`, its encoder alone."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load the published files.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        from transformers import VJEPA2Model

        require(folder / "config.json", HOW)
        return cls(load_pretrained(VJEPA2Model, folder).to(device))

    @torch.no_grad()
    def of(self, rgb: Tensor) -> Tensor:
        """Features [clips, D] float64 of the video's clips of 16 frames, one after the other; the rest is left out.

        Args:
            rgb: [T, H, W, 3] uint8, squeezed to the network's square.
        """
        side = self.model.config.crop_size
        clips = rgb[: len(rgb) // CLIP_FRAMES * CLIP_FRAMES].unflatten(0, (-1, CLIP_FRAMES))
        found = [
            self.model.get_vision_features(normalised(clip, (side, side), self.model.device)[None]).mean(1).cpu()
            for clip in clips
        ]
        return torch.cat(found).double() if found else torch.zeros(0, self.model.config.hidden_size).double()


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|mean_x - mean_y|^2 + trace(C_x + C_y - 2 (C_x C_y)^(1/2)), the Fréchet distance of two Gaussians.

    The trace of the root is the sum of the singular values of X Y^T / sqrt((n - 1)(m - 1)), X and Y centred: no
    root of a nearly singular matrix is taken. Few clips make the distance too large.

    Args:
        x: features [n, D].
        y: features [m, D].

    Raises:
        UsageError: less than two of either.
    """
    if min(len(x), len(y)) < 2:
        raise UsageError(
            f"a Fréchet distance needs two clips of {CLIP_FRAMES} frames on both sides, got {len(x)} and {len(y)}"
        )
    means = (x.mean(0) - y.mean(0)).square().sum()
    a, b = ((features - features.mean(0)) / (len(features) - 1) ** 0.5 for features in (x, y))
    shared = torch.linalg.svdvals(a @ b.mT).sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * shared)
