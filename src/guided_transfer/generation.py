"""What a pipeline is asked for one view, what its clips are told, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from guided_transfer.clips import FRAMES_PER_LATENT, PIXELS_PER_LATENT, Clip, Filter, Size, resize_frames
from guided_transfer.errors import UsageError
from guided_transfer.sampling.guidance import pixel_mask
from guided_transfer.sampling.schedule import ONE_STEP, SIGMA_MAX, karras_sigmas
from guided_transfer.sampling.tiles import Box, Tiling
from guided_transfer.types import ControlVideo, Numerics, SpatialGuidance


@dataclass(frozen=True)
class GenerationSettings:
    """How every clip of a run is made.

    Attributes:
        num_steps: solver updates; a clip costs num_steps + 1 evaluations.
        guidance: classifier-free guidance; 0 runs no unconditional pass.
        negative_prompt: what the unconditional pass is told.
        sigma_max: noise level to start from; below 80 the given video shines through.
        num_input_frames: frames, 1 + 8k, that a clip takes over from the one before.
        clip_frames: frames of a clip, 1 + 8k.
        numerics: "reference" rounds where the official run does.
        with_ceiling: also decode the given video's latents, the most that guidance can keep of it, over the first
            half of each clip: the tokenizer is causal, so these are the frames that a whole decode would give.
        one_step: the network is distilled: one evaluation, of noise alone and without a negative prompt.
    """

    num_steps: int = 35
    guidance: float = 5.0
    negative_prompt: str = ""
    sigma_max: float = SIGMA_MAX
    num_input_frames: int = 1
    clip_frames: int = 121
    numerics: Numerics = "exact"
    with_ceiling: bool = False
    one_step: bool = False

    def __post_init__(self) -> None:
        for name in ("clip_frames", "num_input_frames"):
            if getattr(self, name) % FRAMES_PER_LATENT != 1:
                raise UsageError(f"{name} must be 1 + 8k, got {getattr(self, name)}")
        if self.num_input_frames >= self.clip_frames:
            raise UsageError(
                f"num_input_frames is {self.num_input_frames}, but a clip has {self.clip_frames} frames: "
                "give fewer than these, 1 or 9 or 17"
            )
        if self.one_step and (self.guidance or self.sigma_max < SIGMA_MAX):
            raise UsageError(
                f"a distilled model takes one step from noise, with guidance 0 and sigma_max {SIGMA_MAX:g}; "
                f"got {self.guidance:g} and {self.sigma_max:g}"
            )

    @property
    def sigmas(self) -> Tensor:
        """Noise levels of the evaluations."""
        if self.one_step:
            return ONE_STEP
        return karras_sigmas(self.num_steps, min(self.sigma_max, SIGMA_MAX))


@dataclass(frozen=True)
class RgbControl:
    """A control that is computed from the RGB at the model's size (edge, blur).

    Attributes:
        kind: which control branch.
        compute: [T, H, W, 3] uint8 -> the same.
        weight: a number, or a map [T, h, w] float32.
    """

    kind: str
    compute: Callable[[Tensor], Tensor]
    weight: float | Tensor = 1.0


@dataclass(frozen=True)
class Progress:
    """Where a view's generation stands; step counts the evaluations of one clip, num_steps of them."""

    stage: Literal["encode", "sample", "decode"]
    clip: int
    num_clips: int
    step: int = 0
    num_steps: int = 0

    @property
    def done(self) -> int:
        """Steps done over all clips of the view, encoding and decoding counted as one each."""
        before = (self.clip - 1) * (self.num_steps + 2)
        return before + {"encode": 0, "sample": 1 + self.step, "decode": 1 + self.num_steps}[self.stage]

    @property
    def total(self) -> int:
        """Steps of the view."""
        return self.num_clips * (self.num_steps + 2)


@dataclass(frozen=True)
class Generated:
    """A generated view.

    Attributes:
        rgb: [T, H, W, 3] uint8 at the source's size.
        record: JSON-able facts: model size, clips, seconds by stage.
        ceiling: the given video as the tokenizer alone gives it back, like `rgb` but of the frames alone that the
            record lists as "ceiling_frames" ([first, last + 1] of each clip); None if it was not asked for.
    """

    rgb: Tensor
    record: Mapping[str, Any]
    ceiling: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """The arguments of `TransferPipeline.generate`, which see."""

    rgb: Tensor
    controls: Sequence[ControlVideo | RgbControl]
    prompt: str
    seed: int
    tiling: Tiling
    out_size: Size
    fps: float
    guidance: SpatialGuidance | None
    on_progress: Callable[[Progress], None]

    @property
    def canvas_px(self) -> Size:
        """Rows and columns of the whole picture, over all tiles."""
        return self.tiling.scaled(PIXELS_PER_LATENT).size

    @property
    def rgb_filter(self) -> Filter:
        """Area filtering to the model's size, as in the reference; what tiles enlarge is interpolated."""
        return "linear" if len(self.tiling) > 1 and grows(self.rgb, self.canvas_px) else "area"


@dataclass(frozen=True)
class Told:
    """What the network is told of one tile.

    Attributes:
        hints: latents [1, 16, t, rows, columns] of the controls' pictures, by kind.
        weights: of each, a number or a map [T, h, w].
    """

    hints: Mapping[str, Tensor]
    weights: Mapping[str, float | Tensor]


@dataclass(frozen=True)
class Given:
    """What one clip is told, on the device; all but `tiles` over the whole picture.

    Attributes:
        tiles: of each tile, row by row.
        clean: latents [1, 16, t, rows, columns] of the given video.
        keep, background: latents that are held, [1, 1, t, rows, columns] in 0..1; None without guidance.
        first_frames: latents of the frames that the clip continues from; None for a video's first clip.
    """

    tiles: Sequence[Told]
    clean: Tensor
    keep: Tensor | None
    background: Tensor | None
    first_frames: Tensor | None


def counts(weight: float | Tensor) -> bool:
    """Whether a control of this weight does anything: at zero it is neither encoded nor run."""
    return bool(weight.any()) if isinstance(weight, Tensor) else weight != 0


def control_frames(control: ControlVideo | RgbControl, clip: Clip, rgb: Tensor, size: Size, box: Box) -> Tensor:
    """A control's pictures for one clip; colours that stand for labels are never blended.

    Args:
        control: the control.
        clip: of the video.
        rgb: the clip's frames, resized and cut as the control is to be.
        size: of the whole picture.
        box: the tile of it that is wanted.
    """
    if isinstance(control, RgbControl):
        return control.compute(rgb)
    return resize_frames(control.frames[clip.frames], size, "nearest" if control.kind == "seg" else "linear", box)


def clip_mask(mask: Tensor, job: Job, clip: Clip, box: Box) -> Tensor:
    """One clip and tile of a mask [T, H, W], as `pixel_mask` brings it to the model's size."""
    return pixel_mask((mask[clip.frames] > 0.5).to(torch.uint8), (1,), *job.canvas_px, window=box)


def tile_weight(weight: float | Tensor, clip: Clip, job: Job, box: Box) -> float | Tensor:
    """A weight for one clip and tile; a map keeps its resolution where one tile is all."""
    if not isinstance(weight, Tensor):
        return weight
    weight = weight[clip.frames]
    return resize_frames(weight, job.canvas_px, "linear", box) if len(job.tiling) > 1 else weight


def grows(frames: Tensor, size: Size) -> bool:
    """Whether frames [T, H, W, ...] become larger in rows or columns."""
    return frames.shape[1] < size[0] or frames.shape[2] < size[1]
