"""What a second GPU brings: one worker on one, then two on two, over the same episodes; and the same pictures.

    python benchmarks/data_parallel.py --work /tmp/data_parallel
    python benchmarks/data_parallel.py --work /tmp/data_parallel --frames 9 --num_steps 1 -- --device cpu

Runs the real command with the bundled model; what follows `--` is handed to it. Each worker's pace is that between
the records it wrote, so loading and its first episode do not count and are reported apart. Where PyAV is missing,
videos and report are left out. Ends with 1 if any picture differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py

from guided_transfer.episodes import make_example_episode

RESULT = Path(__file__).parent / "results" / "data_parallel_h200x2.json"


@dataclass(frozen=True)
class Run:
    """What one start of the command left behind.

    Attributes:
        out: its output folder.
        wall_s: from start to end of the command.
        cpu_s: processor time of all its processes.
    """

    out: Path
    wall_s: float
    cpu_s: float

    def records(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        """(when it was written, record) by worker, in order; by the file's time, finer than the record's."""
        found = defaultdict(list)
        for path in self.out.glob("ledger/*.json"):
            record = json.loads(path.read_text())
            found[record["worker"]].append((path.stat().st_mtime_ns / 1e9, record))
        return {worker: sorted(rows, key=lambda row: row[0]) for worker, rows in found.items()}

    def episodes_per_hour(self) -> float:
        """Sum of the workers' paces."""
        times = [[written for written, _ in rows] for rows in self.records().values()]
        if any(len(worker) < 2 for worker in times):
            raise SystemExit("a worker did a single episode, so it has no pace; give more --episodes")
        return sum(3600 * (len(worker) - 1) / (worker[-1] - worker[0]) for worker in times)

    def report(self) -> dict[str, Any]:
        """Figures, each the median over the episodes that are not the first of their worker."""
        workers = list(self.records().values())
        steady = [record for rows in workers for _, record in rows[1:]]
        intervals = [b[0] - a[0] for rows in workers for a, b in pairwise(rows)]
        return {
            "episodes_per_hour": self.episodes_per_hour(),
            "episodes_by_worker": [len(rows) for rows in workers],
            "interval_s": {"median": statistics.median(intervals), "min": min(intervals), "max": max(intervals)},
            **{f"{step}_s": statistics.median(r["seconds"][step] for r in steady) for step in steady[0]["seconds"]},
            "generating_s": statistics.median(generating_s(record) for record in steady),
            "first_compute_s_with_loading": [rows[0][1]["seconds"]["compute"] for rows in workers],
            "wall_s": self.wall_s,
            "busy_cores": self.cpu_s / self.wall_s,
        }

    def pictures(self) -> dict[str, bytes]:
        """What was generated, by file."""
        found = {}
        for path in sorted(self.out.glob("*.hdf5")):
            with h5py.File(path) as file:
                found[path.name] = file["data/demo_0/observations/rgb_images"][:].tobytes()
        return found


def generating_s(record: dict[str, Any]) -> float:
    """Seconds of an episode's stages: warp, encode, sample, decode, for both views."""
    views = [view for demo in record["result"].values() for view in demo["views"].values()]
    return sum(sum(view["seconds"].values()) for view in views)


def transfer(args: argparse.Namespace, workers: int, out: Path) -> Run:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}"] if workers > 1 else []
    words = ["--source_data_dir", str(args.work / "episodes"), "--output_data_dir", str(out), "--quiet"]
    words += ["--checkpoint_dir", "bundled", "--num_steps", str(args.num_steps), *args.rest]
    if importlib.util.find_spec("av") is None:
        words += ["--no_videos", "--no_report"]
    gpus = ",".join(str(gpu) for gpu in range(workers))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus, "XDG_CACHE_HOME": str(args.work)}
    start, cpu_before = time.perf_counter(), children_cpu_s()
    command = [sys.executable, *launcher, "-m", "guided_transfer.transfer", *words]
    subprocess.run(command, env=environment, check=True)
    return Run(out, time.perf_counter() - start, children_cpu_s() - cpu_before)


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_episodes(folder: Path, count: int, frames: int) -> None:
    """One episode under many names: seeds and so pictures depend on the name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    first = make_example_episode(folder / "data_0.hdf5", frames)
    for k in range(1, count):
        shutil.copyfile(first, folder / f"data_{k}.hdf5")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for episodes and results")
    parser.add_argument("--episodes", type=int, default=12, help="at least 4: each worker's first does not count")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--num_steps", type=int, default=35)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("rest", nargs="*", help="after --: further arguments of the command")
    args = parser.parse_args()
    if args.episodes < 4:
        parser.error(f"--episodes {args.episodes}: give at least 4, two for each worker")
    return args


def main() -> int:
    args = parse_arguments()
    make_episodes(args.work / "episodes", args.episodes, args.frames)
    pairs = []
    for repeat in range(args.repeats):
        runs = []
        for workers in (1, 2):
            out = args.work / f"out_{workers}_{repeat}"
            shutil.rmtree(out, ignore_errors=True)
            runs.append(transfer(args, workers, out))
            print(workers, json.dumps(runs[-1].report()), flush=True)
        pairs.append(tuple(runs))
    different = [name for one, two in pairs for name, rgb in one.pictures().items() if two.pictures()[name] != rgb]
    speedups = [two.episodes_per_hour() / one.episodes_per_hour() for one, two in pairs]
    about = json.loads((pairs[0][0].out / "run.json").read_text())["about"]
    del about["settings"]
    settings = {name: getattr(args, name) for name in ("episodes", "frames", "num_steps", "repeats", "rest")}
    results = {
        "what": "the command with the bundled model: one worker on one GPU, two workers on two",
        "settings": {**settings, "videos": importlib.util.find_spec("av") is not None},
        "machine": {"cores": os.cpu_count(), **about},
        "speedup": {"median": statistics.median(speedups), "min": min(speedups), "max": max(speedups)},
        "different_episodes": different,
        "one_worker": [one.report() for one, _ in pairs],
        "two_workers": [two.report() for _, two in pairs],
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(json.dumps(results, indent=1) + "\n")
    print(f"speed-up {results['speedup']['median']:.3f}, different episodes: {len(different)}, in {args.result}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
