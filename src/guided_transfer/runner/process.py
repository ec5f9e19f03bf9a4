"""What the runner is handed, and what it hands on: the nouns between the runner and the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guided_transfer.runner.plan import EpisodeTask
from guided_transfer.runner.workspace import Workspace


@dataclass(frozen=True)
class Place:
    """Where one process stands among all.

    Attributes:
        worker, num_workers: which worker this is; a worker may be a group of processes that share one video.
        group_rank, group_size: place inside the group.
        device_index: which accelerator of this machine to use.
        group: the torch process group of the worker, where group_size > 1.
    """

    worker: int = 0
    num_workers: int = 1
    group_rank: int = 0
    group_size: int = 1
    device_index: int = 0
    group: Any = None


@dataclass(frozen=True)
class EpisodeOutcome:
    """What became of one episode.

    Attributes:
        outputs: files published for it, below the output folder.
        record: JSON-able facts for the ledger: seeds, prompts, guardrail state, zones, metrics, ...
        state: "rejected" (not good enough) and "blocked" (a guardrail) are final for these settings.
        reason: why, where the state is not "done".
    """

    outputs: tuple[Path, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    state: Literal["done", "rejected", "blocked"] = "done"
    reason: str = ""


class Process(ABC):
    """How one episode is transferred, in three steps.

    The runner overlaps neighbours: while one episode is computed on the worker's main thread, the next is
    read and the one before is written, each on a thread of its own. An exception in any step makes that
    episode "failed" (or "blocked", for `errors.Blocked`) and the run goes on; `UsageError` and
    `CheckpointError` end the run, since every episode would meet them.
    """

    def read(self, task: EpisodeTask) -> Any:
        """Load what `compute` needs; runs ahead, on the reading thread."""
        return None

    @abstractmethod
    def compute(self, task: EpisodeTask, source: Any, workspace: Workspace, *, low_memory: bool) -> Any:
        """Do the work that wants the GPU.

        Args:
            task: what to do, and the seeds for it.
            source: what `read` returned.
            workspace: where finished stages are kept for a run that continues this one.
            low_memory: set on the second try after running out of memory.
        """

    @abstractmethod
    def write(self, task: EpisodeTask, computed: Any) -> EpisodeOutcome:
        """Publish the outputs, each by rename of a whole file; runs behind, on the writing thread."""


ProcessFactory = Callable[[Place], Process]
"""Called once per worker process; loads the model. Must be picklable for engines of several processes."""


@dataclass(frozen=True)
class Event:
    """Something worth showing while a run goes on.

    Attributes:
        kind: "kept" (finished before), "started", "done", "failed", "rejected", "blocked", "lost" (another worker
            took over), or "stopping".
        stem: of the episode's outputs; empty where the event is about the run.
        reason: in words.
    """

    kind: str
    stem: str = ""
    reason: str = ""


OnEvent = Callable[[Event], None]
