"""How good are the bundled weights? Every claim of the model card, measured on held-out episodes.

    python benchmarks/bundled.py --work runs/bundled                        # 32 episodes; minutes on a GPU
    python benchmarks/bundled.py --work runs/bundled --episodes 4 --brief   # a few minutes on two idle CPU cores
    python benchmarks/bundled.py --work runs/bundled --parts seconds        # the time on this CPU alone
    python benchmarks/bundled.py --work runs/bundled --parts held           # what the decoder costs a foreground
    python benchmarks/bundled.py --work runs/bundled --parts rim            # the background beside it

Scenes, arms and phantoms are held out; looks are drawn as `sample_style` draws them, the garish ones left out, so
that every material comes up about equally often. What is finished stays in --work: a run that was killed goes on.
Writes benchmarks/results/bundled.json, where a part that was not measured this time is kept if it belongs to the
same weights, and contact sheets into --work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bundled_classifier import FOREGROUND_LABELS, PLAUSIBLE, load_or_train, spread
from bundled_episode import FIRST_SEED, Job, Models, Shot, measure, take_shot
from bundled_report import bars, by_material, figures, print_bars, summarise
from bundled_sheets import write_sheets
from guided_transfer import scenes
from guided_transfer.metrics.similarity import abs_diff, psnr_db
from guided_transfer.models.tree import CheckpointTree
from guided_transfer.sampling.guidance import held_pixels, latent_mask, pixel_mask
from guided_transfer.scenes.styles import Style

CANDIDATES = 48
"""Drawn styles from which each caption takes the one with the least covered materials."""
SECONDS_REPEATS = 3
LOSS_SCENES = 8
SEEN_SEED, UNSEEN_SEED = 10_000, 700_000
SIGMAS = (0.1, 0.5, 1.0, 3.0, 10.0, 60.0)
USUAL_WEIGHTS = (0.25, 0.375, 0.375)


def main() -> None:
    args = parse_arguments()
    weights = weights_hash(CheckpointTree.open(args.checkpoint_dir).root)
    report = previous(args.output, weights) | {"weights_sha256": weights}
    if "episodes" in args.parts:
        report["episodes"] = measure_episodes(args, args.work / weights[:12])
    if "seconds" in args.parts:
        report["seconds"] = measure_seconds(args.checkpoint_dir, args.threads)
    if "held" in args.parts:
        report["held"] = measure_held(args.checkpoint_dir, args.device, plan_styles(args.episodes, args.captions))
    if "rim" in args.parts:
        report["rim"] = measure_rim(args.checkpoint_dir, args.device, plan_styles(args.episodes, args.captions))
    if "loss" in args.parts:
        report["edm_loss"] = measure_loss(args.checkpoint_dir, args.device)
    report["bars"] = bars(report)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(rounded(report), indent=1) + "\n")
    print_bars(report["bars"])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is finished, and the sheets")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--captions", type=int, help="per episode; 3, with --brief 1")
    parser.add_argument("--brief", action="store_true", help="one caption, and only what the bars need")
    parser.add_argument(
        "--parts", default="", help="episodes, seconds, held, rim, loss; both first on a CPU, episodes on a GPU"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, help="that share the device; 6 on a GPU, 1 on a CPU")
    parser.add_argument("--threads", type=int, default=2, help="of each process on a CPU")
    parser.add_argument("--classifier_scenes", type=int, help="to train on; 600 on a GPU, 120 on a CPU")
    parser.add_argument("--classifier_steps", type=int, help="5000 on a GPU, 1500 on a CPU")
    parser.add_argument("--frames", type=int, help="of a clip, 1 + 8k, if not the checkpoint's own")
    parser.add_argument("--num_steps", type=int, help="if not the checkpoint's own")
    parser.add_argument("--checkpoint_dir", default="bundled")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bundled.json")
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    args.captions = args.captions or (1 if args.brief else 3)
    args.processes = args.processes or (1 if on_cpu else 6)
    args.classifier_scenes = args.classifier_scenes or (120 if on_cpu else 600)
    args.classifier_steps = args.classifier_steps or (1500 if on_cpu else 5000)
    args.parts = (args.parts or ("episodes,seconds" if on_cpu else "episodes")).split(",")
    torch.set_num_threads(args.threads)
    return args


def weights_hash(root: Path) -> str:
    """SHA-256 over all files of a checkpoint."""
    digest = hashlib.sha256()
    for file in sorted(f for f in root.rglob("*") if f.suffix in (".safetensors", ".json")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


def previous(output: Path, weights: str) -> dict[str, Any]:
    """An earlier report on the same weights, to be added to."""
    known = json.loads(output.read_text()) if output.exists() else {}
    return known if known.get("weights_sha256") == weights else {}


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu
        )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "gpu": gpu, "torch": torch.__version__, "threads": torch.get_num_threads()}


def plan_styles(episodes: int, captions: int) -> list[tuple[Style, ...]]:
    """Plausible held-out looks, as `sample_style` draws them, each material about equally often.

    Every caption takes that of the next CANDIDATES drawn looks whose wall and table were asked for least so far,
    the first ones of the episodes counted by themselves. The first n episodes of a longer plan are the plan for n.
    """
    seed = FIRST_SEED
    asked = [Counter[tuple[str, str]]() for _ in range(min(captions, 2))]
    plan = []
    for _ in range(episodes):
        looks = []
        for k in range(captions):
            counts = asked[min(k, 1)]
            drawn = [scenes.sample_style(s, heldout=True) for s in range(seed, seed + CANDIDATES)]
            seed += CANDIDATES
            plausible = [s for s in drawn if all(getattr(s, what) in names for what, names in PLAUSIBLE.items())]

            def rarity(style: Style, counts: Counter[tuple[str, str]] = counts) -> int:
                return sum(counts[what, getattr(style, what)] * len(names) for what, names in PLAUSIBLE.items())

            looks.append(min(plausible, key=rarity))
            counts.update((what, getattr(looks[-1], what)) for what in PLAUSIBLE)
        plan.append(tuple(looks))
    return plan


def measure_episodes(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that is measured on episodes; sheets are written on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    classifier = load_or_train(
        args.work,
        device=args.device,
        count=args.classifier_scenes,
        steps=args.classifier_steps,
        processes=args.processes,
    )
    ready = time.perf_counter()
    jobs = [
        Job(index, styles, args.checkpoint_dir, args.device, folder, args.brief, args.frames, args.num_steps)
        for index, styles in enumerate(plan_styles(args.episodes, args.captions))
    ]
    records = []
    for job, record in zip(jobs, spread(measure, jobs, args.processes), strict=True):
        records.append(record)
        print(f"{len(records)}/{len(jobs)} scene {job.seed}, {time.perf_counter() - ready:.0f} s", flush=True)
    measured = time.perf_counter()
    frames = [folder / f"scene_{job.seed}.npz" for job in jobs]
    found = summarise(records, frames, classifier)
    write_sheets(folder / "sheets", records, frames, found)
    done = time.perf_counter()
    seconds = {"classifier": ready - began, "episodes": measured - ready, "summary": done - measured}
    return {"machine": machine(), "seconds": seconds, "count": len(records), **found}


def measure_seconds(checkpoint_dir: str, threads: int) -> dict[str, Any]:
    """Median wall time of a view and of the stacked pass on a CPU; encoding, warp and decoding included."""
    torch.set_num_threads(threads)
    models = Models(checkpoint_dir, "cpu", remembering=False)
    shot = take_shot(FIRST_SEED, (scenes.sample_style(FIRST_SEED, heldout=True),), models.clip_frames, "cpu")
    times: dict[str, list[float]] = {"view": [], "stacked pass": []}
    room = None
    for repeat in range(SECONDS_REPEATS):
        began = time.perf_counter()
        room = models.transfer(shot.only("room"), models.threshold, shot.words[0], repeat)["room"]
        times["view"].append(time.perf_counter() - began)
        began = time.perf_counter()
        models.transfer(shot.episode, models.threshold, shot.words[0], repeat, room)
        times["stacked pass"].append(time.perf_counter() - began)
    steps = models.pipeline.settings.num_steps
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"machine": machine(), "num_steps": steps, "median_s": medians, "all_s": times}


def measure_held(checkpoint_dir: str, device: str, plan: Sequence[tuple[Style, ...]]) -> dict[str, Any]:
    """Foreground of the room view if its latents are the simulation's and all others those of a render.

    The first caption's look. What is lost here the decoder loses, which looks at both; no guidance brings it back.
    """
    models = Models(checkpoint_dir, device)
    rows = []
    for index, styles in enumerate(plan):
        shot = take_shot(FIRST_SEED + index, styles[:1], models.clip_frames, device)
        simulated, kept = shot.episode.views["room"].rgb, shot.regions["room"].kept
        mask = pixel_mask(shot.labelled("room", *FOREGROUND_LABELS).to(torch.uint8), (1,), *simulated.shape[1:3])
        keep = latent_mask(mask, touched=True).to(device)
        both = torch.lerp(models.encode(shot.real[0, 0]), models.encode(simulated), keep)
        ceiling = psnr_db(simulated, models.round_trip(simulated), kept)
        rows.append((asdict(styles[0]), ceiling - psnr_db(simulated, models.decode(both), kept)))
    return {"below_ceiling_db": figures([gap for _, gap in rows], max) | {"by_material": by_material(rows)}}


def measure_rim(checkpoint_dir: str, device: str, plan: Sequence[tuple[Style, ...]]) -> dict[str, Any]:
    """Background that lies in held latents, in room views with a rim as given and matched; each first caption."""
    models = Models(checkpoint_dir, device)
    found: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for index, styles in enumerate(plan):
        seed = FIRST_SEED + index
        shot = take_shot(seed, styles[:1], models.clip_frames, device)
        for name, row in rim_rows(models, shot, seed).items():
            for what, value in row.items():
                found[name][what].append(value)
    return {name: {what: figures(values) for what, values in rows.items()} for name, rows in found.items()}


def rim_rows(models: Models, shot: Shot, seed: int) -> dict[str, dict[str, float | None]]:
    """One episode's figures, by how the rim is held.

    Nearness to the view of the same noise in which nothing is held, change from the simulation as a share of that
    view's, and nearness of the foreground to the simulation.
    """
    simulated, where = shot.episode.views["room"].rgb, shot.regions["room"]
    mask = pixel_mask(shot.labelled("room", *FOREGROUND_LABELS).to(torch.uint8), (1,), *simulated.shape[1:3])
    rim = held_pixels(latent_mask(mask, touched=True)) & where.changed
    own = models.two_view
    made = {}
    for name, matched, threshold in (
        ("nothing held", False, models.thresholds["direct"]),
        ("as given", False, models.threshold),
        ("matched", True, models.threshold),
    ):
        models.two_view = replace(own, match_rim=matched)
        made[name] = models.transfer(shot.only("room"), threshold, shot.words[0], seed)["room"]
    models.two_view = own
    free = made.pop("nothing held")
    wanted = abs_diff(simulated, free, rim)
    rows = {}
    for name, room in made.items():
        change = abs_diff(simulated, room, rim)
        rows[name] = {
            "rim_psnr_db": psnr_db(free, room, rim),
            "rim_share_of_change": change / wanted if change is not None and wanted else None,
            "foreground_psnr_db": psnr_db(simulated, room, where.kept),
        }
    return rows


def measure_loss(checkpoint_dir: str, device: str) -> dict[str, dict[str, float]]:
    """Median EDM loss by noise level, usual control weights, both views, scenes of the training and others."""
    from guided_transfer.training.data import render_scene_clip, to_model
    from guided_transfer.training.transformer import edm_loss

    models = Models(checkpoint_dir, device)
    weights = [torch.tensor([w], device=device) for w in USUAL_WEIGHTS]
    found: dict[str, dict[str, float]] = {}
    torch.manual_seed(0)
    for name, first_seed in (("seen", SEEN_SEED), ("unseen", UNSEEN_SEED)):
        losses: dict[float, list[float]] = {sigma: [] for sigma in SIGMAS}
        for seed in range(first_seed, first_seed + LOSS_SCENES):
            clip = render_scene_clip(seed, looks=1, device=device)
            for view in (0, 1):
                target, *hints = (
                    models.tokenizer.encode(to_model(clip.stream(stream)[view])[None].to(device))
                    for stream in ("real", "edge_sim", "depth", "seg")
                )
                words = models.pipeline.text_encoder.encode([clip.captions[0][view]]).to(device)
                first = torch.zeros(1, 1, target.shape[2], 1, 1, device=device)
                for sigma in SIGMAS:
                    noise, level = torch.randn_like(target), torch.tensor([sigma], device=device)
                    with torch.no_grad():
                        loss = edm_loss(
                            models.pipeline.network, words, target, noise, level, first, *hints, *weights
                        )
                    losses[sigma].append(float(loss))
        found[name] = {str(sigma): statistics.median(values) for sigma, values in losses.items()}
    return found


def rounded(value: Any) -> Any:
    """Four significant digits, everywhere."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
