"""How far a run is: read from the records, through their index."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from guided_transfer.errors import UsageError
from guided_transfer.runner.claims import Watch, beats
from guided_transfer.runner.files import sha256_json, write_whole
from guided_transfer.runner.index import Index
from guided_transfer.runner.plan import Plan

STATES = ("done", "failed", "rejected", "blocked")


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        planned: episodes asked for by all runs on this folder (shards, limits and all).
        done, failed, rejected, blocked: settled episodes.
        running: claimed by a worker not known to be dead.
        left: planned, neither settled nor running.
        workers: workers not known to be dead.
        busy_s: mean time of an episode's slowest step (read, compute, write), which sets the pace.
        episodes_per_hour, left_s: at the present number of workers; None while there is no worker.
        problems: (episode, state, reason) of everything that is settled but not done.
    """

    planned: int
    done: int
    failed: int
    rejected: int
    blocked: int
    running: int
    left: int
    workers: int
    busy_s: float | None
    episodes_per_hour: float | None
    left_s: float | None
    problems: list[tuple[str, str, str]]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep what is planned where `read_status` finds it; equal plans share a file, so nobody's is overwritten."""
    stems = sorted(task.output for task in plan.tasks)
    path = folder / "plans" / f"{sha256_json(stems)[:16]}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write("\n".join(stems).encode()))


def read_status(output_dir: Path, index: Index | None = None, watch: Watch | None = None) -> RunStatus:
    """Read how far the run of an output folder is.

    Args:
        output_dir: what was given as `--output_data_dir`.
        index: hand the same one in again to follow a run: only new records are read.
        watch: likewise: workers of other machines are seen to die.

    Raises:
        UsageError: no run was started there.
    """
    folder = output_dir / "ledger"
    if not folder.is_dir():
        raise UsageError(f"{output_dir} holds no run (no ledger folder); give the --output_data_dir of one")
    index, watch = index or Index(folder), watch or Watch()
    index.refresh()
    alive = {beat.stem for beat in beats(folder) if not watch.is_dead(beat)}
    running = {stem for stem, worker in _claimed(folder) if worker in alive and stem not in index.entries}
    return _status(index, planned_stems(folder) | index.entries.keys(), running, len(alive))


def planned_stems(folder: Path) -> set[str]:
    """The episodes of all plans of a ledger folder."""
    return {stem for path in folder.glob("plans/*.txt") for stem in path.read_text().split("\n")}


def _claimed(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.glob("claims/*"):
        try:
            yield path.name.rpartition(".")[0], json.loads(path.read_bytes())["worker"]
        except (OSError, ValueError, KeyError):  # released or not yet written
            continue


def _status(index: Index, planned: set[str], running: set[str], workers: int) -> RunStatus:
    counts = Counter(entry.state for entry in index.entries.values())
    busy = [entry.busy_s for entry in index.entries.values() if entry.state == "done"]
    busy_s = sum(busy) / len(busy) if busy else None
    left = len(planned) - len(index.entries) - len(running)
    pace_s = busy_s / workers if busy_s and workers else None
    problems = sorted(
        ((stem, e.state, e.reason) for stem, e in index.entries.items() if e.state != "done"),
        key=lambda row: (len(row[0]), row[0]),  # data_2 before data_10
    )
    return RunStatus(
        planned=len(planned),
        **{state: counts[state] for state in STATES},
        running=len(running),
        left=left,
        workers=workers,
        busy_s=busy_s,
        episodes_per_hour=3600 / pace_s if pace_s else None,
        left_s=(left + len(running)) * pace_s if pace_s else None,
        problems=problems,
    )


def status_table(status: RunStatus, max_problems: int = 20) -> Table:
    """The status for people."""
    table = Table(show_header=False, box=None)
    for state in (*STATES, "running", "left"):
        table.add_row(state, str(getattr(status, state)))
    table.add_row("planned", str(status.planned))
    if status.episodes_per_hour and status.left_s is not None:
        table.add_row("episodes per hour", f"{status.episodes_per_hour:.1f} with {status.workers} workers")
        table.add_row("time left", f"{status.left_s / 3600:.1f} h")
    for stem, state, reason in status.problems[:max_problems]:
        table.add_row(stem, f"{state}: {reason}")
    if len(status.problems) > max_problems:
        table.add_row("", f"... and {len(status.problems) - max_problems} more (--json lists all)")
    return table


def follow_status(output_dir: Path, *, interval_s: float = 5.0, console: Console | None = None) -> None:
    """Show the status until nothing runs any more, or until Ctrl-C."""
    index, watch = Index(output_dir / "ledger"), Watch()
    status = read_status(output_dir, index, watch)
    with Live(status_table(status), console=console) as live:
        while status.workers:
            time.sleep(interval_s)
            status = read_status(output_dir, index, watch)
            live.update(status_table(status))
