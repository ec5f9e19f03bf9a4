"""What a command line means: everything that can be decided and checked before any long work."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from guided_transfer.cli.arguments import GROUP_OF, CommandLine, argument_fault
from guided_transfer.cli.checks import check_run
from guided_transfer.cli.settings import REFERENCE_CONFIG, TransferSettings
from guided_transfer.cli.video_inputs import check_video_files, refuse_episode_arguments
from guided_transfer.clips import ASPECT_SIZES, PIXELS_PER_TOKEN, Size, model_size
from guided_transfer.controls.specs import ControlSpecs, load_specs
from guided_transfer.controls.vision import MODELS_OF, VisionFiles
from guided_transfer.episodes.read import EpisodeFile, open_episodes
from guided_transfer.errors import DeviceError, UsageError
from guided_transfer.generation import GenerationSettings
from guided_transfer.models.checkpoint import load_network, network_files
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.tree import CheckpointConfig, CheckpointTree
from guided_transfer.prompts.load import BUNDLED_PROMPTS, EXAMPLE_PROMPTS, TwoViewPrompt, load_prompts
from guided_transfer.safety import LICENCE_NOTE
from guided_transfer.sampling.schedule import SIGMA_MAX
from guided_transfer.two_view import TwoViewSettings

DEFAULT_CHECKPOINTS = Path("checkpoints")
BUNDLED = "bundled"
RECORDINGS = Path("data/hdf5")
"""Where the integration's state machine records to."""

MAX_DEFAULT_THREADS = 8
"""More gain little, and eight workers of one machine shall not stand in each other's way."""

UPSCALING = {"num_steps": 10, "sigma_max": 70.0}
"""What the upscaler is run with, where nobody says otherwise."""

UPSCALING_PROMPT = "A photorealistic video of very high resolution, sharp and rich in natural detail."
"""The upscaler is told what the picture is like, not what is in it: it sees that."""


@dataclass(frozen=True)
class Decided:
    """What command line, specs file and checkpoint say together, before the run is looked at.

    Attributes:
        settings: effective settings.
        specs: the controls and their weights.
        tree: the checkpoint, with what --tokenizer_dir and --model_config_file change.
        notes: decisions that the user should see.
    """

    settings: TransferSettings
    specs: ControlSpecs
    tree: CheckpointTree
    notes: tuple[str, ...]

    def network_files(self, *kinds: str) -> dict[str, list[Path]]:
        """The files of the base network, and by kind those of the given controls, else of all that count."""
        distilled = self.settings.model.use_distilled
        chosen = kinds or tuple(self.specs.active)
        return network_files(self.tree, chosen, distilled=distilled, own_files=self.specs.own_files)

    @property
    def native_sizes(self) -> tuple[Size, ...]:
        """Sizes that the network was trained at."""
        return self.tree.config.native_sizes or ASPECT_SIZES

    def model_size(self, source: Size) -> Size:
        """The size that the model works at for a picture of this size."""
        return model_size(source, self.native_sizes, self.settings.sampling.resolution)


@dataclass(frozen=True)
class ResolvedRun(Decided):
    """A run that is ready to start; picklable.

    Attributes:
        source: the folder or file of episodes; None where one video comes in.
        device: where the models work; "cuda" leaves the choice of the card to the engine.
        cpu_threads: of each worker, however many there are: on the CPU, sums depend on it.
        prompts: that episodes choose from.
    """

    source: Path | None
    device: str
    cpu_threads: int
    prompts: tuple[TwoViewPrompt, ...]

    def open_source(self, file: Path) -> EpisodeFile:
        """A file of the source, read as --schema_name says; raises as `open_episodes`."""
        return open_episodes(file, schema=self.settings.inputs.schema_name or None)

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return getattr(torch, self.settings.model.dtype or self.tree.config.dtype)

    @property
    def generation(self) -> GenerationSettings:
        """How clips are made."""
        sampling, distilled = self.settings.sampling, self.settings.model.use_distilled
        return GenerationSettings(
            num_steps=sampling.num_steps,
            guidance=0.0 if distilled else sampling.guidance,
            negative_prompt=self.settings.prompts.negative_prompt,
            sigma_max=SIGMA_MAX if distilled else sampling.sigma_max,
            num_input_frames=sampling.num_input_frames,
            clip_frames=self.tree.config.clip_frames,
            numerics=self.tree.config.numerics,
            with_ceiling=self.source is not None,
            one_step=distilled,
        )

    @cached_property
    def largest_size(self) -> Size:
        """Rows and columns of the largest picture that the network has positions for."""
        _, rows, columns = self.load_network("meta").base.config.max_size
        return rows * PIXELS_PER_TOKEN, columns * PIXELS_PER_TOKEN

    def model_size(self, source: Size) -> Size:
        """As of `Decided`, and small enough for the network."""
        return model_size(source, self.native_sizes, self.settings.sampling.resolution, self.largest_size)

    def load_network(self, device: torch.device | str) -> TransferNetwork:
        """The base network and the branches of the controls that count."""
        return load_network(
            self.tree,
            list(self.specs.active),
            device=device,
            dtype=self.dtype,
            distilled=self.settings.model.use_distilled,
            own_files=self.specs.own_files,
        )

    @property
    def two_view(self) -> TwoViewSettings:
        """How an episode's two views are made."""
        guidance, controls = self.settings.guidance, self.settings.controls
        return TwoViewSettings(
            control_weights={kind: _weight(hint.control_weight) for kind, hint in self.specs.active.items()},
            foreground_labels=self.settings.inputs.foreground_labels,
            sigma_threshold=guidance.sigma_threshold,
            concat_video_second_view=guidance.concat_video_second_view,
            fill_missing_pixels=guidance.fill_missing_pixels,
            composite_foreground=guidance.composite_foreground,
            canny_threshold=controls.canny_threshold,
            blur_strength=controls.blur_strength,
            native_sizes=self.native_sizes,
            resolution=self.settings.sampling.resolution,
            largest_size=self.largest_size,
            seen=self.vision_files.available() | ({"labels"} if self.names_foreground else set()),
        )

    @property
    def names_foreground(self) -> bool:
        """Whether the user says what the foreground is, in place of labels."""
        return bool(self.settings.inputs.foreground_prompt or self.settings.inputs.foreground_mask)

    @property
    def words(self) -> dict[str, str]:
        """What is to be looked for, by the name of the setting that says so."""
        asked = {
            f"{kind}.control_weight_prompt": hint.control_weight_prompt for kind, hint in self.specs.active.items()
        }
        asked["foreground_prompt"] = self.settings.inputs.foreground_prompt
        return {name: text for name, text in asked.items() if text}

    @property
    def vision_needs(self) -> dict[str, str]:
        """The vision models that are used in any case, and what for.

        An episode may need more: the depth control one without depth, the seg control one without labels.
        """
        needs = dict.fromkeys(("grounding_dino", "sam2"), next(iter(self.words), "")) if self.words else {}
        for kind, hint in self.specs.active.items():
            computed = kind == "keypoint" if self.source else hint.input_control is None
            if computed:
                reason = f"the {kind} control without {kind}.input_control"
                needs |= {part: reason for part in MODELS_OF.get(kind, ()) if part not in needs}
        return needs

    @property
    def vision_files(self) -> VisionFiles:
        """Where the vision models are; the bundled model has none of its own."""
        model = self.settings.model
        root = DEFAULT_CHECKPOINTS if self.bundled else self.tree.root
        onnx = (Path(file) if file else None for file in (model.yolox_onnx, model.rtmpose_onnx))
        return VisionFiles(Path(model.vision_dir) if model.vision_dir else root, *onnx)

    @property
    def guarded(self) -> bool:
        """Whether prompts and results are checked."""
        return self.settings.run.guardrail == "on" and not self.bundled

    @property
    def bundled(self) -> bool:
        """Whether the small model of the package is used."""
        return is_bundled(self.tree)


def is_bundled(tree: CheckpointTree) -> bool:
    """Whether a tree is the package's own, by its place and not by what it says of itself."""
    return tree.root.resolve() == CheckpointTree.open(BUNDLED).root.resolve()


def resolve(command_line: CommandLine) -> ResolvedRun:
    """Bring command line, specs and checkpoint together, and check all that needs no episode.

    Raises:
        UsageError, CheckpointError, DeviceError: the first thing that cannot be.
    """
    decided = decide(command_line)
    settings, specs, tree, notes = decided.settings, decided.specs, decided.tree, list(decided.notes)
    source = find_source(settings, specs)
    prompt = settings.prompts.prompt
    if not prompt and "upscale" in specs.active:
        prompt = UPSCALING_PROMPT
        notes.append(f"no --prompt is given: the upscaler is told {prompt!r}")
    if not prompt:
        prompt = BUNDLED_PROMPTS if is_bundled(tree) else EXAMPLE_PROMPTS
        notes.append(f"no --prompt is given: each episode takes one of the packaged {prompt}")
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
    return run


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


def _weight(weight: float | Path | None) -> float | Path:
    return 0.0 if weight is None else weight
