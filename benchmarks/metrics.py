"""What measuring one two-view episode costs.

    python benchmarks/metrics.py [--frames 33] [--size 224] [--repeats 5] [--generation_s SECONDS]

A procedural table seen by a still room camera and a moving wrist camera; what is measured is noise over it, with a
ceiling beside it. With `--generation_s` (the time one such episode takes to generate on this machine) the share is
printed; the bar is 10 % on a CPU.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import cv2
import torch

from guided_transfer.metrics.cross_view import cross_view
from guided_transfer.metrics.fidelity import blur_ssim, canny
from guided_transfer.metrics.foreground import background_change, foreground_fidelity, regions
from guided_transfer.metrics.geometry import look_up
from guided_transfer.metrics.suite import episode_metrics, sampled_frames
from guided_transfer.metrics.temporal import static_steps
from guided_transfer.types import Camera, Episode, View


def camera(frames, size, height_m, drift_m):
    """Looks straight down from `height_m`, moving along x."""
    k = (
        torch.tensor([[size * 0.9, 0, size / 2], [0, size * 0.9, size / 2], [0, 0, 1]])
        .double()
        .repeat(frames, 1, 1)
    )
    pose = torch.eye(4).double().repeat(frames, 1, 1)
    pose[:, 1:3, 1:3] *= -1
    pose[:, 0, 3] = -drift_m * torch.arange(frames)
    pose[:, 2, 3] = height_m
    return Camera(k, pose, size, size)


def view(name, seen_by, height_m):
    frames, size = len(seen_by), seen_by.height_px
    eye_x = -seen_by.cam_from_world[:, 0, 3]
    across = (torch.arange(size) + 0.5 - size / 2) * height_m / (size * 0.9)
    x, y = (across + eye_x[:, None])[:, None].expand(-1, size, -1), (-across)[:, None].expand(frames, -1, size)
    waves = [torch.sin(x * 40 + c) * torch.cos(y * (30 + 9 * c)) + torch.sin(x * y * 300) / 3 for c in range(3)]
    rgb = (torch.stack(waves, -1) * 80 + 127).to(torch.uint8)
    labels = torch.where((x.abs() < 0.15) & (y.abs() < 0.1), 3, 2).to(torch.uint8)
    return View(name, rgb, torch.full(labels.shape, height_m), labels, seen_by)


def example(frames, size):
    room, wrist = camera(frames, size, 1.2, 0.0), camera(frames, size, 0.5, 0.005)
    return Episode("bench/demo_0", 30.0, {"room": view("room", room, 1.2), "wrist": view("wrist", wrist, 0.5)})


def timed(function, repeats):
    function()
    times, cpu = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        function()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times), "cpu_s": min(cpu)}


def parts(episode, generated, ceiling):
    room, wrist = episode.views["room"], episode.views["wrist"]
    sampled, where = sampled_frames(room.num_frames), regions(room.labels, (3, 4))
    found = look_up(wrist, room)
    pair = (room.rgb, generated["room"])
    both = (generated["wrist"], generated["room"], wrist.rgb, room.rgb)
    return {
        "episode, with ceiling": lambda: episode_metrics(episode, generated, ceiling=ceiling, clip_borders=[17]),
        "episode, no ceiling": lambda: episode_metrics(episode, generated),
        "one view: foreground": lambda: foreground_fidelity(*pair, where, sampled),
        "one view: background": lambda: background_change(*pair, where),
        "one view: static steps": lambda: static_steps(room, where.changed, pair),
        "one view: edges": lambda: canny(pair[1][sampled]),
        "one view: blur SSIM": lambda: blur_ssim(pair[0][sampled], pair[1][sampled]),
        "look-up": lambda: look_up(wrist, room),
        "cross view": lambda: cross_view(found, *both, sampled),
    }


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    return {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__, "opencv": cv2.__version__}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--generation_s", type=float, default=math.nan)
    args = parser.parse_args()
    episode = example(args.frames, args.size)
    noise = torch.Generator().manual_seed(0)
    generated = {
        name: (v.rgb + 9 * torch.randn(v.rgb.shape, generator=noise)).clamp(0, 255).to(torch.uint8)
        for name, v in episode.views.items()
    }
    ceiling = {name: v.rgb for name, v in episode.views.items()}
    rows = {name: timed(part, args.repeats) for name, part in parts(episode, generated, ceiling).items()}
    threads = torch.get_num_threads()
    print(f"{args.frames} frames, {args.size} px, {threads} threads: median (min .. max) of {args.repeats}")
    for name, row in rows.items():
        spread = f"({row['min_s']:.3f} .. {row['max_s']:.3f})"
        print(f"{name:24} {row['median_s']:7.3f} s  {spread}  {row['cpu_s']:.3f} s of CPU")
    report = {
        "machine": machine(),
        "frames": args.frames,
        "size_px": args.size,
        "repeats": args.repeats,
        "rows": rows,
    }
    if not math.isnan(args.generation_s):
        report["generation_s"] = args.generation_s
        report["share"] = rows["episode, with ceiling"]["median_s"] / args.generation_s
        print(f"share of {args.generation_s:g} s: {report['share']:.1%}")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
