"""Is the tree on disk what it should be? Every file: present, missing, corrupt or unneeded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guided_transfer.checkpoints.catalogue import CATALOGUE, LOCK_FILE, Repository, Wanted
from guided_transfer.errors import CheckpointError

State = Literal["present", "missing", "corrupt", "unneeded"]
NOT_WEIGHTS = (".md", ".gitattributes", "LICENSE", "NOTICE", "USE_POLICY.md", ".png", "checkpoint.json", LOCK_FILE)
"""Small files that belong to a repository and are read by people."""


@dataclass(frozen=True)
class FileState:
    """What became of one file.

    Attributes:
        path: below the checkpoint folder.
        part: what it serves; "" for a file that nothing needs.
        bytes: its size on disk; 0 where it is missing.
        note: how it was checked, or what is wrong.
    """

    path: str
    state: State
    part: str = ""
    bytes: int = 0
    note: str = ""


def verify(
    root: Path,
    parts: Iterable[str],
    *,
    checksums: bool = True,
    catalogue: tuple[Repository, ...] = CATALOGUE,
    on_file: Callable[[Path], None] = lambda file: None,
) -> list[FileState]:
    """Hold a tree against the catalogue.

    Args:
        root: the checkpoint folder.
        parts: that must be complete; files of other parts are checked where they are there.
        checksums: read every byte; otherwise sizes and headers alone.
        catalogue: what belongs there.
        on_file: told each file before it is read.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not root.is_dir():
        raise CheckpointError(
            f"{root}: no such folder. `guided-transfer checkpoints download --output_dir {root}` fills it"
        )
    lock, needed, states = read_lock(root), set(parts), []
    for repository in catalogue:
        for wanted in repository.files:
            found = found_files(root / repository.id, wanted)
            if not found and wanted.part in needed:
                states.append(FileState(f"{repository.id}/{wanted.path}", "missing", wanted.part))
            for file in found:
                on_file(file)
                states.append(_checked(root, file, wanted, lock, checksums))
    known = {root / state.path for state in states}
    return states + [_unneeded(root, file) for file in sorted(_weights(root)) if file not in known]


def read_lock(root: Path) -> dict[str, dict[str, Any]]:
    """Facts by path below the root that the download left: size, sha256 and revision.

    Raises:
        CheckpointError: the lock file cannot be read.
    """
    file = root / LOCK_FILE
    try:
        return json.loads(file.read_bytes())["files"] if file.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: no lock file of `checkpoints download`: {error!r}; delete it") from None


def digest(file: Path, algorithm: str) -> str:
    """Hexadecimal checksum of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def found_files(folder: Path, wanted: Wanted) -> list[Path]:
    """The files in a repository's folder that are this one, or stand in for it."""
    for path in (wanted.path, *wanted.instead):
        if files := sorted(file for file in folder.glob(path) if file.is_file()):
            return files
    return []


def _checked(root: Path, file: Path, wanted: Wanted, lock: dict[str, Any], checksums: bool) -> FileState:
    path, size = file.relative_to(root).as_posix(), file.stat().st_size
    fault, note = _fault(file, size, _expected_md5(file, wanted), lock.get(path, {}), checksums)
    return FileState(path, "corrupt" if fault else "present", wanted.part, size, fault or note)


def _expected_md5(file: Path, wanted: Wanted) -> str | None:
    return wanted.md5 if file.name == Path(wanted.path).name else None  # a stand-in has other bytes


def _fault(file: Path, size: int, md5: str | None, lock: dict[str, Any], checksums: bool) -> tuple[str, str]:
    """What is wrong with a file, or "", and otherwise how it was checked."""
    if size == 0:
        return "empty", ""
    if "bytes" in lock and size != lock["bytes"]:
        return f"{size} bytes, the downloaded file had {lock['bytes']}", ""
    if file.suffix == ".safetensors" and (fault := _header_fault(file, size)):
        return fault, ""
    if not checksums:
        return "", "size and header only"
    for algorithm, expected in (("md5", md5), ("sha256", lock.get("sha256"))):
        if expected:
            actual = digest(file, algorithm)
            return ("" if actual == expected else f"{algorithm} is {actual}, must be {expected}"), algorithm
    return "", "no checksum known"


def _header_fault(file: Path, size: int) -> str:
    """What the header of a safetensors file says about its length, against its length."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            if length > size:
                raise ValueError("the header is longer than the file")
            tensors = json.loads(stream.read(length))
            end = max((v["data_offsets"][1] for k, v in tensors.items() if k != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"not a safetensors file: {error}"
    return "" if size == 8 + length + end else f"{size} bytes, its header says {8 + length + end}"


def _weights(root: Path) -> Iterator[Path]:
    for file in root.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if file.is_file() and not hidden and not file.name.endswith(NOT_WEIGHTS):
            yield file


def _unneeded(root: Path, file: Path) -> FileState:
    return FileState(file.relative_to(root).as_posix(), "unneeded", bytes=file.stat().st_size)
