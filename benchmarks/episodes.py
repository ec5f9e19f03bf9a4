"""Reading and writing an episode against plain h5py on the same data.

    python benchmarks/episodes.py [--frames 200] [--repeats 3]

Every measurement is a process of its own, so that its peak memory is its own; both sides take turns.
Reading: plain h5py reads each picture dataset whole; ours checks the file, decodes labels and splits the views.
Writing: new pictures are in memory; plain h5py reads the other datasets from the source, writes everything with the
same compression and syncs; ours does that, reopens the file and compares all of it with source and pictures.
The bar is 60 % of h5py's throughput. Bytes are those of the arrays, not of the file; peak memory is what a process
needs beyond what it had before, new pictures included.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from guided_transfer.episodes import make_example_episode, open_episodes, write_transferred

PICTURES = ("rgb_images", "depth_images", "seg_images")
RESULTS = Path(__file__).parent / "results" / "episodes.json"


def make_source(path: Path, frames: int, compression: str | None) -> Path:
    """An episode with the noise of a rendered picture, without which compression would be too easy."""
    short = make_example_episode(path.with_suffix(".short"), 8)
    with h5py.File(short) as old, h5py.File(path, "w") as new:
        demo, random = old["data/demo_0"], np.random.default_rng(0)

        def repeat(name: str, dataset: h5py.HLObject) -> None:
            if not isinstance(dataset, h5py.Dataset):
                return
            value = np.resize(dataset[()], (frames, *dataset.shape[1:]))
            if name.endswith("rgb_images"):
                value += random.integers(0, 4, value.shape, np.uint8)
            store(new, f"data/demo_0/{name}", value, compression)

        demo.visititems(repeat)
    short.unlink()
    return path


def store(file: h5py.File, path: str, value: np.ndarray, compression: str | None) -> None:
    chunks = (1, 1, *value.shape[2:]) if compression and value.ndim == 5 else None
    file.create_dataset(path, data=value, chunks=chunks, compression=compression if chunks else None)


def read_h5py(source: Path) -> tuple[float, dict[str, np.ndarray]]:
    start = time.perf_counter()
    with h5py.File(source) as file:
        arrays = {name: file[f"data/demo_0/observations/{name}"][()] for name in PICTURES}
    return time.perf_counter() - start, arrays


def write_h5py(source: Path, target: Path, compression: str | None) -> float:
    with h5py.File(source) as file:
        frames = file[f"data/demo_0/observations/{PICTURES[0]}"][()]
    start = time.perf_counter()
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        store(new, PICTURES[0], frames, compression)
        for name in PICTURES[1:]:
            store(new, name, old[f"data/demo_0/observations/{name}"][()], compression)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    return time.perf_counter() - start


def read_ours(source: Path) -> float:
    start = time.perf_counter()
    with open_episodes(source) as file:
        file.read("demo_0")
    return time.perf_counter() - start


def write_ours(source: Path, target: Path) -> float:
    with open_episodes(source) as file:
        frames = {name: view.rgb for name, view in file.read("demo_0").views.items()}
        start = time.perf_counter()
        write_transferred(file, target, {"demo_0": frames}, {})
        return time.perf_counter() - start


def measure_here(what: str, source: Path, compression: str | None) -> None:
    """One measurement; prints seconds and the growth of peak memory in bytes."""
    target = source.with_name("target.hdf5")
    if what == "read ours":
        with open_episodes(source) as file:  # starts the helper, as the first file of a run does
            file.layout("demo_0")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which importing has raised
    took_s = {
        "read h5py": lambda: read_h5py(source)[0],
        "read ours": lambda: read_ours(source),
        "write h5py": lambda: write_h5py(source, target, compression),
        "write ours": lambda: write_ours(source, target),
    }[what]()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([took_s, 1024 * (int(peak.split()[1]) - before)]))
    target.unlink(missing_ok=True)


def measure(what: str, source: Path, compression: str | None) -> tuple[float, int]:
    command = [sys.executable, __file__, "--one", what, "--source", str(source), "--compression", str(compression)]
    return tuple(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def compare(action: str, source: Path, compression: str | None, repeats: int) -> dict:
    runs = {who: [] for who in ("h5py", "ours")}
    for _ in range(repeats):
        for who, found in runs.items():
            found.append(measure(f"{action} {who}", source, compression))
    with h5py.File(source) as file:
        sizes = [file[f"data/demo_0/observations/{name}"].nbytes for name in PICTURES]
    row = {"action": action, "storage": compression or "uncompressed", "picture_bytes": sum(sizes)}
    for who, found in runs.items():
        seconds = [took_s for took_s, _ in found]
        row[f"{who}_s"], row[f"{who}_min_max_s"] = statistics.median(seconds), [min(seconds), max(seconds)]
        row[f"{who}_peak_bytes"] = max(peak for _, peak in found)
    row["throughput_ratio"] = row["h5py_s"] / row["ours_s"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compression", type=lambda text: None if text == "None" else text, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_here(options.one, options.source, options.compression)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for compression in (None, "gzip"):
            source = make_source(Path(folder, f"{compression}.hdf5"), options.frames, compression)
            rows += [compare(action, source, compression, options.repeats) for action in ("read", "write")]
    for row in rows:
        print(
            f"{row['action']:5} {row['storage']:12} ours {row['ours_s']:.2f} s, h5py {row['h5py_s']:.2f} s, "
            f"{row['throughput_ratio']:.0%} of its throughput; peak {row['ours_peak_bytes'] / 1e6:.0f} MB "
            f"against {row['h5py_peak_bytes'] / 1e6:.0f} MB for {row['picture_bytes'] / 1e6:.0f} MB of pictures"
        )
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    result = {"machine": machine, "frames": options.frames, "repeats": options.repeats, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
