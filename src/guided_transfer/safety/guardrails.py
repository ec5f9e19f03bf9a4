"""The four guardrails together: two on prompts, two on finished video.

Nothing here catches an exception of a model: a guardrail that breaks stops what it guards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from guided_transfer.errors import Blocked, CheckpointError

LICENCE_NOTE = (
    "Guardrails are off. The NVIDIA Open Model License ends your rights to the model if you bypass, disable or "
    "weaken its guardrails without a substantially similar one in their place. This is recorded with every episode."
)
BLOCKLIST = "nvidia/Cosmos-Guardrail1/blocklist"
LLAMA_GUARD = "meta-llama/Llama-Guard-3-8B"
CONTENT_FILTER = "nvidia/Cosmos-Guardrail1/video_content_safety_filter/safety_filter.pt"
SIGLIP = (
    "google/siglip-so400m-patch14-384",
    "nvidia/Cosmos-Guardrail1/video_content_safety_filter/models--google--siglip-so400m-patch14-384/snapshots/*",
)
"""Folders that may hold the picture encoder: its own repository, or the copy inside the guardrail's."""
FACE_DETECTOR = "nvidia/Cosmos-Guardrail1/face_blur_filter/Resnet50_Final.pth"


class PromptGuardrail(Protocol):
    """Passes a prompt, or raises Blocked."""

    def check(self, text: str) -> None: ...


class VideoGuardrail(Protocol):
    """Passes uint8 frames [T,H,W,3] on, changed or not, or raises Blocked."""

    def check(self, frames: Tensor) -> Tensor: ...


@dataclass
class Guardrails:
    """Every guardrail, in the order in which they look."""

    prompt: Sequence[PromptGuardrail]
    video: Sequence[VideoGuardrail]
    _passed: set[str] = field(default_factory=set)

    def check_prompt(self, text: str) -> None:
        """Let a prompt pass; each text is looked at once.

        Raises:
            Blocked: a guardrail objects.
        """
        if text in self._passed:
            return
        for guardrail in self.prompt:
            guardrail.check(text)
        self._passed.add(text)

    def check_video(self, frames: Tensor) -> Tensor:
        """Let finished frames pass.

        Args:
            frames: uint8 [T,H,W,3]; left as they are.

        Returns:
            The frames to keep, of the same shape, with faces made unrecognisable.

        Raises:
            Blocked: a guardrail objects, or there is nothing to look at.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"frames are {frames.dtype} {list(frames.shape)}, must be uint8 [T,H,W,3]")
        if not frames.numel():
            raise Blocked("video_content", f"no frames: {list(frames.shape)}")
        for guardrail in self.video:
            frames = guardrail.check(frames)
        return frames


def load_guardrails(root: Path, device: torch.device | str = "cpu", *, offload: bool = True) -> Guardrails:
    """Load all four from a checkpoint tree.

    Args:
        root: the checkpoint folder.
        device: where the models look.
        offload: keep the models on the host while they do not look.

    Raises:
        CheckpointError: a file is missing or cannot be used; names them all and how to get them.
    """
    require_guardrails(root)
    from guided_transfer.safety.blocklist import Blocklist
    from guided_transfer.safety.face_blur import FaceBlur
    from guided_transfer.safety.llama_guard import LlamaGuard
    from guided_transfer.safety.video_content import VideoContent

    siglip = _siglip_folder(root)
    assert siglip is not None
    return Guardrails(
        prompt=(
            Blocklist.from_folder(root / BLOCKLIST),
            LlamaGuard.from_folder(root / LLAMA_GUARD, device, offload=offload),
        ),
        video=(
            VideoContent.from_files(siglip, root / CONTENT_FILTER, device, offload=offload),
            FaceBlur.from_file(root / FACE_DETECTOR, device, offload=offload),
        ),
    )


def require_guardrails(root: Path) -> None:
    """Make sure that every file is there, before any long work.

    Raises:
        CheckpointError: a file is missing; names them all and how to get them.
    """
    if missing := missing_guardrail_files(root):
        raise CheckpointError(
            "the guardrails cannot run, so nothing runs. Missing: "
            f"{', '.join(map(str, missing))}. `guided-transfer checkpoints download --output_dir {root} --only "
            f"guardrail` fetches them; {LLAMA_GUARD} is gated: request access at "
            f"https://huggingface.co/{LLAMA_GUARD}. Weights of your own, such as a test's, run with --guardrail off"
        )


def missing_guardrail_files(root: Path) -> list[Path]:
    """Files that the guardrails need and the tree lacks; quick, reads none of them."""
    return [pattern for pattern in _needed(root) if not _found(pattern)]


def guardrail_files(root: Path) -> list[Path]:
    """Every file of a tree that decides what the guardrails let pass."""
    return [file for pattern in _needed(root) for file in _found(pattern)]


def _needed(root: Path) -> list[Path]:
    """Paths, the last part of which may be a pattern."""
    needed = [root / BLOCKLIST / folder / "*" for folder in ("custom", "exact_match", "whitelist")]
    needed += [root / CONTENT_FILTER, root / FACE_DETECTOR]
    needed += _model_files(root / LLAMA_GUARD)
    needed += [root / LLAMA_GUARD / "tokenizer.json", root / LLAMA_GUARD / "tokenizer_config.json"]
    siglip = _siglip_folder(root) or root / SIGLIP[0]
    return [*needed, *_model_files(siglip), siglip / "preprocessor_config.json"]


def _found(pattern: Path) -> list[Path]:
    return sorted(file for file in pattern.parent.glob(pattern.name) if file.is_file())


def _siglip_folder(root: Path) -> Path | None:
    found = (folder for pattern in SIGLIP for folder in sorted(root.glob(pattern)))
    return next((folder for folder in found if (folder / "config.json").is_file()), None)


def _model_files(folder: Path) -> list[Path]:
    """The files of a transformers model: one, or the shards that its index names."""
    from guided_transfer.safety.weights import shards

    index = folder / "model.safetensors.index.json"
    weights = shards(index) if index.is_file() else [folder / "model.safetensors"]
    return [folder / "config.json", *weights]
