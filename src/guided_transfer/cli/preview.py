"""`transfer --preview`: a few frames with few steps, as one picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import torch
from torch import Tensor

from guided_transfer.cli.process import EpisodeTransfer
from guided_transfer.cli.progress import reporter
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.runner.plan import EpisodeTask, Plan
from guided_transfer.runner.process import Place
from guided_transfer.types import Episode, TransferResult

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
            episode, _ = process.look(task, _excerpt(run, task, quick.clip_frames))
            save_picture(path, _sheet(episode, process.generate(task, episode, run.two_view)))
            report.note(f"preview: {path}")
    finally:
        report.stop()
    return 0


def _excerpt(run: ResolvedRun, task: EpisodeTask, num_frames: int) -> Episode:
    """Frames from the middle of the first demo, where the arm has arrived."""
    with run.open_source(task.source) as file:
        total = file.layout(file.demos[0]).num_frames
        start = max(0, (total - num_frames) // 2)
        return file.read(file.demos[0], slice(start, start + num_frames))


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
    """Write [H, W, 3] uint8 RGB as PNG."""
    cv2.imwrite(str(path), cv2.cvtColor(picture.numpy(), cv2.COLOR_RGB2BGR))
