"""Is a file safe to open? A helper process finds out before anything is read here."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from guided_transfer.errors import EpisodeError, EpisodeUnreadable

PROBE = Path(__file__).with_name("probe.py")
ANSWER_S = 90
"""Longer than the helper's own limit; reached only when the helper itself is stuck."""


def require_safe(path: Path) -> None:
    """Raise the first reason not to open `path`, as an `EpisodeUnreadable`; it has not been read then."""
    faults = find_hazards(path)
    if faults:
        raise faults[0]


def find_hazards(path: Path) -> list[EpisodeError]:
    """Every reason not to open `path`.

    Refused are links and storage in other files, virtual datasets, object dtypes, unknown filters, shapes and
    chunks that ask for absurd memory or that the stored bytes cannot fill, and structure that makes libhdf5 fail,
    crash, or run on. A helper process finds out, under limits of memory and processor time.
    """
    if not path.is_file():
        is_folder = "is a folder; name one of its files, or give it to `guided-transfer validate`"
        reason = "no such file" if not path.exists() else is_folder if path.is_dir() else "is no regular file"
        return [EpisodeUnreadable(reason, file=path)]
    answer = _helper.ask(path)
    if "died" in answer:
        return [EpisodeUnreadable(answer["died"], file=path)]
    return [EpisodeUnreadable(reason, file=path, dataset=where or None) for where, reason in answer["faults"]]


class _Helper:
    """The long-lived helper; one per process, started when first needed and again when it died."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.owner = 0

    def ask(self, path: Path) -> dict:
        with self.lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(str(path.absolute())) + "\n")
                process.stdin.flush()
                ready, _, _ = select.select([process.stdout], [], [], ANSWER_S)
                return json.loads(process.stdout.readline()) if ready else self._lost()
            except (OSError, ValueError):
                return self._lost()

    def _running(self) -> subprocess.Popen[str]:
        # A forked process must not talk through its parent's pipes.
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            plugins_off = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(PROBE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=plugins_off,
            )
            self.owner = os.getpid()
        return self.process

    def _lost(self) -> dict:
        self.stop()
        return {"died": "the process that checks files gave no answer; try again, or look for what killed it"}

    def stop(self) -> None:
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()
        self.process = None


_helper = _Helper()
atexit.register(_helper.stop)
