"""Who works on what: one claim per episode, held as long as its worker's heart beats.

Everything rests on two things every shared file system keeps: making a file only if there is none, and seeing a
file's new content. No process id, no clock of another machine, no lock server.

    ledger/runs/<run>/<worker>.beat     a counter that its worker moves on
    ledger/runs/<run>/<worker>.worker   who that is; a claim is a hard link to it, or a copy where there are none
    ledger/claims/<episode>.<n>         worker n + 1 in line for this episode; the highest n holds it

A worker is dead when its counter has stood still for `lease_s` of *our* monotonic clock, or at once when it
lived on this machine and the kernel has released the lock it held on its file. A dead worker's claim is never
removed by another: the next one creates the next number, which only one can. That also counts how many workers
an episode has cost.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

DEFAULT_LEASE_S = 90.0
"""Longer than network file systems cache attributes (60 s), so that a live worker is not taken for dead."""

BEATS_PER_LEASE = 6

Made = TypeVar("Made")

log = logging.getLogger(__name__)


def boot_id() -> str:
    """Names this machine since it was started; a lock on a file says something only about processes on it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


class Heartbeat:
    """Moves a worker's counter on from a thread of its own, and holds a lock on the file meanwhile."""

    def __init__(self, path: Path, lease_s: float = DEFAULT_LEASE_S) -> None:
        self.path = path
        self.lease_s = lease_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._descriptor = create_sign(self.path, lambda path: os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            log.debug("no lock on %s (%s); the counter alone tells that this worker lives", self.path, error)
        self._beat(0)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if kind is None or issubclass(kind, KeyboardInterrupt):  # otherwise claims may be left for others to judge
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _beat_until_stopped(self) -> None:
        count = 1
        while not self._stopped.wait(self.lease_s / BEATS_PER_LEASE):
            self._beat(count)
            count += 1

    def _beat(self, count: int) -> None:
        try:  # always the same length: a full disk does not stop a heart
            os.pwrite(self._descriptor, f"{boot_id()} {count:020d}\n".encode(), 0)
        except OSError as error:
            log.warning("heartbeat %s: %s", self.path, error)


def create_sign(path: Path, create: Callable[[Path], Made]) -> Made:
    """Create a file in a run's folder, and the folder too, which another run's end removes while it is empty."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return create(path)


def signs(ledger_folder: Path) -> dict[Path, list[Path]]:
    """What the workers of each run have left in its folder; runs may end and remove theirs meanwhile."""
    return {folder: _files(folder) for folder in _files(ledger_folder / "runs")}


def beats(ledger_folder: Path) -> list[Path]:
    """The `.beat` files of all workers, dead or alive."""
    return [path for files in signs(ledger_folder).values() for path in files if path.suffix == ".beat"]


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


class Watch:
    """Judges whether workers live, by what this process has seen of their counters."""

    def __init__(self, lease_s: float = DEFAULT_LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_s = lease_s
        self._clock = clock
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def is_dead(self, beat: Path) -> bool:
        """Whether the worker of a `.beat` file is dead; False as long as there is doubt."""
        content = content_of(beat)
        if content and self._lock_is_free(beat, content):
            return True
        before, since = self._seen.get(beat, (None, 0.0))
        if content != before:
            self._seen[beat] = (content, self._clock())
            return False
        return self._clock() - since > self.lease_s

    def _lock_is_free(self, beat: Path, content: bytes) -> bool:
        if not content.startswith(boot_id().encode() + b" "):
            return False
        try:
            descriptor = os.open(beat, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)


def content_of(path: Path) -> bytes:
    """A file's bytes; none where it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True)
class Claim:
    """The right to work on one episode.

    Attributes:
        stem: of the episode's outputs.
        path, content: the claim's file and what its holder wrote into it.
        number: place in the line of those who have claimed the episode.
        losses: how many workers of this same run died holding it.
    """

    stem: str
    path: Path
    content: bytes
    number: int
    losses: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether a worker died holding it."""
        return self.number > 0

    def is_held(self) -> bool:
        """False once others took this worker for dead (a suspended machine) and another took over."""
        return content_of(self.path) == self.content and not _numbered(self.path, self.number + 1).exists()

    def release(self) -> None:
        """Give the episode free: its record is written, or it was not begun."""
        if not self.is_held():
            return
        for number in range(self.number + 1):  # ours last: while it stands, nobody can be next in line
            _numbered(self.path, number).unlink(missing_ok=True)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name.rpartition('.')[0]}.{number}")


class Claims:
    """The claims of one output folder, as one worker sees them.

    Args:
        folder: the ledger's folder.
        run: identifies one start of the program; its workers share it.
        worker: unique name of this worker.
        watch: judges the other workers.
    """

    def __init__(self, folder: Path, run: str, worker: str, watch: Watch) -> None:
        self._folder = folder / "claims"
        self._runs = folder / "runs"
        self._run = run
        self._me = {"run": run, "worker": worker}
        self._identity = self._runs / run / f"{worker}.worker"
        self._watch = watch
        self._folder.mkdir(parents=True, exist_ok=True)
        self._identity.parent.mkdir(parents=True, exist_ok=True)
        self._identity.write_bytes(json.dumps(self._me).encode())

    def take(self, stem: str) -> Claim | None:
        """Claim an episode nobody holds; None where somebody does, dead or alive."""
        return self._create(stem, 0)

    def take_over(self, stem: str) -> Claim | None:
        """Claim an episode nobody holds or whose holder is dead; None where the holder lives."""
        line = self._line(stem)
        if not line:
            return self._create(stem, 0)
        if line[-1] == self._me:  # network file systems may answer "exists" to what they have just made for us
            return self._claim(stem, len(line) - 1, 0)
        if not self._watch.is_dead(self._beat(line[-1])):
            return None
        losses = sum(holder.get("run") == self._run for holder in line)
        claim = self._create(stem, len(line), losses)
        # The line may have been released and begun anew since it was read; then this place in it means nothing.
        if claim and self._line(stem)[: len(line)] != line:
            claim.path.unlink(missing_ok=True)
            return None
        return claim

    def _line(self, stem: str) -> list[dict[str, str]]:
        """The workers that have claimed an episode, first to last."""
        line: list[dict[str, str]] = []
        while (path := self._path(stem, len(line))).exists():
            try:
                line.append(json.loads(content_of(path)))
            except ValueError:  # created, not written yet: dead once that stays so for a lease
                line.append({"run": "unknown", "worker": path.name})
        return line

    def _create(self, stem: str, number: int, losses: int = 0) -> Claim | None:
        path = self._path(stem, number)
        try:
            os.link(self._identity, path)  # made with its content in one step
        except FileExistsError:
            return None
        except OSError:
            if not self._create_without_links(path):
                return None
        return self._claim(stem, number, losses)

    def _create_without_links(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, json.dumps(self._me).encode())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return True

    def _claim(self, stem: str, number: int, losses: int) -> Claim:
        return Claim(stem, self._path(stem, number), json.dumps(self._me).encode(), number, losses)

    def _path(self, stem: str, number: int) -> Path:
        return self._folder / f"{stem}.{number}"

    def _beat(self, holder: dict[str, str]) -> Path:
        return self._runs / holder["run"] / f"{holder['worker']}.beat"
