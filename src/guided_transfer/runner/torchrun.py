"""The engine for ranks started by torchrun: one worker per rank, or per group of `--num_gpus` ranks.

Groups share the episodes through claims, so none of them waits for another. Inside a group the leader takes
an episode and tells the others; all compute it together, and the leader alone writes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guided_transfer.errors import UsageError
from guided_transfer.runner.claims import boot_id
from guided_transfer.runner.files import sha256_json
from guided_transfer.runner.local import work_until_stopped
from guided_transfer.runner.plan import EpisodeTask
from guided_transfer.runner.process import EpisodeOutcome, OnEvent, Place, Process
from guided_transfer.runner.worker import Job
from guided_transfer.runner.workspace import Workspace


@dataclass(frozen=True)
class TorchrunEngine:
    """Workers are the ranks of this launch, in groups of `num_gpus` that share one video.

    Raises:
        UsageError: not started by torchrun, or the number of ranks is no multiple of `num_gpus`.
    """

    num_gpus: int = 1

    def __post_init__(self) -> None:
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise UsageError("--engine torchrun: start with torchrun, which sets RANK and WORLD_SIZE")
        if self.num_gpus < 1 or self.world_size % self.num_gpus:
            raise UsageError(
                f"--num_gpus {self.num_gpus}: {self.world_size} ranks cannot be grouped by it; "
                "choose --nproc_per_node x --nnodes as a multiple of --num_gpus"
            )

    @property
    def rank(self) -> int:
        """Of this process."""
        return int(os.environ["RANK"])

    @property
    def world_size(self) -> int:
        """Number of processes of this launch."""
        return int(os.environ["WORLD_SIZE"])

    def run_id(self) -> str:
        """The same for all ranks that one torchrun agent started: its process, named past any reuse of ids."""
        parent = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
        started = parent[19]
        launch = [boot_id(), os.getppid(), started, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")]
        return sha256_json(launch)[:12]

    def run(self, job: Job, on_event: OnEvent) -> None:
        """Work as this rank's part asks."""
        place = self._place()
        process = job.factory(place)
        if place.group_size == 1:
            work_until_stopped(job, place, process, on_event)
        elif place.group_rank == 0:
            channel = Channel(place)
            # On an error this process ends, and torchrun ends the followers.
            work_until_stopped(job, place, GroupLeader(process, channel), on_event, at_end=channel.tell)
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader decides what Ctrl-C means
            follow(process, Channel(place))

    def _place(self) -> Place:
        worker, group_rank = divmod(self.rank, self.num_gpus)
        return Place(
            worker=worker,
            num_workers=self.world_size // self.num_gpus,
            group_rank=group_rank,
            group_size=self.num_gpus,
            device_index=int(os.environ.get("LOCAL_RANK", "0")),
            group=self._group(worker) if self.num_gpus > 1 else None,
        )

    def _group(self, worker: int) -> Any:
        import torch
        from torch import distributed

        if not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
                distributed.init_process_group("cpu:gloo,cuda:nccl")
            else:
                distributed.init_process_group("gloo")
        starts = range(0, self.world_size, self.num_gpus)
        groups = [distributed.new_group(list(range(start, start + self.num_gpus))) for start in starts]
        return groups[worker]


class Channel:
    """Python objects between the processes of one group, over gloo."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._leader = place.worker * place.group_size

    def tell(self, value: Any = None) -> Any:
        """The leader's value, on every rank of the group; None lets the followers go."""
        import torch
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, self._leader, self._place.group, torch.device("cpu"))
        return box[0]

    def first_error(self, mine: Exception | None) -> Exception | None:
        """The error of the lowest rank that met one, on every rank; None where all went well."""
        from torch import distributed

        errors: list[Exception | None] = [None] * self._place.group_size
        distributed.all_gather_object(errors, mine, group=self._place.group)
        return next((error for error in errors if error), None)


class GroupLeader(Process):
    """The process of a group, as its leader's worker sees it."""

    def __init__(self, process: Process, channel: Channel) -> None:
        self._process = process
        self._channel = channel

    def read(self, task: EpisodeTask) -> Any:
        """Read the leader's own copy; this runs on a thread, where the group must not be spoken to."""
        return self._process.read(task)

    def compute(self, task: EpisodeTask, source: Any, workspace: Workspace, *, low_memory: bool) -> Any:
        """Compute together with the followers."""
        self._channel.tell((task, low_memory))
        shared = SharedWorkspace(workspace, self._channel)
        computed, error = None, self._channel.first_error(None)  # followers have read
        if error is None:
            computed, error = _attempt(self._process, task, source, shared, low_memory, self._channel)
        if error:
            raise error
        return computed

    def write(self, task: EpisodeTask, computed: Any) -> EpisodeOutcome:
        """Write, alone."""
        return self._process.write(task, computed)


def follow(process: Process, channel: Channel) -> None:
    """Compute what the leader takes, until it has nothing more."""
    while order := channel.tell():
        task, low_memory = order
        source, mine = None, None
        try:
            source = process.read(task)
        except Exception as error:
            mine = error
        if channel.first_error(mine) is None:
            _attempt(process, task, source, SharedWorkspace(None, channel), low_memory, channel)


def _attempt(
    process: Process, task: EpisodeTask, source: Any, workspace: Workspace, low_memory: bool, channel: Channel
) -> tuple[Any, Exception | None]:
    """Compute, and agree with the group on whether it went well.

    An error on one rank only, in the middle of a collective, leaves the others waiting until the backend's own
    timeout ends them; claims and stages then do the rest.
    """
    computed, mine = None, None
    try:
        computed = process.compute(task, source, workspace, low_memory=low_memory)
    except Exception as error:
        mine = error
    return computed, channel.first_error(mine)


class SharedWorkspace(Workspace):
    """The leader's stages on every rank, so that all of a group continue from the same place."""

    def __init__(self, workspace: Workspace | None, channel: Channel) -> None:
        self._workspace = workspace
        self._channel = channel

    def save(self, name: str, array: np.ndarray, facts: Mapping[str, Any] | None = None) -> None:
        """Kept by the leader."""
        if self._workspace:
            self._workspace.save(name, array, facts)

    def load(self, name: str) -> tuple[np.ndarray, dict[str, Any]] | None:
        """What the leader finds."""
        return self._channel.tell(self._workspace.load(name) if self._workspace else None)
