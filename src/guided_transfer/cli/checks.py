"""What can be found wrong with a run before an episode is opened or a weight is read."""

from __future__ import annotations

import os
from pathlib import Path

from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.clips import FRAMES_PER_LATENT, PIXELS_PER_TOKEN, TYPICAL_VIEW
from guided_transfer.controls.grounding import split_phrases
from guided_transfer.episodes.video import VideoFacts
from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.share import TokenShare
from guided_transfer.prompts import upsampler
from guided_transfer.prompts.vllm import find_program
from guided_transfer.safety import require_guardrails


def check_run(run: ResolvedRun, video: VideoFacts | None) -> None:
    """Refuse a run that cannot be: guardrail, upsampler, vision models, weights, sizes, processes.

    Args:
        run: what was decided.
        video: that comes in, where it is no folder of episodes.

    Raises:
        UsageError, CheckpointError: the first thing that cannot be.
    """
    _check_mp4_size(run)
    _check_guardrail(run)
    _check_upsampler(run)
    _check_vision(run)
    _check_models(run)
    if video:
        run.model_size((video.height_px, video.width_px))
    else:
        run.two_view.model_sizes(TYPICAL_VIEW, TYPICAL_VIEW)
    _check_group(run)


def _check_mp4_size(run: ResolvedRun) -> None:
    for name in ("height", "width"):
        size = getattr(run.settings.outputs, name)
        if size and size % 2:
            raise UsageError(f"{name} is {size}; accepted are even numbers, which H.264 can store: {size + 1}")


def _check_guardrail(run: ResolvedRun) -> None:
    """Every checkpoint but the bundled one is used with a guardrail, unless the user takes it off."""
    if run.guarded:
        require_guardrails(run.tree.root)


def _check_upsampler(run: ResolvedRun) -> None:
    """What --upsample_prompt needs: a picture that the upsampler can read, and the upsampler."""
    prompts = run.settings.prompts
    if not prompts.upsample_prompt:
        return
    upsampler.shown_control(run.specs.hints)
    if prompts.upsampler_base_url:
        return
    folder = run.tree.root / upsampler.FOLDER
    if missing := [str(folder / name) for name in upsampler.FILES if not (folder / name).is_file()]:
        raise CheckpointError(
            f"upsample_prompt needs {', '.join(missing)}. `guided-transfer checkpoints download --output_dir "
            f"{run.tree.root} --only upsampler` fetches them; --upsampler_base_url names a server that has them"
        )
    find_program(prompts.upsampler_command)


def _check_vision(run: ResolvedRun) -> None:
    """What is to be seen can be looked for, and the models that look are there."""
    inputs = run.settings.inputs
    if inputs.foreground_prompt and inputs.foreground_mask:
        raise UsageError("foreground_prompt and foreground_mask are both given; give one of them")
    if run.names_foreground and not inputs.foreground_labels:
        raise UsageError(
            'foreground_label is "", so nothing is kept, but foreground_prompt or foreground_mask says what'
        )
    if run.source is not None and inputs.foreground_mask and not Path(inputs.foreground_mask).is_dir():
        raise UsageError(
            f"foreground_mask {inputs.foreground_mask!r} is no folder; for episodes it holds one mask per view, "
            "such as data_0_room.npz and data_0_wrist.mp4"
        )
    if run.source is None and run.vision_needs and not inputs.input_video_path:
        what = ", ".join(dict.fromkeys(run.vision_needs.values()))
        raise UsageError(f"{what}: there is nothing to look at; name the video with --input_video_path")
    for text in run.words.values():
        split_phrases(text)
    try:
        for part, what in run.vision_needs.items():
            run.vision_files.files(part, what)
    except CheckpointError as error:
        if run.source is not None or run.words:
            raise
        raise CheckpointError(
            f"{error}. A --controlnet_specs file with the edge alone needs no such model: "
            f'{{"edge": {{"control_weight": 1}}}}'
        ) from None


def _check_models(run: ResolvedRun) -> None:
    """Look at names and shapes of all weights, without reading a weight."""
    for what, part, folder in (
        ("tokenizer", "tokenizer", run.tree.tokenizer_folder),
        ("text encoder", "text", run.tree.text_encoder_folder),
    ):
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; the {what} of the official tree belongs there. `guided-transfer "
                f"checkpoints download --output_dir {run.tree.root} --only {part}` fetches it; "
                "--checkpoint_dir bundled needs nothing"
            )
    run.largest_size  # noqa: B018 (loads all names and shapes)
    run.generation  # noqa: B018 (checks itself)


def _check_group(run: ResolvedRun) -> None:
    """Whether --num_gpus processes can share one video: torchrun started them, and they divide the tokens."""
    size, ranks = run.settings.run.num_gpus, int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return
    if run.source is None:
        raise UsageError(
            f"num_gpus is {size}: only episodes are shared by several GPUs, one video takes --num_gpus 1"
        )
    if "RANK" not in os.environ or run.settings.run.engine not in ("auto", "torchrun"):
        raise UsageError(
            f"num_gpus is {size}: start the processes that share a video with torchrun, "
            f"torchrun --nproc_per_node={size} -m guided_transfer.transfer ... --num_gpus {size}"
        )
    if ranks % size:
        raise UsageError(
            f"num_gpus is {size}: {ranks} ranks cannot be grouped by it; choose --nproc_per_node x --nnodes as a "
            "multiple of --num_gpus"
        )
    frames = 1 + (run.generation.clip_frames - 1) // FRAMES_PER_LATENT
    for height, width in run.two_view.model_sizes(TYPICAL_VIEW, TYPICAL_VIEW):
        TokenShare(size=size).check(frames * height * width // PIXELS_PER_TOKEN**2)
