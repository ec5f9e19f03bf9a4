"""Checkpoint files: from official key names to modules, and back.

Model files are data. `.pt` files are read with `weights_only=True`, every file is memory-mapped, and tensors go one
by one to the target device and dtype: loading a file in its own dtype on the CPU copies nothing.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.control import ControlBranch, ControlConfig
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.transformer import Transformer, TransformerConfig, Trunk
from guided_transfer.models.tree import DISTILLED_FILE, FILE_OF_KIND, CheckpointConfig, CheckpointTree
from guided_transfer.whole import whole_file

__all__ = [
    "CheckpointConfig",
    "CheckpointTree",
    "convert_text_encoder",
    "convert_to_safetensors",
    "load_network",
    "network_files",
    "official_name",
    "own_name",
    "read_tensors",
    "save_network",
]

OFFICIAL_NAMES = {  # ours -> official; # is a number
    "patch_embed": "x_embedder.proj.1",
    "positions.t": "extra_pos_embedder.pos_emb_t",
    "positions.h": "extra_pos_embedder.pos_emb_h",
    "positions.w": "extra_pos_embedder.pos_emb_w",
    "time_embed.hidden": "t_embedder.1.linear_1",
    "time_embed.addend": "t_embedder.1.linear_2",
    "time_embed.norm": "affline_norm",
    "blocks.#.modulation.#.down": "blocks.block#.blocks.#.adaLN_modulation.1",
    "blocks.#.modulation.#.up": "blocks.block#.blocks.#.adaLN_modulation.2",
    "blocks.#.self_attn.q": "blocks.block#.blocks.0.block.attn.to_q.0",
    "blocks.#.self_attn.k": "blocks.block#.blocks.0.block.attn.to_k.0",
    "blocks.#.self_attn.v": "blocks.block#.blocks.0.block.attn.to_v.0",
    "blocks.#.self_attn.out": "blocks.block#.blocks.0.block.attn.to_out.0",
    "blocks.#.self_attn.q_norm": "blocks.block#.blocks.0.block.attn.to_q.1",
    "blocks.#.self_attn.k_norm": "blocks.block#.blocks.0.block.attn.to_k.1",
    "blocks.#.cross_attn.q": "blocks.block#.blocks.1.block.attn.to_q.0",
    "blocks.#.cross_attn.k": "blocks.block#.blocks.1.block.attn.to_k.0",
    "blocks.#.cross_attn.v": "blocks.block#.blocks.1.block.attn.to_v.0",
    "blocks.#.cross_attn.out": "blocks.block#.blocks.1.block.attn.to_out.0",
    "blocks.#.cross_attn.q_norm": "blocks.block#.blocks.1.block.attn.to_q.1",
    "blocks.#.cross_attn.k_norm": "blocks.block#.blocks.1.block.attn.to_k.1",
    "blocks.#.mlp.up": "blocks.block#.blocks.2.block.layer1",
    "blocks.#.mlp.down": "blocks.block#.blocks.2.block.layer2",
    "final.modulation.down": "final_layer.adaLN_modulation.1",
    "final.modulation.up": "final_layer.adaLN_modulation.2",
    "final.linear": "final_layer.linear",
    "hint_embed": "x_embedder2.proj.1",
    "hint_mlp.#": "input_hint_block.#",
    "zero_blocks.#": "zero_blocks.block#",
}
BASE = "base_model"
SHARED = "shared.weight"
"""The embedding of words in a T5."""
ARCHIVE = b"PK\x03\x04"
"""What a `.pt` file begins with."""
Role = Literal["base", "control"]
PREFIXES: dict[Role, tuple[str, ...]] = {
    "base": ("net.base_model.net.", "base_model.net.", "net."),
    "control": ("net.net_ctrl.", "net."),
}
"""What the keys of a network begin with: in the distilled file, in the others, and a base network also as its own
training saves it; that begins like a control's, and only the zero blocks tell the two apart."""
DISTILLED_PREFIXES = (PREFIXES["base"][0], PREFIXES["control"][0])
SAVED_PREFIX: dict[Role, str] = {"base": "base_model.net.", "control": "net."}
UNUSED = re.compile(r"_extra_state|(^|\.)logvar\.|(^|\.)conditioner\.|(^|\.)pos_embedder\.seq$")
"""Entries of official files that no network reads: TransformerEngine's state, the uncertainty of the training loss,
and a buffer of counting numbers."""
UNUSED_IN_CONTROL = "final_layer."
"""Control files may carry the output layer of the class they share with the base network."""

_Trunk = TypeVar("_Trunk", bound=Trunk)


def load_network(
    tree: CheckpointTree,
    controls: Sequence[str],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    distilled: bool = False,
    own_files: Mapping[str, Path] | None = None,
) -> TransferNetwork:
    """Load the base network and the named control branches.

    Args:
        tree: where the files are, and the numerics to compute with.
        controls: kinds, for example ("edge", "depth", "seg").
        device: where the tensors go; "meta" checks names and shapes and reads no weights.
        dtype: of all parameters.
        distilled: take `edge_control_distilled`, which brings its own base network and steers by edges alone.
        own_files: by kind, a file to take instead of the tree's.

    Raises:
        CheckpointError: a file is missing, damaged, carries code, or does not hold what its name says.
        UsageError: `distilled` with other controls than edge.
    """
    files = network_files(tree, controls, distilled=distilled, own_files=own_files)
    reference = tree.config.numerics == "reference"
    precision = {"rope_precision": "bf16" if reference else "fp32"}
    base_settings = {**precision, "rope_ratios": tree.config.base_rope_ratios}
    control_settings = {**precision, "rope_ratios": tree.config.control_rope_ratios}

    base = _load_trunk(Transformer, TransformerConfig, files[BASE], "base", base_settings, device, dtype)
    branches = {}
    for kind in controls:
        branch = _load_trunk(ControlBranch, ControlConfig, files[kind], "control", control_settings, device, dtype)
        _check_fit(branch.config, base.config, files[kind])
        branches[kind] = branch
    weight_dtype = torch.bfloat16 if reference else torch.float32
    return TransferNetwork(base, branches, weight_dtype=weight_dtype).eval()


def network_files(
    tree: CheckpointTree,
    controls: Sequence[str],
    *,
    distilled: bool = False,
    own_files: Mapping[str, Path] | None = None,
) -> dict[str, list[Path]]:
    """The files that `load_network` reads for these arguments: those of `BASE`, then of each control.

    Raises:
        CheckpointError: one is missing, or the controls belong to different networks.
        UsageError: `distilled` with other controls than edge.
    """
    own = {kind: [file] for kind, file in (own_files or {}).items()}
    if distilled:
        if list(controls) != ["edge"]:
            raise UsageError(f"the distilled model has the control edge alone, asked for {list(controls)}")
        files = own.get("edge") or tree.network_files(DISTILLED_FILE)
        return {BASE: files, "edge": files}
    tree = tree.for_controls([kind for kind in controls if kind not in own])
    stems = {kind: FILE_OF_KIND.get(kind, f"{kind}_control") for kind in controls}
    found = {kind: own.get(kind) or tree.network_files(stem) for kind, stem in stems.items()}
    return {BASE: tree.network_files(BASE), **found}


def save_network(network: TransferNetwork, folder: Path, *, dtype: torch.dtype | None = None) -> list[Path]:
    """Write `base_model.safetensors` and one `<kind>_control.safetensors` per branch with the official key names.

    Args:
        network: what to write.
        folder: made if it is not there; files of the same names are replaced.
        dtype: to store in; None keeps the parameters' own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trunks: dict[str, tuple[Role, torch.nn.Module]] = {"base_model": ("base", network.base)}
    for kind, branch in network.branches.items():
        trunks[FILE_OF_KIND.get(kind, f"{kind}_control")] = ("control", branch)
    files = []
    for stem, (role, trunk) in trunks.items():
        state = {
            SAVED_PREFIX[role] + official_name(key): value.detach() for key, value in trunk.state_dict().items()
        }
        files.append(_write_safetensors(state, folder / f"{stem}.safetensors", dtype))
    return files


def convert_to_safetensors(source: Path, target: Path | None = None) -> Path:
    """Write the tensors of a `.pt` file as safetensors, under the same names, without entries that are never used.

    Args:
        source: an official or tiny `.pt` file.
        target: by default beside the source.

    Raises:
        CheckpointError: the source is damaged or carries code.
    """
    return _write_safetensors(read_tensors([source]), target or source.with_suffix(".safetensors"), None)


def convert_text_encoder(source: Path) -> Path:
    """Write the encoder of a whole T5 as `model.safetensors` beside its `pytorch_model.bin`; nobody reads the rest.

    Raises:
        CheckpointError: the source is damaged, carries code, or holds no T5.
    """
    tensors = read_tensors([source])
    encoder = {key: value for key, value in tensors.items() if key.startswith("encoder.") or key == SHARED}
    if SHARED not in encoder or len(encoder) < 2:
        raise CheckpointError(f"{source}: holds no T5 (keys {SHARED}, encoder.*) but {_some(tensors)}")
    encoder.pop("encoder.embed_tokens.weight", None)  # another name of the shared one
    return _write_safetensors(encoder, source.with_name("model.safetensors"), None)


def official_name(own: str) -> str:
    """Official key (without the file's prefix) of one of our parameters.

    Raises:
        KeyError: the name is in no row of `OFFICIAL_NAMES`.
    """
    if (official := _renamed(own, _TO_OFFICIAL)) is None:
        raise KeyError(own)
    return official


def own_name(official: str) -> str | None:
    """Our name of an official key (without the file's prefix), or None if it is in no row of `OFFICIAL_NAMES`."""
    return _renamed(official, _TO_OWN)


def read_tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    """Map the tensors of one `.pt` file or of safetensors shards into memory, by their names in the file.

    Entries that the network never uses (`UNUSED`) are left out.

    Raises:
        CheckpointError: a file is damaged, carries code, or holds something other than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        content = {key: value for key, value in _map_file(file).items() if not UNUSED.search(key)}
        if strange := [key for key, value in content.items() if not isinstance(value, Tensor)]:
            raise CheckpointError(f"{file}: not tensors: {_some(strange)}")
        tensors |= content
    return tensors


def _map_file(file: Path) -> Mapping[str, Any]:
    try:
        content: Any = _map_safetensors(file) if file.suffix == ".safetensors" else _map_pickle(file)
    except pickle.UnpicklingError as error:
        # torch's advice, to load it without the check, is left out
        reason = str(error).partition("WeightsUnpickler error: ")[2].partition(". ")[0] or "not a file of tensors"
        raise CheckpointError(
            f"{file}: holds more than tensors and was not read, because opening it could run code: {reason}"
        ) from None
    except Exception as error:  # safetensors and torch raise half a dozen kinds here
        raise CheckpointError(f"{file}: damaged or cut short, download it again: {error}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: must hold a dict of tensors, holds a {type(content).__name__}")
    # checkpoints of a training run wrap the weights
    return content["model"] if isinstance(content.get("model"), Mapping) else content


def _map_pickle(file: Path) -> Any:
    with file.open("rb") as stream:
        is_archive = (
            stream.read(len(ARCHIVE)) == ARCHIVE
        )  # what torch wrote before 1.6 is none, and cannot be mapped
    # _extra_state entries of official files are pickled BytesIO objects; an empty one is pickled as bytes()
    with torch.serialization.safe_globals([io.BytesIO, bytes]):
        return torch.load(file, map_location="cpu", mmap=is_archive, weights_only=True)


def _map_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(file, framework="pt", device="cpu") as reader:
        return {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118


def _load_trunk(
    module_class: type[_Trunk],
    config_class: type[TransformerConfig],
    files: Sequence[Path],
    role: Role,
    settings: Mapping[str, Any],
    device: torch.device | str,
    dtype: torch.dtype,
) -> _Trunk:
    """Build the module without memory of its own, check every key and shape, then hand it the file's tensors."""
    prefix, content = _select(files, role)
    tensors = {own: value for name, value in content.items() if (own := own_name(name))}
    try:
        config = config_class.from_state_dict(tensors, **settings)
    except KeyError as error:
        raise CheckpointError(f"{_names(files)}: missing: {prefix}{official_name(error.args[0])}") from None
    with torch.device("meta"):
        module = module_class(config)
    expected = {official_name(own): value for own, value in module.state_dict().items()}
    _compare(files, _shapes(prefix, expected), _shapes(prefix, content))
    module.load_state_dict({own: value.to(device, dtype) for own, value in tensors.items()}, assign=True)
    return module


def _select(files: Sequence[Path], role: Role) -> tuple[str, dict[str, Tensor]]:
    """The prefix of one network's keys in the files, and its tensors by their official names without it."""
    content = read_tensors(files)
    prefix = next((p for p in PREFIXES[role] if any(key.startswith(p) for key in content)), None)
    is_control = any("zero_blocks." in key for key in content)
    if prefix is None or (prefix == "net." and is_control != (role == "control")):
        expected = " or ".join(f"{prefix}*" for prefix in PREFIXES[role])
        found = _some(content) or "no tensors"
        raise CheckpointError(f"{_names(files)}: holds no {role} network (keys {expected}) but {found}")
    known = DISTILLED_PREFIXES if prefix in DISTILLED_PREFIXES else (prefix,)
    if strange := [key for key in content if not key.startswith(known)]:
        raise CheckpointError(f"{_names(files)}: unexpected: {_some(strange)}")
    tensors = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
    unused = UNUSED_IN_CONTROL if role == "control" else ()
    return prefix, {name: value for name, value in tensors.items() if not name.startswith(unused)}


def _shapes(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {prefix + name: list(value.shape) for name, value in tensors.items()}


def _compare(files: Sequence[Path], expected: dict[str, list[int]], found: dict[str, list[int]]) -> None:
    wrong = [
        f"{key} is {found[key]}, must be {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    faults = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "wrong shape": wrong,
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
        raise CheckpointError(f"{_names(files)}: {listed}")


def _check_fit(branch: TransformerConfig, base: TransformerConfig, files: Sequence[Path]) -> None:
    for name in ("channels", "text_channels", "patch"):
        if getattr(branch, name) != getattr(base, name):
            raise CheckpointError(
                f"{_names(files)}: {name} is {getattr(branch, name)}, the base network's is {getattr(base, name)}; "
                "the files belong to different networks"
            )
    if branch.blocks > base.blocks:
        raise CheckpointError(f"{_names(files)}: {branch.blocks} blocks, the base network has {base.blocks}")


def _write_safetensors(state: Mapping[str, Tensor], file: Path, dtype: torch.dtype | None) -> Path:
    from safetensors.torch import save_file

    tensors = {key: value.to(dtype=dtype).contiguous() for key, value in state.items()}
    with whole_file(file) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    return file


def _renamed(key: str, table: Sequence[tuple[re.Pattern[str], str]]) -> str | None:
    matches = ((pattern.fullmatch(key), template) for pattern, template in table)
    return next((match.expand(template) for match, template in matches if match), None)


def _rows(pairs: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Key patterns with their replacement; the end of a key, .weight or .bias, is kept."""
    rows = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\#", r"(\d+)") + r"(|\.weight|\.bias)"
        parts = target.split("#")
        template = "".join(rf"{part}\g<{i}>" for i, part in enumerate(parts, start=1))
        rows.append((re.compile(pattern), template))
    return rows


_TO_OFFICIAL = _rows(OFFICIAL_NAMES.items())
_TO_OWN = _rows((official, own) for own, official in OFFICIAL_NAMES.items())


def _names(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _some(keys: Iterable[str], limit: int = 5) -> str:
    keys = sorted(keys)
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
