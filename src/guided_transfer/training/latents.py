"""Encode rendered clips once, so that the transformer trains on latents alone.

Scenes are rendered in several processes and encoded in this one. Latents are written in parts, each by rename, so
that a transformer can train on the first parts while another GPU makes more; several runs, each with its own
`--first_seed`, may share a folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from guided_transfer.errors import CheckpointError
from guided_transfer.models.fast_layers import accelerate
from guided_transfer.training.data import SceneClip, SceneFeed, render_scene_clip, stack, to_model
from guided_transfer.training.tokenizer import TokenizerTraining, build, start_from
from guided_transfer.whole import whole_file

SIGMA_DATA = 0.5


@dataclass(frozen=True)
class LatentEncoding:
    """Settings of the latent cache."""

    tokenizer: Path
    """Folder with a trained tokenizer.pt, or a checkpoint tree whose tokenizer to use."""
    out: Path
    scenes: int = 2000
    looks: int = 3
    first_seed: int = 10_000
    minutes: float = 3.0
    """Stops early, with what is done, when the time is up."""
    part_scenes: int = 64
    """Scenes per file."""
    processes: int = 12
    """That render; 0 works in this process."""
    render_device: str = ""
    """Where scenes are rendered; empty is `device`. "cpu" leaves the GPU to a training that runs beside."""
    size_px: int = 224
    device: str = "cuda"


def load_tokenizer(folder: Path, device: torch.device | str) -> Any:
    """A tokenizer with its fast layers, in evaluation mode, bf16 on a GPU: a trained one, or that of a tree."""
    if (folder / "tokenizer.pt").exists():
        saved = torch.load(folder / "tokenizer.pt", map_location=device, weights_only=True)
        config = saved["config"]
        settings = TokenizerTraining(
            out=folder,
            encoder_channels=tuple(config["encoder_block_out_channels"]),
            decoder_channels=tuple(config["decode_block_out_channels"]),
        )
        vae = build(settings)
        vae.load_state_dict(saved["model"])
    else:
        vae = build(TokenizerTraining(out=folder))
        start_from(folder, vae)
    vae.to(device).eval().requires_grad_(False)
    if torch.device(device).type == "cuda":
        vae.to(torch.bfloat16)
    return accelerate(vae)


@torch.no_grad()
def encode(vae: Any, videos: Tensor) -> Tensor:
    """uint8 [N, T, H, W, 3] -> raw (not normalised) latents [N, 16, t, h, w] float16."""
    weight = next(vae.parameters())
    out = []
    for part in videos.split(6 if videos.shape[2] < 300 else 3):
        x = to_model(part).to(weight.dtype)
        out.append(vae.quant_conv(vae.encoder(x)).half())
    return torch.cat(out)


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Raw latents [N, 16, t, h, w] -> video [N, 3, T, H, W] in about -1..1."""
    weight = next(vae.parameters())
    return torch.cat([vae.decoder(vae.post_quant_conv(z[None].to(weight.dtype))).float() for z in latents])


def encode_clip(vae: Any, clip: SceneClip, stacked: bool) -> dict[str, Tensor]:
    """Latents of every stream of one clip: looks [K, V, 16, t, h, w], other streams [V, 16, t, h, w].

    A stacked clip has one "view": the room picture above the wrist picture.
    """

    def latents(name: str, look: int = 0) -> Tensor:
        video = clip.stream(name, look)
        return encode(vae, stack(video)[None] if stacked else video).cpu()

    looks = range(len(clip.real))
    result = {name: torch.stack([latents(name, k) for k in looks]) for name in ("real", "edge_real")}
    return result | {name: latents(name) for name in ("sim", "depth", "seg", "edge_sim")}


def run(settings: LatentEncoding) -> Path:
    """Write `part_<seed>.pt`: {"single": streams, "stacked": streams}, and `mean_std.pt`; returns the folder.

    Even seeds are encoded view by view, odd ones stacked. Mean and deviation are those of the tree if the tokenizer
    comes from one, else of the first part that is ready; they are written once. A run that is given again goes on
    behind its last part.

    Raises:
        CheckpointError: the folder holds latents of another encoder.
    """
    began = time.time()
    vae = load_tokenizer(settings.tokenizer, settings.device)
    render_device = settings.render_device or settings.device
    work = partial(render_scene_clip, looks=settings.looks, device=render_device, size_px=settings.size_px)
    settings.out.mkdir(parents=True, exist_ok=True)
    claim_folder(settings.out, vae)
    seeds = range(first_missing(settings.out, settings.first_seed), settings.first_seed + settings.scenes)
    feed = SceneFeed(work, seeds, processes=settings.processes)
    statistics = settings.out / "mean_std.pt"
    part, start = Part(), seeds.start
    for done, (seed, clip) in enumerate(zip(seeds, feed, strict=False), 1):
        part.add("stacked" if seed % 2 else "single", vae, clip.to(settings.device))
        late = time.time() - began > settings.minutes * 60
        if part.scenes >= settings.part_scenes or seed == seeds[-1] or late:
            if not statistics.exists():
                _save(tree_mean_std(settings.tokenizer) or part.mean_std(), statistics)
            _save(part.joined(), part_file(settings.out, start))
            part, start = Part(), seed + 1
            print(f"{done} scenes in {time.time() - began:.0f} s", flush=True)
        if late:
            break
    feed.close()
    return settings.out


def part_file(folder: Path, seed: int) -> Path:
    """The part that begins with this scene."""
    return folder / f"part_{seed:07d}.pt"


def first_missing(folder: Path, seed: int) -> int:
    """The first scene from `seed` on that no part holds; parts follow each other without gaps."""
    while (file := part_file(folder, seed)).exists():
        seed += sum(len(kind["captions"]) for kind in torch.load(file, mmap=True, weights_only=True).values())
    return seed


def claim_folder(folder: Path, vae: Any) -> None:
    """Note in the folder which encoder its latents are of, so that those of two never come together.

    Raises:
        CheckpointError: they are of another.
    """
    digest = hashlib.sha256()
    for module in (vae.encoder, vae.quant_conv):
        for name, value in module.state_dict().items():
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    note = folder / "encoder.sha256"
    if not note.exists():
        with whole_file(note, durable=False) as partial:
            partial.write_text(digest.hexdigest())
    if note.read_text() != digest.hexdigest():
        raise CheckpointError(f"--out {folder} holds latents of another encoder; give another folder, or empty it")


class Part:
    """Latents of some scenes, by kind of clip."""

    def __init__(self) -> None:
        self.streams: dict[str, list[dict[str, Tensor]]] = {"single": [], "stacked": []}
        self.captions: dict[str, list] = {"single": [], "stacked": []}

    @property
    def scenes(self) -> int:
        """So far."""
        return sum(map(len, self.streams.values()))

    def add(self, kind: str, vae: Any, clip: SceneClip) -> None:
        """Encode one clip."""
        self.streams[kind].append(encode_clip(vae, clip, stacked=kind == "stacked"))
        self.captions[kind].append(clip.captions)

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Of the real looks, view by view."""
        return mean_std(item["real"] for item in self.streams["single"])

    def joined(self) -> dict[str, Any]:
        """{kind: {stream: [N, ...], "captions": [N]}} of the kinds there are."""
        return {
            kind: _join(items) | {"captions": self.captions[kind]} for kind, items in self.streams.items() if items
        }


def _save(data: Any, path: Path) -> None:
    """Whole or not at all: the training reads while this writes."""
    with whole_file(path, durable=False) as partial:
        torch.save(data, partial)


def _join(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def mean_std(real: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel and latent frame, [16, t] each, of looks [K, V, 16, t, h, w]."""
    z = torch.stack([item.float() for item in real]).movedim(-4, 0).movedim(-3, 1).flatten(2)
    return z.mean(-1), z.std(-1)


def tree_mean_std(tokenizer: Path) -> tuple[Tensor, Tensor] | None:
    """What the network of a checkpoint tree was trained with; None where `tokenizer` is a training's folder."""
    file = tokenizer / "tokenizer" / "mean_std.safetensors"
    if not file.exists():
        return None
    saved = load_file(file)
    return saved["mean"], saved["std"]


def normalise(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(z - mean) / std * sigma_data for [..., 16, t, h, w]."""
    shape = (*mean.shape, 1, 1)
    return (latents - mean.view(shape)) / std.view(shape) * SIGMA_DATA


def denormalise(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`."""
    shape = (*mean.shape, 1, 1)
    return latents / SIGMA_DATA * std.view(shape) + mean.view(shape)
