"""What a video shows: SigLIP features of every frame, and a small classifier over them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_transfer.errors import Blocked, CheckpointError
from guided_transfer.pretrained import load_pretrained
from guided_transfer.safety.weights import fill, looking, must_be_finite, read_pickle

NAME = "video_content"
CLASSES = ("safe", "sexual content", "violence", "drugs", "child abuse", "hate", "self-harm")
LET_PASS = (0, 2)
"""Safe, and violence, which the reference treats as safe: it takes an operation for one."""
LEAST_SAFE = 0.95
"""Part of the frames that must be safe."""
FRAMES_AT_ONCE = 16


class VideoContent:
    """The encoder of pictures and the classifier."""

    def __init__(
        self, encoder: Any, processor: Any, classifier: nn.Module, device: torch.device | str, *, offload: bool
    ) -> None:
        self.models = nn.ModuleList([encoder, classifier])
        self.processor = processor
        self.device = torch.device(device)
        self.offload = offload

    @classmethod
    def from_files(
        cls, siglip: Path, classifier_file: Path, device: torch.device | str, *, offload: bool
    ) -> VideoContent:
        """Load the published files.

        Raises:
            CheckpointError: they cannot be read, lack weights, or do not fit each other.
        """
        from transformers import SiglipVisionModel
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        encoder = load_pretrained(SiglipVisionModel, siglip, torch.float32)
        tensors = read_pickle(classifier_file, "network.")
        classifier = ContentClassifier(encoder.config.hidden_size)
        fill(classifier, tensors, classifier_file)
        try:
            processor = SiglipImageProcessorPil.from_pretrained(siglip, local_files_only=True)
        except Exception as error:  # transformers passes on whatever its parts raise
            raise CheckpointError(f"{siglip}: preprocessor_config.json cannot be read: {error}") from None
        return cls(encoder, processor, classifier, device, offload=offload)

    def check(self, frames: Tensor) -> Tensor:
        """Pass uint8 frames [T,H,W,3] on as they are.

        Raises:
            Blocked: fewer than 95 of 100 frames are safe.
            CheckpointError: the models compute no finite numbers.
        """
        with looking(self.models, self.device, offload=self.offload):
            found = [label for part in frames.split(FRAMES_AT_ONCE) for label in self._labels(part)]
        unsafe = Counter(label for label in found if label not in LET_PASS)
        if (len(found) - unsafe.total()) / len(found) < LEAST_SAFE:
            seen = ", ".join(f"{CLASSES[label]} in {count}" for label, count in unsafe.most_common())
            raise Blocked(NAME, f"{unsafe.total()} of {len(found)} frames are unsafe: {seen}")
        return frames

    def _labels(self, frames: Tensor) -> list[int]:
        encoder, classifier = self.models
        pixels = self.processor(images=list(frames.cpu().numpy()), return_tensors="pt")["pixel_values"]
        features = encoder(pixel_values=pixels.to(self.device)).pooler_output
        logits = classifier(nn.functional.normalize(features, dim=-1))
        return must_be_finite(logits, NAME).argmax(dim=-1).tolist()


class ContentClassifier(nn.Module):
    """Features [N,D] of frames to logits [N,7]; parameters under the published names."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, len(CLASSES)),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
