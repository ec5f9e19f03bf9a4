"""Edge and blur controls against a plain loop over the same OpenCV calls.

    python benchmarks/controls.py [--frames 121] [--size 960] [--repeats 3]

The loop gives OpenCV every thread it wants; the bar is 1.2 times its time. Both sides take turns, so that
a busy machine slows both.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from guided_transfer.controls.blur import BLURS, vis_control
from guided_transfer.controls.edge import CANNY_THRESHOLDS, edge_control


def plain_edge(rgb, preset):
    lines = [cv2.Canny(frame, *CANNY_THRESHOLDS[preset]) for frame in rgb.numpy()]
    return torch.from_numpy(np.repeat(np.stack(lines)[..., None], 3, axis=-1))


def plain_vis(rgb, preset):
    blur, out = BLURS[preset], []
    for frame in rgb.numpy():
        h, w = frame.shape[:2]
        small = cv2.resize(frame, (w // blur.shrink, h // blur.shrink), interpolation=cv2.INTER_AREA)
        small = cv2.bilateralFilter(small, blur.diameter_px, blur.sigma_colour, blur.sigma_space)
        picture = torch.from_numpy(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)).permute(2, 0, 1)[None]
        for size in ((h // blur.pixelate, w // blur.pixelate), (h, w)):
            picture = (
                F.interpolate(picture.float(), size, mode="bicubic", antialias=True).clamp(0, 255).round().byte()
            )
        out.append(picture[0].permute(1, 2, 0))
    return torch.stack(out)


def seconds(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def moving_video(frames, size):
    rows, columns = np.mgrid[:size, :size]
    noise = np.random.default_rng(0).integers(0, 30, (size, size, 3))
    waves = [np.sin((rows + 3 * t) / 17) + np.cos((columns - 2 * t) / 29) for t in range(frames)]
    return torch.from_numpy(np.stack([(60 * wave[..., None] + 110 + noise).astype(np.uint8) for wave in waves]))


def compare(name, ours, plain, rgb, preset, repeats):
    our_s, plain_s = [], []
    for _ in range(repeats):
        elapsed, expected = seconds(plain, rgb, preset)
        plain_s.append(elapsed)
        elapsed, got = seconds(ours, rgb, preset)
        our_s.append(elapsed)
        assert int((got.int() - expected.int()).abs().max()) <= 1
    ratio = statistics.median(our_s) / statistics.median(plain_s)
    spread = [min(our_s), max(our_s), min(plain_s), max(plain_s)]
    print(
        f"{name:5} {preset:10} {statistics.median(our_s):8.3f} s {statistics.median(plain_s):8.3f} s {ratio:6.2f}"
    )
    return {
        "control": name,
        "preset": preset,
        "ours_s": statistics.median(our_s),
        "plain_loop_s": statistics.median(plain_s),
        "ratio": ratio,
        "ours_min_max_plain_min_max_s": spread,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--size", type=int, default=960)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rgb = moving_video(args.frames, args.size)
    print(f"{args.frames} frames {args.size} x {args.size}\nkind  preset         ours     plain loop  ratio")
    rows = [compare("edge", edge_control, plain_edge, rgb, "medium", args.repeats)]
    rows += [compare("vis", vis_control, plain_vis, rgb, preset, args.repeats) for preset in ("low", "medium")]
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "opencv": cv2.__version__,
        "torch": torch.__version__,
    }
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        machine["cpu"] = next(
            (line.split(":")[1].strip() for line in lines if "model name" in line), machine["cpu"]
        )
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    report = {
        "machine": machine,
        "frames": args.frames,
        "size_px": args.size,
        "repeats": args.repeats,
        "rows": rows,
    }
    (results / "controls.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
