"""What a run will do and how much disk it needs, without doing it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from guided_transfer.cli.estimate import COUNTED, episode_seconds
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.cli.video_inputs import weight_map_faults
from guided_transfer.clips import TYPICAL_VIEW
from guided_transfer.episodes.read import episode_files
from guided_transfer.errors import EpisodeError, UsageError, refuse
from guided_transfer.runner.plan import Plan, Shard, build_plan
from guided_transfer.runner.run import Outlook


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


def look_into_files(run: ResolvedRun, outlook: Outlook) -> Outlook:
    """An outlook less what would fail for what its file holds: structure, shapes, lengths; no pixel is read."""
    faulty: dict[Path, str] = {}
    # Of many episodes of one length the maps are read once.
    map_faults = cache(partial(weight_map_faults, run.specs))
    for source in dict.fromkeys(task.source for task in outlook.left.tasks):
        try:
            with run.open_source(source) as file:
                for demo in file.demos:
                    refuse([f"{source}: {demo}: {fault}" for fault in map_faults(file.layout(demo).num_frames)])
        except (EpisodeError, UsageError) as error:
            faulty[source] = str(error)
    left = Plan(tuple(task for task in outlook.left.tasks if task.source not in faulty))
    refused = {task.output: faulty[task.source] for task in outlook.left.tasks if task.source in faulty}
    return replace(outlook, left=left, refused={**outlook.refused, **refused})


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


def print_plan(run: ResolvedRun, outlook: Outlook, output_dir: Path) -> None:
    """For --dry_run: tasks, sizes, disk and an estimate of the time."""
    plan = outlook.left
    seconds = sum(episode_seconds(run, plan))
    needed = sum(task.source.stat().st_size for task in plan.tasks) / 2**30
    free = (
        shutil.disk_usage(next(p for p in (output_dir, *output_dir.absolute().parents) if p.exists())).free / 2**30
    )
    facts = {
        "episodes": len(plan),
        "finished_before": outlook.finished,
        "refused": dict(outlook.refused),
        "output_data_dir": str(output_dir),
        "checkpoint": str(run.tree.root),
        "device": run.device,
        "controls": {kind: str(hint.control_weight) for kind, hint in run.specs.active.items()},
        "prompts": len(run.prompts),
        "model_sizes": [list(size) for size in run.two_view.model_sizes(TYPICAL_VIEW, TYPICAL_VIEW)],
        "estimated_minutes": round(seconds / 60, 1),
        "estimate_counts": COUNTED,
        "disk_gb": round(needed, 2),
        "disk_free_gb": round(free, 2),
    }
    if run.settings.run.json_lines:
        print(json.dumps({"event": "plan", **facts, "tasks": list(plan.lines())}))
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if name != "refused":
            table.add_row(name, str(value))
    console = Console()
    console.print(table)
    for line in [*plan.lines(), *(f"refused: {reason}" for reason in outlook.refused.values())]:
        console.print(line, markup=False, highlight=False)
