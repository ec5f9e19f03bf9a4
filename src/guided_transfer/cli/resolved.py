"""A run as command line, specs file and checkpoint together decide it; nothing here is checked or asked again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from guided_transfer.cli.settings import TransferSettings
from guided_transfer.clips import ASPECT_SIZES, PIXELS_PER_TOKEN, Size, model_size
from guided_transfer.controls.specs import ControlSpecs
from guided_transfer.controls.vision import MODELS_OF, VisionFiles
from guided_transfer.episodes.read import EpisodeFile, open_episodes
from guided_transfer.generation import GenerationSettings
from guided_transfer.models.checkpoint import load_network, network_files
from guided_transfer.models.network import TransferNetwork
from guided_transfer.models.tree import CheckpointTree
from guided_transfer.prompts.load import TwoViewPrompt
from guided_transfer.sampling.schedule import SIGMA_MAX
from guided_transfer.two_view import TwoViewSettings

DEFAULT_CHECKPOINTS = Path("checkpoints")
BUNDLED = "bundled"


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
            match_rim=guidance.match_rim,
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


def _weight(weight: float | Path | None) -> float | Path:
    return 0.0 if weight is None else weight
