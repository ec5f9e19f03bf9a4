"""Official files in every layout become the same network; anything else is one error that names file and keys."""

import copy
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.checkpoint import (
    CheckpointTree,
    convert_to_safetensors,
    load_network,
    official_name,
    own_name,
    save_network,
)
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.transformer import TransformerConfig, Trunk

NETWORK = Path("nvidia") / "Cosmos-Transfer1-7B"
Weights = Callable[[str], dict[str, Tensor]]


@pytest.fixture
def folder(parity_tree: Path, tmp_path: Path) -> Path:
    """Network folder of a copy of the tiny tree, for a test to spoil."""
    shutil.copytree(parity_tree, tmp_path / "tree")
    return tmp_path / "tree" / NETWORK


def load(folder: Path, *controls: str, **settings: bool) -> TransferNetwork:
    tree = CheckpointTree.open(folder.parents[1])
    return load_network(tree, controls, device="cpu", dtype=torch.float32, **settings)


def assert_same_weights(actual: TransferNetwork, expected: TransferNetwork) -> None:
    theirs = expected.state_dict()
    assert actual.state_dict().keys() == theirs.keys()
    for key, value in actual.state_dict().items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=0, msg=key)


def refused(folder: Path, *controls: str, **settings: bool) -> str:
    """Message of the one error that loading gives."""
    with pytest.raises(CheckpointError) as caught:
        load(folder, *controls, **settings)
    return str(caught.value)


# ---------------------------------------------------------------- official layouts


def test_names_go_to_official_and_back(network: TransferNetwork, official_weights: Weights) -> None:
    official = {
        key.removeprefix("base_model.net.") for key in official_weights("base_model") if "logvar" not in key
    }
    ours = set(network.base.state_dict())
    assert {official_name(name) for name in ours} == official - {"pos_embedder.seq"}
    branch = set(network.branch("edge").state_dict())
    assert {own_name(official_name(name)) for name in ours | branch} == ours | branch
    assert own_name("pos_embedder.seq") is None
    with pytest.raises(KeyError):
        official_name("blocks.0.mlp.sideways.weight")


def test_weights_are_the_files(network: TransferNetwork, official_weights: Weights) -> None:
    expected = official_weights("seg_control")["net.blocks.block1.blocks.1.block.attn.to_k.1.weight"]
    loaded = network.branch("seg").state_dict()["blocks.1.cross_attn.k_norm.weight"]
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)


def test_each_network_is_built_once(parity_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base and a branch for each control; the reference builds a whole model more for each, and drops it."""
    built: list[str] = []
    real = Trunk.__init__

    def noting(self: Trunk, config: TransformerConfig) -> None:
        built.append(type(self).__name__)
        real(self, config)

    monkeypatch.setattr(Trunk, "__init__", noting)
    load_network(CheckpointTree.open(parity_tree), ["edge", "depth", "seg"], device="cpu", dtype=torch.float32)
    assert sorted(built) == ["ControlBranch"] * 3 + ["Transformer"]


def test_entries_that_no_network_reads_are_passed_over(
    folder: Path, network: TransferNetwork, official_weights: Weights
) -> None:
    extra = {
        "net.blocks.block0.blocks.0.block.attn.to_q.1._extra_state": io.BytesIO(b"fp8"),
        "net.affline_norm._extra_state": torch.zeros(0, dtype=torch.uint8),
    }
    torch.save({**official_weights("edge_control"), **extra}, folder / "edge_control.pt")
    assert_same_weights(load(folder, "edge", "depth", "seg"), network)


@pytest.mark.parametrize("prefix", ["base_model.net.", "net."])
def test_a_base_network_by_either_prefix(
    folder: Path, network: TransferNetwork, official_weights: Weights, prefix: str
) -> None:
    weights = official_weights("base_model").items()
    torch.save({key.replace("base_model.net.", prefix): value for key, value in weights}, folder / "base_model.pt")
    assert_same_weights(load(folder, "edge", "depth", "seg"), network)


def test_a_training_run_wraps_its_weights(
    folder: Path, network: TransferNetwork, official_weights: Weights
) -> None:
    torch.save({"model": official_weights("edge_control"), "ema": {}}, folder / "edge_control.pt")
    assert_same_weights(load(folder, "edge", "depth", "seg"), network)


def test_the_upscaler_and_any_other_kind(folder: Path) -> None:
    (folder / "seg_control.pt").rename(folder / "4kupscaler_control.pt")
    (folder / "depth_control.pt").rename(folder / "hdmap_control.pt")
    assert CheckpointTree.open(folder.parents[1]).controls() == ["edge", "hdmap", "upscale"]
    assert list(load(folder, "upscale", "hdmap").branches) == ["upscale", "hdmap"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_distilled_file_brings_its_own_base(
    folder: Path, network: TransferNetwork, official_weights: Weights, wrapped: bool
) -> None:
    base = {f"net.{key}": value for key, value in official_weights("base_model").items()}
    control = official_weights("edge_control").items()
    content = {**base, **{re.sub(r"^net\.", "net.net_ctrl.", key): value for key, value in control}}
    torch.save({"model": content} if wrapped else content, folder / "edge_control_distilled.pt")
    (folder / "base_model.pt").unlink()
    teacher = TransferNetwork(network.base, {"edge": network.branch("edge")})
    assert_same_weights(load(folder, "edge", distilled=True), teacher)
    assert CheckpointTree.open(folder.parents[1]).controls() == ["depth", "edge", "seg"]
    with pytest.raises(UsageError, match="edge alone"):
        load(folder, "edge", "depth", distilled=True)


def test_safetensors_are_preferred_and_equal(folder: Path, network: TransferNetwork) -> None:
    for file in list(folder.glob("*.pt")):
        convert_to_safetensors(file)
        file.write_bytes(b"would not load")
    assert_same_weights(load(folder, "edge", "depth", "seg"), network)


@pytest.mark.parametrize("index", [False, True])
def test_safetensors_in_shards(
    folder: Path, network: TransferNetwork, official_weights: Weights, index: bool
) -> None:
    weights = official_weights("base_model")
    (folder / "base_model.pt").unlink()
    halves = list(weights)[::2], list(weights)[1::2]
    names = [f"base_model-{part:05}-of-00002.safetensors" for part in (1, 2)]
    for name, keys in zip(names, halves, strict=True):
        save_file({key: weights[key] for key in keys}, folder / name)
    if index:
        weight_map = {key: name for name, keys in zip(names, halves, strict=True) for key in keys}
        (folder / "base_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_weights(load(folder, "edge", "depth", "seg"), network)
    (folder / names[1]).unlink()
    assert names[1] in refused(folder) if index else "1 of 2 shards" in refused(folder)


@pytest.mark.parametrize("numerics", ["exact", "reference"])
def test_numerics_set_the_angles_and_the_weights_rounding(folder: Path, numerics: str) -> None:
    settings = {"numerics": numerics, "base_rope_ratios": [3, 1, 1], "control_rope_ratios": [1, 2, 1]}
    (folder.parents[1] / "checkpoint.json").write_text(json.dumps(settings))
    network = load(folder, "edge")
    reference = numerics == "reference"
    assert network.base.config.rope_precision == ("bf16" if reference else "fp32")
    assert network.branch("edge").config.rope_precision == ("bf16" if reference else "fp32")
    assert network.weight_dtype == (torch.bfloat16 if reference else torch.float32)
    assert network.base.config.rope_ratios == (3, 1, 1)
    assert network.branch("edge").config.rope_ratios == (1, 2, 1)


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_saved_network_loads_as_it_was(
    tmp_path: Path, network: TransferNetwork, official_weights: Weights, dtype: torch.dtype | None
) -> None:
    folder = tmp_path / NETWORK
    renamed = TransferNetwork(network.base, {"upscale": network.branch("edge"), "seg": network.branch("seg")})
    files = save_network(renamed, folder, dtype=dtype)
    assert {file.name for file in files} == {
        "base_model.safetensors",
        "4kupscaler_control.safetensors",
        "seg_control.safetensors",
    }
    official = {key for key in official_weights("base_model") if "logvar" not in key and not key.endswith(".seq")}
    stored = load_file(files[0])
    assert stored.keys() == official
    assert {value.dtype for value in stored.values()} == {dtype or torch.float32}
    expected = copy.deepcopy(renamed).to(dtype).float() if dtype else renamed
    assert_same_weights(load(folder, "upscale", "seg"), expected)


def test_conversion_keeps_names_and_drops_what_is_not_a_tensor(tmp_path: Path, official_weights: Weights) -> None:
    source = tmp_path / "edge_control.pt"
    weights = official_weights("edge_control")
    torch.save({**weights, "net.affline_norm._extra_state": io.BytesIO()}, source)
    target = convert_to_safetensors(source)
    assert target == tmp_path / "edge_control.safetensors"
    stored = load_file(target)
    assert stored.keys() == {key for key in weights if "logvar" not in key and not key.endswith(".seq")}
    for key, value in stored.items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


# ---------------------------------------------------------------- bad input


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        CheckpointTree.open(tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message
    assert f"`guided-transfer checkpoints download --output_dir {tmp_path / 'nowhere'}`" in message
    assert "--checkpoint_dir bundled" in message


def test_a_missing_control_names_the_ones_there(folder: Path) -> None:
    message = refused(folder, "vis")
    assert str(folder / "vis_control") in message
    assert "depth, edge, seg" in message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file(folder: Path, suffix: str, share: float) -> None:
    file = folder / f"base_model{suffix}"
    if suffix == ".safetensors":
        convert_to_safetensors(folder / "base_model.pt")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    message = refused(folder)
    assert str(file) in message
    assert "damaged or cut short" in message


class _Spiteful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_carries_code_is_not_run(folder: Path, tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "code-was-run"
    content = {"base_model.net.x": torch.zeros(1), "more": _Spiteful(mark)}
    if zipped:
        torch.save(content, folder / "base_model.pt")
    else:
        (folder / "base_model.pt").write_bytes(pickle.dumps(content))
    message = refused(folder)
    assert str(folder / "base_model.pt") in message
    assert not mark.exists()
    if zipped:
        assert "could run code" in message
        assert "weights_only" not in message  # torch would suggest to switch the protection off


def test_something_else_than_a_dict_of_tensors(folder: Path, official_weights: Weights) -> None:
    torch.save([torch.zeros(3)], folder / "base_model.pt")
    assert "must hold a dict of tensors, holds a list" in refused(folder)
    torch.save({**official_weights("base_model"), "base_model.net.step": 7}, folder / "base_model.pt")
    assert "not tensors: base_model.net.step" in refused(folder)


def test_a_control_file_given_as_base(folder: Path) -> None:
    shutil.copy(folder / "edge_control.pt", folder / "base_model.pt")
    message = refused(folder)
    assert str(folder / "base_model.pt") in message
    assert "holds no base network" in message
    assert "base_model.net.*" in message


def test_a_base_file_given_as_control(folder: Path) -> None:
    shutil.copy(folder / "base_model.pt", folder / "edge_control.pt")
    message = refused(folder, "edge")
    assert str(folder / "edge_control.pt") in message
    assert "holds no control network" in message


def test_a_plain_base_file_given_as_control(folder: Path, official_weights: Weights) -> None:
    weights = {key.removeprefix("base_model."): value for key, value in official_weights("base_model").items()}
    torch.save(weights, folder / "edge_control.pt")
    assert "holds no control network" in refused(folder, "edge")


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("base_model", "base_model.net.blocks.block2.blocks.2.block.layer1.weight", None, "missing"),
        ("base_model", "base_model.net.x_embedder.proj.1.weight", None, "missing"),
        ("base_model", "base_model.net.final_layer.linear.weight", torch.zeros(60, 128), "wrong shape"),
        ("base_model", "base_model.net.blocks.block2.blocks.3.block.layer1.weight", torch.zeros(2), "unexpected"),
        ("base_model", "base_model.net.surprise.weight", torch.zeros(2), "unexpected"),
        ("base_model", "somewhere.else", torch.zeros(2), "unexpected"),
        ("edge_control", "net.zero_blocks.block1.bias", None, "missing"),
        ("edge_control", "net.input_hint_block.6.weight", None, "missing"),
        ("edge_control", "net.t_embedder.1.linear_2.weight", torch.zeros(380, 128), "wrong shape"),
        ("edge_control", "base_model.net.affline_norm.weight", torch.ones(128), "unexpected"),
    ],
)
def test_one_wrong_key_is_named(
    folder: Path, official_weights: Weights, file: str, key: str, value: Tensor | None, words: str
) -> None:
    weights = official_weights(file)
    weights.pop(key, None)
    torch.save(weights if value is None else {**weights, key: value}, folder / f"{file}.pt")
    message = refused(folder, "edge")
    assert str(folder / f"{file}.pt") in message
    assert words in message
    assert key in message


def test_every_fault_of_a_file_comes_in_one_error(folder: Path, official_weights: Weights) -> None:
    weights = official_weights("base_model")
    del weights["base_model.net.blocks.block3.blocks.0.block.attn.to_v.0.weight"]
    weights["base_model.net.affline_norm.weight"] = torch.ones(99)
    weights["base_model.net.affline_norm.bias"] = torch.ones(128)
    torch.save(weights, folder / "base_model.pt")
    message = refused(folder)
    assert "missing: base_model.net.blocks.block3.blocks.0.block.attn.to_v.0.weight" in message
    assert "unexpected: base_model.net.affline_norm.bias" in message
    assert "wrong shape: base_model.net.affline_norm.weight is [99], must be [128]" in message


def test_files_of_different_networks(folder: Path) -> None:
    from guided_transfer.models.control import ControlConfig

    with torch.device("meta"):
        other = TransferNetwork.from_configs(
            load(folder).base.config, {"edge": ControlConfig(64, 2, 2, 128, 64, 8)}
        )
    save_network(other.to_empty(device="cpu"), folder.parent / "other")
    shutil.move(folder.parent / "other" / "edge_control.safetensors", folder)
    message = refused(folder, "edge")
    assert "edge_control.safetensors" in message
    assert "channels is 64, the base network's is 128" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"networks": "x"}', "networks"),
        ('{"clip_frames": 120}', r"clip_frames\n.*must be 1 \+ 8k"),
        ('{"dtype": "fp4"}', "dtype"),
        ("{", "JSON"),
    ],
)
def test_a_bad_checkpoint_json(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        CheckpointTree.open(tmp_path)
    assert str(tmp_path / "checkpoint.json") in str(caught.value)


def test_a_tokenizer_folder_is_looked_for_below_the_root_then_below_nvidia(tmp_path: Path) -> None:
    (tmp_path / "nvidia" / "tok").mkdir(parents=True)
    tree = CheckpointTree.open(tmp_path)
    assert tree.with_tokenizer("tok").tokenizer_folder == tmp_path / "nvidia" / "tok"
    (tmp_path / "tok").mkdir()
    assert tree.with_tokenizer("tok").tokenizer_folder == tmp_path / "tok"
    with pytest.raises(CheckpointError, match="'other' is neither below"):
        tree.with_tokenizer("other")


# ---------------------------------------------------------------- size


def official_shapes_7b(blocks: int, *, control: bool) -> dict[str, list[int]]:
    """Key list of the 7B files without prefixes, as the specification of the format gives it."""
    D, attention = 4096, {"to_q": 4096, "to_k": 4096, "to_v": 4096}
    shapes: dict[str, list[int]] = {
        "x_embedder.proj.1.weight": [D, 72],
        "pos_embedder.seq": [128],
        "extra_pos_embedder.pos_emb_t": [128, D],
        "extra_pos_embedder.pos_emb_h": [120, D],
        "extra_pos_embedder.pos_emb_w": [120, D],
        "t_embedder.1.linear_1.weight": [D, D],
        "t_embedder.1.linear_2.weight": [3 * D, D],
        "affline_norm.weight": [D],
        "final_layer.linear.weight": [64, D],
        "final_layer.adaLN_modulation.1.weight": [256, D],
        "final_layer.adaLN_modulation.2.weight": [2 * D, 256],
    }
    for block in range(blocks):
        for part in range(3):
            at = f"blocks.block{block}.blocks.{part}"
            shapes |= {f"{at}.adaLN_modulation.1.weight": [256, D], f"{at}.adaLN_modulation.2.weight": [3 * D, 256]}
        for part, context in ((0, D), (1, 1024)):
            at = f"blocks.block{block}.blocks.{part}.block.attn"
            widths = {**attention, "to_k": context, "to_v": context, "to_out": D}
            shapes |= {f"{at}.{name}.0.weight": [D, width] for name, width in widths.items()}
            shapes |= {f"{at}.{name}.1.weight": [128] for name in ("to_q", "to_k")}
        at = f"blocks.block{block}.blocks.2.block"
        shapes |= {f"{at}.layer1.weight": [4 * D, D], f"{at}.layer2.weight": [D, 4 * D]}
    if control:
        shapes["x_embedder2.proj.1.weight"] = [D, 516]
        widths_hint = (D, 16, 16, 32, 32, 96, 96, 256, D)
        for i, (width_in, width_out) in enumerate(pairwise(widths_hint)):
            shapes[f"input_hint_block.{2 * i}.weight"] = [width_out, width_in]
            shapes[f"input_hint_block.{2 * i}.bias"] = [width_out]
        for block in range(blocks):
            shapes |= {f"zero_blocks.block{block}.weight": [D, D], f"zero_blocks.block{block}.bias": [D]}
    return shapes


def save_shapes(file: Path, prefix: str, shapes: dict[str, list[int]]) -> None:
    """A file of tensors with these shapes that all show the same single number, so that it takes no room."""
    number = torch.zeros(1, dtype=torch.bfloat16)
    torch.save({prefix + key: number.expand(shape) for key, shape in shapes.items()}, file)


def test_the_full_7b_layout_is_accepted(tmp_path: Path) -> None:
    base, control = official_shapes_7b(28, control=False), official_shapes_7b(3, control=True)
    for keys, published in ((base, 7_236_208_640), (control, 893_497_120)):
        assert sum(torch.Size(s).numel() for key, s in keys.items() if key != "pos_embedder.seq") == published
    folder = tmp_path / NETWORK
    folder.mkdir(parents=True)
    save_shapes(folder / "base_model.pt", "base_model.net.", base)
    save_shapes(folder / "depth_control.pt", "net.", control)

    network = load_network(CheckpointTree.open(tmp_path), ["depth"], device="meta", dtype=torch.bfloat16)

    assert sum(p.numel() for p in network.base.parameters()) == 7_236_208_640
    unused_final_layer = 64 * 4096 + 256 * 4096 + 8192 * 256
    assert sum(p.numel() for p in network.branch("depth").parameters()) == 893_497_120 - unused_final_layer
    config = network.base.config
    assert (config.heads, config.head_dim, config.blocks, config.text_channels) == (32, 128, 28, 1024)
    assert config.rope_precision == network.branch("depth").config.rope_precision == "bf16"


MEASURE = """
import re, sys, threading, time
import torch
from guided_transfer.models.checkpoint import CheckpointTree, load_network

def anonymous_bytes():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

tree, dtype = CheckpointTree.open(sys.argv[1]), getattr(torch, sys.argv[2])
before, peak, done = anonymous_bytes(), [0], threading.Event()

def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], anonymous_bytes())

watcher = threading.Thread(target=watch)
watcher.start()
network = load_network(tree, [], device="cpu", dtype=dtype)
peak[0] = max(peak[0], anonymous_bytes())
done.set()
watcher.join()
print(peak[0] - before, float(network.base.final.linear.weight.float().sum()))
"""


def check_load_memory(folder: Path, channels: int, blocks: int, suffix: str, at_least: int) -> None:
    """Load a synthetic base file in its own dtype in a process of its own and look at its private memory."""
    from guided_transfer.models.transformer import TransformerConfig

    config = TransformerConfig(channels, channels // 128, blocks, 4 * channels, 256, 64)
    with torch.device("meta"):
        network = TransferNetwork.from_configs(config, {})
    network = network.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.data.fill_(0.25)
    (file,) = save_network(network, folder)
    if suffix == ".pt":
        torch.save(load_file(file), file.with_suffix(".pt"))
        file.unlink()
    size = (folder / f"base_model{suffix}").stat().st_size
    assert size >= at_least
    command = [sys.executable, "-c", MEASURE, str(folder.parents[1]), "bfloat16"]
    growth, total = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(growth) < 0.2 * size
    assert float(total) == 0.25 * 64 * channels


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_loading_in_the_files_dtype_copies_nothing(tmp_path: Path, suffix: str) -> None:
    check_load_memory(tmp_path / NETWORK, 512, 12, suffix, at_least=90 * 10**6)


@pytest.mark.soak
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_loading_a_gigabyte_in_its_dtype_copies_nothing(tmp_path: Path, suffix: str) -> None:
    check_load_memory(tmp_path / NETWORK, 1536, 16, suffix, at_least=10**9)


def test_imports_stay_light() -> None:
    code = """
import sys
import guided_transfer.models.network
print("pydantic" in sys.modules)
import guided_transfer.models.checkpoint
print(sorted({"diffusers", "transformers", "safetensors", "h5py", "cv2", "av"} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["False", "[]"]
