"""Does everything that comes with one video agree with it? Looked at before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from guided_transfer.cli.arguments import flattened
from guided_transfer.cli.settings import TransferSettings
from guided_transfer.clips import Size
from guided_transfer.controls.specs import ControlSpecs
from guided_transfer.controls.weights import check_mask, check_weight_map
from guided_transfer.episodes.video import VideoFacts, probe_video
from guided_transfer.errors import EpisodeError, UsageError, collected, refuse
from guided_transfer.sampling.schedule import SIGMA_MAX

TOLERANCE = 0.01
"""Rates and shapes that differ by no more than this share are the same: 29.97 and 30, 853 x 480 and 16:9."""


EPISODES_ALONE = {
    "output_data_dir": "--video_save_folder says where the mp4 goes",
    "foreground_label": "a video has no labels; --foreground_mask or --foreground_prompt says what is kept",
    "preview": "--dry_run says what would be made",
    **dict.fromkeys(("only", "limit", "shard", "schema_name"), "there is one video, and all of it is made"),
    **dict.fromkeys(("min_foreground_psnr", "max_cross_view_error"), "the result of a video is not measured"),
    "composite_foreground": "--foreground_mask holds what it shows, without pasting",
}
"""Arguments that mean nothing for one video, and what to do instead."""


def refuse_episode_arguments(settings: TransferSettings, given: Collection[str]) -> None:
    """Stop where something is asked of one video that only episodes have, rather than leave it undone.

    Args:
        settings: of the run.
        given: names of the arguments that were typed: a specs file may serve videos and episodes alike.

    Raises:
        UsageError: names every such argument.
    """
    values = flattened(settings)
    asked = [name for name in EPISODES_ALONE if name in given and values[name]]
    refuse(
        [
            f"--{name} {'' if values[name] is True else repr(values[name]) + ' '}is for episodes, and one video "
            f"comes in: {EPISODES_ALONE[name]}"
            for name in asked
        ]
    )


def check_video_files(
    settings: TransferSettings, specs: ControlSpecs, model_size: Callable[[Size], Size]
) -> VideoFacts:
    """Compare controls, weight maps and mask with the video they belong to.

    Args:
        settings: of the run.
        specs: its controls.
        model_size: the size that the model works at, of a picture's size.

    Returns:
        Length, size and rate of the run: the input video's, or without one those of the first control.

    Raises:
        UsageError: every file that is missing or does not agree, with the values of both.
    """
    faults: list[str] = []
    with collected(faults):
        specs.require_input_controls()
    companions = {
        f"{kind}.input_control": hint.input_control
        for kind, hint in specs.active.items()
        if hint.input_control is not None and hint.input_control.is_file()
    }
    inputs = settings.inputs
    if inputs.input_video_path:
        leader, video = "input_video_path", probe(Path(inputs.input_video_path), "input_video_path")
    else:
        _check_needs_no_video(settings)
        if not companions:
            refuse(faults)
        leader, file = next(iter(companions.items()))
        video = probe(file, leader)
    size = model_size((video.height_px, video.width_px))
    for name, file in companions.items():
        if name != leader:
            with collected(faults):
                faults += _companion_faults(name, file, probe(file, name), leader, video, size)
    if inputs.foreground_mask:
        with collected(faults):
            own = (video.height_px, video.width_px)
            check_mask(inputs.foreground_mask, video.num_frames, own, "foreground_mask")
    refuse([*faults, *weight_map_faults(specs, video.num_frames)])
    return video


def weight_map_faults(specs: ControlSpecs, num_frames: int | None) -> list[str]:
    """What is wrong with the controls' weight maps; with None any length will do."""
    weights = {f"{kind}.control_weight": hint.control_weight for kind, hint in specs.active.items()}
    faults: list[str] = []
    for name, weight in weights.items():
        if isinstance(weight, Path):
            with collected(faults):
                check_weight_map(weight, num_frames, name)
    return faults


def probe(file: Path, name: str) -> VideoFacts:
    """Facts of the video of an argument or key.

    Raises:
        UsageError: it is missing or none; says which argument or key named it.
    """
    try:
        return probe_video(file)
    except EpisodeError as error:
        raise UsageError(f"{name} {str(file)!r}: {error.reason}") from None


def _check_needs_no_video(settings: TransferSettings) -> None:
    """Without an input video the controls must be all there is to start from."""
    if settings.sampling.sigma_max < SIGMA_MAX and not settings.model.use_distilled:
        raise UsageError(
            f"sigma_max is {settings.sampling.sigma_max:g}, which starts from the input video, but no "
            f"input_video_path is given; name one, or give --sigma_max {SIGMA_MAX:g} to start from noise alone"
        )
    if settings.inputs.foreground_mask:
        raise UsageError("foreground_mask keeps parts of the input video, but no input_video_path is given")


def _companion_faults(
    name: str, file: Path, facts: VideoFacts, leader: str, video: VideoFacts, model_size: Size
) -> Iterator[str]:
    what = f"{name} {str(file)!r}"
    if facts.num_frames not in (1, video.num_frames):
        yield (
            f"{what} has {facts.num_frames} frames, {leader} has {video.num_frames}; "
            "cut both to the same frames, or give one still picture for all"
        )
    if facts.num_frames > 1 and not _close(float(facts.fps), float(video.fps)):
        yield (
            f"{what} has {float(facts.fps):g} frames per second, {leader} has {float(video.fps):g}; "
            "write it anew at that rate, or the two drift apart"
        )
    shapes = [(video.height_px, video.width_px), model_size]
    if not any(_close(facts.width_px / facts.height_px, width / height) for height, width in shapes):
        yield (
            f"{what} is {facts.height_px} x {facts.width_px} pixels (rows x columns), {leader} is "
            f"{video.height_px} x {video.width_px}, the model works at {model_size[0]} x {model_size[1]}; "
            "another shape would be stretched over the wrong places: accepted are both of these, in any size"
        )


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * b
