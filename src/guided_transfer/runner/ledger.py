"""What has been done: run.json for the folder, one record per episode, written after its outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from guided_transfer.errors import OutputError, RunConflict
from guided_transfer.runner.files import plain, sha256_file, sha256_json, stamp, write_json
from guided_transfer.runner.plan import EpisodeTask
from guided_transfer.whole import PARTIAL, sync

State = Literal["done", "failed", "rejected", "blocked"]
Record = dict[str, Any]

RECORD_KEYS = {"state", "reason", "source", "fingerprint", "outputs", "seconds"}

SHOWN_IN_ALL = 12
SHOWN_OF_A_LIST = 3
EXCERPT_CHARACTERS = 80
"""So much is shown of what differs from another run: a list of prompts has thousands of words."""

FINAL_STATES = ("done", "rejected", "blocked")
"""What the same settings would end in again. A failed episode is tried once by every run."""


@dataclass(frozen=True)
class RunIdentity:
    """Everything but the inputs that decides what comes out. JSON-able.

    Attributes:
        settings: effective settings by name, `seed` among them.
        code: version of the code.
        weights: SHA-256 by file.
        about: facts worth keeping that decide nothing (hardware, versions, the command line).
    """

    settings: Mapping[str, Any]
    code: str
    weights: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is compared, as JSON holds it."""
        return plain({"settings": self.settings, "code": self.code, "weights": self.weights})

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the facts."""
        return sha256_json(self.facts)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What differs from the facts of another run, a line each; of a list, and in all, no more than a few."""
        ours, theirs = _flat(self.facts), _flat({key: other.get(key) for key in self.facts})
        unlike: dict[str, list[str]] = {}
        for name in dict.fromkeys([*theirs, *ours]):
            if ours.get(name) != theirs.get(name):
                unlike.setdefault(name.partition("[")[0], []).append(name)
        lines = []
        for setting, names in sorted(unlike.items()):
            for name in names[:SHOWN_OF_A_LIST]:
                folder, run = _excerpts(theirs.get(name), ours.get(name))
                lines.append(f"{name}: the folder has {folder}, this run {run}")
            if len(names) > SHOWN_OF_A_LIST:
                lines.append(f"{setting}: {len(names) - SHOWN_OF_A_LIST} further entries differ")
        return lines[:SHOWN_IN_ALL] + [f"and {len(lines) - SHOWN_IN_ALL} more"] * (len(lines) > SHOWN_IN_ALL)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Values by name, those in a list as name[0], name[1], ..."""
    if isinstance(value, Mapping):
        parts = {f"{name}.{key}" if name else key: item for key, item in value.items()}
    elif isinstance(value, list) and value:
        parts = {f"{name}[{index}]": item for index, item in enumerate(value)}
    else:
        return {name: value}
    return {inner: leaf for part, item in parts.items() for inner, leaf in _flat(item, part).items()}


def _excerpts(*values: Any) -> list[str]:
    """Each value as JSON; of long ones what stands around the first character that differs."""
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    if max(map(len, texts)) <= EXCERPT_CHARACTERS:
        return texts
    unlike = next((at for at, letters in enumerate(zip(*texts, strict=False)) if len({*letters}) > 1), 0)
    start = max(0, unlike - EXCERPT_CHARACTERS // 4)
    stop = start + EXCERPT_CHARACTERS
    return ["... " * (start > 0) + text[start:stop] + " ..." * (len(text) > stop) for text in texts]


class Ledger:
    """The records of one output folder.

    Every file is written by fsync and rename, so any number of processes may read and write at once; which
    of them may write the record of an episode is settled by `claims`.
    """

    def __init__(self, output_dir: Path, identity: RunIdentity, *, overwrite: bool = False) -> None:
        self.output_dir = output_dir
        self.identity = identity
        self.overwrite = overwrite
        self.folder = output_dir / "ledger"

    def open(self) -> None:
        """Create the folder, or join the run that is there.

        Raises:
            RunConflict: the folder belongs to a run with other settings, code or weights, and `overwrite` is not
                set; names what differs.
            OutputError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._join(self.output_dir / "run.json")
        except OSError as error:
            raise OutputError(f"--output_data_dir {self.output_dir} cannot be written: {error}") from error

    def check(self) -> None:
        """Refuse what `open` would refuse, and write nothing.

        Raises:
            RunConflict, OutputError: as `open`.
        """
        existing = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            reason = "is no folder" if not existing.is_dir() else "may not be written to"
            raise OutputError(f"--output_data_dir {self.output_dir} cannot be written: {existing} {reason}")
        self._refuse_other_run()

    def is_ours(self) -> bool:
        """Whether the folder is new, or belongs to a run with these settings."""
        path = self.output_dir / "run.json"
        return not path.exists() or json.loads(path.read_text()).get("fingerprint") == self.identity.fingerprint

    def _join(self, path: Path) -> None:
        ours = {"fingerprint": self.identity.fingerprint, **self.identity.facts, "about": self.identity.about}
        if not path.exists():
            _write_first(path, ours)
        self._refuse_other_run()
        if not self.is_ours():
            write_json(path, ours)

    def _refuse_other_run(self) -> None:
        if self.overwrite or self.is_ours():
            return
        there = json.loads((self.output_dir / "run.json").read_text())
        raise RunConflict(
            f"{self.output_dir} holds a run with other settings:\n  "
            + "\n  ".join(self.identity.differences(there))
            + "\nGive another --output_data_dir, or --overwrite to replace its episodes one by one."
        )

    def path(self, stem: str) -> Path:
        """Where the record of an episode lies."""
        return self.folder / f"{stem}.json"

    def read(self, stem: str) -> Record | None:
        """The record of an episode, or None where there is none that can be read."""
        return read_record(self.path(stem))

    def write(self, task: EpisodeTask, record: Record) -> None:
        """Publish a record.

        Raises:
            OutputError: the ledger cannot be written; the episode counts as not done.
        """
        try:
            write_json(self.path(task.output), record)
        except OSError as error:
            raise OutputError(
                f"the record of {task.output} cannot be written: {error}; free space or make {self.folder} "
                "writable, then give the same command to resume"
            ) from error

    def versions(self) -> dict[str, int]:
        """A number per record that changes whenever the record is replaced (its inode), by stem."""
        return {entry.name[: -len(".json")]: entry.inode() for entry in record_entries(self.folder)}

    def version(self, stem: str) -> int | None:
        """As `versions`, for one record; None where there is none."""
        try:
            return self.path(stem).stat().st_ino
        except FileNotFoundError:
            return None

    def fingerprint(self, task: EpisodeTask, source_sha256: str) -> str:
        """What an episode's outputs depend on: its input's content, the run's identity, and the task itself."""
        return sha256_json([self.identity.fingerprint, source_sha256, task.source.stem, task.output, task.variant])

    def is_finished(self, task: EpisodeTask, record: Record | None) -> bool:
        """Whether a record says that there is nothing to do, and is still true.

        The source must be unchanged (its content is hashed again only where size or time differ), and every
        output must be there.
        """
        if record is None or record.get("state") not in FINAL_STATES:
            return False
        source_sha256 = unchanged_sha256(task.source, record["source"])
        if source_sha256 is None or record["fingerprint"] != self.fingerprint(task, source_sha256):
            return False
        return all(unchanged_sha256(self.output_dir / facts["file"], facts) for facts in record["outputs"])

    def check_target(self, task: EpisodeTask, record: Record | None, *, interrupted: bool) -> None:
        """Make sure that publishing this episode replaces nothing that is not ours.

        Args:
            task: the episode about to be worked on.
            record: its record, if any.
            interrupted: whether a dead worker's claim shows that a file without a record is this run's own.

        Raises:
            OutputError: a file stands in the way that no record vouches for.
        """
        target = task.target(self.output_dir)
        if self.overwrite or interrupted or not target.exists():
            return
        if record is None:
            raise OutputError(f"{target} exists and no record knows it; move it away, or give --overwrite")
        ours = {facts["file"]: facts for facts in record["outputs"]}.get(target.name)
        if ours and unchanged_sha256(target, ours) is None:
            raise OutputError(
                f"{target} is not what this run wrote (its content has changed since); `guided-transfer validate "
                f"{target}` tells whether it is damaged; move it away, or give --overwrite, then give the same "
                "command to resume"
            )

    def withdraw(self, earlier: Record | None, outputs: Sequence[Mapping[str, Any]]) -> None:
        """With `overwrite`, remove what an earlier record vouches for and its successor did not make again.

        Otherwise an episode that other settings reject would go on lying there as those before had made it.
        """
        if not self.overwrite or earlier is None:
            return
        made = {facts["file"] for facts in outputs}
        for facts in earlier["outputs"]:
            path = self.output_dir / facts["file"]
            if facts["file"] not in made and unchanged_sha256(path, facts):
                path.unlink()

    def describe(self, outputs: Sequence[Path]) -> list[dict[str, Any]]:
        """What the record keeps about published files: name, size, time and SHA-256."""
        return [
            {"file": str(path.relative_to(self.output_dir)), **stamp(path), "sha256": sha256_file(path)}
            for path in outputs
        ]


def read_record(path: Path | str) -> Record | None:
    """A record, or None where there is none or it is not one of ours."""
    try:
        record = json.loads(Path(path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and record.keys() >= RECORD_KEYS else None


def _is_record(name: str) -> bool:
    return name.endswith(".json") and name[0] != "."


def _write_first(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file unless another process was first."""
    mine = path.with_name(f".{path.name}.{os.urandom(8).hex()}{PARTIAL}")
    write_json(mine, value)
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: the narrow race is caught by the caller's reading back
        mine.replace(path)
    finally:
        mine.unlink(missing_ok=True)
    sync(path.parent)


def unchanged_sha256(path: Path, facts: Mapping[str, Any]) -> str | None:
    """The recorded SHA-256 where a file still is what was recorded, else None.

    Same size and time of writing are believed; another time (a copied folder) means hashing the content.
    """
    try:
        now = stamp(path)
    except FileNotFoundError:
        return None
    if now["size_bytes"] != facts["size_bytes"]:
        return None
    if now["mtime_ns"] == facts["mtime_ns"] or sha256_file(path) == facts["sha256"]:
        return facts["sha256"]
    return None


def record_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The record files of a ledger folder."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if _is_record(entry.name))
