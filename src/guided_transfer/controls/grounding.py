"""Where in a picture the things are that a text names: Grounding DINO."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from guided_transfer.controls.vision import Pictures
from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.pretrained import load_pretrained

BOX_THRESHOLDS = (0.15, 0.1)
"""A box counts above the first; where none does, above the second."""

MAX_TEXT_TOKENS = 256


@dataclass(frozen=True)
class Box:
    """Something found.

    Attributes:
        phrase: which of the phrases it looks most like.
        score: how much, 0..1.
        corners_px: left, top, right, bottom.
    """

    phrase: str
    score: float
    corners_px: tuple[float, float, float, float]


class GroundingDino:
    """transformers' `GroundingDinoForObjectDetection`, its tokenizer, and how it wants its pictures."""

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pictures = pictures

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load the published files, in float32.

        Raises:
            CheckpointError: they cannot be read, or lack weights.
        """
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection

        model = load_pretrained(GroundingDinoForObjectDetection, folder, torch.float32)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers passes on whatever its parts raise
            raise CheckpointError(f"{folder}: no tokenizer that can be read: {error}") from None
        return cls(model.to(device), tokenizer, Pictures.from_folder(folder))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def find(self, frame: Tensor, phrases: Sequence[str]) -> list[Box]:
        """Boxes around what the phrases name, the surest first.

        A box belongs to the phrase with the surest word; its score is that word's.

        Args:
            frame: [H, W, 3] uint8.
            phrases: see `split_phrases`.

        Raises:
            UsageError: the phrases are longer than the model can read.
        """
        size = shorter_side_size((frame.shape[0], frame.shape[1]), self.pictures)
        pixels = self.pictures.prepared(frame[None], size, next(self.model.parameters()))
        tokens = self._tokens(phrases).to(pixels.device)
        output = self.model(pixel_values=pixels, **tokens)
        words = output.logits[0].sigmoid()  # [queries, tokens], padded to the model's longest text
        owners = torch.tensor(self._owners(tokens["input_ids"][0].tolist()), device=words.device)
        words = words[:, : len(owners)]
        of_phrase = torch.stack([(words * (owners == number)).amax(-1) for number in range(len(phrases))], -1)
        scores, numbers = of_phrase.max(-1)
        scale = words.new_tensor([frame.shape[1], frame.shape[0], frame.shape[1], frame.shape[0]])
        corners = (_corners(output.pred_boxes[0]) * scale).cpu()
        for threshold in BOX_THRESHOLDS:
            chosen = (scores > threshold).nonzero()[:, 0]
            if len(chosen):
                break
        chosen = chosen[scores[chosen].argsort(descending=True, stable=True)]
        return [
            Box(phrases[int(numbers[query])], float(scores[query]), tuple(corners[query].tolist()))
            for query in chosen.tolist()
        ]

    def fitting(self, phrases: Sequence[str]) -> tuple[str, ...]:
        """As many of the phrases, from the first on, as the model can read at once; at least one."""
        count = len(phrases)
        while count > 1 and self._length(phrases[:count]) > MAX_TEXT_TOKENS:
            count -= 1
        return tuple(phrases[:count])

    def _length(self, phrases: Sequence[str]) -> int:
        return len(self.tokenizer(_caption(phrases), verbose=False)["input_ids"])

    def _tokens(self, phrases: Sequence[str]) -> Any:
        if (length := self._length(phrases)) > MAX_TEXT_TOKENS:
            raise UsageError(
                f"{_caption(phrases)[:60]!r}... is {length} tokens long; "
                f"the detector reads {MAX_TEXT_TOKENS}, so name fewer things"
            )
        return self.tokenizer(_caption(phrases), return_tensors="pt")

    def _owners(self, ids: list[int]) -> list[int]:
        """Number of the phrase that each token belongs to; -1 for full stops and what the tokenizer adds."""
        stop, added = self.tokenizer.convert_tokens_to_ids("."), set(self.tokenizer.all_special_ids)
        owners, number = [], 0
        for token in ids:
            between = token == stop or (token in added and token != self.tokenizer.unk_token_id)
            owners.append(-1 if between else number)
            number += token == stop
        return owners


def _caption(phrases: Sequence[str]) -> str:
    return ". ".join(phrases) + "."


def split_phrases(text: str) -> tuple[str, ...]:
    """The things a text names, in lower case: parts between commas and full stops.

    Raises:
        UsageError: it names nothing.
    """
    parts = (" ".join(part.split()).lower() for part in re.split(r"[,.;\n]", text))
    phrases = tuple(dict.fromkeys(part for part in parts if any(letter.isalnum() for letter in part)))
    if not phrases:
        raise UsageError(f"{text!r} names nothing to look for; write for example 'robot arm, phantom'")
    return phrases


def shorter_side_size(source: tuple[int, int], pictures: Pictures) -> tuple[int, int]:
    """Rows and columns that the model works at: the source's shape, the shorter side as long as the model wants,
    unless the longer one would pass its limit.
    """
    shorter, longer = min(source), max(source)
    side = float(pictures.size["shortest_edge"])
    if longer / shorter * side > pictures.size["longest_edge"]:
        side = pictures.size["longest_edge"] * shorter / longer
    whole = round(side)
    rows, columns = (whole if length == shorter else int(side * length / shorter) for length in source)
    return rows, columns


def _corners(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom of boxes given as centre x, y, width, height; in 0..1."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], -1).clamp(0, 1)
