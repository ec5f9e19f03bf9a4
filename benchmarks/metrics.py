"""What measuring one two-view episode costs, and what the ceiling loses by looking at half of the frames.

    python benchmarks/metrics.py [--frames 33] [--size 224] [--repeats 5] [--episodes 4]

First the parts on a procedural table seen by a still room camera and a moving wrist camera; what is measured is
noise over it, with a ceiling beside it. Then, in processor time of one thread, so that other work on the machine
does not count, a held-out episode: generating it with the bundled model, its ceiling, its metrics; the bar is 10 %.
Last, on all held-out episodes, the ceiling's foreground PSNR over half of each clip against that over whole clips.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import torch

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.process import EpisodeTransfer, measured
from guided_transfer.cli.resolve import resolve
from guided_transfer.cli.sweep import few_episodes
from guided_transfer.metrics.cross_view import cross_view
from guided_transfer.metrics.fidelity import blur_ssim, canny
from guided_transfer.metrics.foreground import background_change, foreground_fidelity, regions
from guided_transfer.metrics.geometry import look_up
from guided_transfer.metrics.similarity import psnr_db
from guided_transfer.metrics.suite import episode_metrics, sampled_frames
from guided_transfer.metrics.temporal import static_steps
from guided_transfer.runner.process import Place
from guided_transfer.scenes import simulate
from guided_transfer.types import Camera, Episode, View

LABELS = (3, 4)


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


def cpu_seconds(function):
    """What it returns, and its processor time."""
    start = time.process_time()
    found = function()
    return found, time.process_time() - start


def as_video(rgb):
    return rgb.permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def as_frames(video):
    return ((video[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def share(process, task, episode):
    """Processor seconds of generating an episode, of its ceiling and of its metrics."""
    process.pipeline.settings = replace(process.pipeline.settings, with_ceiling=False)
    result, generation_s = cpu_seconds(lambda: process.generate(task, episode, process.run.two_view))
    tokenizer, names = process.pipeline.tokenizer, list(result.rgb)
    both = torch.cat([as_video(result.rgb[name]) for name in names], dim=3)
    ceiling_s = {"half": 0.0, "whole": 0.0}
    for picture in (as_video(result.rgb[names[0]]), both):
        latents = tokenizer.encode(picture)
        for part, count in (("half", latents.shape[2] // 2 + 1), ("whole", latents.shape[2])):
            ceiling_s[part] += cpu_seconds(lambda z=latents[:, :, :count]: tokenizer.decode(z))[1]
    half = {name: result.rgb[name][:17] for name in names}
    facts = next(iter(result.record["views"].values())) | {"ceiling_frames": [[0, 17]]}
    result = replace(result, ceilings=half, record={"views": dict.fromkeys(names, facts)})
    _, metrics_s = cpu_seconds(lambda: measured(episode, result, LABELS))
    return {
        "generation_s": generation_s,
        "metrics_s": metrics_s,
        "ceiling_half_s": ceiling_s["half"],
        "ceiling_whole_s": ceiling_s["whole"],
        "share": (metrics_s + ceiling_s["half"]) / generation_s,
        "share_with_whole_ceiling": (metrics_s + ceiling_s["whole"]) / generation_s,
    }


def half_against_whole(tokenizer, episode):
    """By view, foreground PSNR [dB] of the tokenizer over the first half of the clip, minus that over all of it."""
    found = {}
    for name, view in episode.views.items():
        rgb = as_frames(tokenizer.decode(tokenizer.encode(as_video(view.rgb))))
        kept, half = regions(view.labels, LABELS).kept, slice(0, 17)
        found[name] = psnr_db(view.rgb[half], rgb[half], kept[half]) - psnr_db(view.rgb, rgb, kept)
    return found


def with_the_bundled_model(count):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        simulate(folder, episodes=count, num_frames=33, heldout=True)
        words = ["--source_data_dir", folder, "--output_data_dir", f"{folder}/out", "--checkpoint_dir", "bundled"]
        run = resolve(parse_transfer([*words, "--limit", str(count)], prog="metrics", about=""))
        process, report, differences = EpisodeTransfer(run, Place()), {}, []
        for task, episode in few_episodes(run, process):
            report = report or share(process, task, episode)
            differences += half_against_whole(process.pipeline.tokenizer, episode).values()
    mean, worst = statistics.fmean(differences), max(differences, key=abs)
    print(f"share of generation: {report['share']:.1%}, whole ceilings {report['share_with_whole_ceiling']:.1%}")
    print(f"ceiling over half of a clip: {mean:+.2f} dB on average, at most {worst:+.2f} dB")
    return report | {"views": len(differences), "half_minus_whole_db": {"mean": mean, "worst": worst}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=4)
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
    report["bundled"] = with_the_bundled_model(args.episodes)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
