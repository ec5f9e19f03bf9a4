"""Which weights a run used: SHA-256 of every file, remembered between runs because a tree has 60 GB."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guided_transfer.models.tree import FILE_OF_KIND, CheckpointTree
from guided_transfer.runner.files import sha256_file, stamp, write_json

WEIGHT_SUFFIXES = (".pt", ".safetensors", ".bin", ".jit", ".model", ".json")


def weight_hashes(tree: CheckpointTree, controls: list[str]) -> dict[str, str]:
    """SHA-256 by path below the tree, of all files that the run reads."""
    files = [file for stem in _stems(controls) for file in tree.network_files(stem)]
    for folder in (tree.tokenizer_folder, tree.text_encoder_folder):
        files += [file for file in sorted(folder.iterdir()) if file.suffix in WEIGHT_SUFFIXES]
    cache = _read_cache()
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda file: _hash(file, cache), files))
    _write_cache({**cache, **{_key(file): digest for file, digest in zip(files, hashes, strict=True)}})
    return {str(file.relative_to(tree.root)): digest for file, digest in zip(files, hashes, strict=True)}


def _stems(controls: list[str]) -> list[str]:
    return ["base_model", *(FILE_OF_KIND.get(kind, f"{kind}_control") for kind in controls)]


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
