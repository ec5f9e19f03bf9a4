"""Rendered clips for training: the same geometry in a simulated and several real looks, with captions.

Clips are made while training and never touch a disk. One scene is thousands of short kernels, so several processes
share a device; `SceneFeed` hands out seeds and brings results back in order, at once or as they become ready.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Generic, TypeVar

import torch
from torch import Tensor

from guided_transfer import scenes
from guided_transfer.controls.depth import depth_control
from guided_transfer.controls.edge import edge_control
from guided_transfer.types import LABEL_COLOURS

CLIP_FRAMES = 33
STACKED_SUFFIX = " The bottom video is facing the same table in the top video without reflection."
Result = TypeVar("Result")


@dataclass(frozen=True)
class SceneClip:
    """One stretch of one scene; V = room, wrist; K real looks; control pictures with one channel.

    Attributes:
        real: [K, V, T, H, W, 3] uint8.
        sim: the simulated look, [V, T, H, W, 3] uint8.
        depth: [V, T, H, W] uint8, the depth control's grey.
        labels: [V, T, H, W] uint8.
        edge_sim: edges of the simulated look, [V, T, H, W] uint8.
        edge_real: edges of the real looks, [K, V, T, H, W] uint8.
        captions: captions[k][v] for look k and view v.
    """

    real: Tensor
    sim: Tensor
    depth: Tensor
    labels: Tensor
    edge_sim: Tensor
    edge_real: Tensor
    captions: tuple[tuple[str, str], ...]

    def to(self, device: torch.device | str) -> SceneClip:
        """The same clip with its tensors on `device`."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "captions"}
        return replace(self, **tensors)

    def stream(self, name: str, look: int = 0) -> Tensor:
        """One stream as pictures [V, T, H, W, 3]: real, sim, depth, seg, edge_sim or edge_real."""
        if name == "seg":
            return torch.tensor(LABEL_COLOURS, dtype=torch.uint8, device=self.labels.device)[self.labels.long()]
        video = getattr(self, name)
        video = video[look] if name in ("real", "edge_real") else video
        return video if video.ndim == 5 else video[..., None].expand(*video.shape, 3)


def render_scene_clip(
    seed: int, *, looks: int, device: torch.device | str, size_px: int = 224, frames: int = CLIP_FRAMES
) -> SceneClip:
    """Render a random stretch of the training scene `seed` in the simulated and in `looks` real looks."""
    rng = Random(f"clip {seed}")
    scene = scenes.sample_scene(seed)
    styles = [scenes.sample_style(rng.randrange(2**31)) for _ in range(looks)]
    start = rng.randrange(scene.num_frames - frames + 1)
    clip = scenes.render_clip(
        scene,
        [None, *styles],
        frames=range(start, start + frames),
        size_px=size_px,
        device=device,
        noise_seed=seed,
    )
    depth = torch.stack([depth_control(d)[..., 0] for d in clip.depth_m]).cpu()
    rgb, labels = clip.rgb.cpu(), clip.labels.cpu()
    edges = edge_control(rgb.flatten(0, 2), "medium")[..., 0].reshape(rgb.shape[:-1])
    captions = tuple((scenes.caption(style, "room", rng), scenes.caption(style, "wrist", rng)) for style in styles)
    return SceneClip(rgb[1:], rgb[0], depth, labels, edges[0], edges[1:], captions)


class SceneFeed(Generic[Result]):
    """`work(seed)` for every seed, in order, made in other processes ahead of the demand.

    Args:
        work: made picklable, for instance by `functools.partial` of a module's function.
        seeds: what to work on.
        processes: how many work at a time; 0 works in this process when a result is asked for.
    """

    def __init__(self, work: Callable[[int], Result], seeds: Sequence[int], *, processes: int) -> None:
        self._work, self._seeds, self._jobs = work, deque(seeds), deque[Future[Result]]()
        self._ahead = 2 * processes
        self._pool = None
        if processes:
            context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
            self._pool = ProcessPoolExecutor(
                processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
            )
            self._hand_out()

    def __iter__(self) -> Iterator[Result]:
        """The results that are left, waiting for each."""
        while self._jobs or self._seeds:
            yield self._next()

    def ready(self) -> list[Result]:
        """What can be had without waiting; without processes, all that is left."""
        results = []
        while self._jobs[0].done() if self._jobs else self._seeds:
            results.append(self._next())
        return results

    def close(self) -> None:
        """Stop; what is under way is dropped."""
        self._seeds.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> Result:
        if self._pool is None:
            return self._work(self._seeds.popleft())
        result = self._jobs.popleft().result()
        self._hand_out()
        return result

    def _hand_out(self) -> None:
        while self._pool is not None and self._seeds and len(self._jobs) < self._ahead:
            self._jobs.append(self._pool.submit(self._work, self._seeds.popleft()))


def stack(views: Tensor) -> Tensor:
    """[2, T, H, W, C] -> [T, 2H, W, C]: room above wrist."""
    return torch.cat([views[0], views[1]], dim=1)


def to_model(frames: Tensor) -> Tensor:
    """uint8 [..., T, H, W, 3] -> [-1, 1] float [..., 3, T, H, W]."""
    return frames.movedim(-1, -4).float() / 127.5 - 1.0
