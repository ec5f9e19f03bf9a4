"""Finding and reading the files of the networks, and frames as networks want them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def require(path: Path, how: str) -> Path:
    """The path, if it is there.

    Raises:
        CheckpointError: it is not; `how` tells how to get it.
    """
    if not path.exists():
        raise CheckpointError(f"{path} is missing; {how}")
    return path


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name of a .pth file; nothing in it is executed.

    Raises:
        CheckpointError: damaged, or more than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the archive's layers raise
        raise CheckpointError(f"{path}: cannot be read as weights: {error}") from None


def normalised(rgb: Tensor, size: tuple[int, int], device: torch.device, filter: str = "bilinear") -> Tensor:
    """Frames [N, H, W, 3] uint8 as [N, 3, *size] float32 of ImageNet's mean 0 and deviation 1, antialiased."""
    pixels = rgb.to(device).permute(0, 3, 1, 2).float() / 255
    if pixels.shape[2:] != size:
        pixels = F.interpolate(pixels, size, mode=filter, antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std
