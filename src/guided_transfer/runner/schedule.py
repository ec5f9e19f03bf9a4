"""Which episode a worker takes next. No one hands out work: workers agree through claims and records alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guided_transfer.runner.claims import Claim, Claims
from guided_transfer.runner.ledger import Ledger, Record
from guided_transfer.runner.plan import EpisodeTask
from guided_transfer.runner.process import Place

POLL_S = 0.5
POLLS_PER_LEASE = 20


@dataclass(frozen=True)
class Taken:
    """An episode this worker holds the claim of, with the record of an earlier run, if any."""

    task: EpisodeTask
    claim: Claim
    record: Record | None


class Schedule:
    """One worker's way through the plan.

    Each worker goes through its own stride first, so that workers rarely meet, and then helps with the
    others'. What somebody else holds is left for last.

    Args:
        tasks: the whole plan.
        ledger, claims: of the output folder.
        place: which stride is ours.
        run_folder: where the workers of this run leave signs for each other.
        on_kept: told of episodes of our stride that were finished before this run.
        lease_s: how long a worker may be silent.
    """

    def __init__(
        self,
        tasks: Sequence[EpisodeTask],
        ledger: Ledger,
        claims: Claims,
        place: Place,
        run_folder: Path,
        on_kept: Callable[[EpisodeTask], None],
        lease_s: float,
    ) -> None:
        self._strides = [tasks[k :: place.num_workers] for k in range(place.num_workers)]
        self._ledger = ledger
        self._claims = claims
        self._worker = place.worker
        self._run_folder = run_folder
        self._on_kept = on_kept
        self._patience_s = lease_s
        self._at_start = ledger.versions()
        self._held_elsewhere: list[EpisodeTask] = []

    def free(self) -> Iterator[Taken | None]:
        """Episodes that nobody works on; None while waiting."""
        for task in self._check_own_stride():
            yield from self._take(task)
        others = [k for k in range(len(self._strides)) if k != self._worker]
        others = others[self._worker :] + others[: self._worker]  # each begins to help with its neighbour
        versions = self._ledger.versions() if others else {}
        for worker in others:
            for task in self._strides[worker]:
                if task.output not in versions:
                    yield from self._take(task)
        deadline = time.monotonic() + self._patience_s
        for worker in others:
            while not self._sign(worker).exists() and time.monotonic() < deadline:
                yield from self._pause()
            for task in self._to_do_again(worker):
                yield from self._take(task)

    def _check_own_stride(self) -> list[EpisodeTask]:
        """What is to be done in our stride; the others are told which records they need not believe."""
        left = []
        for task in self._strides[self._worker]:
            if self._is_settled(task, self._at_start.get(task.output)):
                self._on_kept(task)
            else:
                left.append(task)
        again = [task.output for task in left if task.output in self._at_start]
        self._sign(self._worker).write_text("\n".join(again))
        return left

    def _to_do_again(self, worker: int) -> list[EpisodeTask]:
        """Another's episodes whose records do not settle them; all, if that worker never came to look."""
        sign = self._sign(worker)
        again = set(sign.read_text().split("\n")) if sign.exists() else self._at_start.keys()
        return [task for task in self._strides[worker] if task.output in self._at_start and task.output in again]

    def held_elsewhere(self) -> Iterator[Taken | None]:
        """Episodes that others held: those of dead workers are taken over, the rest is waited for."""
        while self._held_elsewhere:
            waiting, self._held_elsewhere = self._held_elsewhere, []
            progress = False
            for task in waiting:
                if self._is_settled(task, self._ledger.version(task.output)):
                    progress = True
                elif (claim := self._claims.take_over(task.output)) is None:
                    self._held_elsewhere.append(task)
                else:
                    progress = True
                    yield from self._check(task, claim)
            if not progress:
                yield from self._pause()

    def _sign(self, worker: int) -> Path:
        """Where a worker says that it has looked at its stride, and what is to be done again there."""
        return self._run_folder / f"{worker}.again"

    def _pause(self) -> Iterator[None]:
        """Wait a little, and let the worker look whether it should stop."""
        time.sleep(min(POLL_S, self._patience_s / POLLS_PER_LEASE))
        yield None

    def _take(self, task: EpisodeTask) -> Iterator[Taken]:
        if self._is_settled(task, self._ledger.version(task.output)):
            return
        if claim := self._claims.take(task.output):
            yield from self._check(task, claim)
        else:
            self._held_elsewhere.append(task)

    def _check(self, task: EpisodeTask, claim: Claim) -> Iterator[Taken]:
        """Look again with the claim in hand: somebody may have finished in between."""
        if self._is_settled(task, self._ledger.version(task.output)):
            claim.release()
        else:
            yield Taken(task, claim, self._ledger.read(task.output))

    def _is_settled(self, task: EpisodeTask, version: int | None) -> bool:
        """Whether there is nothing to do: a record written since we began, or an earlier one that is still true."""
        if version is None:
            return False
        if version != self._at_start.get(task.output):
            return True
        record = self._ledger.read(task.output)
        return bool(record and record.get("run") == self._run_folder.name) or self._ledger.is_finished(task, record)
