"""How long a run may take: what the network has to compute, and what everything around it takes here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from guided_transfer.cli.load import place_device
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.clips import FRAMES_PER_LATENT, PIXELS_PER_TOKEN, TYPICAL_VIEW, Size, plan_clips
from guided_transfer.episodes.read import EpisodeFile
from guided_transfer.errors import EpisodeError, UsageError
from guided_transfer.models.tokenizer import load_tokenizer
from guided_transfer.runner.plan import Plan
from guided_transfer.types import View
from guided_transfer.warp import guide_for_wrist

LOOKED_INTO = 20
"""Episodes whose length is read for an estimate; the others are taken to be like them."""

COUNTED = "network, tokenizer and warp; not loading, vision models, guardrails, metrics and writing"
"""What the estimate says of itself."""

NETWORK_SHARE = {"cpu": 0.55, "cuda": 0.75}
"""What the network reaches of a matrix product's speed: the bundled one on a CPU, the 7B sizes on an H200."""

PROBE_FRAMES = 9
"""Frames, 1 + 8k, that the tokenizer is timed with."""

CEILING_SHARE = 0.5
"""Of the frames that are decoded once more, to know what the tokenizer keeps of the given video."""


@dataclass(frozen=True)
class Pace:
    """What one unit of work takes on this machine.

    Attributes:
        operations_per_s: of the network.
        encode_s, decode_s: of the tokenizer, per pixel of a frame at the model's size.
    """

    operations_per_s: float
    encode_s: float
    decode_s: float


def episode_seconds(run: ResolvedRun, plan: Plan) -> Iterator[float]:
    """Estimated seconds per task, of what COUNTED names."""
    if not len(plan):
        return
    pace = _measure(run)
    clip_seconds = clip_seconds_at(run, pace)
    known: list[float] = []
    for task in plan.tasks:
        if len(known) < LOOKED_INTO:
            known.append(_file_seconds(run, task.source, clip_seconds))
            yield known[-1]
        else:
            yield sum(known) / len(known)


def clip_seconds_at(run: ResolvedRun, pace: Pace) -> Callable[[Size, bool], float]:
    """What one clip takes, by the size that the model works at and whether its rim is matched."""
    network = run.load_network("meta")
    parameters = sum(p.numel() for p in network.parameters())
    config, generation = network.base.config, run.generation
    passes = len(generation.sigmas) * (2 if generation.guidance else 1)
    latent_frames = 1 + (generation.clip_frames - 1) // FRAMES_PER_LATENT
    encoded = 1 + len(run.specs.active)

    def seconds(size: Size, matched: bool) -> float:
        pixels = size[0] * size[1]
        tokens = latent_frames * pixels / PIXELS_PER_TOKEN**2
        attention = 4 * tokens**2 * config.channels * config.blocks
        operations = passes * (2 * parameters * tokens + attention)
        per_pixel_s = (encoded + matched) * pace.encode_s + (1 + CEILING_SHARE + matched) * pace.decode_s
        return operations / pace.operations_per_s + pixels * generation.clip_frames * per_pixel_s

    return seconds


def _file_seconds(run: ResolvedRun, file: Path, clip_seconds: Callable[[Size, bool], float]) -> float:
    """All demos of a file; nothing for one that cannot be read."""
    total = 0.0
    try:
        with run.open_source(file) as episodes:
            for demo in episodes.demos:
                layout = episodes.layout(demo)
                cameras = list(layout.cameras.values())[:2]
                sizes = run.two_view.model_sizes(*((camera.height_px, camera.width_px) for camera in cameras))
                clips = plan_clips(layout.num_frames, run.generation.clip_frames, run.generation.num_input_frames)
                matched = [run.two_view.match_rim and bool(run.two_view.foreground_labels), False]
                total += len(clips) * sum(map(clip_seconds, sizes, matched))
                total += layout.num_frames * _warp_s(run, episodes, demo)
    except (EpisodeError, UsageError):  # the run itself will say so
        return total
    return total


def _warp_s(run: ResolvedRun, file: EpisodeFile, demo: str) -> float:
    """Seconds that one frame's warp takes on the CPU, measured on the first; on a GPU it is next to nothing."""
    if run.device.startswith("cuda"):
        return 0.0
    episode = file.read(demo, slice(0, 1))
    views: list[View] = list(episode.views.values())[:2]
    if len(views) < 2 or any(view.labels is None or view.camera is None or view.depth_m is None for view in views):
        return 0.0
    return _best_s(
        lambda: guide_for_wrist(
            *views,
            foreground_labels=run.two_view.foreground_labels,
            fill_missing_pixels=run.two_view.fill_missing_pixels,
        )
    )


def _measure(run: ResolvedRun) -> Pace:
    """Time a matrix product and the tokenizer on the run's device, with the run's threads."""
    device = place_device(run, None)
    torch.set_num_threads(run.cpu_threads)
    n = 4096 if device.type == "cuda" else 768
    a = torch.randn(n, n, device=device, dtype=run.dtype if device.type == "cuda" else torch.float32)
    product_s = _best_s(lambda: (a @ a)[0, 0].item())
    tokenizer = load_tokenizer(run.tree, device=device, dtype=run.dtype)
    size = run.two_view.model_sizes(TYPICAL_VIEW)[0]
    dtype = torch.bfloat16 if run.generation.numerics == "reference" else torch.float32
    video = torch.zeros(1, 3, PROBE_FRAMES, *size, device=device, dtype=dtype)
    pixels = PROBE_FRAMES * size[0] * size[1]
    with torch.no_grad():
        latents = tokenizer.encode(video)
        encode_s = _best_s(lambda: tokenizer.encode(video)[0, 0, 0, 0, 0].item()) / pixels
        decode_s = _best_s(lambda: tokenizer.decode(latents)[0, 0, 0, 0, 0].item()) / pixels
    return Pace(NETWORK_SHARE[device.type] * 2 * n**3 / product_s, encode_s, decode_s)


def _best_s(work: Callable[[], object]) -> float:
    """Seconds of the quickest of three, a little warm."""
    work()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
