"""One view, one clip after another: pictures in, pictures out.

    pipeline = TransferPipeline(network, tokenizer, text_encoder, settings, device=device)
    pipeline.remember([prompt, negative_prompt])
    result = pipeline.generate(rgb, controls, prompt, seed=seed, size=(704, 1280), fps=30, guidance=guidance)

Long videos are made of clips of the model's length, each continuing from the last frames of the one before.
Everything is resized, encoded and decoded clip by clip, so that memory does not grow with the video.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from guided_transfer.clips import (
    FRAMES_PER_LATENT,
    PIXELS_PER_LATENT,
    Clip,
    Filter,
    Size,
    join_clips,
    plan_clips,
    resize_frames,
    still_share,
)
from guided_transfer.cost import Stopwatch, aside, resident
from guided_transfer.errors import UsageError
from guided_transfer.generation import (
    Generated,
    GenerationSettings,
    Given,
    Job,
    Progress,
    RgbControl,
    Told,
    clip_mask,
    control_frames,
    counts,
    grows,
    tile_weight,
)
from guided_transfer.models.network import Conditioning, TransferNetwork
from guided_transfer.models.streaming import StreamedLinears
from guided_transfer.models.text import TextEncoder
from guided_transfer.models.tokenizer import VideoTokenizer
from guided_transfer.sampling.denoiser import ClassifierFree, EdmDenoiser, FirstFrames, first_frames_mask
from guided_transfer.sampling.guidance import SpatiallyGuided, held_pixels, latent_mask
from guided_transfer.sampling.noise import clip_noise, starting_state
from guided_transfer.sampling.rim import RimMatched, match_rim
from guided_transfer.sampling.solver import Denoiser, sample
from guided_transfer.sampling.tiles import Box, TiledDenoiser, Tiling
from guided_transfer.types import ControlVideo, SpatialGuidance

REFERENCE_SEEDS = 2**32
"""The official run's generators take no larger seed."""


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
            if self.network.compiled:  # compiled code would hold on to weights that come and go
                torch.compiler.set_stance("force_eager")
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
        tiling: Tiling | None = None,
        out_size: Size | None = None,
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
            tiling: in latents, tiles of `size` that cover a larger picture; None for one tile.
            out_size: of the result; None for the size of `rgb`.
            on_progress: told about every stage and step.

        Returns:
            T frames at `out_size`.
        """
        tiling = tiling or Tiling.whole((size[0] // PIXELS_PER_LATENT, size[1] // PIXELS_PER_LATENT))
        if tiling.scaled(PIXELS_PER_LATENT).tile_size != tuple(size):
            raise UsageError(f"tiles of {tiling.tile_size} latents do not have the model's size {size}")
        controls = [control for control in controls if counts(control.weight)]
        out_size = out_size or (rgb.shape[1], rgb.shape[2])
        told = on_progress or (lambda progress: None)
        job = Job(rgb, controls, prompt, seed, tiling, out_size, fps, guidance, told)
        watch = Stopwatch(self.device)
        clips = plan_clips(len(rgb), self.settings.clip_frames, self.settings.num_input_frames)
        parts: list[Tensor] = []
        ceilings: list[Tensor] = []
        ceiling_frames: list[list[int]] = []
        tail: Tensor | None = None
        for clip in clips:
            latents, clean = self._generate_clip(job, clip, tail, watch)
            job.on_progress(self._at("decode", clip))
            with watch.stage("decode"):
                pictures, tail = self._decode(job, clip, latents, tail)
            parts.append(pictures)
            if self.settings.with_ceiling:
                some = max(clean.shape[2] // 2, math.ceil(clip.overlap / FRAMES_PER_LATENT)) + 1
                with watch.stage("ceiling"):
                    pictures = self._decode(job, clip, clean[:, :, :some], None)[0]
                first = int(clip.frames[clip.overlap])
                ceilings.append(pictures[: len(rgb) - first])
                ceiling_frames.append([first, first + len(ceilings[-1])])
        record = {
            "model_size": list(size),
            **({"tiles": len(tiling), "canvas_size": list(job.canvas_px)} if len(tiling) > 1 else {}),
            "num_clips": len(clips),
            "compiled": self.network.compiled and self.streamed is None,
            "clip_borders": [int(clip.frames[clip.overlap]) for clip in clips[1:]],
            **({"ceiling_frames": ceiling_frames} if ceilings else {}),
            "seconds": {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()},
        }
        return Generated(torch.cat(parts)[: len(rgb)], record, torch.cat(ceilings) if ceilings else None)

    def _generate_clip(self, job: Job, clip: Clip, tail: Tensor | None, watch: Stopwatch) -> tuple[Tensor, Tensor]:
        """Latents of one clip, generated and given; it continues from `tail`, video [1, 3, n, H, W] in -1..1."""
        job.on_progress(self._at("encode", clip))
        with watch.stage("encode"):
            given = self._given(job, clip, tail)
        with watch.stage("sample"), self._network_in_place():
            return self._sample(job, clip, given), given.clean

    def _at(self, stage: Literal["encode", "sample", "decode"], clip: Clip, step: int = 0) -> Progress:
        return Progress(stage, clip.index + 1, clip.count, step, len(self.settings.sigmas))

    def _decode(self, job: Job, clip: Clip, latents: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """A clip's new frames as pictures, and its last ones as video in -1..1 for the next clip to continue from.

        One tile after the other, so that no more than one is held as video.
        """
        pixels = job.tiling.scaled(PIXELS_PER_LATENT)
        seams = [None] * len(pixels) if tail is None else list(self._seams(job, clip, tail))
        tiles, tails = [], []
        for tile, seam in zip(job.tiling.cut(latents), seams, strict=True):
            video = self.tokenizer.decode(tile)
            if seam is not None and self.settings.numerics == "exact":
                video = join_clips(seam[0], video, seam[1])
            tiles.append(self._pixels(video[:, :, clip.overlap :]))
            tails.append(video[:, :, -self.settings.num_input_frames :].clamp(-1, 1))
        return _joined(pixels, tiles, job.out_size), pixels.blend(tails)

    def _seams(self, job: Job, clip: Clip, tail: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What `join_clips` is told of each tile: the clip before, and where the given video stands still."""
        shared, first = job.rgb[clip.frames[clip.overlap - 1 : clip.overlap + 1]]
        still = still_share(shared, first, job.canvas_px).to(tail.device)
        pixels = job.tiling.scaled(PIXELS_PER_LATENT)
        return zip(pixels.cut(tail), pixels.cut(still), strict=True)

    def _network_in_place(self) -> AbstractContextManager[None]:
        if self.streamed is not None:
            return nullcontext()
        return resident(self.network, self.device, offload=self.offload_network)

    def _network_aside(self) -> AbstractContextManager[None]:
        if self.streamed is not None:
            return nullcontext()
        return aside(self.network, self.device, offload=self.offload_network)

    def _given(self, job: Job, clip: Clip, tail: Tensor | None) -> Given:
        """Everything that a clip is told, as latents."""
        pixels = job.tiling.scaled(PIXELS_PER_LATENT)
        tiles, clean = [], []
        for box in pixels.boxes:
            rgb = resize_frames(job.rgb[clip.frames], job.canvas_px, job.rgb_filter, box)
            tiles.append(self._told(job, clip, rgb, box))
            clean.append(self._encode(rgb))
        keep, background = (
            None if mask is None else self._latent_mask(mask, job, clip)
            for mask in ((job.guidance.keep, job.guidance.background) if job.guidance else (None, None))
        )
        first_frames = None if tail is None else job.tiling.blend(map(self._encode_tail, pixels.cut(tail)))
        return Given(tiles, job.tiling.blend(clean), keep, background, first_frames)

    def _told(self, job: Job, clip: Clip, rgb: Tensor, box: Box) -> Told:
        """The controls of one tile that count anywhere in this clip."""
        weights = {control.kind: tile_weight(control.weight, clip, job, box) for control in job.controls}
        hints = {
            control.kind: self._encode(control_frames(control, clip, rgb, job.canvas_px, box))
            for control in job.controls
            if counts(weights[control.kind])
        }
        return Told(hints, {kind: weights[kind] for kind in hints})

    def _latent_mask(self, mask: Tensor, job: Job, clip: Clip) -> Tensor:
        """A mask over pixels [T, H, W] on the grid of the clip's latents."""
        touched = self.settings.numerics == "exact"
        tiles = (
            latent_mask(clip_mask(mask, job, clip, box), touched=touched)
            for box in job.tiling.scaled(PIXELS_PER_LATENT).boxes
        )
        return job.tiling.blend(tiles).to(self.device)

    def _matched(self, job: Job, clip: Clip, guidance: SpatialGuidance, keep: Tensor, estimate: Tensor) -> Tensor:
        """The given latents again, held background changed as the estimate changes what lies around it."""
        boxes = job.tiling.scaled(PIXELS_PER_LATENT).boxes
        tiles = []
        with self._network_aside():
            for box, kept, latents in zip(boxes, job.tiling.cut(keep), job.tiling.cut(estimate), strict=True):
                rgb = resize_frames(job.rgb[clip.frames], job.canvas_px, job.rgb_filter, box)
                foreground = clip_mask(guidance.keep, job, clip, box) > 0.5
                generated = self._pixels(self.tokenizer.decode(latents))
                tiles.append(self._encode(match_rim(rgb, generated, foreground, held_pixels(kept).cpu())))
        return job.tiling.blend(tiles)

    def _sample(self, job: Job, clip: Clip, given: Given) -> Tensor:
        settings = self.settings
        frames = 1 + (settings.clip_frames - 1) // FRAMES_PER_LATENT
        shape = (16, frames, *job.tiling.size)
        noise = clip_noise(
            job.seed % REFERENCE_SEEDS if settings.numerics == "reference" else job.seed,
            shape,
            clip=clip.index,
            sigma_max=settings.sigma_max,
            numerics=settings.numerics,
            device=self.device,
            one_step=settings.one_step,
        )
        start, held, first = noise.start[None], noise.held[None], noise.first_frames[None]
        held_frames = 0 if given.first_frames is None else given.first_frames.shape[2]
        denoiser_of = partial(self._denoiser_of, job, given, held_frames)
        denoiser = TiledDenoiser(job.tiling, denoiser_of) if len(job.tiling) > 1 else denoiser_of(0)
        if given.first_frames is not None:
            denoiser = FirstFrames(denoiser, given.first_frames, first)
        if job.guidance is not None:
            denoiser = SpatiallyGuided(
                denoiser, given.clean, held, given.keep, given.background, job.guidance.sigma_threshold
            )
            if job.guidance.match_rim and given.keep is not None and bool(given.keep.any()):
                denoiser = RimMatched(denoiser, partial(self._matched, job, clip, job.guidance, given.keep))
        state = starting_state(start, settings.sigma_max, given.clean)
        sigmas = settings.sigmas
        return sample(
            denoiser,
            state,
            sigmas,
            on_step=lambda step, _: job.on_progress(self._at("sample", clip, step)),
        )

    def _denoiser_of(self, job: Job, given: Given, held_frames: int, tile: int) -> Denoiser:
        """The denoiser of one tile, led away from the negative prompt."""
        conditioning = self._conditioning(job, given, tile)
        denoiser = self._denoiser(conditioning, held_frames)
        if not self.settings.guidance:
            return denoiser
        negative = self.network.with_text(conditioning, self._text(self.settings.negative_prompt))
        return ClassifierFree(denoiser, self._denoiser(negative, held_frames), self.settings.guidance)

    def _conditioning(self, job: Job, given: Given, tile: int) -> Conditioning:
        """What the network is told of a tile; the same for all its evaluations."""
        dtype = next(self.network.parameters()).dtype
        told = given.tiles[tile]
        hints = {kind: hint.to(dtype) for kind, hint in told.hints.items()}
        size = (given.clean.shape[2], *job.tiling.tile_size)
        return self.network.prepare(self._text(job.prompt), hints, told.weights, fps=job.fps, latent_size=size)

    def _denoiser(self, conditioning: Conditioning, held_frames: int) -> EdmDenoiser:
        like = torch.empty(1, 1, *conditioning.latent_size, device=self.device)
        mask = first_frames_mask(held_frames, like) if held_frames else None
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
        """Latents of the frames to continue from, as they were decoded: whole levels would add to the error.

        The tokenizer is causal, so these frames alone give their latents exactly.
        """
        return self.tokenizer.encode(tail)

    def _pixels(self, video: Tensor) -> Tensor:
        """[T, H, W, 3] uint8 at the model's size; the official run cuts off where rounding is right."""
        levels = (video[0].permute(1, 2, 3, 0).float().clamp(-1, 1) + 1) * 127.5
        return (levels if self.settings.numerics == "reference" else levels.round()).to(torch.uint8).cpu()


def _joined(tiling: Tiling, tiles: Sequence[Tensor], size: Size) -> Tensor:
    """Tiles [T, h, w, 3] uint8 as whole pictures [T, *size, 3].

    Shrinking is by area, so that it does not alias, growing by cubic interpolation. Frame by frame: beside the
    tiles and the result no more than one is held.
    """
    if len(tiling) == 1:
        return resize_frames(tiles[0], size, _smooth(tiles[0], size))

    joined = torch.empty(len(tiles[0]), *size, 3, dtype=torch.uint8)
    for index, parts in enumerate(zip(*tiles, strict=True)):
        whole = tiling.blend(part.permute(2, 0, 1) for part in parts).permute(1, 2, 0)
        frame = whole.round().to(torch.uint8).contiguous()[None]
        joined[index] = resize_frames(frame, size, _smooth(frame, size))[0]
    return joined


def _smooth(frames: Tensor, size: Size) -> Filter:
    return "cubic" if grows(frames, size) else "area"
