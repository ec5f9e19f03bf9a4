"""DOVER (arXiv 2211.04894): does the video look good, by eyes that know no original? Run as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import CheckpointError
from guided_transfer.metrics.learned.files import normalised, require

FILE = "onnx_dover.onnx"
HOW = "make it with convert_to_onnx.py of https://github.com/VQAssessment/DOVER (mind its licence) and put it there"
PIP = "it needs onnxruntime: pip install 'guided-transfer[quality]'"

CLIP_FRAMES, FRAME_STEP = 32, 2
GRID, FRAGMENT_PX = 7, 32
SIDE_PX = GRID * FRAGMENT_PX


class Dover:
    """The exported network: "aes_view" [1, 3, 32, 224, 224] and "tech_view" [K, 3, 32, 224, 224] -> two scores."""

    def __init__(self, session: Any) -> None:
        self.session = session

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Load the exported network; it runs on the CPU.

        Raises:
            CheckpointError: the file or onnxruntime is missing, or it is another network.
        """
        file = require(folder / FILE, HOW)
        try:
            import onnxruntime
        except ImportError:
            raise CheckpointError(f"{file} is there, but {PIP}") from None
        try:
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base
            raise CheckpointError(f"{file}: cannot be read as an ONNX network: {error}") from None
        if sorted(given.name for given in session.get_inputs()) != ["aes_view", "tech_view"]:
            raise CheckpointError(f"{file}: takes {[given.name for given in session.get_inputs()]}; {HOW}")
        return cls(session)

    def scores(self, rgb: Tensor) -> dict[str, float | None]:
        """Raw outputs of the two heads; higher is better.

        Clips lie evenly in the video and fragments in the middle of their cells, where the authors draw both at
        random; a video shorter than a clip starts over, as theirs does.

        Args:
            rgb: [T, H, W, 3] uint8, the whole video.
        """
        clips = next(given for given in self.session.get_inputs() if given.name == "tech_view").shape[0]
        views = {"aes_view": aesthetic_view(rgb)[None], "tech_view": technical_views(rgb, clips)}
        aesthetic, technical = self.session.run(None, {name: view.numpy() for name, view in views.items()})
        return {"dover_technical": float(np.mean(technical)), "dover_aesthetic": float(np.mean(aesthetic))}


def aesthetic_view(rgb: Tensor) -> Tensor:
    """[3, 32, 224, 224]: frames from all over the video, each whole."""
    frames = torch.linspace(0, len(rgb) - 1, CLIP_FRAMES).round().long()
    return normalised(rgb[frames], (SIDE_PX, SIDE_PX), torch.device("cpu")).transpose(0, 1)


def technical_views(rgb: Tensor, clips: int) -> Tensor:
    """[clips, 3, 32, 224, 224]: every second frame, pieced together from 7 x 7 fragments at full resolution."""
    span = CLIP_FRAMES * FRAME_STEP
    starts = torch.linspace(0, max(len(rgb) - span, 0), clips).round().long()
    frames = (starts[:, None] + torch.arange(0, span, FRAME_STEP)) % len(rgb)
    fragments = _fragments(rgb[frames.flatten()])
    size = (SIDE_PX, SIDE_PX)
    return normalised(fragments, size, torch.device("cpu")).unflatten(0, (clips, -1)).transpose(1, 2)


def _fragments(rgb: Tensor) -> Tensor:
    """[N, 224, 224, 3]: the middle 32 x 32 pixels of each of 7 x 7 cells; smaller frames are enlarged first."""
    height, width = rgb.shape[1:3]
    if (smallest := min(height, width)) < SIDE_PX:
        scale = SIDE_PX / smallest
        size = (max(round(height * scale), SIDE_PX), max(round(width * scale), SIDE_PX))
        enlarged = F.interpolate(rgb.permute(0, 3, 1, 2).float(), size, mode="bilinear", align_corners=False)
        rgb, (height, width) = enlarged.permute(0, 2, 3, 1).round().to(torch.uint8), size

    def chosen(length: int) -> Tensor:
        cell = length // GRID
        first = torch.arange(GRID) * cell + (cell - FRAGMENT_PX) // 2
        return (first[:, None] + torch.arange(FRAGMENT_PX)).flatten()

    return rgb[:, chosen(height)][:, :, chosen(width)]
