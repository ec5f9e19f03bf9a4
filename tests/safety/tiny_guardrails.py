"""Tiny random guardrails in the official layout, and ways to make them say something definite."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from guided_transfer.safety.retinaface import RetinaFace
from guided_transfer.safety.video_content import ContentClassifier

WORDS = ["<pad>", "<end>", "<unk>", "safe", "unsafe", "S9", "S14", "maybe", "User", "check", "a", "robot", "arm"]
TEMPLATE = "{% for m in messages %}check User {{ m['content'] | trim }} {% endfor %}check"


def write_lists(folder: Path) -> None:
    lists = {
        "custom": "ass\nbloodbath\nbad phrase\n",
        "exact_match": "villain\nevil person\n",
        "whitelist": "uss\n",
    }
    for name, content in lists.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "words").write_text(content)


def write_llama_guard(folder: Path, answer: str) -> None:
    """A Llama that answers with these words: each word's embedding points at the next one's row of the head."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=2, **sizes, **ids))
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS), 16))
        model.lm_head.weight.zero_()
        said = ["check", *answer.split()]
        for word, following in pairwise(said):
            model.lm_head.weight[vocabulary[following], vocabulary[word]] = 1.0
    model.save_pretrained(folder)


def write_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tiny, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    vision = {**tiny, "image_size": 28, "patch_size": 14}
    SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)


def write_classifier(file: Path, label: int) -> None:
    """The classifier in the published wrapping; random, but its last bias decides for `label`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    state = ContentClassifier(16).state_dict()
    state["layers.6.bias"][label] += 100.0
    torch.save({"model": {f"network.{name}": value for name, value in state.items()}}, file)


def write_detector(file: Path, *, face: bool) -> None:
    """The detector with the published prefix and landmark heads; finds a face at every anchor, or at none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)
    state = RetinaFace(stem=4, pyramid=8).state_dict()
    for level in range(3):
        state[f"ClassHead.{level}.conv1x1.bias"] += torch.tensor([0.0, 50.0, 0.0, 50.0]) * (1 if face else -1)
        state[f"LandmarkHead.{level}.conv1x1.bias"] = torch.zeros(20)
    torch.save({f"module.{name}": value for name, value in state.items()}, file)


def damage(file: Path, name: str, value: float) -> None:
    """Write `value` over a tensor of a safetensors file or a pickle."""
    if file.suffix == ".safetensors":
        tensors = load_file(file)
        save_file({**tensors, name: torch.full_like(tensors[name], value)}, file, metadata={"format": "pt"})
        return
    content = torch.load(file, weights_only=True)
    inner: dict[str, Tensor] = content.get("model", content)
    inner[name] = torch.full_like(inner[name], value)
    torch.save(content, file)
