"""Sources and outputs of one test, and ways to run over them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BATCH = Path(__file__).with_name("batch.py")


class Folder:
    """Episodes that the stand-in can read, and where everything else of a test goes."""

    def __init__(self, root: Path, episodes: int) -> None:
        self.root = root
        self.sources = root / "sources"
        self.out = root / "out"
        self.orders = root / "orders"
        self.sources.mkdir(parents=True)
        self.orders.mkdir()
        for k in range(episodes):
            (self.sources / f"data_{k}.hdf5").write_bytes(f"episode {k}; the stand-in reads no HDF5".encode())

    def start(self, *options: object, launcher: tuple[str, ...] = (), **popen: Any) -> subprocess.Popen[str]:
        """Start a run in a process of its own."""
        command = [*(launcher or (sys.executable,)), str(BATCH), str(self.sources), str(self.out)]
        return subprocess.Popen(
            [*command, "--orders", str(self.orders), *map(str, options)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(BATCH.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )

    def finish(self, *options: object, **keywords: Any) -> tuple[int, str, str]:
        """Run to the end; returns exit code, stdout, stderr."""
        process = self.start(*options, **keywords)
        stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr


def published(out: Path) -> Mapping[str, bytes]:
    """What a user sees: every file of the output folder but the run's own books."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != "run.json"}
