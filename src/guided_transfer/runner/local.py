"""The engine for one process, and how all engines treat Ctrl-C."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from guided_transfer.runner.process import Event, OnEvent, Place, Process
from guided_transfer.runner.worker import Job, Worker


class LocalEngine:
    """One worker, in this process."""

    def run_id(self) -> str:
        """A new name."""
        return uuid.uuid4().hex[:12]

    def run(self, job: Job, on_event: OnEvent) -> None:
        """Load the model and work."""
        place = Place()
        work_until_stopped(job, place, job.factory(place), on_event)


def work_until_stopped(
    job: Job, place: Place, process: Process, on_event: OnEvent, at_end: Callable[[], object] | None = None
) -> None:
    """Be one worker of a job; `at_end` is called once nothing is left to take, also after a first Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C; the episodes in hand were finished (once) or abandoned (twice).
    """
    worker = Worker(job, place, process, on_event)
    with stop_on_signals(worker, on_event):
        worker.work()
        if at_end:
            at_end()
    if worker.stop_reason:
        raise KeyboardInterrupt


@contextmanager
def stop_on_signals(worker: Worker, on_event: OnEvent) -> Iterator[None]:
    """First Ctrl-C: finish the episodes in hand. Second, or SIGTERM: abandon them, their stages kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted or number == signal.SIGTERM:
            raise KeyboardInterrupt
        interrupted = True
        worker.stop("interrupted")
        on_event(Event("stopping", reason="finishing the episodes in hand; Ctrl-C again abandons them"))

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
