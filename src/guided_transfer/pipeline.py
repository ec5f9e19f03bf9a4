"""One view, one clip after another: pictures in, pictures out.

    pipeline = TransferPipeline(network, tokenizer, text_encoder, settings, device=device)
    pipeline.remember([prompt, negative_prompt])
    result = pipeline.generate(rgb, controls, prompt, seed=seed, size=(704, 1280), fps=30, guidance=guidance)

Long videos are made of clips of the model's length, each continuing from the last frames of the one before.
Everything is resized, encoded and decoded clip by clip, so that memory does not grow with the video.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.sampling.denoiser import ClassifierFree, EdmDenoiser, FirstFrames, first_frames_mask
from guided_transfer.sampling.guidance import SpatiallyGuided, latent_mask, pixel_mask
from guided_transfer.sampling.noise import clip_noise, starting_state
from guided_transfer.sampling.schedule import SIGMA_MAX, karras_sigmas
from guided_transfer.sampling.solver import Denoiser, sample
from guided_transfer.types import ControlVideo, Numerics, SpatialGuidance

PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 8
PIXELS_PER_TOKEN = 16
"""8 pixels to a latent, 2 x 2 latents to a token: sides of a picture are multiples of this."""

FILTERS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}
Filter = Literal["area", "linear", "nearest"]

Size = tuple[int, int]
"""Rows and columns."""


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
    """

    num_steps: int = 35
    guidance: float = 5.0
    negative_prompt: str = ""
    sigma_max: float = SIGMA_MAX
    num_input_frames: int = 1
    clip_frames: int = 121
    numerics: Numerics = "exact"

    def __post_init__(self) -> None:
        for name in ("clip_frames", "num_input_frames"):
            if getattr(self, name) % FRAMES_PER_LATENT != 1:
                raise UsageError(f"{name} must be 1 + 8k, got {getattr(self, name)}")
        if self.num_input_frames >= self.clip_frames:
            raise UsageError(
                f"num_input_frames is {self.num_input_frames}, but a clip has {self.clip_frames} frames"
            )

    @property
    def sigmas(self) -> Tensor:
        """Noise levels of the evaluations."""
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
    """Where a view's generation stands; step counts the evaluations of one clip."""

    stage: Literal["encode", "sample", "decode"]
    clip: int
    num_clips: int
    step: int = 0
    num_steps: int = 0


@dataclass(frozen=True)
class Generated:
    """A generated view.

    Attributes:
        rgb: [T, H, W, 3] uint8 at the source's size.
        record: JSON-able facts: model size, clips, seconds by stage.
    """

    rgb: Tensor
    record: Mapping[str, Any]


@dataclass
class Stopwatch:
    """Seconds by stage, counted when the device is done."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the body takes to stage `name`."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class _Clip:
    """One clip's share of the video.

    Attributes:
        index, count: which clip of how many.
        frames: [clip_frames] indices into the source; past its end the last frame is repeated.
        overlap: leading frames that belong to the clip before.
    """

    index: int
    count: int
    frames: Tensor
    overlap: int


def plan_clips(num_frames: int, clip_frames: int, num_input_frames: int) -> list[_Clip]:
    """Cut a video of any length into clips that overlap by `num_input_frames`."""
    if num_frames < 1:
        raise UsageError("the video has no frames")
    new = clip_frames - num_input_frames
    count = max(1, math.ceil((num_frames - num_input_frames) / new))
    return [
        _Clip(
            index,
            count,
            torch.arange(index * new, index * new + clip_frames).clamp(max=num_frames - 1),
            num_input_frames if index else 0,
        )
        for index in range(count)
    ]


def model_size(source: Size, native_sizes: Sequence[Sequence[int]], resolution: str = "") -> Size:
    """The size that the model works at.

    Args:
        source: of the video.
        native_sizes: sizes the model was trained on; the one of the nearest aspect ratio is taken, as in the
            reference.
        resolution: "" or "native" for that; "480" for 480 pixels along the shorter side of the source's shape;
            "256x448" for rows x columns.

    Raises:
        UsageError: a resolution that cannot be read, or that the model cannot take.
    """
    height, width = source
    if resolution in ("", "native"):
        nearest = min(native_sizes, key=lambda size: (size[1] / size[0] - width / height) ** 2)
        return nearest[0], nearest[1]
    if resolution.isdecimal() and int(resolution):
        scale = int(resolution) / min(source)
        return _checked((_nearest_multiple(height * scale), _nearest_multiple(width * scale)), resolution)
    rows, cross, columns = resolution.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise UsageError(
            f"resolution is {resolution!r}; accepted: 480 (shorter side), 256x448 (rows x columns), native"
        )
    return _checked((int(rows), int(columns)), resolution)


def _checked(size: Size, resolution: str) -> Size:
    if any(side < PIXELS_PER_TOKEN or side % PIXELS_PER_TOKEN for side in size):
        near = "x".join(str(_nearest_multiple(side)) for side in size)
        raise UsageError(
            f"resolution {resolution!r} asks for {size[0]} x {size[1]} pixels; "
            f"both sides must be multiples of {PIXELS_PER_TOKEN}, the nearest are {near}"
        )
    return size


def _nearest_multiple(side: float) -> int:
    return max(1, round(side / PIXELS_PER_TOKEN)) * PIXELS_PER_TOKEN


def resize_frames(frames: Tensor, size: Size, how: Filter) -> Tensor:
    """Stretch [T, H, W, C] frames (uint8 or float32) to `size`, each with OpenCV's filter of that name."""
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    rows, columns = size
    out = np.empty((len(frames), rows, columns, frames.shape[-1]), dtype=frames.numpy().dtype)
    for index, frame in enumerate(frames.numpy()):
        cv2.resize(frame, (columns, rows), dst=out[index], interpolation=FILTERS[how])
    return torch.from_numpy(out)


@contextmanager
def resident(module: Any, device: torch.device, *, offload: bool) -> Iterator[None]:
    """Have a module on `device` while it works; afterwards keep it on the host if `offload` is set."""
    module.to(device)
    try:
        yield
    finally:
        if offload and device.type != "cpu":
            module.to("cpu")
            torch.cuda.empty_cache()


def peak_memory_gb(device: torch.device) -> float:
    """Most memory held since the process began: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class TransferPipeline:
    """The models of a run, and how they make one view.

    Args:
        network: a TransferNetwork with one branch per control.
        tokenizer: video <-> latents.
        text_encoder: prompts -> embeddings.
        settings: how clips are made.
        device: where the models work.
        offload_network, offload_text_encoder: keep them on the host while they have nothing to do.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        text_encoder: Any,
        settings: GenerationSettings,
        *,
        device: torch.device,
        offload_network: bool = False,
        offload_text_encoder: bool = False,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.settings = settings
        self.device = device
        self.offload_network = offload_network
        self.offload_text_encoder = offload_text_encoder
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self, prompts: Iterable[str]) -> None:
        """Encode prompts, each once per run."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if not new:
            return
        with resident(self.text_encoder, self.device, offload=self.offload_text_encoder):
            for prompt in new:
                self._texts[prompt] = self.text_encoder.encode([prompt]).cpu()

    def forget_text_encoder(self) -> None:
        """Free the text encoder for good; only remembered prompts can be used from here on."""
        self.text_encoder = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def generate(
        self,
        rgb: Tensor,
        controls: Sequence[ControlVideo | RgbControl],
        prompt: str,
        *,
        seed: int,
        size: Size,
        fps: float,
        guidance: SpatialGuidance | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generated:
        """Generate one view.

        Args:
            rgb: [T, H, W, 3] uint8, the given video: guidance holds parts of it, a partial denoise starts from it,
                and edge and blur are computed from it.
            controls: pictures of T frames, of any size.
            prompt: what the view should become.
            seed: of this view.
            size: that the model works at, see `model_size`.
            fps: frames per second.
            guidance: what is held, at the size of `rgb`.
            on_progress: told about every stage and step.

        Returns:
            T frames at the size of `rgb`.
        """
        self.remember([prompt, self.settings.negative_prompt] if self.settings.guidance else [prompt])
        job = _Job(rgb, controls, prompt, seed, size, fps, guidance, on_progress or (lambda progress: None))
        watch = Stopwatch(self.device)
        clips = plan_clips(len(rgb), self.settings.clip_frames, self.settings.num_input_frames)
        parts: list[Tensor] = []
        tail: Tensor | None = None
        for clip in clips:
            video = self._generate_clip(job, clip, tail, watch)
            parts.append(self._pictures(video[:, :, clip.overlap :], rgb.shape[1:3]))
            tail = video[:, :, -self.settings.num_input_frames :]
        record = {"model_size": list(size), "num_clips": len(clips), "seconds": watch.seconds}
        return Generated(torch.cat(parts)[: len(rgb)], record)

    def _generate_clip(self, job: _Job, clip: _Clip, tail: Tensor | None, watch: Stopwatch) -> Tensor:
        """One clip as video [1, 3, clip_frames, H, W] in -1..1, continuing from `tail` (the same layout)."""
        at = partial(Progress, clip=clip.index + 1, num_clips=clip.count)
        job.on_progress(at("encode"))
        with watch.stage("encode"):
            given = self._given(job, clip, tail)
        with watch.stage("sample"), resident(self.network, self.device, offload=self.offload_network):
            latents = self._sample(job, clip, given, at)
        job.on_progress(at("decode"))
        with watch.stage("decode"):
            return self.tokenizer.decode(latents)

    def _given(self, job: _Job, clip: _Clip, tail: Tensor | None) -> _Given:
        """Everything that a clip is told, as latents."""
        rgb = resize_frames(job.rgb[clip.frames], job.size, "area")
        hints, weights = {}, {}
        for control in job.controls:
            hints[control.kind] = self._encode(_control_frames(control, clip, rgb, job.size))
            weights[control.kind] = _clip_weight(control.weight, clip)
        keep, background = _latent_masks(job.guidance, clip, job.size)
        return _Given(
            hints=hints,
            weights=weights,
            clean=self._encode(rgb),
            keep=None if keep is None else keep.to(self.device),
            background=None if background is None else background.to(self.device),
            first_frames=None if tail is None else self._encode_tail(tail),
        )

    def _sample(self, job: _Job, clip: _Clip, given: _Given, at: Callable[..., Progress]) -> Tensor:
        settings = self.settings
        frames = 1 + (settings.clip_frames - 1) // FRAMES_PER_LATENT
        shape = (16, frames, *(side // PIXELS_PER_LATENT for side in job.size))
        noise = clip_noise(
            job.seed,
            shape,
            clip=clip.index,
            sigma_max=settings.sigma_max,
            numerics=settings.numerics,
            device=self.device,
        )
        start, held, first = noise.start[None], noise.held[None], noise.first_frames[None]
        denoiser: Denoiser = self._denoiser(job.prompt, job.fps, given, start)
        if settings.guidance:
            negative = self._denoiser(settings.negative_prompt, job.fps, given, start)
            denoiser = ClassifierFree(denoiser, negative, settings.guidance)
        if given.first_frames is not None:
            denoiser = FirstFrames(denoiser, given.first_frames, first)
        if job.guidance is not None:
            denoiser = SpatiallyGuided(
                denoiser, given.clean, held, given.keep, given.background, job.guidance.sigma_threshold
            )
        state = starting_state(start, settings.sigma_max, given.clean)
        sigmas = settings.sigmas
        return sample(
            denoiser,
            state,
            sigmas,
            on_step=lambda step, _: job.on_progress(at("sample", step=step, num_steps=len(sigmas))),
        )

    def _denoiser(self, prompt: str, fps: float, given: _Given, like: Tensor) -> EdmDenoiser:
        """The network told one prompt; what does not change between steps is computed here, once."""
        dtype = next(self.network.parameters()).dtype
        text = self._texts[prompt].to(self.device, dtype)
        hints = {kind: hint.to(dtype) for kind, hint in given.hints.items()}
        conditioning = self.network.prepare(text, hints, given.weights, fps=fps)
        mask = None
        if given.first_frames is not None:
            mask = first_frames_mask(given.first_frames.shape[2], like).to(dtype)
        network = partial(self.network, conditioning=conditioning, condition_mask=mask)
        return EdmDenoiser(network, dtype=dtype, numerics=self.settings.numerics)

    def _encode(self, frames: Tensor) -> Tensor:
        """Latents [1, 16, T, H, W] of [T, H, W, 3] uint8 frames."""
        dtype = torch.bfloat16 if self.settings.numerics == "reference" else torch.float32
        video = frames.to(self.device).permute(3, 0, 1, 2)[None].to(dtype) / 255 * 2 - 1
        return self.tokenizer.encode(video)

    def _encode_tail(self, tail: Tensor) -> Tensor:
        """Latents of the frames to continue from; the tokenizer is causal, so these alone give them exactly."""
        if self.settings.numerics == "reference":
            return self._encode(self._pixels(tail))
        return self.tokenizer.encode(tail)

    def _pixels(self, video: Tensor) -> Tensor:
        """[T, H, W, 3] uint8 at the model's size; the official run cuts off where rounding is right."""
        levels = (video[0].permute(1, 2, 3, 0).float().clamp(-1, 1) + 1) * 127.5
        return (levels if self.settings.numerics == "reference" else levels.round()).to(torch.uint8).cpu()

    def _pictures(self, video: Tensor, size: Sequence[int]) -> Tensor:
        """[T, *size, 3] uint8: area filtering from the model's size, so that shrinking does not alias."""
        return resize_frames(self._pixels(video), (size[0], size[1]), "area")


@dataclass(frozen=True)
class _Job:
    """The arguments of `generate`."""

    rgb: Tensor
    controls: Sequence[ControlVideo | RgbControl]
    prompt: str
    seed: int
    size: Size
    fps: float
    guidance: SpatialGuidance | None
    on_progress: Callable[[Progress], None]


@dataclass(frozen=True)
class _Given:
    """What one clip is told, on the device."""

    hints: Mapping[str, Tensor]
    weights: Mapping[str, float | Tensor]
    clean: Tensor
    keep: Tensor | None
    background: Tensor | None
    first_frames: Tensor | None


def _control_frames(control: ControlVideo | RgbControl, clip: _Clip, rgb: Tensor, size: Size) -> Tensor:
    """A control's pictures for one clip at the model's size; colours that stand for labels are never blended."""
    if isinstance(control, RgbControl):
        return control.compute(rgb)
    return resize_frames(control.frames[clip.frames], size, "nearest" if control.kind == "seg" else "linear")


def _clip_weight(weight: float | Tensor, clip: _Clip) -> float | Tensor:
    return weight[clip.frames] if isinstance(weight, Tensor) else weight


def _latent_masks(guidance: SpatialGuidance | None, clip: _Clip, size: Size) -> tuple[Tensor | None, Tensor | None]:
    """Keep and background on the grid of the latents."""

    def mask(pixels: Tensor | None) -> Tensor | None:
        if pixels is None:
            return None
        return latent_mask(pixel_mask((pixels[clip.frames] > 0.5).to(torch.uint8), (1,), *size))

    return (mask(guidance.keep), mask(guidance.background)) if guidance else (None, None)
