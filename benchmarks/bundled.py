"""How good are the bundled weights: the tokenizer on held-out scenes, the network's loss on seen and unseen ones.

    python benchmarks/bundled.py --scenes 8

Prints two tables and writes benchmarks/results/bundled.json. Held-out scenes have held-out foreground colours too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from guided_transfer import scenes
from guided_transfer.models.checkpoint import load_network
from guided_transfer.models.text import load_text_encoder
from guided_transfer.models.tokenizer import VideoTokenizer, load_tokenizer
from guided_transfer.models.tree import CheckpointTree
from guided_transfer.training.data import render_scene_clip, to_model
from guided_transfer.training.tokenizer import psnr_db
from guided_transfer.training.transformer import CONTROLS, edm_loss

HELDOUT_SEED = 1_000_000
SEEN_SEED, UNSEEN_SEED = 10_000, 500_000
SIGMAS = (0.1, 0.5, 1.0, 3.0, 10.0, 60.0)
USUAL_WEIGHTS = (0.25, 0.375, 0.375)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--checkpoint_dir", default="bundled")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bundled.json")
    args = parser.parse_args()
    tree = CheckpointTree.open(args.checkpoint_dir)
    tokenizer = load_tokenizer(tree, device="cpu", dtype=torch.float32)
    report = {
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__},
        "scenes": args.scenes,
        "tokenizer_psnr_db": tokenizer_psnr(tokenizer, args.scenes),
        "edm_loss": {
            "seen": network_loss(tree, tokenizer, range(SEEN_SEED, SEEN_SEED + args.scenes)),
            "unseen": network_loss(tree, tokenizer, range(UNSEEN_SEED, UNSEEN_SEED + args.scenes)),
        },
    }
    print(json.dumps(report, indent=2))
    args.output.write_text(json.dumps(report, indent=2) + "\n")


def tokenizer_psnr(tokenizer: VideoTokenizer, count: int) -> dict[str, dict[str, float]]:
    """Reconstruction of 33 frames, mean and worst over scenes."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + count):
        scene = scenes.sample_scene(seed, heldout=True)
        looks = [None, scenes.sample_style(seed, heldout=True)]
        start = (scene.num_frames - 33) // 2
        clip = scenes.render_clip(scene, looks, frames=range(start, start + 33), noise_seed=seed)
        for look, name in enumerate(("simulated", "real")):
            for view, camera in enumerate(("room", "wrist")):
                video = to_model(clip.rgb[look, view])[None]
                found[f"{name} {camera}"].append(psnr_db(tokenizer.decode(tokenizer.encode(video)), video))
    return {name: {"mean": statistics.mean(v), "worst": min(v)} for name, v in found.items()}


def network_loss(tree: CheckpointTree, tokenizer: VideoTokenizer, seeds: range) -> dict[str, float]:
    """Median EDM loss by noise level, usual control weights, both views of one look of each scene."""
    network = load_network(tree, CONTROLS, device="cpu", dtype=torch.float32)
    text = load_text_encoder(tree, device="cpu", dtype=torch.float32)
    weights = [torch.tensor([w]) for w in USUAL_WEIGHTS]
    losses: dict[float, list[float]] = defaultdict(list)
    torch.manual_seed(0)
    for seed in seeds:
        clip = render_scene_clip(seed, looks=1, device="cpu")
        for view in (0, 1):

            def latents(stream: str, clip=clip, view=view) -> Tensor:
                return tokenizer.encode(to_model(clip.stream(stream)[view])[None])

            target, hints = latents("real"), [latents(name) for name in ("edge_sim", "depth", "seg")]
            words, first = text.encode([clip.captions[0][view]]), torch.zeros(1, 1, target.shape[2], 1, 1)
            for sigma in SIGMAS:
                noise, level = torch.randn_like(target), torch.tensor([sigma])
                with torch.no_grad():
                    loss = edm_loss(network, words, target, noise, level, first, *hints, *weights)
                losses[sigma].append(float(loss))
    return {str(sigma): statistics.median(values) for sigma, values in losses.items()}


if __name__ == "__main__":
    main()
