"""One view, one clip after another: pictures in, pictures out.

    pipeline = TransferPipeline(network, tokenizer, text_encoder, settings, device=device)
    pipeline.remember([prompt, negative_prompt])
    result = pipeline.generate(rgb, controls, prompt, seed=seed, size=(704, 1280), fps=30, guidance=guidance)

Long videos are made of clips of the model's length, each continuing from the last frames of the one before.
Everything is resized, encoded and decoded clip by clip, so that memory does not grow with the video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from guided_transfer.clips import (
    FRAMES_PER_LATENT,
    PIXELS_PER_LATENT,
    Clip,
    Size,
    join_clips,
    plan_clips,
    resize_frames,
)
from guided_transfer.cost import Stopwatch, resident
from guided_transfer.errors import UsageError
from guided_transfer.models.network import Conditioning, TransferNetwork
from guided_transfer.models.streaming import StreamedLinears
from guided_transfer.models.text import TextEncoder
from guided_transfer.models.tokenizer import VideoTokenizer
from guided_transfer.sampling.denoiser import ClassifierFree, EdmDenoiser, FirstFrames, first_frames_mask
from guided_transfer.sampling.guidance import SpatiallyGuided, latent_mask, pixel_mask
from guided_transfer.sampling.noise import clip_noise, starting_state
from guided_transfer.sampling.schedule import SIGMA_MAX, karras_sigmas
from guided_transfer.sampling.solver import Denoiser, sample
from guided_transfer.types import ControlVideo, Numerics, SpatialGuidance

REFERENCE_SEEDS = 2**32
"""The official run's generators take no larger seed."""


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
        with_ceiling: also decode the given video's latents, the most that guidance can keep of it.
    """

    num_steps: int = 35
    guidance: float = 5.0
    negative_prompt: str = ""
    sigma_max: float = SIGMA_MAX
    num_input_frames: int = 1
    clip_frames: int = 121
    numerics: Numerics = "exact"
    with_ceiling: bool = False

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
        ceiling: the given video as the tokenizer alone gives it back, like `rgb`; None if it was not asked for.
    """

    rgb: Tensor
    record: Mapping[str, Any]
    ceiling: Tensor | None = None


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
        network: TransferNetwork,
        tokenizer: VideoTokenizer,
        text_encoder: TextEncoder,
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
        self.streamed: StreamedLinears | None = None

    def stream_network(self) -> None:
        """From now on, hold the network's linear layers on the host and fetch each when its turn comes.

        For a GPU that cannot hold the network beside what it computes. The numbers stay the same.
        """
        if self.streamed is None and self.device.type == "cuda":
            self.streamed = StreamedLinears(self.network.to("cpu"), self.device)
            torch.cuda.empty_cache()

    def remember(self, prompts: Sequence[str]) -> None:
        """Encode prompts ahead; each costs the text encoder once per run."""
        with resident(self.text_encoder, self.device, offload=self.offload_text_encoder):
            self.text_encoder.encode(prompts)

    def free_text_encoder(self) -> None:
        """Give the text encoder's memory back for good; only remembered prompts can be used from here on."""
        self.text_encoder.free()
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
        job = _Job(rgb, controls, prompt, seed, size, fps, guidance, on_progress or (lambda progress: None))
        watch = Stopwatch(self.device)
        clips = plan_clips(len(rgb), self.settings.clip_frames, self.settings.num_input_frames)
        parts: list[Tensor] = []
        ceilings: list[Tensor] = []
        tail: Tensor | None = None
        for clip in clips:
            video, given = self._generate_clip(job, clip, tail, watch)
            parts.append(self._pictures(video[:, :, clip.overlap :], rgb.shape[1:3]))
            tail = video[:, :, -self.settings.num_input_frames :].clamp(-1, 1)
            if self.settings.with_ceiling:
                with watch.stage("ceiling"):
                    video = self.tokenizer.decode(given.clean)
                ceilings.append(self._pictures(video[:, :, clip.overlap :], rgb.shape[1:3]))
        record = {
            "model_size": list(size),
            "num_clips": len(clips),
            "clip_borders": [int(clip.frames[clip.overlap]) for clip in clips[1:]],
            "seconds": {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()},
        }
        ceiling = torch.cat(ceilings)[: len(rgb)] if ceilings else None
        return Generated(torch.cat(parts)[: len(rgb)], record, ceiling)

    def _generate_clip(self, job: _Job, clip: Clip, tail: Tensor | None, watch: Stopwatch) -> tuple[Tensor, _Given]:
        """One clip as video [1, 3, clip_frames, H, W] in -1..1, continuing from `tail` (the same layout)."""
        at = partial(Progress, clip=clip.index + 1, num_clips=clip.count, num_steps=len(self.settings.sigmas))
        job.on_progress(at("encode"))
        with watch.stage("encode"):
            given = self._given(job, clip, tail)
        with watch.stage("sample"), self._network_in_place():
            latents = self._sample(job, clip, given, at)
        job.on_progress(at("decode"))
        with watch.stage("decode"):
            video = self.tokenizer.decode(latents)
        if tail is not None and self.settings.numerics == "exact":
            video = join_clips(tail, video)
        return video, given

    def _network_in_place(self) -> AbstractContextManager[None]:
        if self.streamed is not None:
            return nullcontext()
        return resident(self.network, self.device, offload=self.offload_network)

    def _given(self, job: _Job, clip: Clip, tail: Tensor | None) -> _Given:
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

    def _sample(self, job: _Job, clip: Clip, given: _Given, at: Callable[..., Progress]) -> Tensor:
        settings = self.settings
        frames = 1 + (settings.clip_frames - 1) // FRAMES_PER_LATENT
        shape = (16, frames, *(side // PIXELS_PER_LATENT for side in job.size))
        noise = clip_noise(
            job.seed % REFERENCE_SEEDS if settings.numerics == "reference" else job.seed,
            shape,
            clip=clip.index,
            sigma_max=settings.sigma_max,
            numerics=settings.numerics,
            device=self.device,
        )
        start, held, first = noise.start[None], noise.held[None], noise.first_frames[None]
        conditioning = self._conditioning(job, given)
        denoiser: Denoiser = self._denoiser(conditioning, given, start)
        if settings.guidance:
            negative = self.network.with_text(conditioning, self._text(settings.negative_prompt))
            denoiser = ClassifierFree(denoiser, self._denoiser(negative, given, start), settings.guidance)
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
            on_step=lambda step, _: job.on_progress(at("sample", step=step)),
        )

    def _conditioning(self, job: _Job, given: _Given) -> Conditioning:
        """What the network is told; computed once per clip."""
        dtype = next(self.network.parameters()).dtype
        hints = {kind: hint.to(dtype) for kind, hint in given.hints.items()}
        size = given.clean.shape[2:]
        return self.network.prepare(self._text(job.prompt), hints, given.weights, fps=job.fps, latent_size=size)

    def _denoiser(self, conditioning: Conditioning, given: _Given, like: Tensor) -> EdmDenoiser:
        mask = None if given.first_frames is None else first_frames_mask(given.first_frames.shape[2], like)
        network = partial(self.network, conditioning=conditioning, condition_mask=mask)
        return EdmDenoiser(network, next(self.network.parameters()).dtype, self.settings.numerics)

    def _text(self, prompt: str) -> Tensor:
        return self.text_encoder.encode([prompt]).to(self.device, next(self.network.parameters()).dtype)

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


def _control_frames(control: ControlVideo | RgbControl, clip: Clip, rgb: Tensor, size: Size) -> Tensor:
    """A control's pictures for one clip at the model's size; colours that stand for labels are never blended."""
    if isinstance(control, RgbControl):
        return control.compute(rgb)
    return resize_frames(control.frames[clip.frames], size, "nearest" if control.kind == "seg" else "linear")


def _clip_weight(weight: float | Tensor, clip: Clip) -> float | Tensor:
    return weight[clip.frames] if isinstance(weight, Tensor) else weight


def _latent_masks(guidance: SpatialGuidance | None, clip: Clip, size: Size) -> tuple[Tensor | None, Tensor | None]:
    """Keep and background on the grid of the latents."""

    def mask(pixels: Tensor | None) -> Tensor | None:
        if pixels is None:
            return None
        return latent_mask(pixel_mask((pixels[clip.frames] > 0.5).to(torch.uint8), (1,), *size))

    return (mask(guidance.keep), mask(guidance.background)) if guidance else (None, None)
