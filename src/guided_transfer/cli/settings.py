"""Every setting of `transfer`, in the groups of its --help.

The 31 arguments of the integration keep their name, meaning and default; the rest are ours. Nothing here
imports torch: `--help` must be quick.
"""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NEGATIVE_PROMPT = (
    "The video captures a game playing, with bad crappy graphics and cartoonish frames. It represents a recording "
    "of old outdated games. The lighting looks very fake. The textures are very raw and basic. The geometries are "
    "very primitive. The images are very pixelated and of poor CG quality. There are many subtitles in the "
    "footage. Overall, the video is unrealistic at all."
)
REFERENCE_CONFIG = "environments/cosmos_transfer1/config/transfer/config.py"
"""The table's default of --model_config_file: it means what the checkpoint says of itself."""

OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="INT")]
OptionalNumber = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]

JsonFlag = Annotated[bool, tyro.conf.arg(aliases=["--json"])]
"""For fields called json_lines: a field called json would hide a method of every pydantic model."""

OfCheckpoint = tyro.conf.arg(help_behavior_hint=lambda table: f"(default: what the checkpoint says, else {table})")
"""For fields whose default a checkpoint.json usually sets, as that of the bundled model does."""

Strength = Literal["none", "very_low", "low", "medium", "high", "very_high"]

SchemaName = Literal["", "i4h", "isaaclab", "robomimic"]
"""A preset of the episode files' layout, or none: it is detected."""


def _as_labels(value: str) -> str:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) < 256 for part in parts):
        raise ValueError("labels are whole numbers 0..255 separated by commas, for example 3,4")
    return ",".join(parts)


Labels = Annotated[str, AfterValidator(_as_labels)]


class Group(BaseModel):
    """A titled block of --help."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class InputSettings(Group):
    """What comes in: a folder of episodes, or one video."""

    source_data_dir: str = Field(
        default="", description="folder of simulated episodes (data_<k>.hdf5), or one file"
    )
    input_video_path: str = Field(default="", description="one RGB video instead of episodes; the result is an mp4")
    schema_name: SchemaName = Field(default="", description="layout of the episode files; unset = detect")
    foreground_mask: str = Field(
        default="",
        description="video or .npz of what is kept, in place of labels; for episodes a folder of <file>_<view>",
    )
    foreground_prompt: str = Field(
        default="", description='what is kept, in words: "robot arm, phantom", in place of labels'
    )
    foreground_label: Labels = Field(default="3,4", description="labels whose appearance is kept, comma-separated")
    only: str = Field(
        default="", description="only these episodes, comma-separated names or patterns (data_3,data_1*)"
    )
    limit: OptionalCount = Field(default=None, ge=1, description="at most this many episodes; unset = all")

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """Empty means that no pixel is held."""
        return tuple(int(part) for part in self.foreground_label.split(",") if part)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names given with --only."""
        return tuple(part.strip() for part in self.only.split(",") if part.strip())


class OutputSettings(Group):
    """What goes out, and where."""

    output_data_dir: str = Field(
        default="", description="folder for the results; unset = a new folder beside the source"
    )
    video_save_folder: str = Field(default="outputs/", description="with --input_video_path: folder for the mp4")
    video_save_name: str = Field(
        default="", description="with --input_video_path: name of the mp4; unset = the video's"
    )
    save_name_offset: int = Field(default=0, description="added to the number in the names of the results")
    fps: OptionalNumber = Field(
        default=None, gt=0, description="frames per second; unset = the source's own, else 30"
    )
    height: OptionalCount = Field(default=None, gt=0, description="rows of the mp4 [px]; unset = the source's")
    width: OptionalCount = Field(default=None, gt=0, description="columns of the mp4 [px]; unset = the source's")
    videos: bool = Field(default=True, description="write an mp4 and a txt of every view beside the episode")
    report: bool = Field(default=True, description="write report/index.html: videos and figures of all episodes")
    overwrite: bool = Field(default=False, description="replace results of other settings in the output folder")


class PromptSettings(Group):
    """What the picture should become."""

    prompt: str = Field(default="", description="text, or a JSON file of prompts of which each episode takes one")
    negative_prompt: Annotated[str, OfCheckpoint] = Field(
        default=NEGATIVE_PROMPT, description="what to steer away from; empty = unconditional"
    )
    upsample_prompt: bool = Field(default=False, description="let the Pixtral upsampler write out the prompt")
    upsampler_command: str = Field(
        default="vllm", description="program that serves the upsampler, in an environment of its own"
    )
    upsampler_base_url: str = Field(
        default="", description="OpenAI-compatible endpoint that serves it; unset = start --upsampler_command"
    )
    keep_short_prompt: bool = Field(
        default=False, description="go on with the short prompt where the upsampler fails; unset = an error"
    )


class ControlSettings(Group):
    """What steers the shapes."""

    controlnet_specs: str = Field(
        default="inference_cosmos_transfer1_two_views.json",
        description="JSON of controls and weights; may also set any argument left out here",
    )
    blur_strength: Strength = Field(default="medium", description="strength of the blur control")
    canny_threshold: Strength = Field(default="medium", description="edge control: lower keeps more lines")


class GuidanceSettings(Group):
    """What of the simulation is kept, and how the two views belong together."""

    sigma_threshold: Annotated[float, OfCheckpoint] = Field(
        default=1.2866,
        ge=0,
        description="hold the foreground while the noise level is above; lower = more faithful",
    )
    match_rim: Annotated[bool, OfCheckpoint] = Field(
        default=False, description="give background held beside the foreground the colours made around it"
    )
    concat_video_second_view: bool = Field(
        default=True, description="make the wrist view beside the finished room view"
    )
    fill_missing_pixels: bool = Field(default=True, description="fill what the room camera could not see")
    composite_foreground: bool = Field(default=False, description="paste the simulated foreground over the result")


class SamplingSettings(Group):
    """How noise becomes video."""

    num_steps: Annotated[int, OfCheckpoint] = Field(default=35, ge=1, description="sampling steps")
    guidance: Annotated[float, OfCheckpoint] = Field(
        default=5.0, ge=0, description="classifier-free guidance; 0 = the prompt alone"
    )
    sigma_max: float = Field(
        default=80.0, gt=0, description="noise level to start at; below 80 the source shines through"
    )
    num_input_frames: Literal[1, 9, 17] = Field(
        default=1, description="frames that a clip takes over from the one before"
    )
    resolution: str = Field(
        default="", description="of the model [px]: 480 (short side), 256x448 (rows x columns) or native"
    )
    seed: int = Field(default=1, description="of the run; every view derives its own from it")
    variants: int = Field(default=1, ge=1, description="results per episode, each with another prompt and seed")


class QualitySettings(Group):
    """What is good enough; a result that is not is made again with other noise."""

    min_foreground_psnr: OptionalNumber = Field(
        default=None, description="reject results whose foreground is less faithful [dB]; unset = keep all"
    )
    max_cross_view_error: OptionalNumber = Field(
        default=None, description="reject results whose views agree less (0 as simulated, 1 as strangers)"
    )
    max_attempts: int = Field(default=3, ge=1, description="tries per episode before it counts as rejected")


class ModelSettings(Group):
    """Which weights, on what."""

    checkpoint_dir: str = Field(
        default="", description="folder, or bundled; unset = ./checkpoints if it exists, else bundled"
    )
    vision_dir: str = Field(
        default="",
        description="folder of Depth Anything, Grounding DINO and SAM 2; unset = --checkpoint_dir",
    )
    yolox_onnx: str = Field(default="", description="ONNX file that finds people, for the keypoint control")
    rtmpose_onnx: str = Field(default="", description="ONNX file of their keypoints, for the keypoint control")
    tokenizer_dir: str = Field(
        default="Cosmos-Tokenize1-CV8x8x8-720p", description="in --checkpoint_dir or in its nvidia/"
    )
    model_config_file: str = Field(
        default=REFERENCE_CONFIG, description="YAML that overrides what the checkpoint says of itself"
    )
    use_distilled: bool = Field(
        default=False, description="the distilled edge model: one step from noise, without negative prompt"
    )
    device: str = Field(default="", description="cpu, cuda or cuda:<n>; unset = cuda where there is one")
    cpu_threads: OptionalCount = Field(
        default=None, ge=1, description="CPU threads of each worker; unset = one per core, at most 8"
    )
    dtype: Literal["", "float32", "bfloat16", "float16"] = Field(
        default="", description="of the network; unset = the checkpoint's"
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch.compile the network's blocks; auto = large networks on a GPU"
    )


class MemorySettings(Group):
    """What leaves the GPU when it is not needed."""

    offload_diffusion_transformer: bool = Field(
        default=False, description="move the network to the host after sampling"
    )
    offload_text_encoder_model: bool = Field(
        default=False, description="move the text encoder to the host after use"
    )
    offload_guardrail_models: bool = Field(
        default=True, description="move the guardrail and the vision models to the host after use"
    )
    offload_prompt_upsampler: bool = Field(
        default=False, description="end the prompt upsampler after use, before other models are loaded: always so"
    )
    gpu_memory_gb: OptionalNumber = Field(
        default=None, gt=0, description="use at most so much GPU memory [GiB]; layers are streamed if need be"
    )


class RunSettings(Group):
    """How the run is carried out and reported."""

    num_gpus: int = Field(default=1, ge=1, description="GPUs that share one video (context parallel)")
    engine: Literal["auto", "local", "torchrun", "ray"] = Field(
        default="auto", description="auto = torchrun under torchrun, else local"
    )
    ray_address: str = Field(
        default="", description="of a Ray cluster (auto, ray://host:10001); unset = one of its own"
    )
    ray_workers: OptionalCount = Field(
        default=None, ge=1, description="Ray actors, each with the model; unset = one per GPU of the cluster"
    )
    shard: str = Field(default="", description="this job's part of the work, for example 2/8; counted from 0")
    guardrail: Literal["on", "off"] = Field(
        default="on", description="check prompts and results; the bundled model needs none"
    )
    max_failures: OptionalCount = Field(default=None, ge=1, description="stop after so many failed episodes")
    dry_run: bool = Field(default=False, description="print the plan, sizes, disk and time, then stop")
    preview: bool = Field(default=False, description="a few frames with few steps, as one contact sheet")
    quiet: bool = Field(default=False, description="print errors only")
    json_lines: JsonFlag = Field(default=False, description="print progress as JSON lines")


class TransferSettings(Group):
    """All of them."""

    inputs: InputSettings = InputSettings()
    outputs: OutputSettings = OutputSettings()
    prompts: PromptSettings = PromptSettings()
    controls: ControlSettings = ControlSettings()
    guidance: GuidanceSettings = GuidanceSettings()
    sampling: SamplingSettings = SamplingSettings()
    quality: QualitySettings = QualitySettings()
    model: ModelSettings = ModelSettings()
    memory: MemorySettings = MemorySettings()
    run: RunSettings = RunSettings()
