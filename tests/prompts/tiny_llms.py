"""Tiny language models for a real server: one that knows how to answer, and one of random weights."""

from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOMS = ("ward", "laboratory", "clinic", "tent", "practice", "theatre")
TABLES = ("steel", "oak", "linen", "foam", "vinyl", "marble")
LIGHTS = ("cold", "warm", "dim", "bright", "even", "soft")
THINGS = " and shelves, cables, monitors, stools, drawers, lamps, boxes, trays, gloves, screens, paper, tape and "

IDEAS = (
    ("<ideas>",),
    ("[",),
    ('"a small ',),
    ROOMS,
    (" with a table of ",),
    TABLES,
    (" in ",),
    LIGHTS,
    (' light"',),
    (", ", "]"),
)
PAIR = (
    ("<pair>",),
    ('{"top_view_prompt": "A realistic ',),
    tuple(f"{room} seen from the wall" for room in ROOMS),
    (THINGS,),
    tuple(f"a table of {table}" for table in TABLES),
    (" under a light that is ",),
    tuple(f"{light} and falls from above" for light in LIGHTS),
    ('.", "bottom_view_prompt": "The same table from near, ',),
    tuple(f"every grain of its {table} in view, " for table in TABLES),
    ("the same wall out of focus behind it, the same lamp above it, nothing else on it",),
    ('."}',),
)
SPECIAL = ("<pad>", "<end>", "<unk>", "<ideas>", "<pair>")
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if 'short ideas' in messages[0]['content'] %}<ideas>{% else %}<pair>{% endif %}"
)


def write_llm_that_answers(folder: Path) -> None:
    """A Llama whose head knows which word may follow which: it speaks the two answers, never twice alike."""
    follows = [*pairwise(IDEAS), ((", ",), ('"a small ',)), (("]", '."}'), ("<end>",)), *pairwise(PAIR)]
    words = list(dict.fromkeys([*SPECIAL, *(word for pair in follows for words in pair for word in words)]))
    vocabulary = {word: index for index, word in enumerate(words)}
    _write_tokenizer(folder, vocabulary, pre_tokenizers.WhitespaceSplit())
    model = _llama(len(words), hidden=128)
    assert len(words) <= 128
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), 128))
        model.lm_head.weight.zero_()
        for befores, afters in follows:
            for before in befores:
                for after in afters:
                    model.lm_head.weight[vocabulary[after], vocabulary[before]] = 10.0
    model.save_pretrained(folder)


def write_random_llm(folder: Path) -> None:
    """A Llama that talks nonsense, letter by letter."""
    words = [*SPECIAL, *map(chr, range(32, 127))]
    _write_tokenizer(
        folder, {word: index for index, word in enumerate(words)}, pre_tokenizers.Split("", "isolated")
    )
    _llama(len(words), hidden=32).save_pretrained(folder)


def _write_tokenizer(folder: Path, vocabulary: dict[str, int], splits: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splits
    tokenizer.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=["<ideas>", "<pair>"], **special
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def _llama(num_words: int, hidden: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=num_words, num_key_value_heads=2, **sizes, **ids))
    model.generation_config.do_sample = True  # else the server takes the likeliest word, whatever the temperature
    return model
