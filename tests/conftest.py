"""The tiny network of the reference's numbers: its weights are a recipe, so no weight file is stored."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny_vision import write_vision_tree

PARITY = Path(__file__).parent / "data" / "parity"
TINY_SEEDS = {"base_model": 100, "edge_control": 101, "depth_control": 102, "seg_control": 103}


def _tiny_shapes(file: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a tiny official file, from the reference's own listing."""
    sections = re.split(r"^tiny_(\w+)\.pt$", (PARITY / "tiny_keys.txt").read_text(), flags=re.MULTILINE)
    listing = dict(zip(sections[1::2], sections[2::2], strict=True))
    section = listing[file if file in listing else "edge_control"]  # the three controls have the same keys
    return {
        key: tuple(int(size) for size in sizes.split(",") if size.strip())
        for key, sizes in re.findall(r"(\S+) \(([\d, ]*)\)", section)
    }


def _tiny_value(key: str, noise: Tensor) -> Tensor:
    if key.endswith(".bias"):
        return 0.05 * noise
    if noise.ndim == 1:  # weights of a norm
        return 1 + 0.2 * noise
    if "pos_emb_" in key:
        return 0.02 * noise
    gain = 1.5 if "input_hint_block" in key else 0.3 if re.search(r"adaLN_modulation\.2|linear_2", key) else 1.0
    return noise * (gain / noise.shape[1] ** 0.5)


def tiny_official(file: str) -> dict[str, Tensor]:
    """Content of a tiny official file, "base_model" or "<kind>_control": the fixtures were run with it.

    Drawn in the order of the sorted keys; entries that no forward reads (`logvar`, the counting buffer) are zeros.
    """
    generator = torch.Generator().manual_seed(TINY_SEEDS[file])
    shapes = _tiny_shapes(file)
    drawn = [key for key in sorted(shapes) if "logvar." not in key and not key.endswith(".seq")]
    tensors = {key: _tiny_value(key, torch.randn(shapes[key], generator=generator)) for key in drawn}
    return {key: tensors.get(key, torch.zeros(shape)) for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def official_weights() -> Callable[[str], dict[str, Tensor]]:
    return tiny_official


@pytest.fixture(scope="session")
def parity_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder with the tiny network alone, in the official layout; float32 angles, as the fixtures."""
    root = tmp_path_factory.mktemp("checkpoints")
    folder = root / "nvidia" / "Cosmos-Transfer1-7B"
    folder.mkdir(parents=True)
    (root / "checkpoint.json").write_text('{"numerics": "exact", "dtype": "float32"}')
    for file in TINY_SEEDS:
        torch.save(tiny_official(file), folder / f"{file}.pt")
    return root


TINY_SIZES = "{clip_frames: 9, text_tokens: 16, native_sizes: [[32, 32], [64, 32]], numerics: exact}"
"""What a --model_config_file says of the tiny tree; its other sizes are read from the tensors."""


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint folder in the official layout: the tiny network, a small random tokenizer and T5."""
    root = tmp_path_factory.mktemp("official")
    network = root / "nvidia" / "Cosmos-Transfer1-7B"
    network.mkdir(parents=True)
    for file in TINY_SEEDS:
        torch.save(tiny_official(file), network / f"{file}.pt")
    torch.save(tiny_official("edge_control"), network / "vis_control.pt")
    torch.manual_seed(0)
    _write_tiny_tokenizer(root / "nvidia" / "Cosmos-Tokenize1-CV8x8x8-720p")
    _write_tiny_t5(root / "google-t5" / "t5-11b")
    (root / "tiny.yaml").write_text(TINY_SIZES)
    return root


def _write_tiny_tokenizer(folder: Path) -> None:
    from diffusers import AutoencoderKLCosmos
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    widths = (8, 8, 8, 8)
    autoencoder = AutoencoderKLCosmos(
        encoder_block_out_channels=widths, decode_block_out_channels=widths, num_layers=1
    )
    save_file(autoencoder.state_dict(), folder / "model.safetensors")
    torch.save((torch.zeros(16 * 16), torch.full((16 * 16,), 0.3)), folder / "mean_std.pt")


def _write_tiny_t5(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    letters = {
        token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz ."])
    }
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    sizes = {"d_model": 64, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(letters), **sizes)).save_pretrained(folder)


@pytest.fixture(scope="session")
def vision_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vision models' own classes, tiny and random, in the folders of the checkpoint tree."""
    root = tmp_path_factory.mktemp("vision")
    write_vision_tree(root)
    return root


@pytest.fixture(scope="session")
def footage() -> Tensor:
    """A bright square that moves over a textured ground: [8, 48, 64, 3] uint8."""
    pixels = np.random.default_rng(0).integers(0, 90, (8, 48, 64, 3), dtype=np.uint8)
    for frame, picture in enumerate(pixels):
        picture[10:26, 4 + 4 * frame : 20 + 4 * frame] = (230, 180, 40)
    return torch.from_numpy(pixels)
