"""Prompts to embeddings: a T5 encoder from its own folder, every prompt once."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.tree import CheckpointTree

logger = logging.getLogger(__name__)


class TextEncoder:
    """T5's last hidden states, zero after the end of the prompt.

    Prompts are encoded one by one, so that an embedding depends on nothing but its prompt, and kept on the CPU:
    each costs the encoder once per run. `free` gives the encoder's memory back; what was encoded stays available.

    Args:
        encoder: transformers' `T5EncoderModel`, or None for one that has been freed.
        tokenizer: of the same folder.
        num_tokens: rows of an embedding; shorter prompts are padded.
        prompt_tokens: of a prompt that are read, all rows if 0; longer prompts are cut with a warning.
    """

    def __init__(self, encoder: Any, tokenizer: Any, num_tokens: int, prompt_tokens: int = 0) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.num_tokens = num_tokens
        self.prompt_tokens = min(prompt_tokens or num_tokens, num_tokens)
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        num_tokens: int = 512,
        prompt_tokens: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load the encoder of a T5 checkpoint; safetensors win where both kinds of weights are there.

        Args:
            folder: config.json, the tokenizer's files, and model.safetensors or pytorch_model.bin, of the encoder
                or of the full model.
            num_tokens: see the class.
            prompt_tokens: likewise.
            device: where the weights go.
            dtype: what the encoder computes in; the official run takes float32.

        Raises:
            CheckpointError: the folder lacks something, or holds something else.
        """
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: no config.json; expected the folder of a T5 checkpoint")
        try:
            encoder, tokenizer = _load(folder, dtype)
        except CheckpointError:
            raise
        except Exception as error:  # a reader for every format, each with errors of its own
            raise CheckpointError(f"{folder}: cannot be read as a T5 encoder: {error}") from None
        return cls(encoder.eval().requires_grad_(False).to(device), tokenizer, num_tokens, prompt_tokens)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [N, num_tokens, D] on the CPU, in the encoder's dtype.

        Raises:
            UsageError: a new prompt after `free`.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._embeddings:
                self._embeddings[prompt] = self._embed(prompt).cpu()
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """Those of which only the beginning is read."""
        return [p for p in prompts if self._needed(p) > self.prompt_tokens]

    def joined(self, prompt: str, suffix: str) -> str:
        """A prompt with a suffix that is read in any case: where both are too long, the prompt is cut at its end.

        Only a suffix that is too long by itself is left to be cut. Needs the tokenizer alone, also after `free`.
        """
        if self._needed(prompt + suffix) <= self.prompt_tokens or self._needed(suffix) > self.prompt_tokens:
            return prompt + suffix
        lengths = range(len(prompt) + 1)
        fitting = bisect_right(
            lengths, self.prompt_tokens, key=lambda length: self._needed(prompt[:length] + suffix)
        )
        return prompt[: max(fitting - 1, 0)] + suffix

    def to(self, device: torch.device | str) -> Self:
        """Move the encoder's weights, if it still has them."""
        if self.encoder is not None:
            self.encoder.to(device)
        return self

    def free(self) -> None:
        """Give the encoder's memory back for good."""
        self.encoder = None

    def _embed(self, prompt: str) -> Tensor:
        if self.encoder is None:
            raise UsageError(f"the text encoder was freed before the prompt {prompt[:60]!r} was encoded")
        self._warn_if_cut(prompt)
        read = self.tokenizer([prompt], truncation=True, max_length=self.prompt_tokens)
        tokens = self.tokenizer.pad(read, padding="max_length", max_length=self.num_tokens, return_tensors="pt").to(
            self.encoder.device
        )
        mask = tokens["attention_mask"]
        states = self.encoder(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return states[0].masked_fill(mask[0, :, None] == 0, 0)

    def _warn_if_cut(self, prompt: str) -> None:
        if (needed := self._needed(prompt)) > self.prompt_tokens:
            shown = prompt[:60].replace("\n", " ")
            logger.warning("a prompt of %d tokens is cut to %d: %s...", needed, self.prompt_tokens, shown)

    def _needed(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, verbose=False)["input_ids"])


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Encoder and tokenizer, from local files alone, weights as data alone."""
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils import logging as transformers_logging

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # that a full T5 has a decoder too is no news
    try:
        loaded: Any = T5EncoderModel.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    encoder, found = loaded
    # Transformers fills what is missing or does not fit with random numbers and goes on.
    faults = [f"{key} is missing" for key in sorted(found["missing_keys"])]
    faults += [f"{key} is {[*size]}, must be {[*wanted]}" for key, size, wanted in sorted(found["mismatched_keys"])]
    if faults:
        raise CheckpointError(f"{folder}: {'; '.join(faults[:5])}")
    return encoder, tokenizer


def load_text_encoder(tree: CheckpointTree, *, device: torch.device | str, dtype: torch.dtype) -> TextEncoder:
    """The text encoder of a checkpoint tree; raises as `TextEncoder.from_folder`."""
    sizes = {"num_tokens": tree.config.text_tokens, "prompt_tokens": tree.config.prompt_tokens}
    return TextEncoder.from_folder(tree.text_encoder_folder, **sizes, device=device, dtype=dtype)
