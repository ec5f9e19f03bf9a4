"""`guided-transfer specs check FILE`: what a controlnet_specs file asks for, and whether it can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.settings import TransferSettings
from guided_transfer.errors import UsageError, collected, refuse

if TYPE_CHECKING:
    from guided_transfer.cli.resolved import Decided
    from guided_transfer.controls.specs import ControlSpecs, HintSpec
    from guided_transfer.episodes.video import VideoFacts

ABOUT = (
    "Reads a controlnet_specs file as transfer would, compares controls and weight maps with the video they belong "
    "to, and prints what each control would be made of. Loads no model. Takes every argument of transfer."
)
USAGE = """guided-transfer specs check FILE [arguments of transfer]   is it right, and what would it do
guided-transfer specs schema                               its JSON Schema, for editors"""

NOT_IN_SPECS = ("controlnet_specs", "quiet", "json_lines")
"""Arguments that make no sense inside of a specs file."""


@dataclass(frozen=True)
class ControlReport:
    """What one control of a run will be.

    Attributes:
        weight: as given: a number, or the file of a map.
        share: of the sum, after the weights were brought to a sum of at most 1; None where a map decides by pixel.
        picture: where its picture comes from.
        branch: the checkpoint of its branch; "" where the checkpoint folder has none.
    """

    kind: str
    weight: float | str
    share: float | None
    picture: str
    branch: str


def main(argv: Sequence[str]) -> int:
    """Run one of the actions and return its exit code."""
    action = argv[0] if argv else ""
    if action in ("-h", "--help"):
        print(USAGE)
        return 0
    if action == "schema":
        from guided_transfer.controls.specs import specs_schema

        print(json.dumps(specs_schema(argument_schemas()), indent=2))
        return 0
    if action != "check" or len(argv) < 2:
        raise UsageError(f"specs {' '.join(argv)!r}: say what to do:\n{USAGE}")
    return check(argv[1], argv[2:])


def argument_schemas() -> dict[str, Any]:
    """JSON Schema of every argument that a specs file may set, by name."""
    groups = (field.annotation for field in TransferSettings.model_fields.values())
    found = {name: schema for group in groups for name, schema in group.model_json_schema()["properties"].items()}  # type: ignore[union-attr]
    return {name: schema for name, schema in found.items() if name not in NOT_IN_SPECS}


def check(file: str, argv: Sequence[str]) -> int:
    """Check a file, print what it would do and return the exit code.

    Raises:
        UsageError: every fault of the file, or of what it names.
        CheckpointError: no such checkpoint, or it lacks a control.
    """
    if file in ("-h", "--help"):
        argv, file = [file], ""
    words = [*argv, *(("--controlnet_specs", file) if file else ())]
    command_line = parse_transfer(words, prog="guided-transfer specs check FILE", about=ABOUT)
    from guided_transfer.cli.resolve import decide

    decided = decide(command_line)
    video = compared_with(decided)
    controls = [report(kind, decided, video) for kind in decided.specs.hints]
    if decided.settings.model.checkpoint_dir:
        decided.network_files()  # where the user names a checkpoint, it must have what the file asks for
    if decided.settings.run.json_lines:
        print(json.dumps({"source": source_line(decided, video), "controls": [asdict(one) for one in controls]}))
    else:
        print_report(file, decided, video, controls)
    return 0


def compared_with(decided: Decided) -> VideoFacts | None:
    """What the controls were compared with; None where episodes come in, or nothing is named yet."""
    from guided_transfer.cli.resolve import comes_as_video
    from guided_transfer.cli.video_inputs import check_video_files, weight_map_faults
    from guided_transfer.two_view import TwoViewSettings

    specs, settings = decided.specs, decided.settings
    if comes_as_video(settings, specs):
        return check_video_files(settings, specs, decided.model_size)
    faults: list[str] = []
    with collected(faults):
        if settings.inputs.source_data_dir:
            TwoViewSettings(dict.fromkeys(specs.active, 0.0), seen=frozenset({"keypoint"}))
        else:
            specs.require_input_controls()
    refuse([*faults, *weight_map_faults(specs, None)])
    return None


def report(kind: str, decided: Decided, video: VideoFacts | None) -> ControlReport:
    """What one control will be."""
    from guided_transfer.errors import CheckpointError

    specs = decided.specs
    hint = specs.hints[kind]
    if hint.control_weight == 0:
        return ControlReport(kind, 0.0, 0.0, "none: at weight 0 it is left out", "not loaded")
    try:
        file = decided.network_files(kind)[kind][0]
        root = decided.tree.root
        branch = str(file.relative_to(root) if file.is_relative_to(root) else file)
    except CheckpointError:
        branch = ""
    picture = _picture(kind, hint, decided)
    if hint.control_weight_prompt:
        picture += f"; counts where {hint.control_weight_prompt!r} is seen"
    weight = hint.control_weight
    return ControlReport(
        kind, str(weight) if isinstance(weight, Path) else weight or 0.0, _share(kind, specs), picture, branch
    )


def _share(kind: str, specs: ControlSpecs) -> float | None:
    hints = specs.active.values()
    if any(not isinstance(hint.control_weight, float) or hint.control_weight_prompt for hint in hints):
        return None
    total = sum(hint.control_weight for hint in hints if isinstance(hint.control_weight, float))
    weight = specs.active[kind].control_weight
    assert isinstance(weight, float)
    return weight / max(total, 1.0)


def _picture(kind: str, hint: HintSpec, decided: Decided) -> str:
    settings = decided.settings
    episodes = bool(settings.inputs.source_data_dir)
    if hint.input_control is not None and not episodes:
        return str(hint.input_control)
    things = repr(hint.input_control_prompt) if hint.input_control_prompt else "the first words of the prompt"
    computed = {
        "edge": f"Canny edges of the RGB, canny_threshold {settings.controls.canny_threshold}",
        "vis": f"the RGB blurred, blur_strength {settings.controls.blur_strength}",
        "depth": "Depth Anything V2 on the RGB",
        "seg": f"Grounding DINO and SAM 2 on the RGB, looking for {things}",
        "keypoint": "RTMPose on the RGB",
        "upscale": "the RGB itself, enlarged",
    }
    recorded = {"depth": "the episode's depth", "seg": "the episode's labels"}
    if kind in recorded and not settings.inputs.input_video_path:
        picture = f"{recorded[kind]}, or where there are none {computed[kind]}"
    else:
        picture = computed[kind]
    return picture + ("; input_control is not used" if hint.input_control is not None else "")


def source_line(decided: Decided, video: VideoFacts | None) -> str:
    """What the controls belong to."""
    from guided_transfer.clips import upscaled_size
    from guided_transfer.sampling.tiles import upscaling_tiles

    inputs = decided.settings.inputs
    if video is None:
        return (
            f"episodes of {inputs.source_data_dir}"
            if inputs.source_data_dir
            else ("nothing named yet; --input_video_path or --source_data_dir compares the controls with it")
        )
    own = (video.height_px, video.width_px)
    size = decided.model_size(own)
    line = (
        f"{inputs.input_video_path or 'control videos alone'}: {video.num_frames} frames, "
        f"{own[0]} x {own[1]} pixels at {float(video.fps):g} per second; the model works at {size[0]} x {size[1]}"
    )
    if "upscale" in decided.specs.active:
        rows, columns = upscaled_size(own, size)
        line += f" in {len(upscaling_tiles(size))} tiles, the result is {rows} x {columns}"
    return line


def print_report(file: str, decided: Decided, video: VideoFacts | None, controls: Sequence[ControlReport]) -> None:
    """Print it for people."""
    print(f"{file} can be used")
    print(f"source: {source_line(decided, video)}")
    for note in decided.notes:
        print(note)
    for name, value in decided.specs.arguments.items():
        print(f"argument: {name} = {value!r}")
    for one in controls:
        share = "normalised by pixel" if one.share is None else f"{one.share:.3g} of the whole"
        print(f"{one.kind}: weight {one.weight}, {share}")
        print(f"    picture: {one.picture}")
        print(f"    branch:  {one.branch or 'none in this checkpoint folder'}")
