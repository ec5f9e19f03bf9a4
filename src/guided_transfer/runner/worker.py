"""One worker: takes episodes, reads ahead, computes, writes behind, and records what became of each."""

from __future__ import annotations

import errno
import logging
import socket
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_transfer.errors import Blocked, CheckpointError, EpisodeUnreadable, OutputError, UsageError
from guided_transfer.runner.claims import DEFAULT_LEASE_S, Claims, Heartbeat, Watch, create_sign
from guided_transfer.runner.files import sha256_file, stamp
from guided_transfer.runner.index import tell_news
from guided_transfer.runner.ledger import FINAL_STATES, Ledger
from guided_transfer.runner.plan import Plan
from guided_transfer.runner.process import EpisodeOutcome, Event, OnEvent, Place, Process, ProcessFactory
from guided_transfer.runner.schedule import Schedule, Taken
from guided_transfer.runner.workspace import Workspace

MAX_LOSSES = 3
"""An episode that has cost a run so many workers is failed instead of tried on a further one."""

STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Not the episode's fault, and the next one would meet the same: the run stops."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run as every worker of it sees it; picklable if the factory is."""

    plan: Plan
    factory: ProcessFactory
    ledger: Ledger
    run: str
    max_failures: int | None = None
    lease_s: float = DEFAULT_LEASE_S

    @property
    def folder(self) -> Path:
        """Where the workers of this run leave signs for each other."""
        return self.ledger.folder / "runs" / self.run

    def stop(self, reason: str) -> None:
        """Ask all workers to finish what they hold and take nothing more."""
        create_sign(self.folder / "stop", lambda path: path.write_text(reason))

    def stop_reason(self) -> str | None:
        """Why the run was asked to stop, or None."""
        try:
            return (self.folder / "stop").read_text() or "stopped"
        except FileNotFoundError:
            return None

    def count_failure(self, stem: str) -> None:
        """Note a failure where all workers see it, and stop at the limit."""
        create_sign(self.folder / f"{stem}.failed", Path.touch)
        if self.max_failures is not None and sum(1 for _ in self.folder.glob("*.failed")) >= self.max_failures:
            self.stop(f"--max_failures {self.max_failures} reached")


@dataclass
class Item:
    """An episode on its way through one worker."""

    taken: Taken
    source_facts: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    source: Any = None
    error: Exception | None = None
    low_memory: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Stem of the episode's outputs."""
        return self.taken.task.output

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(time.perf_counter() - start, 4)


class Worker:
    """Works through a job until every episode is settled, here or elsewhere.

    Raises (from `work`):
        OutputError: outputs or records cannot be written (disk full, folder read-only).
        UsageError, CheckpointError: from the process; every episode would meet them.
    """

    def __init__(self, job: Job, place: Place, process: Process, on_event: OnEvent) -> None:
        self.name = f"{socket.gethostname()}-{place.worker}-{uuid.uuid4().hex[:8]}"
        self._job = job
        self._place = place
        self._process = process
        self._on_event = on_event
        self._ledger = job.ledger
        self.stop_reason: str | None = None
        self._behind: deque[Future[None]] = deque()

    def stop(self, reason: str) -> None:
        """Finish the episodes in hand and take no more."""
        self.stop_reason = reason

    def work(self) -> None:
        """Take, read, compute, write and record episodes until none is left."""
        with ExitStack() as stack:
            stack.enter_context(log_to_file(self._ledger.output_dir / "logs" / f"{self.name}.log"))
            stack.enter_context(Heartbeat(self._job.folder / f"{self.name}.beat", self._job.lease_s))
            self._writer = stack.enter_context(ThreadPoolExecutor(1, "write"))
            self._reader = stack.enter_context(ThreadPoolExecutor(1, "read"))
            claims = Claims(self._ledger.folder, self._job.run, self.name, Watch(self._job.lease_s))
            schedule = Schedule(
                self._job.plan.tasks,
                self._ledger,
                claims,
                self._place,
                self._job.folder,
                self._report_kept,
                self._job.lease_s,
            )
            self._read_ahead(schedule.free())
            # A worker may have died of one of these: each goes through alone, so that only it is to blame.
            for taken in self._until_stopped(schedule.held_elsewhere()):
                self._compute(self._read(taken))
                self._wait_for_writes(0)

    def _until_stopped(self, episodes: Iterator[Taken | None]) -> Iterator[Taken]:
        for taken in episodes:
            if self._is_stopped():
                if taken:
                    taken.claim.release()
                return
            if taken:
                yield taken

    def _is_stopped(self) -> bool:
        return bool(self.stop_reason or self._job.stop_reason())

    def _read_ahead(self, episodes: Iterator[Taken | None]) -> None:
        wanted = self._until_stopped(episodes)

        def read_next() -> Item | None:
            taken = next(wanted, None)
            return self._read(taken) if taken else None

        upcoming = self._reader.submit(read_next)
        try:
            while (item := upcoming.result()) and not self._is_stopped():
                upcoming = self._reader.submit(read_next)
                self._compute(item)
                self._wait_for_writes(1)
        finally:
            if upcoming.exception() is None and (unused := upcoming.result()):
                unused.taken.claim.release()
            self._wait_for_writes(0)

    def _read(self, taken: Taken) -> Item:
        item = Item(taken)
        try:
            with item.timed("read"):
                self._read_source(item)
        except Exception as error:
            item.error = error
        return item

    def _read_source(self, item: Item) -> None:
        task, claim = item.taken.task, item.taken.claim
        if claim.losses >= MAX_LOSSES:
            raise RuntimeError(f"{claim.losses} workers of this run died while they had it; see the logs folder")
        try:
            before = stamp(task.source)
            item.source_facts = {"file": str(task.source), **before, "sha256": sha256_file(task.source)}
        except OSError as error:
            raise EpisodeUnreadable(f"cannot be read: {error.strerror}", file=task.source) from error
        item.fingerprint = self._ledger.fingerprint(task, item.source_facts["sha256"])
        self._ledger.check_target(task, item.taken.record, interrupted=claim.interrupted)
        item.source = self._process.read(task)
        if stamp(task.source) != before:
            raise EpisodeUnreadable("changed while it was read", file=task.source)

    def _compute(self, item: Item) -> None:
        self._on_event(Event("started", item.stem))
        try:
            with item.timed("compute"):
                computed = self._compute_or_raise(item)
        except (UsageError, CheckpointError, KeyboardInterrupt, SystemExit):
            item.taken.claim.release()
            raise
        except Exception as error:
            self._submit(self._record_failure, item, error)
        else:
            item.source = None
            self._submit(self._write, item, computed)

    def _compute_or_raise(self, item: Item) -> Any:
        if item.error:
            raise item.error
        task, workspace = item.taken.task, self._workspace(item)
        try:
            return self._process.compute(task, item.source, workspace, low_memory=False)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("%s: out of memory, once more with smaller memory settings: %s", item.stem, error)
        # Outside of the handler: the traceback would keep the first try's tensors alive.
        item.low_memory = True
        return self._process.compute(task, item.source, workspace, low_memory=True)

    def _write(self, item: Item, computed: Any) -> None:
        if self._is_lost(item):
            return
        try:
            with item.timed("write"):
                outcome = self._process.write(item.taken.task, computed)
                outputs = self._ledger.describe(outcome.outputs)
        except Exception as error:
            self._record_failure(item, error)
        else:
            self._record(item, outcome, outcome.state, outputs)
            self._workspace(item).clear()
            item.taken.claim.release()

    def _is_lost(self, item: Item) -> bool:
        if item.taken.claim.is_held():
            return False
        self._on_event(Event("lost", item.stem, "another worker took this one for dead and took over"))
        return True

    def _record_failure(self, item: Item, error: Exception) -> None:
        if (number := storage_error(error)) is not None:
            # The claim stays: it tells the next run that what was published so far is ours.
            raise OutputError(
                f"{item.stem}: {errno.errorcode[number]} in {self._ledger.output_dir}: {error}; nothing "
                "half-written was published; free space, then give the same command to resume"
            ) from error
        log.error("%s failed\n%s", item.stem, "".join(traceback.format_exception(error)))
        if self._is_lost(item):
            return
        reason = f"{type(error).__name__}: {error}"
        state = "blocked" if isinstance(error, Blocked) else "failed"
        self._record(item, EpisodeOutcome(reason=reason), state, [])
        if state == "failed":
            self._job.count_failure(item.stem)
        item.taken.claim.release()

    def _record(self, item: Item, outcome: EpisodeOutcome, state: str, outputs: Sequence[Any]) -> None:
        task = item.taken.task
        facts = {
            "episode": task.output,
            "state": state,
            "reason": outcome.reason,
            "variant": task.variant,
            "source": item.source_facts or {"file": str(task.source)},
            "fingerprint": item.fingerprint,
            "outputs": outputs,
            "seconds": item.seconds,
            "low_memory": item.low_memory,
            "run": self._job.run,
            "worker": self.name,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "result": outcome.record,
            **self._ledger.identity.facts,
        }
        if state in FINAL_STATES:
            self._ledger.withdraw(item.taken.record, outputs)
        self._ledger.write(task, facts)
        tell_news(self._ledger.path(task.output), facts, self.name)
        self._on_event(Event(state, task.output, outcome.reason))

    def _workspace(self, item: Item) -> Workspace:
        return Workspace(self._ledger.folder / "stages" / item.stem, item.fingerprint)

    def _submit(self, step: Callable[..., None], *args: Any) -> None:
        self._behind.append(self._writer.submit(step, *args))

    def _wait_for_writes(self, allowed: int) -> None:
        while len(self._behind) > allowed:
            self._behind.popleft().result()

    def _report_kept(self, task: Any) -> None:
        self._on_event(Event("kept", task.output))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a GPU (told by name: the runner does not import torch)."""
    return any(isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" for e in causes(error))


def storage_error(error: BaseException) -> int | None:
    """The errno of a full or read-only file system behind an error, or None."""
    numbers = (e.errno for e in causes(error) if isinstance(e, OSError))
    return next((number for number in numbers if number in STORAGE_ERRORS), None)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Send what the package logs to a worker's file as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("guided_transfer")
    package.addHandler(handler)
    if package.level == logging.NOTSET:
        package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        with suppress(OSError):  # a full disk; what matters is said elsewhere
            handler.close()
