"""What the runner costs beside the work, at 100,000 episodes and 64 workers.

    python benchmarks/runner.py [--episodes 100000] [--workers 64] [--sleep_s 0.02]

The model is a stand-in that sleeps and writes a few bytes; plan, claims, ledger and status are the real ones.
Waits for fsync belong to the disk and are reported apart. Workers are processes of one machine.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from guided_transfer.runner import EpisodeOutcome, Ledger, Place, Process, RunIdentity, build_plan, read_status
from guided_transfer.runner.files import write_whole
from guided_transfer.runner.status import write_plan
from guided_transfer.runner.worker import Job, Worker

IDENTITY = RunIdentity({"seed": 1, "stand_in": "sleeps instead of a model"}, "benchmark")


@dataclass
class Sleeper(Process):
    """The stand-in."""

    output_dir: Path
    sleep_s: float

    def compute(self, task, source, workspace, *, low_memory):
        time.sleep(self.sleep_s)

    def write(self, task, computed):
        write_whole(task.target(self.output_dir), lambda file: file.write(task.output.encode()))
        return EpisodeOutcome((task.target(self.output_dir),), {"seed": task.seed("demo_0", "room")})


class Fsyncs:
    """Counts what this process waits for the disk."""

    def __init__(self):
        self.waited_s, self._fsync = 0.0, os.fsync
        os.fsync = self._timed

    def _timed(self, descriptor):
        start = time.perf_counter()
        self._fsync(descriptor)
        self.waited_s += time.perf_counter() - start


def work(job, place, sleep_s, report):
    fsyncs, events, start = Fsyncs(), [], time.perf_counter()

    def on_event(event):
        events.append(event.kind)
        if "started" not in events[:-1] and event.kind == "started":
            events.append(time.perf_counter() - start)

    Worker(job, place, Sleeper(job.ledger.output_dir, sleep_s), on_event).work()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report.put(
        {
            "episodes": events.count("done"),
            "kept": events.count("kept"),
            "wall_s": time.perf_counter() - start,
            "fsync_s": fsyncs.waited_s,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024,
            "first_episode_s": next((event for event in events if isinstance(event, float)), None),
        }
    )


def crowd(plan, out, workers, sleep_s):
    """Run a plan with so many worker processes; returns their reports and the wall time."""
    ledger = Ledger(out, IDENTITY)
    ledger.open()
    write_plan(ledger.folder, plan)
    job = Job(plan, None, ledger, f"run{time.monotonic_ns()}")
    context = multiprocessing.get_context("fork")
    report = context.SimpleQueue()
    start = time.perf_counter()
    processes = [
        context.Process(target=work, args=(job, Place(worker=k, num_workers=workers), sleep_s, report))
        for k in range(workers)
    ]
    for process in processes:
        process.start()
    reports = [report.get() for _ in processes]
    for process in processes:
        process.join()
    return reports, time.perf_counter() - start


def timed(function, *arguments, **keywords):
    start = time.perf_counter()
    result = function(*arguments, **keywords)
    return result, time.perf_counter() - start


def make_sources(folder, count):
    folder.mkdir()
    for k in range(count):
        (folder / f"data_{k}.hdf5").write_bytes(b"source %d" % k)
    return [folder / f"data_{k}.hdf5" for k in range(count)]


def alone(root, episodes):
    """One worker that never sleeps: all there is is overhead."""
    plan = build_plan(make_sources(root / "few", episodes), seed=1)
    per_episode = []
    for k in range(3):
        [report], _ = crowd(plan, root / f"alone_{k}", 1, 0.0)
        per_episode.append((report["wall_s"] - report["fsync_s"], report["fsync_s"], report["cpu_s"]))
    ms = [[1000 * value / episodes for value in values] for values in zip(*per_episode, strict=True)]
    return {
        "episodes": episodes,
        "overhead_ms_median": statistics.median(ms[0]),
        "overhead_ms_spread": [min(ms[0]), max(ms[0])],
        "fsync_ms_median": statistics.median(ms[1]),
        "cpu_ms_median": statistics.median(ms[2]),
    }


def measure(root, episodes, workers, sleep_s):
    sources = make_sources(root / "sources", episodes)
    plan, plan_s = timed(build_plan, sources, seed=1)
    driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out = root / "out"
    reports, wall_s = crowd(plan, out, workers, sleep_s)
    _, told_s = timed(read_status, out)
    status, status_s = timed(read_status, out)
    shutil.rmtree(out / "ledger" / "index")
    _, rebuild_s = timed(read_status, out)
    again, resume_s = crowd(plan, out, workers, sleep_s)
    done = sum(report["episodes"] for report in reports)
    assert (done, status.done, sum(report["kept"] for report in again)) == (episodes, episodes, episodes)
    return {
        "episodes": episodes,
        "workers": workers,
        "sleep_s": sleep_s,
        "plan_s": plan_s,
        "first_episode_s_median": statistics.median(r["first_episode_s"] for r in reports),
        "first_episode_s_max": max(r["first_episode_s"] for r in reports),
        "wall_s": wall_s,
        "cpu_ms_per_episode": 1000 * sum(r["cpu_s"] for r in reports) / episodes,
        "fsync_ms_per_episode": 1000 * sum(r["fsync_s"] for r in reports) / episodes,
        "worker_peak_mb_max": max(r["peak_mb"] for r in reports),
        "driver_mb_with_plan": driver_mb,
        "status_s": status_s,
        "status_from_workers_news_s": told_s,
        "status_without_any_index_s": rebuild_s,
        "resume_of_finished_run_s": resume_s,
    }


def machine():
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sleep_s", type=float, default=0.02)
    parser.add_argument("--folder", type=Path, help="where to work; the disk is part of what is measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        results = {
            "what": "runner with a stand-in that sleeps instead of a model",
            "machine": machine(),
            "one_worker_no_sleep": alone(Path(root), 500),
            "crowd": measure(Path(root), args.episodes, args.workers, args.sleep_s),
        }
    for part in ("one_worker_no_sleep", "crowd"):
        for name, value in results[part].items():
            print(f"{part:22}{name:28}{value if isinstance(value, int | list) else f'{value:.3f}'}")
    path = Path(__file__).parent / "results" / "runner.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
