"""What a run says while it goes on: for a person, as JSON lines, or nothing but errors."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from guided_transfer.cost import memory_now_gb
from guided_transfer.generation import Progress as Step
from guided_transfer.runner.process import Event

FAULTS = ("failed", "rejected", "blocked")


@dataclass(frozen=True)
class Looking:
    """How far a vision model is with a view's frames; shown like a step of the generation."""

    stage: str
    done: int
    total: int
    clip: int = 1
    num_clips: int = 1


class Quiet:
    """Faults alone, on stderr."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def start(self, num_episodes: int) -> None:
        """The run begins."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def progress(self, stem: str, demo: str, view: str, step: Step | Looking) -> None:
        """A view has come one step further."""

    def event(self, event: Event) -> None:
        """Something became of an episode."""
        if event.kind in FAULTS:
            print(f"{event.stem} {event.kind}: {event.reason}", file=sys.stderr)

    def stop(self) -> None:
        """The run is over."""


class JsonLines(Quiet):
    """One JSON object per line on stdout."""

    def start(self, num_episodes: int) -> None:
        """The run begins."""
        self._print("start", episodes=num_episodes)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._print("note", text=text)

    def progress(self, stem: str, demo: str, view: str, step: Step | Looking) -> None:
        """A view has come one step further."""
        self._print(
            "progress", episode=stem, demo=demo, view=view, **asdict(step), memory_gb=round(memory_now_gb(), 3)
        )

    def event(self, event: Event) -> None:
        """Something became of an episode."""
        self._print(event.kind, episode=event.stem, reason=event.reason)

    def _print(self, kind: str, **facts: Any) -> None:
        with self.lock:
            sys.stdout.write(json.dumps({"event": kind, **facts}) + "\n")  # in one piece: ranks share the pipe
            sys.stdout.flush()


class Live(Quiet):
    """Bars: episodes of the run, steps of the view in hand, time left, memory."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[memory]}"),
            console=self.console,
        )
        self.episodes: TaskID | None = None
        self.view: TaskID | None = None
        self.key = ""

    def start(self, num_episodes: int) -> None:
        """The run begins."""
        self.episodes = self.bars.add_task("episodes", total=num_episodes, unit="done", memory="")
        self.bars.start()

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.console.print(text, highlight=False, markup=False)

    def progress(self, stem: str, demo: str, view: str, step: Step | Looking) -> None:
        """A view has come one step further."""
        with self.lock:
            key = f"{stem} {demo} {view}"
            if key != self.key:
                if self.view is not None:
                    self.bars.remove_task(self.view)
                self.key, self.view = key, self.bars.add_task(key, total=1, unit="steps", memory="")
            assert self.view is not None
            clip = f" clip {step.clip}/{step.num_clips}" if step.num_clips > 1 else ""
            self.bars.update(
                self.view,
                description=f"{key}{clip} {step.stage}",
                completed=step.done,
                total=step.total,
                memory=f"{memory_now_gb():.1f} GB",
            )

    def event(self, event: Event) -> None:
        """Something became of an episode."""
        if event.kind == "stopping":
            self.note(event.reason)
        elif event.kind in FAULTS:
            self.note(f"{event.stem} {event.kind}: {event.reason}")
        if event.kind in ("done", "kept", *FAULTS) and self.episodes is not None:
            self.bars.advance(self.episodes)

    def stop(self) -> None:
        """The run is over."""
        if self.view is not None:
            self.bars.remove_task(self.view)
        self.bars.stop()


@cache
def reporter(quiet: bool, json_lines: bool) -> Quiet:
    """The process's one reporter; the run and its worker share it. Of several ranks, the first one talks."""
    if quiet or int(os.environ.get("RANK", 0)) > 0:
        return Quiet()
    return JsonLines() if json_lines else Live()
