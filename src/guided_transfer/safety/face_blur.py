"""Faces in a video are made unrecognisable."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from guided_transfer.errors import CheckpointError
from guided_transfer.safety.retinaface import RetinaFace, sizes_of
from guided_transfer.safety.weights import fill, looking, must_be_finite, read_pickle

NAME = "face_blur"
LEAST_PROBABILITY = 0.7
MOST_OVERLAP = 0.4
"""Of two boxes that share more (intersection over union), the less probable one is dropped."""
LOOKED_AT, KEPT = 5000, 750
"""Boxes of a frame, the most probable first."""
LEAST_SIDE_PX = 20
BLOCKS = 5
"""A face is left with so many blocks of one colour in each direction."""


class FaceBlur:
    """The detector, and what is done with what it finds."""

    def __init__(self, detector: RetinaFace, device: torch.device | str, *, offload: bool) -> None:
        self.detector = detector
        self.device = torch.device(device)
        self.offload = offload

    @classmethod
    def from_file(cls, file: Path, device: torch.device | str, *, offload: bool) -> FaceBlur:
        """Load the published weights.

        Raises:
            CheckpointError: they cannot be read, or belong to another network.
        """
        tensors = read_pickle(file, "module.")
        tensors = {name: value for name, value in tensors.items() if not name.startswith("LandmarkHead.")}
        try:
            detector = RetinaFace(*sizes_of(tensors))
        except KeyError as error:
            raise CheckpointError(f"{file}: no weights of a RetinaFace: {error} is missing") from None
        fill(detector, tensors, file)
        return cls(detector, device, offload=offload)

    def check(self, frames: Tensor) -> Tensor:
        """Give back uint8 frames [T,H,W,3] with every face pixelated; the given ones are left as they are.

        Raises:
            CheckpointError: the detector computes no finite numbers.
        """
        result = frames.clone()
        with looking(self.detector, self.device, offload=self.offload):
            for frame in result:
                pixels = frame.to(self.device, torch.float32).permute(2, 0, 1)[None]
                boxes, probabilities = self.detector(pixels)
                must_be_finite(boxes, NAME)
                for box in faces(boxes[0], must_be_finite(probabilities[0], NAME)):
                    pixelate(frame, box)
        return result


def faces(boxes: Tensor, probabilities: Tensor) -> Tensor:
    """The boxes [K,4] that are faces, from boxes [N,4] (left, top, right, bottom [px]) and probabilities [N]."""
    sure = probabilities > LEAST_PROBABILITY
    boxes, probabilities = boxes[sure].cpu(), probabilities[sure].cpu()
    order = probabilities.argsort(descending=True, stable=True)[:LOOKED_AT]
    boxes = boxes[order]
    kept: list[Tensor] = []
    while len(boxes) and len(kept) < KEPT:
        kept.append(boxes[0])
        boxes = boxes[overlap(boxes[0], boxes) <= MOST_OVERLAP]
    found = torch.stack(kept) if kept else boxes
    return found[(found[:, 2:] - found[:, :2] >= LEAST_SIDE_PX).all(dim=1)]


def overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box [4] with others [N,4]."""
    sides = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(min=0)
    shared = sides.prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return shared / (areas + (box[2:] - box[:2]).prod() - shared)


def pixelate(frame: Tensor, box: Tensor) -> None:
    """Leave blocks of one colour of what a box [4] covers of a uint8 frame [H,W,3], in place."""
    height, width = frame.shape[:2]
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    right, bottom = min(int(box[2].ceil()), width), min(int(box[3].ceil()), height)
    if left >= right or top >= bottom:
        return
    face = frame[top:bottom, left:right]
    picture = face.permute(2, 0, 1)[None].float()
    blocks = functional.adaptive_avg_pool2d(picture, BLOCKS)
    coarse = functional.interpolate(blocks, size=face.shape[:2], mode="nearest")
    face.copy_(coarse[0].permute(1, 2, 0).round().to(torch.uint8))
