"""`transfer --preview`: a few frames with few steps, as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from torch import Tensor

from guided_transfer.cli.process import EpisodeTransfer
from guided_transfer.cli.progress import reporter
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.controls.weights import load_weight_map
from guided_transfer.runner.plan import EpisodeTask, Plan
from guided_transfer.runner.process import Place
from guided_transfer.two_view import TwoViewSettings
from guided_transfer.types import Episode, TransferResult, View
from guided_transfer.whole import whole_file

PREVIEW_FRAMES = 17
PREVIEW_STEPS = 8
SHOWN_FRAMES = 4


def contact_sheet(run: ResolvedRun, plan: Plan, output_dir: Path) -> int:
    """Write <output>/preview/<episode>.png for every task and return the exit code.

    Rows: each view simulated, then generated. Columns: frames.
    """
    quick = replace(run.generation, num_steps=min(PREVIEW_STEPS, run.generation.num_steps))
    quick = replace(quick, clip_frames=min(PREVIEW_FRAMES, quick.clip_frames))
    process = EpisodeTransfer(run, Place(), output_dir=output_dir, generation=quick)
    report = reporter(run.settings.run.quiet, run.settings.run.json_lines)
    if process.written:
        process.written.write_out(plan.tasks, report)
    report.start(len(plan))
    try:
        for task in plan.tasks:
            path = output_dir / "preview" / f"{task.output}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            episode, settings = _excerpt(process, task, quick.clip_frames)
            save_picture(path, _sheet(episode, process.generate(task, episode, settings)))
            report.note(f"preview: {path}")
    finally:
        report.stop()
    return 0


def _excerpt(process: EpisodeTransfer, task: EpisodeTask, num_frames: int) -> tuple[Episode, TwoViewSettings]:
    """Frames from the middle of the first demo, where the arm has arrived, and the settings for these frames.

    The whole demo is checked and looked at, as the run does it: masks and weight maps are for all of its frames.
    """
    episode, _ = process.look(task, process.read(task)[0])
    settings = process.run.two_view
    files = {kind: weight for kind, weight in settings.control_weights.items() if isinstance(weight, Path)}
    views = {name: _with_maps(view, files) for name, view in episode.views.items()}
    start = max(0, (episode.num_frames - num_frames) // 2)
    weights = {**settings.control_weights, **dict.fromkeys(files, 1.0)}
    return (
        replace(episode, views=views)[start : start + num_frames],
        replace(settings, control_weights=weights),
    )


def _with_maps(view: View, files: Mapping[str, Path]) -> View:
    """A view that holds the weight maps of these files, so that they are cut with it."""
    maps = {
        kind: load_weight_map(file, *view.rgb.shape[:3]) * view.control_weights.get(kind, 1.0)
        for kind, file in files.items()
    }
    return replace(view, control_weights={**view.control_weights, **maps})


def _sheet(episode: Episode, result: TransferResult) -> Tensor:
    """[rows, columns, 3] uint8."""
    rows = []
    for name, generated in result.rgb.items():
        shown = torch.linspace(0, len(generated) - 1, SHOWN_FRAMES).round().long()
        rows += [torch.cat(list(video[shown]), dim=1) for video in (episode.views[name].rgb, generated)]
    width = max(row.shape[1] for row in rows)
    padded = [torch.nn.functional.pad(row, (0, 0, 0, width - row.shape[1])) for row in rows]
    return torch.cat(padded, dim=0)


def save_picture(path: Path, picture: Tensor) -> None:
    """Write [H, W, 3] uint8 RGB as PNG, whole or not at all."""
    _, png = cv2.imencode(".png", cv2.cvtColor(picture.numpy(), cv2.COLOR_RGB2BGR))
    with whole_file(path, durable=False) as partial:
        partial.write_bytes(png.tobytes())
