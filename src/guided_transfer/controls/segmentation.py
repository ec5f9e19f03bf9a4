"""Segmentation and masks of footage without labels: Grounding DINO finds what a text names, SAM 2 follows it."""

from __future__ import annotations

import colorsys
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided_transfer.controls.grounding import Box, GroundingDino, split_phrases
from guided_transfer.controls.tracking import Sam2Tracker
from guided_transfer.controls.vision import OnFrames, require_frames, silent
from guided_transfer.errors import EpisodeInconsistent

MAX_THINGS = 100
"""So many are painted at most, the surest."""

PROMPT_WORDS = 128
"""Of a prompt that is no list of things, so many words are looked for."""

FRAMES_TO_SEARCH = 8
"""What the first frame does not show is looked for in so many further frames, evenly spaced."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmenter:
    """The two models that make masks from words."""

    detector: GroundingDino
    tracker: Sam2Tracker

    def to(self, device: torch.device | str) -> Segmenter:
        """Move the weights of both."""
        self.detector.to(device)
        self.tracker.to(device)
        return self


@dataclass(frozen=True)
class FoundMask:
    """Where the things are that a text names.

    Attributes:
        mask: [T, H, W] bool.
        record: JSON-able: for each phrase the frame it was first seen in, boxes and best score; None if never.
    """

    mask: Tensor
    record: dict[str, Any]


def seg_control_from_text(rgb: Tensor, model: Segmenter, text: str, on_frames: OnFrames = silent) -> Tensor:
    """Paint everything that a text names, large things first and small ones over them, on black.

    A colour is drawn from hue 0..1, saturation 0.1..1 and value 0.2..1, as in the data the seg branch of
    Cosmos-Transfer1 was trained on; from the phrase and its number, so that the same thing has the same colour
    in another view and in another run.

    Args:
        rgb: [T, H, W, 3] uint8.
        model: detector and tracker.
        text: things between commas or full stops, or a prompt, of which the first 128 words count.
        on_frames: told how far it is.

    Returns:
        [T, H, W, 3] uint8; black where nothing is found.

    Raises:
        UsageError: frames of another shape or type, or a text that names nothing.
    """
    require_frames(rgb)
    phrases = model.detector.fitting(split_phrases(" ".join(text.split()[:PROMPT_WORDS])))
    start, boxes = _first_seen(rgb, model, phrases)
    out = torch.zeros(*rgb.shape, dtype=torch.uint8)
    if not boxes:
        log.warning("seg: nothing of %r was found; the control is black", text[:60])
        return out
    packed: list[Any] = [None] * len(rgb)  # one bit a pixel: a hundred masks of a clip would be 10 GB of bytes
    counts = torch.zeros(len(boxes), dtype=torch.int64)
    for frame, masks in _both_ways(rgb, model, start, boxes, on_frames, "seg"):
        packed[frame] = np.packbits(masks.flatten(1).numpy(), axis=-1)
        counts += masks.sum((1, 2))
    colours = torch.tensor(_colours(boxes), dtype=torch.uint8)
    largest_first = counts.argsort(descending=True, stable=True).tolist()
    pixels = rgb.shape[1] * rgb.shape[2]
    for frame, bits in enumerate(packed):
        unpacked = torch.from_numpy(np.unpackbits(bits, axis=-1, count=pixels)).bool()
        for thing in largest_first:
            out[frame][unpacked[thing].view(*rgb.shape[1:3])] = colours[thing]
    return out


def mask_from_text(
    rgb: Tensor, model: Segmenter, text: str, on_frames: OnFrames = silent, what: str = "mask"
) -> FoundMask:
    """Where any of the things is that a text names.

    Each phrase is looked for in the first frame, then in others until it is seen; from there it is followed to
    both ends of the video.

    Args:
        rgb: [T, H, W, 3] uint8.
        model: detector and tracker.
        text: things between commas or full stops.
        on_frames: told how far it is.
        what: the mask's name, for that and for errors.

    Raises:
        UsageError: frames of another shape or type, or a text that names nothing.
        EpisodeInconsistent: nothing of it is seen.
    """
    require_frames(rgb)
    phrases = split_phrases(text)
    seen = _all_seen(rgb, model, phrases)
    if not seen:
        raise EpisodeInconsistent(
            f"{what}: none of {', '.join(map(repr, phrases))} was found in frames "
            f"{', '.join(map(str, _searched(len(rgb))))}; say it in other words, or give the mask as a video"
        )
    mask = torch.zeros(rgb.shape[:3], dtype=torch.bool)
    record: dict[str, Any] = dict.fromkeys(phrases)
    for start, boxes in seen.items():
        for frame, masks in _both_ways(rgb, model, start, boxes, on_frames, what):
            mask[frame] |= masks.any(0)
        for phrase, number in Counter(box.phrase for box in boxes).items():
            best = max(box.score for box in boxes if box.phrase == phrase)
            record[phrase] = {"frame": start, "boxes": number, "score": round(best, 4)}
    if absent := [phrase for phrase, found in record.items() if found is None]:
        log.warning("%s: %s was not found", what, ", ".join(map(repr, absent)))
    return FoundMask(mask, record)


def _searched(num_frames: int) -> list[int]:
    """Frames to look for things in, the first one first."""
    return sorted({round(i * (num_frames - 1) / FRAMES_TO_SEARCH) for i in range(FRAMES_TO_SEARCH + 1)})


def _first_seen(rgb: Tensor, model: Segmenter, phrases: Sequence[str]) -> tuple[int, list[Box]]:
    """The first frame that shows anything, and what."""
    for frame in _searched(len(rgb)):
        if boxes := model.detector.find(rgb[frame], phrases)[:MAX_THINGS]:
            return frame, boxes
    return 0, []


def _all_seen(rgb: Tensor, model: Segmenter, phrases: Sequence[str]) -> dict[int, list[Box]]:
    """For each phrase the boxes of the first frame that shows it, by frame."""
    missing, seen = list(phrases), {}
    for frame in _searched(len(rgb)):
        if boxes := model.detector.find(rgb[frame], missing)[:MAX_THINGS]:
            seen[frame] = boxes
            missing = [phrase for phrase in missing if phrase not in {box.phrase for box in boxes}]
        if not missing:
            break
    return seen


def _both_ways(
    rgb: Tensor, model: Segmenter, start: int, boxes: Sequence[Box], on_frames: OnFrames, what: str
) -> Iterator[tuple[int, Tensor]]:
    """Masks of every frame: from `start` to the end, then back to the beginning."""
    corners = [box.corners_px for box in boxes]
    forwards, backwards = range(start, len(rgb)), range(start, -1, -1)
    done = 0
    for order in (forwards, backwards) if start else (forwards,):
        for frame, masks in model.tracker.track(rgb, order, corners):
            if order is backwards and frame == start:
                continue
            done += 1
            on_frames(what, done, len(rgb))
            yield frame, masks


def _colours(boxes: Sequence[Box]) -> list[tuple[int, ...]]:
    """A colour for each thing, the same for the n-th thing of a phrase wherever it appears."""
    numbers: Counter[str] = Counter()
    colours = []
    for box in boxes:
        drawn = hashlib.sha256(f"{box.phrase}/{numbers[box.phrase]}".encode()).digest()
        numbers[box.phrase] += 1
        hue, saturation, value = (int.from_bytes(drawn[i : i + 4], "big") / 2**32 for i in (0, 4, 8))
        rgb = colorsys.hsv_to_rgb(hue, 0.1 + 0.9 * saturation, 0.2 + 0.8 * value)
        colours.append(tuple(int(channel * 255) for channel in rgb))
    return colours
