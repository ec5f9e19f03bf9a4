"""A small T5 tokenizer for the bundled text encoder, learnt from captions of the procedural scenes.

    python -m guided_transfer.training vocabulary --out src/guided_transfer/models/bundled/text_encoder

Byte-pair pieces: every word of the captions becomes one piece, a word they never held becomes several.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from guided_transfer import scenes
from guided_transfer.training.data import STACKED_SUFFIX


@dataclass(frozen=True)
class VocabularyTraining:
    """Settings of the tokenizer of the bundled text encoder."""

    out: Path
    size: int = 1500
    captions: int = 6000


def train(settings: VocabularyTraining) -> Path:
    """Write tokenizer.json and tokenizer_config.json in the form `AutoTokenizer` reads; returns the folder."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        corpus(settings.captions),
        trainers.BpeTrainer(
            vocab_size=settings.size,
            special_tokens=["<pad>", "</s>", "<unk>"],
            initial_alphabet=list("▁abcdefghijklmnopqrstuvwxyz0123456789.,-'"),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(settings.out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
    }
    (settings.out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return settings.out


def corpus(count: int) -> Iterator[str]:
    """Captions of many styles, of both views, with the suffix of the stacked pass and the negative caption."""
    rng = Random(0)
    for i in range(count):
        style = scenes.sample_style(i)
        for view in ("room", "wrist"):
            yield scenes.caption(style, view, rng)
    yield from [STACKED_SUFFIX, scenes.NEGATIVE_CAPTION] * 20
