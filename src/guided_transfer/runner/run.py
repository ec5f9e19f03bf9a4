"""Run a plan to its end, on any engine, and say what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from typing import Protocol

from guided_transfer.errors import OutputError, RunConflict, UsageError
from guided_transfer.runner.claims import DEFAULT_LEASE_S, Watch, beats
from guided_transfer.runner.index import Index
from guided_transfer.runner.ledger import Ledger
from guided_transfer.runner.local import LocalEngine
from guided_transfer.runner.plan import Plan
from guided_transfer.runner.process import Event, OnEvent, ProcessFactory
from guided_transfer.runner.status import write_plan
from guided_transfer.runner.tidy import tidy
from guided_transfer.runner.worker import Job


class Engine(Protocol):
    """Where the workers of a run live."""

    def run_id(self) -> str:
        """Names this start of the program; all its workers must get the same."""

    def run(self, job: Job, on_event: OnEvent) -> None:
        """Work until every episode is settled.

        Raises:
            KeyboardInterrupt: the user abandoned the run; claims are released.
        """


@dataclass(frozen=True)
class RunSummary:
    """What became of a plan.

    Attributes:
        done: episodes whose outputs are there, those of earlier runs included.
        problems: (episode, state, reason) of the others that are settled.
        left: episodes not settled, because the run was stopped.
        stopped: why it was stopped, or None.
    """

    done: int
    problems: tuple[tuple[str, str, str], ...]
    left: int
    stopped: str | None

    @property
    def exit_code(self) -> int:
        """0: all done; 2: some failed, blocked, rejected or left; 3: none done."""
        if not self.problems and not self.left:
            return 0
        return 2 if self.done else 3

    def __str__(self) -> str:
        counts = Counter(state for _, state, _ in self.problems)
        parts = [f"{self.done} done", *(f"{count} {state}" for state, count in counts.items())]
        text = ", ".join([*parts, f"{self.left} left"] if self.left else parts)
        if self.stopped:
            text += f" (stopped: {self.stopped})"
        if self.left or counts["failed"]:
            text += "; give the same command again to resume: it skips what is finished and retries what failed"
        return text


def run(
    plan: Plan,
    factory: ProcessFactory,
    ledger: Ledger,
    *,
    engine: Engine | None = None,
    max_failures: int | None = None,
    on_event: OnEvent | None = None,
    lease_s: float = DEFAULT_LEASE_S,
) -> RunSummary:
    """Transfer every episode of a plan that is not finished yet.

    Args:
        plan: what to do.
        factory: makes the process of a worker; called once per worker.
        ledger: of the output folder.
        engine: where the workers live; one in this process if None.
        max_failures: stop taking episodes once so many have failed; None means never.
        on_event: told what happens, from several threads.
        lease_s: how long another machine's worker may be silent before its episodes are taken over.

    Raises:
        UsageError: the output folder holds the sources, or `max_failures` is less than 1.
        RunConflict: the output folder belongs to a run with other settings.
        OutputError: outputs or records cannot be written.
    """
    if max_failures is not None and max_failures < 1:
        raise UsageError(f"--max_failures {max_failures}: must be 1 or more; leave it out to go on whatever fails")
    check(plan, ledger)
    ledger.open()
    watch = Watch(lease_s)
    for beat in beats(ledger.folder):
        watch.is_dead(beat)  # a first look, so that the one at the end can tell
    write_plan(ledger.folder, plan)
    engine = engine or LocalEngine()
    job = Job(plan, factory, ledger, engine.run_id(), max_failures, lease_s)
    stopped = None
    try:
        engine.run(job, on_event or ignore)
    except KeyboardInterrupt:
        stopped = "interrupted"
    summary = summarise(job, stopped or job.stop_reason())
    tidy(ledger, watch)
    return summary


def check(plan: Plan, ledger: Ledger) -> None:
    """Refuse what `run` refuses before it takes the first episode, and write nothing.

    Raises:
        UsageError, RunConflict, OutputError: as `run`.
    """
    plan.check_output(ledger.output_dir)
    refuse_live_overwrite(ledger)
    ledger.check()


def ignore(event: Event) -> None:
    """Nobody listens."""


def summarise(job: Job, stopped: str | None) -> RunSummary:
    """Count what the records say about the plan."""
    index = Index(job.ledger.folder)
    index.refresh()
    found = [(task.output, index.entries.get(task.output)) for task in job.plan.tasks]
    problems = tuple((stem, e.state, e.reason) for stem, e in found if e and e.state != "done")
    done = sum(1 for _, e in found if e and e.state == "done")
    return RunSummary(done, problems, len(found) - done - len(problems), stopped)


@dataclass(frozen=True)
class Outlook:
    """What a run would find in its output folder.

    Attributes:
        left: what it would work on.
        finished: episodes that it would keep as they are.
        refused: reasons by episode: a file of somebody else's stands in the way, or its own file cannot be used.
    """

    left: Plan
    finished: int
    refused: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """That of the run, if nothing else fails."""
        return 0 if not self.refused else 2 if self.finished or len(self.left) else 3


def look_ahead(plan: Plan, ledger: Ledger) -> Outlook:
    """What the records and files of an output folder say about a plan; writes nothing."""
    left, refused, finished = [], {}, 0
    for task in plan.tasks:
        record = ledger.read(task.output)
        if ledger.is_finished(task, record):
            finished += 1
            continue
        try:
            interrupted = any(ledger.folder.glob(f"claims/{escape(task.output)}.*"))
            ledger.check_target(task, record, interrupted=interrupted)
            left.append(task)
        except OutputError as error:
            refused[task.output] = str(error)
    return Outlook(Plan(tuple(left)), finished, refused)


def refuse_live_overwrite(ledger: Ledger) -> None:
    """`--overwrite` must not pull the folder from under a run with other settings that still works there.

    Raises:
        RunConflict: a worker is not known to be dead.
    """
    if not ledger.overwrite or ledger.is_ours():
        return
    watch = Watch()
    alive = sorted(beat.stem for beat in beats(ledger.folder) if not watch.is_dead(beat))
    if alive:
        raise RunConflict(
            f"--overwrite: {ledger.output_dir} may still be worked on by {', '.join(alive[:4])}; "
            f"stop that run, or, if its machine is gone, remove {ledger.folder / 'runs'}"
        )
