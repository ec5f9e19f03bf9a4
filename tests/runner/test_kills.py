"""Killed at any moment and started again, a run ends with the bytes of one that was never killed.

SIGKILL goes to a run's whole process, to one torchrun rank, or to the torchrun agent (which orphans its ranks:
they go on beside the next run). The stand-in leaves a sign while it writes, so that the log can tell how many
kills landed in the middle of a file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from folders import Folder, published

from guided_transfer.runner import read_status

SLOW = ("--compute_s", 0.01, "--write_s", 0.03, "--lease_s", 20)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@dataclass
class Killer:
    """Starts runs over one folder and kills them, and notes where each kill landed."""

    folder: Folder
    rng: random.Random
    landed: Counter[str] = field(default_factory=Counter)

    def kill_once(self, launcher: tuple[str, ...] = ()) -> bool:
        """Start a run and kill one of its processes at a random moment; False if it was finished before."""
        options = ("--engine", "torchrun") if launcher else ()
        beats, left_before = set(self._beats()), set(self._half_written())
        process = self.folder.start(*SLOW, *options, launcher=launcher)
        while process.poll() is None and beats >= set(self._beats()):
            time.sleep(0.01)
        time.sleep(self.rng.uniform(0, 0.3))
        if process.poll() is not None:
            process.communicate()
            return False
        victim, role = self._victim(process.pid)
        os.kill(victim, signal.SIGSTOP)  # so that the look below sees what the kill interrupts
        time.sleep(0.005)
        writing = bool(list((self.folder.out / "ledger").glob(f"writing-{victim}")))
        # What earlier kills left half-written stays until a run ends well, and does not count again.
        half_written = not left_before >= set(self._half_written())
        os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=60)
        self.landed[role] += 1
        self.landed["while writing"] += writing or half_written
        for sign in (self.folder.out / "ledger").glob("writing-*"):
            sign.unlink()
        return True

    def _beats(self) -> Iterator[Path]:
        return self.folder.out.glob("ledger/runs/*/*.beat")

    def _half_written(self) -> Iterator[Path]:
        return self.folder.out.rglob(".*.partial")

    def _victim(self, pid: int) -> tuple[int, str]:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if not children:
            return pid, "process"
        return self.rng.choice([(pid, "agent"), *((child, "rank") for child in children)])

    def finish(self) -> None:
        """Resume until all is done, and leave no orphan behind."""
        code, stdout, stderr = self.folder.finish(*SLOW)
        assert code == 0, stdout + stderr


def nothing_left_over(out: Path) -> list[str]:
    """Files that should be gone after a run that ended well."""
    patterns = ("**/.*.partial", "ledger/claims/*", "ledger/stages/*", "ledger/runs/*/*.beat")
    return [str(path) for pattern in patterns for path in out.glob(pattern)]


def undisturbed(folder: Folder) -> dict[str, bytes]:
    out, folder.out = folder.out, folder.root / "undisturbed"
    assert folder.finish()[0] == 0
    expected, folder.out = dict(published(folder.out)), out
    return expected


def test_killed_and_resumed_runs_end_bit_identical(tmp_path):
    folder = Folder(tmp_path / "batch", episodes=10)
    expected = undisturbed(folder)
    killer = Killer(folder, random.Random(7))
    for _ in range(5):
        killer.kill_once()
    killer.finish()
    assert published(folder.out) == expected
    assert nothing_left_over(folder.out) == []
    assert killer.landed["process"] >= 4


def test_an_interrupted_episode_continues_from_its_room_view(folder):
    """The kept stage is what continues: replaced by other bytes under a true seal, it shows in the result."""
    process = folder.start("--compute_s", 30)
    stages = folder.out / "ledger" / "stages" / "data_0"
    while not (stages / "demo_0.room.json").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert read_status(folder.out).done == 0
    kept = (stages / "demo_0.room.npy").read_bytes()
    assert folder.finish()[0] == 0
    assert (folder.out / "data_0_room_view.mp4").read_bytes() == kept[-3072:]
    assert not stages.exists()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_and_twice_abandons(folder, times):
    process = folder.start("--compute_s", 1.0)
    while not (folder.out / "ledger" / "stages" / "data_0" / "demo_0.room.json").exists():
        time.sleep(0.02)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    stdout, stderr = process.communicate(timeout=60)
    summary = json.loads(stdout)
    assert "Ctrl-C again abandons" in stderr
    assert "stopped: interrupted" in summary["says"]
    assert "same command again to resume" in summary["says"]
    assert summary["done"] == (1 if times == 1 else 0)
    assert list((folder.out / "ledger" / "claims").iterdir()) == []
    assert folder.finish()[0] == 0


def test_sigterm_abandons_at_once_and_the_stage_is_kept(folder):
    process = folder.start("--compute_s", 60)
    stage = folder.out / "ledger" / "stages" / "data_0" / "demo_0.room.json"
    while not stage.exists():
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert stage.exists()


@pytest.mark.soak
def test_a_hundred_kills(tmp_path):
    """Driver, ranks and agents; writes benchmarks/results/runner_kills.json when run from the repository."""
    rng = random.Random(20)
    landed: Counter[str] = Counter()
    batch = 0
    while landed["kills"] < 100:
        folder = Folder(tmp_path / f"batch_{batch}", episodes=40)
        batch += 1
        expected = undisturbed(folder)
        killer = Killer(folder, rng, landed)
        while landed["kills"] < 100 and killer.kill_once(TORCHRUN if rng.random() < 0.3 else ()):
            landed["kills"] += 1
        killer.finish()
        assert published(folder.out) == expected
        assert nothing_left_over(folder.out) == []
    assert landed["while writing"] >= 50
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    results.mkdir(parents=True, exist_ok=True)
    report = {"what": "SIGKILLs, each followed by a resume", "batches": batch, **landed, "different_outputs": 0}
    (results / "runner_kills.json").write_text(json.dumps(report, indent=1) + "\n")
