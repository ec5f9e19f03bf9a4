"""A labelled stand-in for the model: bytes derived from the seed, written through the runner's own atomic writer.

It stands in for the model only; plan, claims, ledger, stages and engines are the real ones. It sleeps where a
model would compute, and can be told to misbehave by files lying in a folder of orders.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guided_transfer.runner import EpisodeOutcome, EpisodeTask, Place, Process, Workspace
from guided_transfer.runner.files import write_whole

VIEWS = ("room", "wrist")
PICTURE_SHAPE = (4, 16, 16, 3)


def picture(task: EpisodeTask, view: str, source: bytes) -> np.ndarray:
    seed = [task.seed("demo_0", view), *source[:8]]
    return np.random.Generator(np.random.Philox(seed=seed)).integers(0, 256, PICTURE_SHAPE, dtype=np.uint8)


@dataclass
class StandIn(Process):
    """Computes a room view, keeps it, computes a wrist view from it, writes both."""

    output_dir: Path
    compute_s: float = 0.0
    write_s: float = 0.0
    orders: Path | None = None

    def read(self, task: EpisodeTask) -> bytes:
        return task.source.read_bytes()

    def compute(self, task: EpisodeTask, source: bytes, workspace: Workspace, *, low_memory: bool) -> Any:
        self._obey(task, low_memory)
        kept = workspace.load("demo_0.room")
        room = kept[0] if kept else picture(task, "room", source)
        if not kept:
            workspace.save("demo_0.room", room)
        time.sleep(self.compute_s)
        return room, picture(task, "wrist", source) ^ room

    def write(self, task: EpisodeTask, computed: Any) -> EpisodeOutcome:
        paths = [self.output_dir / f"{task.output}_{view}_view.mp4" for view in VIEWS]
        for path, frames in zip(paths, computed, strict=True):
            write_whole(path, lambda file, frames=frames: self._write_slowly(file, frames.tobytes()))
        target = task.target(self.output_dir)
        write_whole(target, lambda file: self._write_slowly(file, b"".join(f.tobytes() for f in computed)))
        seeds = {view: task.seed("demo_0", view) for view in VIEWS}
        return EpisodeOutcome((target, *paths), {"seeds": seeds, "prompt": task.prompt_index("demo_0", 40)})

    def _write_slowly(self, file: Any, content: bytes) -> None:
        marker = self.output_dir / "ledger" / f"writing-{os.getpid()}" if self.write_s else None
        if marker:
            marker.touch()
        half = len(content) // 2
        file.write(content[:half])
        file.flush()
        time.sleep(self.write_s)
        file.write(content[half:])
        if marker:
            marker.unlink()

    def _obey(self, task: EpisodeTask, low_memory: bool) -> None:
        if self.orders is None:
            return
        if (self.orders / f"fail-{task.output}").exists():
            raise ValueError(f"told to fail at {task.output}")
        if (self.orders / f"oom-{task.output}").exists() and not low_memory:
            raise MemoryError("told to run out of memory once")
        if (self.orders / f"kill-{task.output}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (once := self.orders / f"kill-once-{task.output}").exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class StandInFactory:
    """Picklable, as engines of several processes need it."""

    output_dir: Path
    compute_s: float = 0.0
    write_s: float = 0.0
    orders: Path | None = None

    def __call__(self, place: Place) -> StandIn:
        return StandIn(self.output_dir, self.compute_s, self.write_s, self.orders)
