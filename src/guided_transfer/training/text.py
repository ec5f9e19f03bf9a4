"""The text encoder as it is trained: a small T5 beside its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class TextTower(nn.Module):
    """T5 encoder and its tokenizer; captions in, [B, L, D] with zero rows after the end out.

    Args:
        vocabulary: folder with the tokenizer's files.
        channels, layers: of the encoder.
        tokens: rows of a caption, padding included.
    """

    def __init__(self, vocabulary: Path, *, channels: int, layers: int, tokens: int) -> None:
        super().__init__()
        from transformers import AutoTokenizer, T5Config, T5EncoderModel

        self.tokenizer = AutoTokenizer.from_pretrained(str(vocabulary), local_files_only=True)
        self.tokens = tokens
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.tokenizer),
                d_model=channels,
                d_kv=32,
                d_ff=2 * channels,
                num_layers=layers,
                num_heads=channels // 32,
                dropout_rate=0.0,
                relative_attention_num_buckets=16,
                relative_attention_max_distance=64,
                pad_token_id=0,
                eos_token_id=1,
            )
        )

    def tokenise(self, captions: list[str]) -> Tensor:
        """[N, L] int64, padded with 0."""
        out = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        return out["input_ids"]

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != 0
        # Whole and additive: of a mask [B, L] transformers asks the device whether it is full, and waits.
        scores = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
        scores = scores[:, None, None].expand(-1, 1, mask.shape[1], -1)
        return self.t5(input_ids=tokens, attention_mask=scores).last_hidden_state * mask[..., None]
