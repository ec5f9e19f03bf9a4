"""Which episode a worker takes next. No one hands out work: workers agree through claims and records alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from guided_transfer.runner.claims import Claim, Claims
from guided_transfer.runner.ledger import Ledger, Record
from guided_transfer.runner.plan import EpisodeTask

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
        run: what this run has tried already stays settled for it, also for workers that were started again.
        worker, num_workers: which stride is ours.
        on_kept: told of episodes of our stride that were finished before this run.
    """

    def __init__(
        self,
        tasks: Sequence[EpisodeTask],
        ledger: Ledger,
        claims: Claims,
        run: str,
        worker: int,
        num_workers: int,
        on_kept: Callable[[EpisodeTask], None],
    ) -> None:
        self._own = tasks[worker::num_workers]
        self._others = [task for k, task in enumerate(tasks) if k % num_workers != worker]
        self._ledger = ledger
        self._claims = claims
        self._run = run
        self._on_kept = on_kept
        self._at_start = ledger.versions()
        self._held_elsewhere: list[EpisodeTask] = []

    def free(self) -> Iterator[Taken]:
        """Episodes that nobody works on."""
        for task in self._own:
            yield from self._take(task, self._ledger.version(task.output), own=True)
        if self._others:
            versions = self._ledger.versions()  # one listing instead of a look at every record
            for task in self._others:
                yield from self._take(task, versions.get(task.output), own=False)

    def held_elsewhere(self, poll_s: float) -> Iterator[Taken]:
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
                time.sleep(poll_s)

    def _take(self, task: EpisodeTask, version: int | None, *, own: bool) -> Iterator[Taken]:
        if self._is_settled(task, version):
            if own and version == self._at_start.get(task.output):
                self._on_kept(task)
        elif (claim := self._claims.take(task.output)) is None:
            self._held_elsewhere.append(task)
        else:
            yield from self._check(task, claim)

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
        return bool(record and record.get("run") == self._run) or self._ledger.is_finished(task, record)
