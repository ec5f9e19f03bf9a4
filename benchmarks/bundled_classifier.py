"""A small network that names the material of walls and table, to judge whether a video follows its caption.

It is trained here, on renders alone: scenes that neither the bundled model's training nor the evaluation uses,
walls and tables drawn evenly and apart from everything else in the picture, so that nothing but a surface's own
look gives its name away. The foreground is blanked, the simulator's labels say which pixels are table and which
are surroundings, and pictures are blurred and made noisy, so that the softness of generated video does not matter.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_transfer import scenes
from guided_transfer.scenes.styles import GARISH, TABLES, WALLS

FIRST_SEED = 800_000
NAMES = {"wall": tuple(WALLS), "table": tuple(TABLES)}
PLAUSIBLE = {what: tuple(name for name in names if name not in GARISH) for what, names in NAMES.items()}
FOREGROUND_LABELS, TABLE_LABEL, SURROUNDINGS_LABEL = (3, 4), 2, 0
CROP = 0.86
LOOKS, FRAMES = 12, 1
"""Rendered of each scene."""
Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclass(frozen=True)
class Examples:
    """N rendered pictures with what they show; view 0 is the room's, 1 the wrist's.

    Attributes:
        rgb: [N, h, w, 3] uint8.
        labels: [N, h, w] uint8.
        view, wall, table: [N] int64; indices into NAMES.
    """

    rgb: Tensor
    labels: Tensor
    view: Tensor
    wall: Tensor
    table: Tensor

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, index: Tensor) -> Examples:
        return Examples(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Examples:
        return Examples(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @classmethod
    def joined(cls, parts: Iterable[tuple[np.ndarray, ...]]) -> Examples:
        """Of what `render_examples` returns."""
        return cls(*(torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)))


class MaterialNet(nn.Module):
    """Features of small patches, pooled over table, surroundings and all; a head per factor.

    Surroundings are walls, floor and furniture alike: the patches that matter are weighed by attention, and the
    height in the picture is an input, so that tiles on the floor do not count for the wall.
    """

    def __init__(self, channels: int = 96) -> None:
        super().__init__()
        widths = (8, channels // 6, channels // 3, 2 * channels // 3, channels, channels)
        self.body = nn.Sequential(*(self._layer(a, b) for a, b in itertools.pairwise(widths)))
        self.attention = nn.ModuleDict({what: nn.Conv2d(channels, 1, 1) for what in NAMES})
        self.heads = nn.ModuleDict(
            {
                what: nn.Sequential(nn.Linear(3 * channels, channels), nn.GELU(), nn.Linear(channels, len(names)))
                for what, names in NAMES.items()
            }
        )

    @staticmethod
    def _layer(inputs: int, outputs: int) -> nn.Module:
        stride = 2 if outputs != inputs else 1
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
        )

    def forward(self, rgb: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scores [N, names] by "wall" and "table" of rgb [N, 3, h, w] in 0..1 and labels [N, h, w]."""
        masks = torch.stack([labels == kind for kind in (0, 1, 2, *FOREGROUND_LABELS)], 1).float()
        known = 1 - masks[:, 3:].sum(1, keepdim=True)
        height = torch.linspace(1, -1, rgb.shape[2], device=rgb.device)[:, None].expand_as(known)
        x = self.body(torch.cat([(rgb * 2 - 1) * known, masks[:, :3], known, height], 1))
        where = F.adaptive_avg_pool2d(masks, x.shape[2:])
        everywhere = x.mean((2, 3))
        part = {"wall": SURROUNDINGS_LABEL, "table": TABLE_LABEL}
        scores = {}
        for what, head in self.heads.items():
            mask = where[:, part[what], None]
            weight = mask * self.attention[what](x).tanh().mul(4).exp()
            there = (x * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-3)
            peak = (x * (mask > 0.5)).amax((2, 3))
            scores[what] = head(torch.cat([there, peak, everywhere], 1))
        return scores

    @torch.no_grad()
    def name(self, rgb: Tensor, labels: Tensor) -> dict[str, list[float]]:
        """Probability of each name, averaged over frames [T, H, W, 3] uint8 with labels [T, H, W]."""
        device = next(self.parameters()).device
        scores = self(*_pictures(rgb.to(device), labels.to(device)))
        return {what: s.softmax(-1).mean(0).tolist() for what, s in scores.items()}


def _pictures(rgb: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return rgb.permute(0, 3, 1, 2).float() / 255, labels


def render_examples(seed: int, *, looks: int, frames: int, device: str) -> tuple[np.ndarray, ...]:
    """A few frames of one scene in many looks, both views: the fields of Examples, as arrays."""
    rng = Random(f"classifier {seed}")
    scene = scenes.sample_scene(seed)
    styles = [
        replace(
            scenes.sample_style(rng.randrange(2**31), heldout=rng.random() < 0.3),
            wall=rng.choice(NAMES["wall"]),
            table=rng.choice(NAMES["table"]),
        )
        for _ in range(looks)
    ]
    start = rng.randrange(scene.num_frames - 64)
    index = range(start, start + 64, 64 // frames)[:frames]
    clip = scenes.render_clip(scene, styles, frames=index, device=device, noise_seed=seed)
    labels = clip.labels.flatten(0, 1).repeat(looks, 1, 1)
    names = [[NAMES[what].index(getattr(style, what)) for style in styles] for what in NAMES]
    wall, table = (torch.tensor(n).repeat_interleave(2 * frames) for n in names)
    view = torch.arange(2).repeat_interleave(frames).repeat(looks)
    found = (clip.rgb.flatten(0, 2), labels, view, wall, table)
    return tuple(value.cpu().numpy() for value in found)


def spread(work: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Result]:
    """`work(item)` for every item, in order, in so many processes, or in this one if there is none or one."""
    if processes < 2:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    settings = {"mp_context": context, "initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(min(processes, len(items)), **settings) as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)


def augmented(rgb: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops, mirror images, blur and noise; colours stay what they are. The generator is the pictures' device's."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=rgb.device)

    h, w = labels.shape[1:]
    y, x = (int((int(n * (1 - CROP)) + 1) * float(uniform(1))) for n in (h, w))
    rgb, labels = (v[..., y : y + int(CROP * h), x : x + int(CROP * w)] for v in (rgb, labels))
    if float(uniform(1)) < 0.5:
        rgb, labels = rgb.flip(-1), labels.flip(-1)
    coarse = 1 + 2 * float(uniform(1))
    blurred = F.interpolate(rgb, scale_factor=1 / coarse, mode="bilinear", antialias=True)
    blurred = F.interpolate(blurred, rgb.shape[2:], mode="bilinear")
    rgb = torch.lerp(rgb, blurred, uniform(len(rgb), 1, 1, 1))
    noise = torch.randn(rgb.shape, generator=generator, device=rgb.device)
    return (rgb + 0.04 * uniform(len(rgb), 1, 1, 1) * noise).clamp(0, 1), labels


def train(
    examples: Examples, *, device: torch.device | str, steps: int, batch: int = 64, rate: float = 3e-3
) -> MaterialNet:
    """Fit a MaterialNet; walls are asked for in the room view alone, tables in both."""
    torch.manual_seed(0)
    generator = torch.Generator(device).manual_seed(0)
    examples = examples.to(device)
    net = MaterialNet().to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = examples[torch.randint(len(examples), (batch,), generator=generator, device=device)]
        scores = net(*augmented(*_pictures(chosen.rgb, chosen.labels), generator))
        wall = torch.where(chosen.view == 0, chosen.wall, -100)
        loss = F.cross_entropy(scores["table"], chosen.table, label_smoothing=0.05)
        loss = loss + F.cross_entropy(scores["wall"], wall, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def source_hash(*files: Path) -> str:
    """Of what pictures and captions are made by, and of `files`: nothing that is kept may outlive a change."""
    sources = [*files, *sorted(Path(scenes.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:12]


def load_or_train(folder: Path, *, device: str, count: int, steps: int, processes: int) -> MaterialNet:
    """The classifier for these scenes in `folder`; where there is none, it is trained and written there."""
    file = folder / f"classifier_{source_hash(Path(__file__))}_{count}x{steps}.pt"
    if file.exists():
        net = MaterialNet()
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return net.to(device).eval()
    began = time.perf_counter()
    render = partial(render_examples, looks=LOOKS, frames=FRAMES, device=device)
    examples = Examples.joined(spread(render, range(FIRST_SEED, FIRST_SEED + count), processes))
    rendered = time.perf_counter()
    net = train(examples, device=device, steps=steps)
    trained = time.perf_counter()
    print(
        f"classifier: {len(examples)} pictures rendered in {rendered - began:.0f} s, "
        f"trained in {trained - rendered:.0f} s",
        flush=True,
    )
    part = file.with_suffix(".part")
    torch.save({name: value.cpu() for name, value in net.state_dict().items()}, part)
    part.replace(file)
    return net
