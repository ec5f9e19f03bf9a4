"""Train the bundled transformer, its control branches and its text encoder together, on cached latents.

    python -m guided_transfer.training transformer --latents runs/latents --out runs/transformer --minutes 9

Several GPUs of one machine train together if `torchrun --nproc_per_node 4 -m` replaces `python -m`; the batch
sizes are those of each.

One network pass per sample: EDM loss, per-branch control weights drawn at random, captions dropped for guidance,
first latent frames given for clip continuation, and clips of both views stacked for the joint second pass.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_transfer import scenes
from guided_transfer.errors import CheckpointError
from guided_transfer.models.checkpoint import load_network
from guided_transfer.models.control import ControlConfig
from guided_transfer.models.network import TransferNetwork, init_weights
from guided_transfer.models.transformer import TransformerConfig
from guided_transfer.models.tree import CheckpointTree
from guided_transfer.training.budget import Budget, learning_rate_shape
from guided_transfer.training.data import STACKED_SUFFIX
from guided_transfer.training.ema import Ema
from guided_transfer.training.graphed import GraphedStep
from guided_transfer.training.latents import SIGMA_DATA, decode, denormalise, load_tokenizer, normalise
from guided_transfer.training.muon import Muon
from guided_transfer.training.ranks import Ranks
from guided_transfer.training.samples import Clips, Samples
from guided_transfer.training.snapshot import Snapshot, Stateful
from guided_transfer.training.text import TextTower
from guided_transfer.training.tokenizer import REPORT_EVERY_S

CONTROLS = ("edge", "depth", "seg")
FPS = 30.0
SHOWN = 4
"""Clips in the samples' picture."""


@dataclass(frozen=True)
class TransformerTraining:
    """Settings of one transformer training run; the defaults made the bundled weights."""

    latents: Path
    """Folder with the latents' parts; parts that are added while the training runs are taken in."""
    vocabulary: Path
    """Folder with the text encoder's tokenizer files."""
    out: Path
    start_from: Path | None = None
    """Checkpoint tree whose network and text encoder to begin with; none begins with random weights."""
    tokenizer: Path | None = None
    """Folder or checkpoint tree whose decoder shows `samples.png`: rendered clips above generated ones."""
    minutes: float = 9.0
    """Wall-clock budget of the training loop; learning rates decay to zero at its end."""
    steps: int = 0
    """If not 0, the number of steps, instead of minutes."""
    batch_single: int = 96
    batch_stacked: int = 48
    learning_rate: float = 1.5e-3
    muon_learning_rate: float = 1.5e-2
    device: str = "cuda"
    graphed: bool = True
    """On a GPU, replay each step as a CUDA graph."""
    compile: bool = True
    channels: int = 192
    heads: int = 3
    blocks: int = 7
    control_blocks: int = 2
    mlp_ratio: float = 2.0
    lora_dim: int = 16
    text_channels: int = 128
    text_layers: int = 2
    text_tokens: int = 96
    sigma_log_mean: float = 0.4
    sigma_log_std: float = 1.5
    high_sigma_share: float = 0.15
    """Share of samples at sigma 5..80, where materials and colours are decided and every run starts from."""
    caption_dropout: float = 0.12
    sim_share: float = 0.06
    """Share of samples whose target is the simulated look under the negative caption."""
    first_frames_share: float = 0.2


class Latents:
    """The cached latents on the training device, with tokenised captions, drawn from at random."""

    def __init__(self, folder: Path, text: TextTower, device: torch.device) -> None:
        self.folder, self.text, self.device = folder, text, device
        self.parts: set[Path] = set()
        self.streams: dict[str, dict[str, Tensor]] = {}
        self.tokens: dict[str, Tensor] = {}
        self.grow()
        if not self.parts:
            raise CheckpointError(
                f"no latents in {folder}, wanted part_*.pt: python -m guided_transfer.training latents writes it"
            )
        self.mean, self.std = (v.to(device) for v in torch.load(folder / "mean_std.pt", weights_only=True))
        special = text.tokenise(
            [scenes.NEGATIVE_CAPTION, scenes.NEGATIVE_CAPTION + STACKED_SUFFIX, "", STACKED_SUFFIX]
        )
        self.negative = {"single": special[0].to(device), "stacked": special[1].to(device)}
        self.empty = special[2].to(device)

    @property
    def scenes(self) -> int:
        """Taken in so far."""
        return sum(map(len, self.tokens.values()))

    def grow(self) -> None:
        """Take in the parts that were written since."""
        new = sorted(set(self.folder.glob("part_*.pt")) - self.parts)
        self.parts.update(new)
        parts = [torch.load(path, map_location="cpu", weights_only=True) for path in new]
        for kind in ("single", "stacked"):
            groups = [part[kind] for part in parts if kind in part]
            if groups:
                self._take(kind, groups)
        if self.device.type == "cuda":
            # What was replaced is a little too small for what comes next time; kept, it would fill the device.
            torch.cuda.empty_cache()

    def _take(self, kind: str, groups: list[dict]) -> None:
        """Add clips of one kind to those on the device."""
        tokens = [self._tokens(group.pop("captions"), kind, self.text).to(self.device) for group in groups]
        known = [self.tokens[kind]] if kind in self.tokens else []
        self.tokens[kind] = torch.cat(known + tokens)
        streams = self.streams.setdefault(kind, {})
        for name in groups[0]:
            known = [streams.pop(name)] if name in streams else []
            streams[name] = torch.cat(known + [group[name].to(self.device) for group in groups])

    def _tokens(self, captions: list, kind: str, text: TextTower) -> Tensor:
        """[N, K, V, L]; a stacked clip has V = 1: the wrist's caption with the suffix of the joint pass."""
        n, k = len(captions), len(captions[0])
        if kind == "stacked":
            flat = [look[1] + STACKED_SUFFIX for clip in captions for look in clip]
            return text.tokenise(flat).reshape(n, k, 1, -1)
        return text.tokenise([view for clip in captions for look in clip for view in look]).reshape(n, k, 2, -1)

    def draw(
        self, kind: str, batch: int, settings: TransformerTraining
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Targets [B, 16, t, h, w], hints by control, caption tokens [B, L]."""
        z, tokens, device = self.streams[kind], self.tokens[kind], self.device
        n, k, v = z["real"].shape[:3]
        i = torch.randint(n, (batch,), device=device)
        look = torch.randint(k, (batch,), device=device)
        view = torch.randint(v, (batch,), device=device)
        sim = _chance(settings.sim_share, batch, device)
        real_edges = _chance(0.5 if kind == "stacked" else 0.3, batch, device) & ~sim
        wide = (-1, 1, 1, 1, 1)
        target = torch.where(sim.view(wide), z["sim"][i, view], z["real"][i, look, view])
        edge = torch.where(real_edges.view(wide), z["edge_real"][i, look, view], z["edge_sim"][i, view])
        hints = {"edge": edge, "depth": z["depth"][i, view], "seg": z["seg"][i, view]}
        text = torch.where(sim[:, None], self.negative[kind], tokens[i, look, view])
        text = torch.where(_chance(settings.caption_dropout, batch, device)[:, None], self.empty, text)
        scaled = {name: normalise(hint.float(), self.mean, self.std) for name, hint in hints.items()}
        return normalise(target.float(), self.mean, self.std), scaled, text


def _chance(share: float, batch: int, device: torch.device) -> Tensor:
    return torch.rand(batch, device=device) < share


def text_tower(settings: TransformerTraining) -> TextTower:
    """A randomly initialised text encoder of the bundled size."""
    return TextTower(
        settings.vocabulary,
        channels=settings.text_channels,
        layers=settings.text_layers,
        tokens=settings.text_tokens,
    )


def build(settings: TransformerTraining) -> TransferNetwork:
    """A randomly initialised network of the bundled size."""
    sizes: dict[str, Any] = {
        "channels": settings.channels,
        "heads": settings.heads,
        "mlp_channels": int(settings.mlp_ratio * settings.channels),
        "text_channels": settings.text_channels,
        "lora_channels": settings.lora_dim,
        "max_size": (24, 48, 48),
    }
    base = TransformerConfig(blocks=settings.blocks, **sizes)
    branch = ControlConfig(blocks=settings.control_blocks, hint_channels=16, **sizes)
    network = TransferNetwork.from_configs(base, dict.fromkeys(CONTROLS, branch))
    init_weights(network)
    return network


def start_from(root: Path, network: TransferNetwork, text: TextTower) -> None:
    """Load the packaged weights of a network and a text encoder of the same sizes."""
    tree = CheckpointTree.open(root)
    network.load_state_dict(load_network(tree, CONTROLS, device="cpu", dtype=torch.float32).state_dict())
    encoder = type(text.t5).from_pretrained(str(root / "text_encoder"), local_files_only=True)
    text.t5.load_state_dict(encoder.state_dict())


def draw_sigma(batch: int, settings: TransformerTraining, device: torch.device) -> Tensor:
    """Log-normal noise levels with a uniform-in-log share between 5 and 80."""
    log = settings.sigma_log_mean + settings.sigma_log_std * torch.randn(batch, device=device)
    high = math.log(5.0) + math.log(16.0) * torch.rand(batch, device=device)
    log = torch.where(_chance(settings.high_sigma_share, batch, device), high, log)
    return log.exp().clamp(0.002, 80.0)


@lru_cache
def _weight_choices(device: torch.device) -> tuple[Tensor, Tensor]:
    """What single weights are drawn from, and the usual ones; made once, since a copy waits for the device."""
    return torch.tensor([0.0, 0.5, 0.75, 1.0, 1.0], device=device), torch.tensor([0.5, 0.75, 0.75], device=device)


def draw_weights(batch: int, device: torch.device) -> dict[str, Tensor]:
    """Control weights [B] each: single branches off at times, all off in a tenth; a sum over one is normalised."""
    choices, usual = _weight_choices(device)
    w = choices[torch.randint(len(choices), (batch, len(CONTROLS)), device=device)]
    w = torch.where(_chance(0.5, batch, device)[:, None], usual, w)
    w = w * ~_chance(0.08, batch, device)[:, None]
    w = w / w.sum(1, keepdim=True).clamp_min(1.0)
    return dict(zip(CONTROLS, w.unbind(1), strict=True))


def draw_first_frames(target: Tensor, share: float) -> Tensor:
    """Mask [B, 1, t, 1, 1]: 1 on the first one to three latent frames of a share of the samples."""
    batch, frames = target.shape[0], target.shape[2]
    count = torch.randint(1, 4, (batch,), device=target.device) * _chance(share, batch, target.device)
    return (torch.arange(frames, device=target.device) < count[:, None]).float().view(batch, 1, frames, 1, 1)


def edm_loss(
    network: TransferNetwork,
    text: Tensor,
    target: Tensor,
    noise: Tensor,
    sigma: Tensor,
    first: Tensor,
    *controls: Tensor,
) -> Tensor:
    """Mean squared error of the raw network output, which is EDM's weighted x0 error (Karras et al. 2022, eq. 8).

    Given first frames enter at the scale the sampler gives them and are left out of the loss; bf16 inside on a GPU.

    Args:
        network: to train.
        text: [B, L, D] embeddings.
        target: [B, 16, t, h, w] clean latents.
        noise: likewise, standard normal.
        sigma: [B] noise levels.
        first: [B, 1, t, 1, 1], 1 on given latent frames.
        controls: hints [B, 16, t, h, w] in the order of CONTROLS, then weights [B] in the same order.
    """
    hints = dict(zip(CONTROLS, controls[: len(CONTROLS)], strict=True))
    weights = dict(zip(CONTROLS, controls[len(CONTROLS) :], strict=True))
    s = sigma.view(-1, 1, 1, 1, 1)
    c_in = (s**2 + SIGMA_DATA**2).rsqrt()
    c_skip, c_out = SIGMA_DATA**2 * c_in**2, s * SIGMA_DATA * c_in
    x = target + s * noise
    given = (target + 0.001 * noise) / math.hypot(0.001, SIGMA_DATA)
    net_in = first * given + (1 - first) * (c_in * x)
    with torch.autocast(target.device.type, torch.bfloat16, enabled=target.is_cuda, cache_enabled=False):
        conditioning = network.prepare(text, hints, weights, fps=FPS)
        mask = first.expand(-1, -1, -1, *target.shape[-2:])
        out = network(net_in, sigma.log() / 4, conditioning, condition_mask=mask)
    wanted = (target - c_skip * x) / c_out
    error = (out.float() - wanted).square() * (1 - first)
    return error.sum() / ((1 - first).expand_as(error).sum())


def optimizers(
    network: nn.Module, text: nn.Module, settings: TransformerTraining
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for matrices inside blocks, AdamW for embeddings, tables, modulations, biases and the text encoder."""
    hidden = [
        p
        for name, p in network.named_parameters()
        if p.ndim == 2 and "blocks" in name and not any(s in name for s in ("adaln", "modulation", "norm"))
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for m in (network, text) for p in m.parameters() if id(p) not in chosen]
    return Muon(hidden, settings.muon_learning_rate), torch.optim.AdamW(
        rest, settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )


def samples_of(
    settings: TransformerTraining, latents: Latents, network: TransferNetwork, text: TextTower
) -> Samples | None:
    """What shows how far the training is, if there is a tokenizer to show it with."""
    if settings.tokenizer is None:
        return None
    vae = load_tokenizer(settings.tokenizer, latents.device)
    plain = replace(settings, sim_share=0.0, caption_dropout=0.0)
    with torch.random.fork_rng([latents.device] if latents.device.type == "cuda" else []):
        torch.manual_seed(0)  # the same clips in a run that goes on
        clips = Clips(*latents.draw("single", SHOWN, plain), FPS)
    return Samples(
        settings.out / "samples.png",
        network,
        text,
        clips,
        lambda z: decode(vae, denormalise(z, latents.mean, latents.std)),
    )


def train(settings: TransformerTraining) -> Path:
    """Run the training and write `transformer.pt` (EMA weights of network and text encoder) into `settings.out`."""
    ranks = Ranks(settings.device)
    device = ranks.device
    torch.manual_seed(1 + ranks.rank)
    torch.set_float32_matmul_precision("high")
    settings.out.mkdir(parents=True, exist_ok=True)
    text = text_tower(settings).to(device)
    latents = Latents(settings.latents, text, device)
    network = build(settings).to(device)
    if settings.start_from is not None:
        start_from(settings.start_from, network, text)
    tower = nn.ModuleDict({"network": network, "text": text})
    ranks.broadcast(tower)
    ema = Ema(tower, 0.999)
    opts = muon, adamw = optimizers(network, text, settings)
    base_lr = [[g["lr"] for g in o.param_groups] for o in opts]
    parts: dict[str, Stateful] = {"model": tower, "ema": ema, "muon": muon, "adamw": adamw}
    snapshot = Snapshot(settings.out / "transformer_state.pt", parts)
    at = snapshot.restore(device)
    torch.manual_seed(1 + ranks.rank + ranks.world * at.step)  # one that goes on does not draw the same again
    if ranks.first:
        sizes = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in tower.items()}
        print(f"parameters [M]: {sizes}, {ranks.world} processes", flush=True)
    samples = samples_of(settings, latents, network, text) if ranks.first else None
    if settings.compile:
        network.compile_blocks()

    parameters = list(network.parameters())
    steps: dict[torch.Size, GraphedStep] = {}
    total = torch.zeros((), device=device)
    budget, reported = Budget(settings.minutes, settings.steps, at.progress), time.time()
    while (now := ranks.agree(budget.progress(at.step))) < 1.0:
        kind = "stacked" if at.step % 2 else "single"
        batch = settings.batch_stacked if at.step % 2 else settings.batch_single
        target, hints, tokens = latents.draw(kind, batch, settings)
        sigma, weights = draw_sigma(batch, settings, device), draw_weights(batch, device)
        first = draw_first_frames(target, settings.first_frames_share)
        for opt, rates in zip(opts, base_lr, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * learning_rate_shape(now, at.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embeddings = text(tokens).float()
        inputs = (embeddings, target, torch.randn_like(target), sigma, first, *hints.values(), *weights.values())
        if target.shape not in steps:
            steps[target.shape] = GraphedStep(
                partial(edm_loss, network), parameters, inputs, graphed=settings.graphed
            )
        loss = steps[target.shape](*inputs)
        text.zero_grad(set_to_none=True)
        embeddings.backward(steps[target.shape].input_gradients[0])
        ranks.average_gradients(tower.parameters())
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for opt in opts:
            opt.step()
        ema.update(tower)
        total += loss
        at.step, at.progress = at.step + 1, now
        if at.step % 50 == 0:
            at.losses.append(float(total) / 50)
            total.zero_()
            if ranks.agree(time.time() - reported) > REPORT_EVERY_S:
                reported = time.time()
                if ranks.first:
                    print(
                        f"step {at.step} ({now:.0%}) loss {at.losses[-1]:.4f}, {latents.scenes} scenes", flush=True
                    )
                    if snapshot.save_now_and_then(at) and samples:
                        samples.write(ema)
                latents.grow()
    path = settings.out / "transformer.pt"
    if ranks.first:
        at.progress = 1.0
        snapshot.save(at)
        if samples:
            samples.write(ema)
        torch.save({"model": ema.state_dict(), "mean": latents.mean.cpu(), "std": latents.std.cpu()}, path)
        (settings.out / "transformer_log.json").write_text(json.dumps({"steps": at.step, "losses": at.losses}))
    ranks.close()
    return path
