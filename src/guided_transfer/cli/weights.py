"""Which weights a run used: SHA-256 of every file, remembered between runs because a tree has 60 GB."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guided_transfer.models.tree import CheckpointTree
from guided_transfer.runner.files import sha256_file, stamp, write_json

WEIGHT_SUFFIXES = (".pt", ".safetensors", ".bin", ".jit", ".model", ".json")


def weight_hashes(tree: CheckpointTree, parts: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """SHA-256 of all files that the run reads, by path below the tree or, outside of it, by what they serve.

    Args:
        tree: holds the tokenizer and the text encoder.
        parts: the other files by what they serve: those of the network, the guardrails, the upsampler.
    """
    names = {file: _name(file, tree.root, part) for part, files in parts.items() for file in files}
    files = list(names)
    for folder in (tree.tokenizer_folder, tree.text_encoder_folder):
        files += [file for file in sorted(folder.iterdir()) if file.suffix in WEIGHT_SUFFIXES]
    cache = _read_cache()
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda file: _hash(file, cache), files))
    _write_cache({**cache, **{_key(file): digest for file, digest in zip(files, hashes, strict=True)}})
    return {
        names.get(file) or _name(file, tree.root, ""): digest for file, digest in zip(files, hashes, strict=True)
    }


def _name(file: Path, root: Path, part: str) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else f"{part}: {file.name}"


def _key(file: Path) -> str:
    return json.dumps([str(file.resolve()), *stamp(file).values()])


def _hash(file: Path, cache: Mapping[str, str]) -> str:
    return cache.get(_key(file)) or sha256_file(file)


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "guided-transfer" / "weight_hashes.json"


def _read_cache() -> dict[str, str]:
    try:
        return json.loads(_cache_file().read_bytes())
    except (OSError, ValueError):
        return {}


def _write_cache(cache: Mapping[str, str]) -> None:
    """A cache that cannot be written costs time on the next run, nothing else."""
    try:
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_cache_file(), cache)
    except OSError:
        return
