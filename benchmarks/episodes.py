"""Reading and writing an episode against plain h5py on the same data.

    python benchmarks/episodes.py [--frames 200] [--repeats 5]

Every measurement is a process of its own, so that its peak memory is its own; all sides take turns.

Reading: plain h5py reads each picture dataset whole; ours checks the file, decodes labels and splits the views.

Writing: the new pictures are in memory at the start, the file and its folder are synced at the end.
  copy    plain h5py reads the other datasets from the source and writes the same file as ours, chunks and checksum
          included: the same data in and out. This is the bar.
  memory  plain h5py gets pictures, depth and labels in memory and writes them as the source stores them, so
          uncompressed ones without chunks or checksum. It reads nothing: a harder mark, for comparison.
  ours    copies, writes, syncs, reopens the file and compares all of it with source and pictures.

The bar is 60 % of h5py's throughput; ratios are medians over rounds, with the least and the greatest. Bytes are
those of the arrays, not of the file; peak memory is what a process needs beyond what it had before, new pictures
included.
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
BASELINES = {"read": ("h5py",), "write": ("copy", "memory")}
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


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def write_copy(source: Path, target: Path) -> float:
    """Another h5py file with the same content as ours, of new pictures and the source's other datasets."""
    with h5py.File(source) as file:
        frames = file[f"data/demo_0/observations/{PICTURES[0]}"][()]
    start = time.perf_counter()
    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(name: str, obj: h5py.HLObject) -> None:
            if not isinstance(obj, h5py.Dataset):
                return
            same = {"chunks": obj.chunks, "compression": obj.compression, "compression_opts": obj.compression_opts}
            if not name.endswith(PICTURES[0]):
                new.create_dataset(name, data=obj[()], **same)
            elif obj.chunks:
                new.create_dataset(name, data=frames, **same)
            else:
                new.create_dataset(name, data=frames, chunks=(1, 1, *obj.shape[2:]), fletcher32=True)

        old.visititems(copy)
    sync(target)
    sync(target.parent)
    return time.perf_counter() - start


def write_memory(source: Path, target: Path, compression: str | None) -> float:
    _, arrays = read_h5py(source)
    start = time.perf_counter()
    with h5py.File(target, "w") as new:
        for name, value in arrays.items():
            store(new, name, value, compression)
    sync(target)
    sync(target.parent)
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
    with open_episodes(source) as file:  # as the first file of a run does, starts the helper and loads libraries
        file.read("demo_0", slice(0, 1))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which importing has raised
    took_s = {
        "read h5py": lambda: read_h5py(source)[0],
        "read ours": lambda: read_ours(source),
        "write copy": lambda: write_copy(source, target),
        "write memory": lambda: write_memory(source, target, compression),
        "write ours": lambda: write_ours(source, target),
    }[what]()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([took_s, 1024 * (int(peak.split()[1]) - before)]))
    target.unlink(missing_ok=True)


def measure(what: str, source: Path, compression: str | None) -> tuple[float, int]:
    command = [sys.executable, __file__, "--one", what, "--source", str(source), "--compression", str(compression)]
    return tuple(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def compare(action: str, source: Path, compression: str | None, repeats: int) -> dict:
    """One row: seconds and peak memory of each side, and what share of each baseline's throughput is ours."""
    runs: dict[str, list[tuple[float, int]]] = {who: [] for who in (*BASELINES[action], "ours")}
    for _ in range(repeats):
        for who, found in runs.items():
            found.append(measure(f"{action} {who}", source, compression))
    with h5py.File(source) as file:
        sizes = [file[f"data/demo_0/observations/{name}"].nbytes for name in PICTURES]
    row = {"action": action, "storage": compression or "uncompressed", "picture_bytes": sum(sizes)}
    for who, found in runs.items():
        row[f"{who}_s"] = spread([took_s for took_s, _ in found])
        row[f"{who}_peak_bytes"] = max(peak for _, peak in found)
    for who in BASELINES[action]:
        pairs = zip(runs[who], runs["ours"], strict=True)
        row[f"throughput_over_{who}"] = spread([theirs[0] / ours[0] for theirs, ours in pairs])
    return row


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def describe(row: dict) -> str:
    lines = [
        f"{row['action']} {row['storage']}: ours {row['ours_s']['median']:.3f} s, peak "
        f"{row['ours_peak_bytes'] / 1e6:.0f} MB for {row['picture_bytes'] / 1e6:.0f} MB of pictures"
    ]
    for who in BASELINES[row["action"]]:
        share = row[f"throughput_over_{who}"]
        lines.append(
            f"  {share['median']:4.0%} ({share['min']:.0%} to {share['max']:.0%}) of {who}'s throughput, "
            f"which takes {row[f'{who}_s']['median']:.3f} s, peak {row[f'{who}_peak_bytes'] / 1e6:.0f} MB"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compression", type=lambda text: None if text == "None" else text, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_here(options.one, options.source, options.compression)
        return
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for compression in (None, "gzip"):
            source = make_source(Path(folder, f"{compression}.hdf5"), options.frames, compression)
            for action in BASELINES:
                rows.append(compare(action, source, compression, options.repeats))
                print(describe(rows[-1]), flush=True)
    result = {"machine": machine, "frames": options.frames, "repeats": options.repeats, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
