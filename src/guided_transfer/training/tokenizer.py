"""Train the bundled model's video tokenizer.

    python -m guided_transfer.training tokenizer --out runs/tokenizer --minutes 6.5

Short crops first, then whole frames and stacked views; streams are mixed because the tokenizer also
encodes the control pictures. Reconstruction terms only: L1, root mean square, and L1 on spatial and temporal
differences. Scenes are rendered while the training runs, on a second GPU if `render_device` names one.
`--start_from TREE --decoder_only` trains a packaged decoder on, half of the time on latents of two looks put
together along the foreground's edge, as guided generation leaves them: whatever changes behind the foreground must
not show in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from guided_transfer.errors import UsageError
from guided_transfer.models.fast_layers import accelerate
from guided_transfer.sampling.guidance import held_pixels, latent_mask
from guided_transfer.training.budget import Budget, learning_rate_shape
from guided_transfer.training.data import SceneFeed, render_scene_clip
from guided_transfer.training.ema import Ema
from guided_transfer.training.graphed import GraphedStep
from guided_transfer.training.pool import Composite, Pool
from guided_transfer.training.samples import write_pairs
from guided_transfer.training.snapshot import Snapshot

REPORT_EVERY_S = 10.0
STREAM_SHARE = {"real": 0.5, "sim": 0.23, "seg": 0.1, "edge_sim": 0.05, "edge_real": 0.05, "depth": 0.07}
DECODED_SHARE = {"real": 0.7, "sim": 0.3}
"""For the decoder alone, which never sees a control picture."""
SHOWN = 4
"""Videos in the samples' picture."""
FIRST_SCENES = 48
"""Rendered before the first step."""


@dataclass(frozen=True)
class TokenizerTraining:
    """Settings of one tokenizer training run; the defaults made the bundled weights."""

    out: Path
    """Folder for tokenizer weights, the state to go on from, and `samples.png`: videos above what comes back."""
    start_from: Path | None = None
    """Checkpoint tree whose tokenizer to begin with; none begins with random weights."""
    decoder_only: bool = False
    """Leave the encoder as it is, and with it the latents that a transformer was trained on."""
    start_share: float = 0.0
    """Share of the weights that the run began with in its result: most of what was learnt on top stays, and less of
    the rest is lost (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903)."""
    minutes: float = 6.5
    """Wall-clock budget of the training loop; the learning rate decays to zero at its end."""
    steps: int = 0
    """If not 0, the number of steps, instead of minutes."""
    scenes: int = 1200
    """Scenes rendered into the pool; the pool grows while the training runs."""
    looks: int = 2
    """Real looks of each scene."""
    first_seed: int = 0
    processes: int = 12
    """That render; 0 renders in this process."""
    render_device: str = ""
    """Where scenes are rendered; empty is the training's device."""
    size_px: int = 224
    crop_px: int = 128
    crop_frames: int = 17
    crop_batch: int = 32
    full_batch: int = 6
    full_share: float = 0.3
    """Last part of the run that sees whole frames of all frames."""
    learning_rate: float = 1.5e-3
    composite_share: float = 0.5
    """With `decoder_only`, part of a batch that is latents of two looks along the foreground's edge, as guided
    generation leaves them; what that teaches costs whole pictures a little."""
    latent_noise: float = 0.05
    """Standard deviation of noise on the latents, relative to their own, so that decoding forgives small errors."""
    device: str = "cuda"
    graphed: bool = True
    """On a GPU, replay each step as a CUDA graph."""
    encoder_channels: tuple[int, ...] = (80, 96, 112)
    decoder_channels: tuple[int, ...] = (88, 96, 96, 112)


def build(settings: TokenizerTraining) -> Any:
    """A randomly initialised `AutoencoderKLCosmos` of the bundled size."""
    from diffusers import AutoencoderKLCosmos

    return AutoencoderKLCosmos(
        encoder_block_out_channels=settings.encoder_channels,
        decode_block_out_channels=settings.decoder_channels,
        num_layers=1,
        attention_resolutions=(),
        latents_mean=None,
        latents_std=None,
    )


def start_from(tree: Path, vae: nn.Module) -> None:
    """Load the packaged weights of a tokenizer of the same sizes."""
    vae.load_state_dict(load_file(tree / "tokenizer" / "model.safetensors"))


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """Root mean square of each video + 0.5 L1 + 0.5 (spatial and temporal differences in L1), on [-1, 1] video.

    The root weighs every video by its own error, as the decibels do that the result is judged by.
    """
    difference = y.float() - x
    loss = (difference.square().flatten(1).mean(1) + 1e-6).sqrt().mean() + 0.5 * difference.abs().mean()
    for dim in (-1, -2, -3):
        loss = loss + 0.5 / 3 * difference.diff(dim=dim).abs().mean()
    return loss


def masked_rms(y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of each video's difference where mask [B, T, H, W] holds, mean over the batch."""
    squares = ((y.float() - x).square().mean(1) * mask).flatten(1).sum(1)
    return (squares / mask.flatten(1).sum(1).clamp(min=1) + 1e-6).sqrt().mean()


def tokenizer_loss(vae: Any, latent_noise: float, x: Tensor, noise: Tensor) -> Tensor:
    """Loss of video x [B, 3, T, H, W] with noise [B, 16, t, h, w] on its latents; bf16 inside on a GPU."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda, cache_enabled=False):
        z = vae.quant_conv(vae.encoder(x))
        scale = latent_noise * z.detach().float().std()
        y = vae.decoder(vae.post_quant_conv(z + (noise * scale).to(z.dtype)))
        return reconstruction_loss(y, x) + 5e-4 * z.float().square().mean()


def decoder_loss(
    vae: Any, latent_noise: float, z: Tensor, x: Tensor, foreground: Tensor, ring: Tensor, noise: Tensor
) -> Tensor:
    """Loss of the decoder from latents z to video x [B, 3, T, H, W].

    Counted once more, by their own errors: the foreground [B, T, H, W] that a composite holds, and at half its
    weight the ring around it, background that the held latents show in the other look.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda, cache_enabled=False):
        y = vae.decoder(vae.post_quant_conv(z + noise * latent_noise * z.std()))
        return reconstruction_loss(y, x) + masked_rms(y, x, foreground) + 0.5 * masked_rms(y, x, ring)


@torch.no_grad()
def encoded(vae: Any, x: Tensor) -> Tensor:
    """Latents [B, 16, t, h, w] of video x [B, 3, T, H, W], float32."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
        return vae.quant_conv(vae.encoder(x.to(memory_format=torch.channels_last_3d))).float()


def composite_latents(vae: Any, pair: Composite) -> tuple[Tensor, Tensor]:
    """Latents of a video with those of another wherever it shows foreground; guidance holds the same ones.

    Returns:
        The latents [B, 16, t, h, w], and which pixels lie in held ones without being foreground, [B, T, H, W] bool.
    """
    masks = [latent_mask(mask, touched=True) for mask in pair.foreground.float()]
    held = torch.stack([held_pixels(mask) for mask in masks])
    mixed = torch.lerp(encoded(vae, pair.outside), encoded(vae, pair.inside), torch.cat(masks))
    return mixed, held & ~pair.foreground


def rendered_pool(settings: TokenizerTraining) -> Pool:
    """The clips of a run, on its device: the first ones, and the rest as they come."""
    began = time.time()
    device = settings.render_device or settings.device
    work = partial(render_scene_clip, looks=settings.looks, device=device, size_px=settings.size_px)
    seeds = range(settings.first_seed, settings.first_seed + settings.scenes)
    feed = SceneFeed(work, seeds, processes=settings.processes)
    generator = torch.Generator().manual_seed(settings.first_seed + 1)
    shares = DECODED_SHARE if settings.decoder_only else STREAM_SHARE
    pool = Pool(feed, settings.device, generator, shares, min(FIRST_SCENES, settings.scenes))
    print(f"rendered {len(pool.clips)} scenes in {time.time() - began:.0f} s", flush=True)
    return pool


def check(settings: TokenizerTraining) -> None:
    """Refuse shares that cannot be had.

    Raises:
        UsageError: a share of a start that is not given, or a decoder's batch that cannot hold both of its kinds.
    """
    if settings.start_share and settings.start_from is None:
        raise UsageError(f"--start_share {settings.start_share:g}: of what? Give --start_from TREE as well")
    if not settings.decoder_only:
        return
    for name in ("crop_batch", "full_batch"):
        batch = getattr(settings, name)
        if not 0 < round(batch * settings.composite_share) < batch:
            raise UsageError(
                f"--composite_share {settings.composite_share:g} of --{name} {batch} is "
                f"{round(batch * settings.composite_share)}; --decoder_only trains on both kinds, so at least one "
                "and not all of them"
            )


def train(settings: TokenizerTraining) -> Path:
    """Run the training and write `tokenizer.pt` (EMA weights, config) into `settings.out`.

    Raises:
        UsageError: as `check`.
    """
    check(settings)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    device = torch.device(settings.device)
    settings.out.mkdir(parents=True, exist_ok=True)
    pool = rendered_pool(settings)
    vae = build(settings).to(device)
    if settings.start_from is not None:
        start_from(settings.start_from, vae)
    if settings.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    parameters = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    ema = Ema(vae, 0.998)
    accelerate(vae)
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    snapshot = Snapshot(settings.out / "tokenizer_state.pt", {"model": vae, "ema": ema, "optimizer": optimizer})
    at = snapshot.restore(device)
    torch.manual_seed(at.step)  # a run that goes on does not draw the same noise again

    shown = pool.wholes(SHOWN, stacked=False)
    steps: dict[torch.Size, GraphedStep] = {}
    total = torch.zeros((), device=device)
    budget, reported = Budget(settings.minutes, settings.steps, at.progress), time.time()
    while (now := budget.progress(at.step)) < 1.0:
        pool.grow()
        inputs = draw_batch(settings, pool, vae, whole=now >= 1.0 - settings.full_share, stacked=at.step % 3 == 2)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_shape(now, at.step)
        if inputs[0].shape not in steps:
            loss_of = partial(decoder_loss if settings.decoder_only else tokenizer_loss, vae, settings.latent_noise)
            steps[inputs[0].shape] = GraphedStep(loss_of, parameters, inputs, graphed=settings.graphed)
        loss = steps[inputs[0].shape](*inputs)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(vae)
        at.step, at.progress = at.step + 1, now
        total += loss
        if at.step % 25 == 0:
            at.losses.append(float(total) / 25)
            total.zero_()
            if time.time() - reported > REPORT_EVERY_S:
                reported = time.time()
                scenes = len(pool.clips)
                print(f"step {at.step} ({now:.0%}) loss {at.losses[-1]:.4f}, {scenes} scenes", flush=True)
            if snapshot.save_now_and_then(at):
                write_samples(settings.out / "samples.png", vae, shown)
    pool.feed.close()
    at.progress = 1.0
    snapshot.save(at)
    write_samples(settings.out / "samples.png", vae, shown)
    path = settings.out / "tokenizer.pt"
    torch.save({"model": result(settings, ema), "config": dict(vae.config)}, path)
    (settings.out / "tokenizer_log.json").write_text(json.dumps({"steps": at.step, "losses": at.losses}))
    return path


def draw_batch(
    settings: TokenizerTraining, pool: Pool, vae: Any, *, whole: bool, stacked: bool
) -> tuple[Tensor, ...]:
    """What the loss takes: crops or whole pictures, and noise for their latents."""

    def drawn(batch: int, plain: Callable[..., Any], cropped: Callable[..., Any]) -> Any:
        if whole:
            return plain(batch, stacked)
        return cropped(batch, settings.crop_frames, settings.crop_px)

    batch = settings.full_batch if whole else settings.crop_batch
    composites = round(batch * settings.composite_share) if settings.decoder_only else 0
    x = drawn(batch - composites, pool.wholes, pool.crops).to(memory_format=torch.channels_last_3d)
    if not settings.decoder_only:
        return x, torch.randn(
            len(x), 16, 1 + (x.shape[2] - 1) // 8, *(n // 8 for n in x.shape[3:]), device=x.device
        )
    pair = drawn(composites, pool.composite_wholes, pool.composite_crops)
    plain, (mixed, ring) = encoded(vae, x), composite_latents(vae, pair)
    z, x = torch.cat([plain, mixed]), torch.cat([x, pair.whole])
    nothing = torch.zeros(len(plain), *x.shape[2:], device=x.device)
    foreground, ring = (torch.cat([nothing, part.float()]) for part in (pair.foreground, ring))
    return z, x, foreground, ring, torch.randn_like(z)


def result(settings: TokenizerTraining, ema: Ema) -> dict[str, Tensor]:
    """The averaged weights, with a share of those that the run began with."""
    trained = ema.state_dict()
    if settings.start_from is None:
        return trained
    before = load_file(settings.start_from / "tokenizer" / "model.safetensors")
    return {n: torch.lerp(w, before[n].to(w), settings.start_share) for n, w in trained.items()}


@torch.no_grad()
def write_samples(path: Path, vae: Any, videos: Tensor) -> None:
    """Show [N, 3, T, H, W] videos in -1..1 above their reconstructions."""
    back = [vae.decoder(vae.post_quant_conv(vae.quant_conv(vae.encoder(video[None])))) for video in videos]
    write_pairs(path, videos, torch.cat(back))


def psnr_db(y: Tensor, x: Tensor) -> float:
    """PSNR of [-1, 1] video after clamping, peak 2."""
    return float(-10 * torch.log10((y.clamp(-1, 1).float() - x.float()).square().mean() / 4))
