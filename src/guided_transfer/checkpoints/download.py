"""From the hub to disk: only what is used, whole, and always the same revision.

Everything that can stop a download is looked at before the first byte: gates, revisions, sizes, free disk. The
revisions go into a lock file; a download that is started again continues with them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from guided_transfer.checkpoints.catalogue import CATALOGUE, LOCK_FILE, Repository, wanted_of
from guided_transfer.checkpoints.verify import FileState, found_files, read_lock, verify
from guided_transfer.errors import CheckpointError, DeviceError
from guided_transfer.whole import whole_file

SPARE_BYTES = 2**30
"""Disk that is left free."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that is to be fetched.

    Attributes:
        repository, name: where it is on the hub, and below the checkpoint folder.
        revision: commit of the repository.
        bytes: its size.
        sha256: where the hub knows it (it does for large files).
    """

    repository: str
    name: str
    revision: str
    bytes: int
    sha256: str | None

    @property
    def path(self) -> str:
        """Below the checkpoint folder."""
        return f"{self.repository}/{self.name}"


def download(
    root: Path,
    parts: Sequence[str],
    *,
    catalogue: tuple[Repository, ...] = CATALOGUE,
    on_plan: Callable[[Sequence[RemoteFile]], None] = lambda files: None,
    on_file: Callable[[RemoteFile], None] = lambda file: None,
) -> list[FileState]:
    """Fetch the files of some parts; what is there already stays.

    Args:
        root: the checkpoint folder; made if it is not there.
        parts: of the catalogue.
        catalogue: what to fetch.
        on_plan: told everything that will be fetched, before the first byte.
        on_file: told each file as its turn comes.

    Returns:
        The states of all files of these parts, checked by their checksums.

    Raises:
        CheckpointError: a repository is gated, gone, or does not answer; a file stays corrupt.
        DeviceError: the disk is too small.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    root.mkdir(parents=True, exist_ok=True)
    repositories = wanted_of(parts, catalogue)
    _check_gates(api, repositories)
    lock = read_lock(root)
    files = [file for repository in repositories for file in _remote_files(api, root, repository, lock)]
    waiting = [file for file in files if not _is_whole(root / file.path, file.bytes)]
    on_plan(waiting)
    _check_disk(root, waiting)
    _write_lock(root, lock, files)
    for file in waiting:
        on_file(file)
        _fetch(api, root, file)
    states = verify(root, parts, catalogue=repositories)
    if corrupt := [state for state in states if state.state == "corrupt"]:
        for state in corrupt:
            (root / state.path).unlink()  # else the next try would take it for whole
        named = "; ".join(f"{state.path}: {state.note}" for state in corrupt)
        raise CheckpointError(f"corrupt and removed: {named}. The same command fetches them again")
    return states


def _check_gates(api: Any, repositories: Sequence[Repository]) -> None:
    """Ask for access to everything first, so that no gate is met after an hour."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    closed = []
    for repository in repositories:
        try:
            api.auth_check(repository.id)
        except (GatedRepoError, RepositoryNotFoundError):  # a private one looks as if it were not there
            closed.append(f"{repository.page}: {repository.gate or 'accept its terms there'}")
        except Exception as error:  # the hub's client passes on whatever its transports raise
            raise _no_answer(repository.id, error) from None
    if closed:
        raise CheckpointError(
            "nothing was downloaded, because these repositories do not let you in: "
            f"{'; '.join(closed)}. Then `hf auth login` with a token of that account, and start again"
        )


def _remote_files(api: Any, root: Path, repository: Repository, lock: dict[str, Any]) -> list[RemoteFile]:
    """What a repository holds of what is wanted, at the locked revision or else the newest."""
    locked = next((facts["revision"] for path, facts in lock.items() if path.startswith(f"{repository.id}/")), None)
    try:
        info = api.model_info(repository.id, revision=locked, files_metadata=True)
    except Exception as error:
        raise _no_answer(f"{repository.id} at {locked or 'its newest revision'}", error) from None
    files, absent = [], []
    for wanted in repository.files:
        here = found_files(root / repository.id, wanted)
        if here and not any(
            fnmatch(file.relative_to(root / repository.id).as_posix(), wanted.path) for file in here
        ):
            continue  # a converted file stands in
        found = [sibling for sibling in info.siblings if fnmatch(sibling.rfilename, wanted.path)]
        if not found:
            absent.append(wanted.path)
        for sibling in found:
            sha256 = sibling.lfs.sha256 if sibling.lfs else None
            files.append(RemoteFile(repository.id, sibling.rfilename, info.sha, sibling.size or 0, sha256))
    if absent:
        raise CheckpointError(f"{repository.page} at {info.sha} does not hold {', '.join(absent)}")
    return files


def _is_whole(file: Path, num_bytes: int) -> bool:
    return file.is_file() and file.stat().st_size == num_bytes


def _check_disk(root: Path, waiting: Sequence[RemoteFile]) -> None:
    needed, free = sum(file.bytes for file in waiting), shutil.disk_usage(root).free
    if waiting and needed + SPARE_BYTES > free:
        raise DeviceError(
            f"{root}: {needed / 2**30:.1f} GiB are to be fetched and 1 GiB is kept free, the disk has "
            f"{free / 2**30:.1f} GiB; choose another --output_dir, or fewer parts with --only"
        )


def _write_lock(root: Path, lock: dict[str, Any], files: Sequence[RemoteFile]) -> None:
    facts = {
        file.path: {
            "revision": file.revision,
            "bytes": file.bytes,
            **({"sha256": file.sha256} if file.sha256 else {}),
        }
        for file in files
    }
    text = json.dumps({"files": {**lock, **facts}}, indent=1, sort_keys=True) + "\n"
    with whole_file(root / LOCK_FILE) as partial:
        partial.write_text(text, encoding="utf-8")


def _fetch(api: Any, root: Path, file: RemoteFile) -> None:
    try:
        api.hf_hub_download(file.repository, file.name, revision=file.revision, local_dir=root / file.repository)
    except Exception as error:
        raise CheckpointError(
            f"{file.path}: not fetched: {str(error)[:200]}. What came is kept; the same command goes on from there"
        ) from None


def _no_answer(repository: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{repository}: no usable answer of the hub: {str(error)[:200] or type(error).__name__}")
