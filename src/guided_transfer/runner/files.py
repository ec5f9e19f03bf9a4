"""The runner's own files: whole ones, JSON, and what tells one content from another."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from guided_transfer.whole import whole_file

HASH_BLOCK_BYTES = 1 << 20


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file by fsync and rename."""
    with whole_file(path) as partial, partial.open("xb") as file:
        write(file)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file by fsync and rename."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, lambda file: file.write(text.encode()))


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: paths as text, NumPy scalars as numbers, "inf" and "nan" as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """Hex SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stamp(path: Path) -> dict[str, int]:
    """What changes whenever a file's content is replaced by honest means: size and time of writing."""
    stat = path.stat()
    return {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
