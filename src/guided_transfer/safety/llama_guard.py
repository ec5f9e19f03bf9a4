"""Llama Guard 3: a language model that answers "safe", or "unsafe" and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from guided_transfer.errors import Blocked, CheckpointError
from guided_transfer.pretrained import load_pretrained
from guided_transfer.safety.weights import looking, must_be_finite

NAME = "llama_guard"
MAX_ANSWER_TOKENS = 100
CATEGORIES = {
    "S1": "violent crimes",
    "S2": "non-violent crimes",
    "S3": "sex-related crimes",
    "S4": "child sexual exploitation",
    "S5": "defamation",
    "S6": "specialized advice",
    "S7": "privacy",
    "S8": "intellectual property",
    "S9": "indiscriminate weapons",
    "S10": "hate",
    "S11": "suicide and self-harm",
    "S12": "sexual content",
    "S13": "elections",
    "S14": "code interpreter abuse",
}
"""The hazards of the model's card."""


class LlamaGuard:
    """The model with its tokenizer, whose chat template lists the hazards."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | str, *, offload: bool) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.offload = offload

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str, *, offload: bool) -> LlamaGuard:
        """Load the published files, in bfloat16.

        Raises:
            CheckpointError: they cannot be read, lack weights, or lack a chat template that shows the prompt.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = load_pretrained(AutoModelForCausalLM, folder, torch.bfloat16)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            shown = _conversation(tokenizer, "a robot arm")
        except Exception as error:  # transformers and jinja raise many kinds
            raise CheckpointError(f"{folder}: no tokenizer with a chat template: {error}") from None
        if "a robot arm" not in shown:
            raise CheckpointError(f"{folder}: the chat template does not show the prompt to the model")
        return cls(model, tokenizer, device, offload=offload)

    def check(self, text: str) -> None:
        """Let a prompt pass.

        Raises:
            Blocked: the answer is anything but "safe".
            CheckpointError: the model computes no finite numbers.
        """
        if "<|" in text:
            raise Blocked(NAME, "the prompt holds control words of a language model (<|...)")
        read_verdict(self._answer(text))

    def _answer(self, text: str) -> str:
        tokens = self.tokenizer(
            _conversation(self.tokenizer, text), return_tensors="pt", add_special_tokens=False
        ).to(self.device)
        with looking(self.model, self.device, offload=self.offload):
            answer = self.model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                max_new_tokens=MAX_ANSWER_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                pad_token_id=self.tokenizer.eos_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            )
        must_be_finite(torch.stack(answer.logits), NAME)
        new_tokens = answer.sequences[0, tokens["input_ids"].shape[1] :]
        return self.tokenizer.decode(new_tokens, skip_special_tokens=True)


def read_verdict(answer: str) -> None:
    """Take nothing but a clear "safe" for one.

    Raises:
        Blocked: it says unsafe, or neither.
    """
    words = answer.lower().split()
    if words == ["safe"]:
        return
    if words[:1] != ["unsafe"]:
        raise Blocked(NAME, f"the model answered neither safe nor unsafe: {answer.strip()[:80]!r}")
    codes = [code for word in words[1:] for code in word.upper().split(",") if code]
    hazards = ", ".join(f"{code} {CATEGORIES.get(code, '')}".strip() for code in codes)
    raise Blocked(NAME, f"unsafe: {hazards or 'no category given'}")


def _conversation(tokenizer: Any, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
