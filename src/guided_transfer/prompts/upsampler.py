"""The Cosmos prompt upsampler: a model that sees two frames and writes a short prompt out.

The model is a Pixtral of 12 billion parameters; it answers one message, the pictures first and then the prompt as
it is. What it is asked, and how, follows Cosmos-Transfer1 (`cosmos_transfer1/auxiliary/upsampler`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from guided_transfer.errors import UsageError
from guided_transfer.prompts.endpoint import Endpoint, served_models

FOLDER = "nvidia/Cosmos-UpsamplePrompt1-12B-Transfer"
"""Of the model, below the checkpoint folder."""
FILES = ("consolidated.safetensors", "params.json", "tekken.json")
LOOKED_AT = ("vis", "edge", "depth", "seg")
"""Controls whose picture the model can read; the first that a run has is shown to it."""
NUM_FRAMES = 2
LONGEST_SIDE_PX = 512
"""A picture has a token per 16 x 16 pixels; two larger ones would not leave the answer enough of the context."""
ASKED_AT_ONCE = 8
SERVE_OPTIONS = (
    *("--tokenizer-mode", "mistral", "--config-format", "mistral", "--load-format", "mistral"),
    *("--max-model-len", "4096", "--max-num-seqs", str(ASKED_AT_ONCE), "--enable-prefix-caching"),
    *("--limit-mm-per-prompt", json.dumps({"image": NUM_FRAMES})),
)
TEMPERATURE = 0.6
MAX_TOKENS = 300
WITHOUT_A_PROMPT = "describe the following images"


@dataclass(frozen=True)
class Question:
    """What the model is asked about one view.

    Attributes:
        prompt: the short one.
        frames: PNG files, at most NUM_FRAMES.
        seed: of the model's choice of words.
    """

    prompt: str
    frames: tuple[bytes, ...]
    seed: int

    @property
    def key(self) -> str:
        """The same for the same question, and for no other."""
        parts = [self.prompt, [hashlib.sha256(frame).hexdigest() for frame in self.frames], self.seed]
        return hashlib.sha256(json.dumps([*parts, TEMPERATURE, MAX_TOKENS]).encode()).hexdigest()

    @property
    def content(self) -> list[dict[str, Any]]:
        """The message."""
        pictures = (f"data:image/png;base64,{base64.b64encode(frame).decode()}" for frame in self.frames)
        return [
            *({"type": "image_url", "image_url": {"url": url}} for url in pictures),
            {"type": "text", "text": self.prompt or WITHOUT_A_PROMPT},
        ]


def shown_control(kinds: Iterable[str]) -> str:
    """The control whose picture the model is shown.

    Raises:
        UsageError: it can read none of them.
    """
    kinds = list(kinds)
    found = next((kind for kind in LOOKED_AT if kind in kinds), None)
    if found is None:
        raise UsageError(
            f"upsample_prompt: the upsampler is shown one of the controls {', '.join(LOOKED_AT)}, the run has "
            f"{', '.join(kinds)}; leave the flag away"
        )
    return found


def question(prompt: str, frames: Sequence[np.ndarray], seed: int) -> Question:
    """Ask about the first frames of a control's video.

    Args:
        prompt: the short one.
        frames: uint8 [T,H,W,3] RGB.
        seed: any whole number.
    """
    return Question(prompt, tuple(_as_png(frame) for frame in frames[:NUM_FRAMES]), seed % 2**31)


def write_out(endpoint: Endpoint, asked: Question) -> str:
    """The long prompt.

    Raises:
        AnswerError: the model answers with nothing.
        EndpointError, UsageError: it does not answer.
    """
    return endpoint.ask(asked.content, str.strip, temperature=TEMPERATURE, max_tokens=MAX_TOKENS, seed=asked.seed)


def served_upsampler(base_url: str) -> str:
    """Name of the upsampler at an endpoint: its only model, or the one that is called so.

    Raises:
        EndpointError: nobody answers there.
        UsageError: it serves several models, and none or more than one is called an upsampler.
    """
    names = list(served_models(base_url))
    called = names if len(names) == 1 else [name for name in names if "upsample" in name.lower()]
    if len(called) != 1:
        raise UsageError(
            f"upsampler_base_url {base_url} serves {', '.join(names) or 'nothing'}; it must serve the upsampler "
            "alone, or one model with 'upsample' in its name (vllm serve --served-model-name)"
        )
    return called[0]


def _as_png(frame: np.ndarray) -> bytes:
    height, width = frame.shape[:2]
    if (scale := LONGEST_SIDE_PX / max(height, width)) < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
