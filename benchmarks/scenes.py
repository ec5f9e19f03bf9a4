"""Rendering time: one 33-frame scene, two views, one simulated and two real looks.

    python benchmarks/scenes.py [--device cuda] [--frames 33] [--repeats 7] [--threads 2]

The bars: 40 ms per scene on one H200; 0.25 s per picture on two CPU cores (--frames 4 is enough there).
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from guided_transfer import scenes


def seconds_per_scene(device, frames, repeats):
    """The first scene builds the noise volume and warms the allocator; it is not counted."""
    times = []
    for seed in range(repeats + 1):
        scene = scenes.sample_scene(seed)
        looks = [None, scenes.sample_style(2 * seed), scenes.sample_style(2 * seed + 1)]
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        scenes.render_clip(scene, looks, frames=range(40, 40 + frames), device=device, noise_seed=seed)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[1:]


def seconds_per_draw(repeats):
    start = time.perf_counter()
    for seed in range(repeats):
        scenes.sample_scene(seed)
    return (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    times = seconds_per_scene(args.device, args.frames, args.repeats)
    pictures = args.frames * 2 * 3
    result = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
        "threads": args.threads,
        "torch": torch.__version__,
        "frames": args.frames,
        "pictures": pictures,
        "scene_ms": {"median": 1e3 * statistics.median(times), "min": 1e3 * min(times), "max": 1e3 * max(times)},
        "picture_ms": 1e3 * statistics.median(times) / pictures,
        "draw_ms": 1e3 * seconds_per_draw(20),
    }
    if args.device == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(result, indent=2))
    out = Path(__file__).parent / "results" / f"scenes-{args.device}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
