"""The engine past one machine: Ray actors, each with the model loaded once, sharing episodes through claims.

Ray places the workers and restarts them; who does which episode is agreed through the output folder, which
every node must see under the same path. So a lost node or a killed actor costs the episodes it held, and those
continue from their finished stages elsewhere.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from typing import Any

from guided_transfer.errors import DeviceError, UsageError
from guided_transfer.runner.index import Index
from guided_transfer.runner.process import Event, OnEvent, Place
from guided_transfer.runner.worker import Job, Worker

WATCH_INTERVAL_S = 1.0

PASSED_ON = ("OMP_WAIT_POLICY",)
"""Environment that an actor must have before it imports anything; a cluster's nodes have their own."""


class RayWorker:
    """What one actor is; Ray builds it again, model and all, when its process or node dies."""

    def __init__(self, job: Job, place: Place) -> None:
        self._job = job
        self._place = place
        self._process = job.factory(place)

    def work(self) -> None:
        """Work until every episode is settled."""
        Worker(self._job, self._place, self._process, lambda event: None).work()


@dataclass(frozen=True)
class RayEngine:
    """Workers are Ray actors.

    Attributes:
        address: of the cluster (`--ray_address`): "auto", "ray://host:10001", "host:6379"; None starts a local one.
        num_workers: None means one per GPU of the cluster, or one where there is none.
        gpus_per_worker: None means one where the cluster has GPUs.
        cpus_per_worker: for decoding, warping and writing.
        max_restarts: how often each actor is built again.
    """

    address: str | None = None
    num_workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: float = 1.0
    max_restarts: int = 20

    def run_id(self) -> str:
        """A new name."""
        return uuid.uuid4().hex[:12]

    def run(self, job: Job, on_event: OnEvent) -> None:
        """Start the actors and watch the records until all are through."""
        ray = connect(self.address)
        actors = self._actors(ray, job)
        try:
            self._watch(ray, [actor.work.remote() for actor in actors], job, on_event)
        finally:
            for actor in actors:
                ray.kill(actor)

    def _actors(self, ray: Any, job: Job) -> list[Any]:
        gpus = ray.cluster_resources().get("GPU", 0)
        gpus_per_worker = min(gpus, 1.0) if self.gpus_per_worker is None else self.gpus_per_worker
        num_workers = self.num_workers or max(1, int(gpus // gpus_per_worker) if gpus_per_worker else 1)
        options = {
            "num_gpus": gpus_per_worker,
            "num_cpus": self.cpus_per_worker,
            "max_restarts": self.max_restarts,
            "max_task_retries": self.max_restarts,
            "runtime_env": {"env_vars": {name: os.environ[name] for name in PASSED_ON if name in os.environ}},
        }
        actor_class = ray.remote(**options)(RayWorker)
        return [actor_class.remote(job, Place(worker=k, num_workers=num_workers)) for k in range(num_workers)]

    def _watch(self, ray: Any, running: list[Any], job: Job, on_event: OnEvent) -> None:
        errors: list[Exception] = []
        num_workers = len(running)
        index = Index(job.ledger.folder)
        index.refresh()
        pause_s = WATCH_INTERVAL_S
        while running:
            try:
                finished, running = ray.wait(running, timeout=pause_s)
                errors += [error for worker in finished if (error := _error_of(ray, worker))]
                looked_at = time.monotonic()
                changed = index.refresh()
                pause_s = max(WATCH_INTERVAL_S, 10 * (time.monotonic() - looked_at))
                for stem in changed:
                    on_event(Event(index.entries[stem].state, stem, index.entries[stem].reason))
            except KeyboardInterrupt:
                if job.stop_reason():
                    raise
                job.stop("interrupted")
                on_event(Event("stopping", reason="finishing the episodes in hand; Ctrl-C again abandons them"))
        # What a lost worker left undone, others have done.
        serious = [error for error in errors if not isinstance(error, DeviceError)]
        if serious or len(errors) == num_workers:
            raise (serious or errors)[0]


def _error_of(ray: Any, worker: Any) -> Exception | None:
    """What ended a worker, or None where it came to its end."""
    try:
        ray.get(worker)
    except ray.exceptions.RayActorError as error:
        return DeviceError(f"a Ray worker was lost and could not be started again: {error}")
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    return None


def connect(address: str | None) -> Any:
    """Join a Ray cluster, or start one on this machine; one joined already is taken as it is.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray: Ray is not installed; pip install 'guided-transfer[ray]'") from error
    if ray.is_initialized():
        return ray
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except ConnectionError as error:
        raise UsageError(f"--ray_address {address}: no cluster there: {error}") from error
    return ray
