"""The real command with the bundled model, through every engine: the same bytes, whoever did the work.

Small pictures, short clips, one step; nothing is stood in for. At four threads the network rounds otherwise than at
one, already at this size: an engine that let its launcher choose the threads (torchrun: one) would show.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from folders import published

from guided_transfer.episodes import make_example_episode

FRAMES = {"data_0": 3, "data_1": 9, "data_2": 5, "data_10": 12}
"""The last one takes two clips."""

WORDS = ("--resolution", "48x48", "--num_steps", "1", "--device", "cpu", "--cpu_threads", "4", "--prompt", "a ward")
FORGETFUL = {"run", "worker", "finished_at", "seconds", "outputs", "peak_memory_gb", "mtime_ns"}
"""Keys of a record that say when and by whom, not what."""

ENGINES = [("local", 1), ("torchrun", 1), ("torchrun", 2), ("torchrun", 3), ("ray", 1), ("ray", 2)]


@dataclass
class Batch:
    """Episodes, and ways to run the command over them."""

    root: Path

    def __post_init__(self) -> None:
        self.sources = self.root / "sources"
        self.sources.mkdir(parents=True)
        for stem, frames in FRAMES.items():
            make_example_episode(self.sources / f"{stem}.hdf5", frames, height_px=32, width_px=32)
        (self.root / "short.yaml").write_text("{clip_frames: 9}")

    def start(self, out: Path, engine: str, workers: int, *more: str) -> subprocess.Popen[str]:
        launcher = [sys.executable]
        if engine == "torchrun":
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}"]
        words = ["-m", "guided_transfer.transfer", "--source_data_dir", str(self.sources), "--engine", engine]
        words += ["--output_data_dir", str(out), "--checkpoint_dir", "bundled", "--no_report", "--quiet", *WORDS]
        words += ["--model_config_file", str(self.root / "short.yaml"), *more]
        words += ["--ray_workers", str(workers)] if engine == "ray" else []
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.Popen(
            [*launcher, *words],
            env={**environment, "XDG_CACHE_HOME": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, out: Path, engine: str, workers: int, *more: str) -> None:
        process = self.start(out, engine, workers, *more)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said

    def kill_at_work(self, out: Path, engine: str, workers: int, rng: random.Random) -> int:
        """Start a run and kill all of its processes while episodes are in hand; returns how many were."""
        process = self.start(out, engine, workers)
        while process.poll() is None and not list(out.glob("ledger/stages/*/*.json")):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        for pid in (*children(process.pid), process.pid):  # the ranks first: their agent would start others
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
        return len(list(out.glob("ledger/claims/*")))


def children(pid: int) -> list[int]:
    """Ranks of a torchrun agent; other processes here have none."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def what_was_done(out: Path) -> dict[str, Any]:
    """Every record, without what says when and by whom it was done."""

    def forget(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: forget(item) for key, item in value.items() if key not in FORGETFUL}
        return value

    return {path.stem: forget(json.loads(path.read_text())) for path in out.glob("ledger/*.json")}


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Batch:
    return Batch(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def expected(batch) -> Path:
    """What one process makes that nobody disturbs."""
    batch.finish(batch.root / "expected", "local", 1)
    return batch.root / "expected"


def require_same(out: Path, expected: Path) -> None:
    """Every published byte (episodes with their provenance, videos, prompts), and what is recorded."""
    assert published(out) == published(expected)
    assert what_was_done(out) == what_was_done(expected)


def test_one_engine_finishes_what_another_was_killed_at(batch, expected):
    """A batch that began with its last episode, killed under torchrun, finished on Ray."""
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'guided-transfer[ray]'")
    out = batch.root / "handed_on"
    batch.finish(out, "local", 1, "--only", "data_10")
    assert batch.kill_at_work(out, "torchrun", 2, random.Random(1)) > 0
    batch.finish(out, "ray", 2)
    require_same(out, expected)


@pytest.mark.soak
def test_every_engine_in_any_order_killed_and_resumed(batch, expected):
    """Writes benchmarks/results/runner_matrix.json when run from the repository."""
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'guided-transfer[ray]'")
    rng, same, killed = random.Random(3), Counter[str](), 0
    for engine, workers in ENGINES:
        for again in range(3):
            out = batch.root / f"{engine}_{workers}_{again}"
            batch.finish(out, *rng.choice(ENGINES), "--only", rng.choice(sorted(FRAMES)))
            killed += batch.kill_at_work(out, engine, workers, rng) > 0
            batch.finish(out, engine, workers)
            require_same(out, expected)
            same[f"{engine}, {workers}"] += 1
    assert killed > 0
    report = {
        "what": "batches begun by another engine, killed, resumed; each ended with the bytes of an undisturbed run",
        "batches by engine and workers": same,
        "killed with episodes in hand": killed,
    }
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "runner_matrix.json"
    results.write_text(json.dumps(report, indent=1) + "\n")
