"""What a command line means: everything that can be decided and checked before any long work."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from guided_transfer.cli.arguments import GROUP_OF, CommandLine, argument_fault
from guided_transfer.cli.checks import check_run
from guided_transfer.cli.resolved import BUNDLED, DEFAULT_CHECKPOINTS, Decided, ResolvedRun, is_bundled
from guided_transfer.cli.settings import REFERENCE_CONFIG, TransferSettings
from guided_transfer.cli.video_inputs import check_video_files, refuse_episode_arguments
from guided_transfer.controls.specs import ControlSpecs, load_specs
from guided_transfer.errors import DeviceError, UsageError
from guided_transfer.models.tree import CheckpointConfig, CheckpointTree
from guided_transfer.prompts.load import BUNDLED_PROMPTS, EXAMPLE_PROMPTS, load_prompts
from guided_transfer.safety import LICENCE_NOTE
from guided_transfer.sampling.rim import RIM_SIGMA, is_ever_matched

RECORDINGS = Path("data/hdf5")
"""Where the integration's state machine records to."""

MAX_DEFAULT_THREADS = 8
"""More gain little, and eight workers of one machine shall not stand in each other's way."""

UPSCALING = {"num_steps": 10, "sigma_max": 70.0}
"""What the upscaler is run with, where nobody says otherwise."""

UPSCALING_PROMPT = "A photorealistic video of very high resolution, sharp and rich in natural detail."
"""The upscaler is told what the picture is like, not what is in it: it sees that."""


def resolve(command_line: CommandLine) -> ResolvedRun:
    """Bring command line, specs and checkpoint together, and check all that needs no episode.

    Raises:
        UsageError, CheckpointError, DeviceError: the first thing that cannot be.
    """
    decided = decide(command_line)
    settings, specs, tree, notes = decided.settings, decided.specs, decided.tree, list(decided.notes)
    source = find_source(settings, specs)
    prompt = settings.prompts.prompt
    why = "--prompt is empty" if "prompt" in command_line.given else "no --prompt is given"
    if not prompt and "upscale" in specs.active:
        prompt = UPSCALING_PROMPT
        notes.append(f"{why}: the upscaler is told {prompt!r}")
    if not prompt:
        prompt = BUNDLED_PROMPTS if is_bundled(tree) else EXAMPLE_PROMPTS
        notes.append(f"{why}: each episode takes one of the packaged {prompt}")
    idle = {"num_steps", "guidance", "sigma_max", "negative_prompt"} & {*command_line.given, *specs.arguments}
    if settings.model.use_distilled and idle:
        notes.append(f"the distilled model takes one step from noise: {', '.join(sorted(idle))} change nothing")
    if settings.run.guardrail == "off" and not is_bundled(tree):
        notes.append(LICENCE_NOTE)
    run = ResolvedRun(
        settings=settings,
        source=source,
        specs=specs,
        tree=tree,
        device=choose_device(settings.model.device),
        cpu_threads=settings.model.cpu_threads or min(len(os.sched_getaffinity(0)), MAX_DEFAULT_THREADS),
        prompts=load_prompts(prompt),
        notes=tuple(notes),
    )
    if source is None:
        refuse_episode_arguments(settings, command_line.given)
    video = check_video_files(settings, specs, decided.model_size) if source is None else None
    check_run(run, video)
    if "match_rim" in {*command_line.given, *specs.arguments}:
        run = replace(run, notes=(*run.notes, *_idle_rim(run)))
    return run


def _idle_rim(run: ResolvedRun) -> list[str]:
    """A word where the rim is to be matched, and no evaluation does."""
    threshold = run.settings.guidance.sigma_threshold
    if not run.settings.guidance.match_rim or is_ever_matched(run.generation.sigmas, threshold):
        return []
    between = f"sigma_threshold {threshold:g} and {RIM_SIGMA:g}"
    return [f"match_rim changes nothing: after the first evaluation no noise level lies between {between}"]


def decide(command_line: CommandLine) -> Decided:
    """What command line, specs file and checkpoint say together.

    Raises:
        UsageError, CheckpointError: the specs cannot be used, or there is no such checkpoint.
    """
    typed = command_line.settings
    specs_file = typed.controls.controlnet_specs
    specs = load_specs(
        specs_file,
        checkpoint_dir=typed.model.checkpoint_dir or None,
        known_arguments=GROUP_OF.keys(),
        argument_fault=argument_fault,
    )
    from_specs = [(specs_file, specs_arguments(specs, command_line.given))]
    if "upscale" in specs.active:
        from_specs.append(("upscale", UPSCALING))
    asked = command_line.over(*from_specs)
    checkpoint_dir, note = find_checkpoint_dir(asked.model.checkpoint_dir)
    tree = open_tree(checkpoint_dir, asked, {*command_line.given, *specs.arguments})
    defaults = {name: value for name, value in tree.config.defaults.items() if name != "checkpoint_dir"}
    settings = command_line.over(*from_specs, (f"{tree.root}/checkpoint.json", defaults))
    return Decided(settings, specs, tree, (note,) if note else ())


def specs_arguments(specs: ControlSpecs, given: Collection[str]) -> dict[str, Any]:
    """The arguments that a specs file sets; its source gives way to one that was typed."""
    sources = {"source_data_dir", "input_video_path"}
    dropped = sources if sources & set(given) else set()
    return {name: value for name, value in specs.arguments.items() if name not in dropped}


def find_source(settings: TransferSettings, specs: ControlSpecs) -> Path | None:
    """Where the episodes are, or None where one video comes in: --input_video_path, or nothing but control videos.

    Raises:
        UsageError: neither or both are given; names the newest recording to try.
    """
    folder, video = settings.inputs.source_data_dir, settings.inputs.input_video_path
    if folder and video:
        raise UsageError("source_data_dir and input_video_path are both given; give the one to transfer")
    if comes_as_video(settings, specs):
        return None
    if not folder:
        raise UsageError(f"neither --source_data_dir nor --input_video_path is given; {_newest_recording()}")
    if not Path(folder).exists():
        raise UsageError(f"source_data_dir {folder!r} does not exist; {_newest_recording()}")
    return Path(folder)


def comes_as_video(settings: TransferSettings, specs: ControlSpecs) -> bool:
    """Whether one video is to be transferred: an input video, or nothing but control videos."""
    inputs, controls = settings.inputs, specs.active.values()
    alone = bool(controls) and all(hint.input_control for hint in controls)
    return bool(inputs.input_video_path) or (alone and not inputs.source_data_dir)


def _newest_recording() -> str:
    recorded = [path for path in RECORDINGS.glob("*/") if path.is_dir()]
    if not recorded:
        return f"there is nothing under {RECORDINGS} either; `guided-transfer simulate` makes episodes to try"
    newest = max(recorded, key=lambda path: (path.stat().st_mtime, path.name))
    return f"the newest recording here is --source_data_dir {newest}"


def find_checkpoint_dir(asked: str) -> tuple[str, str]:
    """The checkpoint folder, and a note where it was not the user's own choice."""
    if asked:
        return asked, ""
    if DEFAULT_CHECKPOINTS.is_dir():
        return str(DEFAULT_CHECKPOINTS), f"checkpoint: ./{DEFAULT_CHECKPOINTS}, because that folder exists"
    return BUNDLED, (
        f"checkpoint: the small bundled model, because there is no ./{DEFAULT_CHECKPOINTS}; "
        "it shows the method, not the quality of the 7B model (--checkpoint_dir)"
    )


def open_tree(checkpoint_dir: str, settings: TransferSettings, given: set[str]) -> CheckpointTree:
    """The checkpoint with what --model_config_file and --tokenizer_dir change about it."""
    tree = CheckpointTree.open(checkpoint_dir)
    if settings.model.model_config_file != REFERENCE_CONFIG:
        changes = read_model_config(Path(settings.model.model_config_file))
        tree = CheckpointTree(tree.root, tree.config.model_validate({**tree.config.model_dump(), **changes}))
    return tree.with_tokenizer(settings.model.tokenizer_dir) if "tokenizer_dir" in given else tree


def read_model_config(file: Path) -> Mapping[str, Any]:
    """Sizes and numerics that override what the checkpoint says; plain YAML, nothing is executed."""
    known = {"clip_frames", "text_tokens", "native_sizes", "numerics", "base_rope_ratios", "control_rope_ratios"}
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(
            f"model_config_file {str(file)!r}: a YAML file is expected ({', '.join(sorted(known))}); "
            "Python files are not executed"
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) - known:
            raise ValueError(f"holds {content!r}")
        CheckpointConfig.model_validate(content)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"model_config_file {file}: {error}; accepted keys are {', '.join(sorted(known))}"
        ) from None
    return content


def choose_device(asked: str) -> str:
    """The device to use: the one asked for, else cuda where there is one.

    Raises:
        UsageError: no name of a device.
        DeviceError: this machine does not have it.
    """
    if not asked:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UsageError(f"device is {asked!r}; accepted are cpu, cuda and cuda:<n>") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device is {asked!r}; accepted are cpu, cuda and cuda:<n>")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--device {asked}: torch sees no GPU here; --device cpu works everywhere")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"--device {asked}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
    return asked
