"""Where the vision models of the controls lie, how they are loaded, and how they want their pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.types import summarise

OnFrames = Callable[[str, int, int], None]
"""on_frames(what is being made, frames done, frames in all)"""

REPOSITORIES = {
    "depth_anything": "depth-anything/Depth-Anything-V2-Small-hf",
    "grounding_dino": "IDEA-Research/grounding-dino-tiny",
    "sam2": "facebook/sam2-hiera-large",
}
"""Folders below the checkpoint folder, by the part's name in `checkpoints download --only`."""

ONNX_FILES = {
    "yolox_onnx": "end2end.onnx of yolox_m_8xb8-300e_humanart, which finds people",
    "rtmpose_onnx": "end2end.onnx of rtmw-dw-x-l_simcc-cocktail14_270e-384x288, which finds their 133 keypoints",
}
"""Files that the checkpoint tree does not have, by the option that names each."""

MODELS_OF = {"depth": ("depth_anything",), "seg": ("grounding_dino", "sam2"), "keypoint": ("keypoint",)}
"""What computes a kind of control: keys of REPOSITORIES, or "keypoint" for the ONNX files."""

WEIGHT_SUFFIXES = (".json", ".safetensors", ".txt")

FILTERS = {2: "bilinear", 3: "bicubic"}
"""Codes of `resample` in a preprocessor_config.json."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class VisionFiles:
    """Where to look for the vision models.

    Attributes:
        root: folder with `<owner>/<repository>` folders, as the checkpoint tree has them.
        yolox_onnx, rtmpose_onnx: files of the keypoint control; None where they are not named.
    """

    root: Path
    yolox_onnx: Path | None = None
    rtmpose_onnx: Path | None = None

    def folder(self, part: str, what_for: str) -> Path:
        """The folder of a model.

        Args:
            part: a key of REPOSITORIES.
            what_for: what needs it, for the error.

        Raises:
            CheckpointError: it is not there; says how to get it, and which option names another place.
        """
        folder = self.root / REPOSITORIES[part]
        if (folder / "config.json").is_file():
            return folder
        raise CheckpointError(
            f"{folder}: no config.json there; {what_for} needs {REPOSITORIES[part]}. Get it with "
            f"`guided-transfer checkpoints download --output_dir {self.root} --only {part}`, "
            "or name the folder that holds it with --vision_dir"
        )

    def onnx_files(self) -> tuple[Path, Path]:
        """The person detector and the keypoint estimator.

        Raises:
            CheckpointError: an option is not given or names no file; lists both.
        """
        given = {option: getattr(self, option) for option in ONNX_FILES}
        if faults := [option for option, file in given.items() if file is None or not file.is_file()]:
            found = ", ".join(f"--{option} is {str(given[option] or '')!r}" for option in faults)
            wanted = "; ".join(f"--{option} {about}" for option, about in ONNX_FILES.items())
            raise CheckpointError(
                f"the keypoint control needs two ONNX files that the checkpoint tree does not have: {wanted}. "
                f"Both are zip archives of OpenMMLab's RTMPose project. {found}, which is no file"
            )
        return given["yolox_onnx"], given["rtmpose_onnx"]

    def files(self, part: str, what_for: str) -> list[Path]:
        """What decides of a model's results: its weights and settings.

        Args:
            part: a key of REPOSITORIES, or "keypoint".
            what_for: what needs it, for the error.

        Raises:
            CheckpointError: as `folder` and `onnx_files`.
        """
        if part == "keypoint":
            return list(self.onnx_files())
        return sorted(file for file in self.folder(part, what_for).iterdir() if file.suffix in WEIGHT_SUFFIXES)

    def available(self) -> frozenset[str]:
        """Kinds of control that can be computed with the models that are there."""
        return frozenset(kind for kind, parts in MODELS_OF.items() if all(map(self._has, parts)))

    def _has(self, part: str) -> bool:
        try:
            return bool(self.files(part, ""))
        except CheckpointError:
            return False


@dataclass(frozen=True)
class Pictures:
    """How a model wants its pictures, as its preprocessor_config.json says.

    Attributes:
        mean, std: per channel of RGB in 0..1.
        filter: with which a picture is brought to the model's size, antialiased.
        size: "height" and "width", or "shortest_edge" and "longest_edge" [px].
        keep_aspect_ratio, ensure_multiple_of: see `covering_size`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: Literal["bilinear", "bicubic"]
    size: dict[str, int]
    keep_aspect_ratio: bool = False
    ensure_multiple_of: int = 1

    @classmethod
    def from_folder(cls, folder: Path) -> Pictures:
        """Read a preprocessor_config.json.

        Raises:
            CheckpointError: it is missing, or says something that this class cannot do.
        """
        file = folder / "preprocessor_config.json"
        try:
            told = json.loads(file.read_bytes())
            if not all(told.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize")):
                raise ValueError("do_resize, do_rescale and do_normalize are expected to be true")
            return cls(
                tuple(told["image_mean"]),
                tuple(told["image_std"]),
                FILTERS[told["resample"]],  # type: ignore[arg-type]
                {side: int(length) for side, length in told["size"].items() if length},
                told.get("keep_aspect_ratio", False),
                told.get("ensure_multiple_of", 1),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}: does not say how the model wants its pictures: {error!r}") from None

    def prepared(self, frames: Tensor, size: tuple[int, int], like: Tensor) -> Tensor:
        """Frames as the model wants them.

        Resized in float32 and rounded to whole levels, as an image library does; then normalised.

        Args:
            frames: [N, H, W, 3] uint8.
            size: rows and columns of the result.
            like: a tensor of the model, for device and dtype.

        Returns:
            [N, 3, rows, columns].
        """
        pixels = frames.to(like.device).permute(0, 3, 1, 2).float()
        if tuple(frames.shape[1:3]) != tuple(size):
            resized = F.interpolate(pixels, size, mode=self.filter, align_corners=False, antialias=True)
            pixels = resized.round_().clamp_(0, 255)
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((pixels / 255 - mean) / std).to(like.dtype)


def require_frames(rgb: Tensor) -> None:
    """Check that `rgb` is [T, H, W, 3] uint8 with at least one frame.

    Raises:
        UsageError: it is not.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != torch.uint8 or not len(rgb):
        raise UsageError(f"a control is computed from uint8 [T, H, W, 3] frames, got {summarise(rgb)}")
