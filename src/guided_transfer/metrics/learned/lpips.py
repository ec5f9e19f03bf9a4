"""LPIPS, the perceptual distance of Zhang et al. (arXiv 1801.03924), AlexNet version 0.1, in plain torch.

The published packages want torchvision for AlexNet's five convolutions; here they are read from its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_transfer.errors import CheckpointError
from guided_transfer.metrics.foreground import Regions
from guided_transfer.metrics.learned.files import read_state, require
from guided_transfer.metrics.similarity import masked_mean

TRUNK, HEADS = "alexnet-owt-7be5be79.pth", "alex.pth"
HOW = (
    f"put {TRUNK} (https://download.pytorch.org/models/{TRUNK}) and {HEADS} (lpips/weights/v0.1 of "
    "https://github.com/richzhang/PerceptualSimilarity) into that folder"
)

CONVOLUTIONS = (
    *((3, 64, 11, 4, 2), (64, 192, 5, 1, 2)),
    *((192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)),
)
"""In, out, kernel, stride and padding."""

PLACES = (0, 3, 6, 8, 10)
"""Of the convolutions among AlexNet's layers, as its file counts them."""

POOLED = (1, 2)
"""Convolutions that get a max-pooled picture."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of colours in -1..1."""

GREY = 128


class Lpips(nn.Module):
    """Distance of two pictures by AlexNet's features; 0 for equal ones, about 0.7 for strangers."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(*sizes) for sizes in CONVOLUTIONS)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for _, width, *_ in CONVOLUTIONS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1))

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load torchvision's AlexNet and the linear heads of LPIPS.

        Raises:
            CheckpointError: a file is missing or holds something else.
        """
        trunk, heads = (read_state(require(folder / name, HOW)) for name in (TRUNK, HEADS))
        model = cls()
        names = {}
        for index, place in enumerate(PLACES):
            for kind in ("weight", "bias"):
                names[f"convolutions.{index}.{kind}"] = trunk.get(f"features.{place}.{kind}")
            names[f"heads.{index}.weight"] = heads.get(f"lin{index}.model.1.weight")
        state = {name: value for name, value in names.items() if value is not None}
        try:
            model.load_state_dict({**state, "shift": model.shift, "scale": model.scale})
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: not AlexNet and the heads of LPIPS: {error}") from None
        return model.to(device).eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance at each pixel.

        Args:
            x: [N, H, W, 3] uint8.
            y: like x.

        Returns:
            [N, H, W] float32: each layer's distances, stretched to the picture, summed.
        """
        size = x.shape[1:3]
        total = torch.zeros(len(x), 1, *size)
        for head, one, other in zip(self.heads, self._features(x), self._features(y), strict=True):
            distance = head((_unit(one) - _unit(other)).square()).cpu()
            total += F.interpolate(distance, size, mode="bilinear", align_corners=False)
        return total[:, 0]

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The published number [N]: each layer's mean, summed."""
        pairs = zip(self.heads, self._features(x), self._features(y), strict=True)
        return sum(
            (head((_unit(one) - _unit(other)).square()).mean((1, 2, 3)).cpu() for head, one, other in pairs),
            torch.zeros(len(x)),
        )

    def _features(self, rgb: Tensor) -> list[Tensor]:
        pixels = rgb.to(self.shift.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        x, found = (pixels - self.shift) / self.scale, []
        for index, convolution in enumerate(self.convolutions):
            if index in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            found.append(x)
        return found


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def regional_lpips(model: Lpips, source: Tensor, generated: Tensor, where: Regions) -> dict[str, float | None]:
    """Distance on the foreground and away from it, each with the other side painted grey in both pictures.

    Args:
        model: the network.
        source: [N, H, W, 3] uint8.
        generated: like source.
        where: regions of the same frames.
    """

    def within(mask: Tensor) -> float | None:
        pair = (torch.where(mask[..., None], rgb, GREY).to(torch.uint8) for rgb in (source, generated))
        return masked_mean(model(*pair), mask)

    return {"foreground_lpips": within(where.kept), "background_lpips": within(where.changed)}


def diversity(model: Lpips, variants: Sequence[Tensor]) -> float | None:
    """Mean distance over all pairs of variants [N, H, W, 3] of one video; None for less than two."""
    pairs = list(combinations(variants, 2))
    if not pairs:
        return None
    return float(torch.stack([model.distance(one, other).mean() for one, other in pairs]).mean())
