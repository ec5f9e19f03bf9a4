"""One video in, one mp4 out: `transfer --input_video_path VIDEO`, or control videos alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_transfer.cli.load import load_pipeline, load_run_guardrails, load_vision
from guided_transfer.cli.process import guardrail_state, negative_prompts, video_frames
from guided_transfer.cli.progress import Looking, Quiet, reporter
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.cli.upsample import write_out_for_video
from guided_transfer.cli.video_inputs import check_video_files
from guided_transfer.clips import resize_frames, upscaled_size
from guided_transfer.controls.blur import vis_control
from guided_transfer.controls.edge import edge_control
from guided_transfer.controls.specs import HintSpec
from guided_transfer.controls.weights import load_weight_map
from guided_transfer.episodes.video import read_video, write_mp4
from guided_transfer.errors import UsageError
from guided_transfer.generation import RgbControl
from guided_transfer.runner.process import Event
from guided_transfer.runner.seeds import prompt_choice, view_seed
from guided_transfer.sampling.tiles import upscaling_tiles
from guided_transfer.types import ControlVideo, SpatialGuidance, View

VIEW = "video"


def transfer_video(run: ResolvedRun) -> int:
    """Transfer the video of --input_video_path into --video_save_folder and return the exit code."""
    source = Path(run.settings.inputs.input_video_path)
    rgb, own_fps = read_source(run)
    own_size = (rgb.shape[1], rgb.shape[2])
    size = run.model_size(own_size)
    upscales = "upscale" in run.specs.active
    tiling = upscaling_tiles(size) if upscales else None
    out_size = upscaled_size(own_size, size) if upscales else own_size
    fps = run.settings.outputs.fps or float(own_fps)
    targets = _targets(run, source)
    report = reporter(run.settings.run.quiet, run.settings.run.json_lines)
    for note in run.notes:
        report.note(note)
    if run.settings.run.dry_run:
        tiles = f" in {len(tiling)} tiles, {out_size[0]} x {out_size[1]} in all" if tiling else ""
        report.note(f"{len(rgb)} frames at {size[0]} x {size[1]}{tiles} -> {', '.join(map(str, targets))}")
        return 0
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    guardrails = load_run_guardrails(run)
    for choice in run.prompts:
        guardrails.check_prompt(choice.room)
    run_seed = run.settings.sampling.seed
    prompts = [
        run.prompts[prompt_choice(run_seed, source.stem, v, len(run.prompts))].room for v in range(len(targets))
    ]
    report.start(len(targets))
    try:
        view, seen = look_at_video(run, rgb, prompts[0], report)
        controls, guidance = video_controls(run, view), video_guidance(run, view)
        written: list[dict[str, Any]] = []
        if run.settings.prompts.upsample_prompt:
            prompts, written = write_out_for_video(run, prompts, controls, view.rgb, report)
            for prompt in prompts:
                guardrails.check_prompt(prompt)
        pipeline = load_pipeline(run)
        for variant, (target, prompt) in enumerate(zip(targets, prompts, strict=True)):
            pipeline.remember([prompt, *negative_prompts(run)])
            seed = view_seed(run_seed, source.stem, variant, 0, VIEW)
            told = partial(report.progress, target.stem, "", VIEW)
            result = pipeline.generate(
                rgb,
                controls,
                prompt,
                seed=seed,
                size=size,
                fps=fps,
                guidance=guidance,
                tiling=tiling,
                out_size=out_size,
                on_progress=told,
            )
            frames = guardrails.check_video(result.rgb)
            write_mp4(target, video_frames(run, frames), fps, replace=True)
            target.with_suffix(".txt").write_text(prompt + "\n", encoding="utf-8")
            record = {"source": str(source), "prompt": prompt, "seed": seed, "guardrail": guardrail_state(run)}
            record |= {"upsampler": written[variant]} if written else {}
            record |= {**({"seen": seen} if seen else {}), **result.record}
            target.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            report.event(Event("done", target.stem))
    finally:
        report.stop()
    report.note(f"written: {', '.join(map(str, targets))}")
    return 0


def read_source(run: ResolvedRun) -> tuple[Tensor, Fraction]:
    """The input video; where the controls are all there is, black frames of their length, size and rate."""
    if video := run.settings.inputs.input_video_path:
        return read_video(video)
    facts = check_video_files(run.settings, run.specs, run.model_size)
    return torch.zeros(facts.num_frames, facts.height_px, facts.width_px, 3, dtype=torch.uint8), facts.fps


def look_at_video(run: ResolvedRun, rgb: Tensor, prompt: str, report: Quiet) -> tuple[View, dict[str, Any]]:
    """The video with what vision models add, controls without an `input_control` and masks; and what they saw."""
    given = frozenset(kind for kind, hint in run.specs.active.items() if hint.input_control is not None)
    mask = run.settings.inputs.foreground_mask

    def told(what: str, done: int, total: int) -> None:
        report.progress(Path(run.settings.inputs.input_video_path).stem, "", VIEW, Looking(what, done, total))

    return load_vision(run, report).look(View(VIEW, rgb), prompt, Path(mask) if mask else None, told, given)


def video_controls(run: ResolvedRun, view: View) -> list[ControlVideo | RgbControl]:
    """From their `input_control` where it is given; edge and blur from the video itself, to upscale the video as it
    is; others as they were seen.
    """
    computed: dict[str, Callable[[Tensor], Tensor]] = {
        "edge": partial(edge_control, preset=run.settings.controls.canny_threshold),
        "vis": partial(vis_control, preset=run.settings.controls.blur_strength),
        "upscale": lambda frames: frames,
    }
    controls: list[ControlVideo | RgbControl] = []
    for kind, hint in run.specs.active.items():
        if hint.input_control is not None:
            frames = _as_long(hint.input_control, view.rgb, kind)
            controls.append(ControlVideo(kind, frames, _weight(hint, frames, view.control_weights.get(kind))))
        elif kind in computed:
            controls.append(
                RgbControl(kind, computed[kind], _weight(hint, view.rgb, view.control_weights.get(kind)))
            )
        else:
            frames = view.controls[kind]
            controls.append(ControlVideo(kind, frames, _weight(hint, frames, view.control_weights.get(kind))))
    return controls


def _weight(hint: HintSpec, frames: Tensor, mask: Tensor | None) -> float | Tensor:
    """A control's weight: a number, or a map at the size of its frames; where there is a mask, only inside it."""
    weight = hint.control_weight
    factor = load_weight_map(weight, *frames.shape[:3]) if isinstance(weight, Path) else weight or 0.0
    if mask is None:
        return factor
    return factor * resize_frames(mask[..., None], (frames.shape[1], frames.shape[2]), "linear").view(
        frames.shape[:3]
    )


def video_guidance(run: ResolvedRun, view: View) -> SpatialGuidance | None:
    """What --foreground_mask or --foreground_prompt holds."""
    if view.labels is None:
        return None
    guidance = run.settings.guidance
    return SpatialGuidance((view.labels > 0).float(), None, guidance.sigma_threshold, guidance.match_rim)


def _as_long(file: Path, rgb: Tensor, what: str) -> Tensor:
    """Frames of a companion video; one still picture counts for all frames.

    Raises:
        UsageError: another length.
    """
    frames, _ = read_video(file)
    if len(frames) == 1:
        return frames.expand(len(rgb), -1, -1, -1)
    if len(frames) != len(rgb):
        raise UsageError(f"{what} {str(file)!r} has {len(frames)} frames, the video has {len(rgb)}")
    return frames


def _targets(run: ResolvedRun, source: Path) -> list[Path]:
    folder = Path(run.settings.outputs.video_save_folder)
    name = run.settings.outputs.video_save_name.removesuffix(".mp4") or source.stem or "output"
    variants = range(run.settings.sampling.variants)
    targets = [folder / f"{name}{f'_v{variant}' if variant else ''}.mp4" for variant in variants]
    for target in targets:
        if target.exists() and target.samefile(source):
            raise UsageError(f"video_save_folder {folder}: {target} is the input itself; choose another folder")
        if target.exists() and not run.settings.outputs.overwrite:
            raise UsageError(f"{target} exists; choose another --video_save_folder, or give --overwrite")
    return targets
