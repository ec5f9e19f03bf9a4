"""What a run will do, how long it may take and how much disk it needs, without doing it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from guided_transfer.cli.resolve import TYPICAL_VIEW, ResolvedRun
from guided_transfer.clips import FRAMES_PER_LATENT, PIXELS_PER_TOKEN, Size, plan_clips
from guided_transfer.episodes.read import episode_files
from guided_transfer.errors import EpisodeError, UsageError
from guided_transfer.runner.plan import Plan, Shard, build_plan

LOOKED_INTO = 20
"""Episodes whose length is read for an estimate; the others are taken to be like them."""


def plan_episodes(run: ResolvedRun) -> Plan:
    """The tasks of a run."""
    inputs = run.settings.inputs
    return build_plan(
        episode_files(_source(run)),
        seed=run.settings.sampling.seed,
        variants=run.settings.sampling.variants,
        save_name_offset=run.settings.outputs.save_name_offset,
        only=inputs.wanted,
        limit=inputs.limit,
        shard=Shard.parse(run.settings.run.shard) if run.settings.run.shard else None,
    )


def output_folder(run: ResolvedRun) -> Path:
    """--output_data_dir, or a folder of its own beside the source: never the source itself."""
    if asked := run.settings.outputs.output_data_dir:
        return Path(asked)
    source = _source(run).resolve()
    return source.with_name(f"{source.stem}_transferred")


def _source(run: ResolvedRun) -> Path:
    if run.source is None:
        raise UsageError("source_data_dir is not given")
    return run.source


def print_plan(run: ResolvedRun, plan: Plan, output_dir: Path) -> None:
    """For --dry_run: tasks, sizes, disk and an estimate of the time."""
    seconds = sum(episode_seconds(run, plan))
    needed = sum(task.source.stat().st_size for task in plan.tasks) / 2**30
    free = (
        shutil.disk_usage(next(p for p in (output_dir, *output_dir.absolute().parents) if p.exists())).free / 2**30
    )
    facts = {
        "episodes": len(plan),
        "output_data_dir": str(output_dir),
        "checkpoint": str(run.tree.root),
        "device": run.device,
        "controls": {kind: str(hint.control_weight) for kind, hint in run.specs.active.items()},
        "prompts": len(run.prompts),
        "model_sizes": [list(size) for size in run.two_view.model_sizes(TYPICAL_VIEW, TYPICAL_VIEW)],
        "estimated_minutes": round(seconds / 60, 1),
        "disk_gb": round(needed, 2),
        "disk_free_gb": round(free, 2),
    }
    if run.settings.run.json_lines:
        print(json.dumps({"event": "plan", **facts, "tasks": list(plan.lines())}))
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, str(value))
    console = Console()
    console.print(table)
    for line in plan.lines():
        console.print(line, markup=False, highlight=False)


def episode_seconds(run: ResolvedRun, plan: Plan) -> Iterator[float]:
    """Estimated seconds per task: operations of its network passes over what a matrix product reaches here."""
    network = run.load_network("meta")
    parameters = sum(p.numel() for p in network.parameters())
    config, speed = network.base.config, _operations_per_second(run)
    passes = len(run.generation.sigmas) * (2 if run.generation.guidance else 1)
    latent_frames = 1 + (run.generation.clip_frames - 1) // FRAMES_PER_LATENT
    known: list[float] = []
    for task in plan.tasks:
        if len(known) >= LOOKED_INTO:
            yield sum(known) / len(known)
            continue
        operations = 0.0
        for num_frames, views in _clip_demands(run, task.source):
            clips = len(plan_clips(num_frames, run.generation.clip_frames, run.generation.num_input_frames))
            for height, width in views:
                tokens = latent_frames * height * width / PIXELS_PER_TOKEN**2
                attention = 4 * tokens**2 * config.channels * config.blocks
                operations += clips * passes * (2 * parameters * tokens + attention)
        known.append(operations / speed)
        yield known[-1]


def _clip_demands(run: ResolvedRun, file: Path) -> Iterator[tuple[int, list[Size]]]:
    """Frames and model sizes of every demo; nothing for a file that cannot be read."""
    try:
        with run.open_source(file) as episodes:
            for demo in episodes.demos:
                layout = episodes.layout(demo)
                cameras = list(layout.cameras.values())
                views = [(camera.height_px, camera.width_px) for camera in cameras[:2]]
                yield layout.num_frames, run.two_view.model_sizes(*views)
    except (EpisodeError, UsageError):  # the run itself will say so
        return


def _operations_per_second(run: ResolvedRun) -> float:
    """What a matrix product reaches on this machine, a little warm."""
    device = "cuda" if run.device.startswith("cuda") else "cpu"
    n = 4096 if device == "cuda" else 768
    a = torch.randn(n, n, device=device, dtype=run.dtype if device == "cuda" else torch.float32)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best
