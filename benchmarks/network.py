"""Time the transfer network: load, what is computed once per clip, one forward, and one step of the sampler.

    PYTHONPATH=src python benchmarks/network.py --size 960x960x121 --compile
    PYTHONPATH=src python benchmarks/network.py --size 64x64x17 --model tiny --device cpu --no-compile

A step is what the sampler asks for at one noise level: the conditional and the unconditional forward with all
controls, and the guidance that combines them. Weights are random unless --checkpoint_dir names a tree. Needs torch
alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_transfer.models.control import ControlConfig
from guided_transfer.models.network import Conditioning, TransferNetwork
from guided_transfer.models.transformer import TransformerConfig, Trunk, TrunkContext

CONFIGS = {
    "7b": (TransformerConfig(rope_precision="bf16"), ControlConfig(rope_precision="bf16")),
    "tiny": (
        TransformerConfig(128, 4, 4, 512, 64, 16),
        ControlConfig(128, 4, 2, 512, 64, 16),
    ),
}
GUIDANCE = 5.0
TEXT_TOKENS = 512


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    torch.manual_seed(0)
    network, load_s = timed(lambda: load(args, device), device)
    network.use_attention(args.attention)
    if args.compile:
        network.compile_blocks()
    with torch.inference_mode():
        report = measure(network, args, device)
    report = {"load_s": load_s, **report}
    print_table(report, args)
    path = args.output or default_output(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) for key, value in vars(args).items() if key != "output"}
    path.write_text(json.dumps({"settings": settings, "machine": machine(device), **report}, indent=2) + "\n")
    print(f"written to {path}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="960x960x121", help="height x width x frames, in pixels")
    parser.add_argument("--model", choices=sorted(CONFIGS), default="7b")
    parser.add_argument("--checkpoint_dir", help="load this tree instead of random weights")
    parser.add_argument("--controls", default="edge,depth,seg", help="comma-separated; empty for none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--attention", choices=["auto", "cudnn", "flash", "math"], default="auto")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file; by default under benchmarks/results/")
    return parser.parse_args()


def kinds(args: argparse.Namespace) -> list[str]:
    return [kind for kind in args.controls.split(",") if kind]


def load(args: argparse.Namespace, device: torch.device) -> TransferNetwork:
    dtype = getattr(torch, args.dtype)
    if args.checkpoint_dir:
        from guided_transfer.models.checkpoint import CheckpointTree, load_network

        return load_network(CheckpointTree.open(args.checkpoint_dir), kinds(args), device=device, dtype=dtype)
    base, control = CONFIGS[args.model]
    with torch.device("meta"):
        network = TransferNetwork.from_configs(base, dict.fromkeys(kinds(args), control))
    network = network.to(dtype).to_empty(device=device)
    for module in network.modules():  # no zero layers: multiplying zeros draws less power and would run faster
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return network.eval()


def measure(network: TransferNetwork, args: argparse.Namespace, device: torch.device) -> dict:
    height, width, frames = (int(n) for n in args.size.split("x"))
    size = (1 + (frames - 1) // 8, height // 8, width // 8)
    config = network.base.config

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    text, negative = (noise(1, TEXT_TOKENS, config.text_channels) for _ in range(2))
    hints = {kind: noise(1, config.latent_channels, *size) for kind in kinds(args)}
    weights = {kind: 1 / len(hints) for kind in hints}

    def prepare() -> Conditioning:
        return network.prepare(text, hints, weights, fps=30.0, latent_size=size)

    x, c_noise = noise(1, config.latent_channels, *size), torch.tensor([0.75], device=device)
    conditional, prepare_s = timed(prepare, device)
    unconditional = network.with_text(conditional, negative)

    def forward() -> Tensor:
        return network(x, c_noise, conditional)

    def step() -> Tensor:
        positive = forward()
        return positive + GUIDANCE * (positive - network(x, c_noise, unconditional))

    output, first_s = timed(forward, device)
    if not output.isfinite().all():
        raise SystemExit("the network's output is not finite")
    tera = forward_flops(network, conditional) / 1e12
    return {
        "tokens": conditional.base.positions.shape[0],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "prepare_s": prepare_s,
        "first_forward_s": first_s,
        "forward": spread(forward, tera, args.repeats, device),
        "step": spread(step, 2 * tera, args.repeats, device),
        "peak_memory_gib": peak_memory_gib(device),
        "config": asdict(config),
    }


def forward_flops(network: TransferNetwork, conditioning: Conditioning) -> float:
    """Multiply-adds of one forward, counted as two operations each; what `prepare` does once is not in it."""
    contexts: list[tuple[Trunk, TrunkContext]] = [(network.base, conditioning.base)]
    D = network.base.config.channels
    N = len(conditioning.base.positions)
    total = 2.0 * N * network.base.final.linear.weight.numel()
    for kind, conditions in conditioning.branches.items():
        contexts.append((network.branch(kind), conditions.context))
        total += 2 * N * D * D * len(network.branch(kind).zero_blocks)
    for trunk, context in contexts:
        total += len(trunk.blocks) * block_flops(trunk, N, context.text[0][0].shape[1])
        total += 2 * N * D * trunk.patch_embed.in_features
    return total


def block_flops(trunk: Trunk, tokens: int, text_tokens: int) -> float:
    D, hidden = trunk.config.channels, trunk.config.mlp_channels
    linear = 2 * tokens * D * (6 * D + 2 * hidden)  # self q, k, v, out; cross q, out; MLP
    return linear + 4 * tokens * D * (tokens + text_tokens)  # QK and PV of both attentions


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    synchronise(device)
    start = time.perf_counter()
    result = work()
    synchronise(device)
    return result, time.perf_counter() - start


def spread(work: Callable[[], object], tera: float, repeats: int, device: torch.device) -> dict:
    work()  # warm-up
    seconds = [timed(work, device)[1] for _ in range(repeats)]
    median = statistics.median(seconds)
    return {
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "runs_s": seconds,
        "tflop": tera,
        "tflop_per_s": tera / median,
    }


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gib(device: torch.device) -> float:
    """Of the GPU's allocator, or resident memory of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine(device: torch.device) -> dict:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    return {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
    }


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def default_output(args: argparse.Namespace) -> Path:
    mode = "compiled" if args.compile else "eager"
    name = f"network-{args.model}-{args.size}-{args.device.replace(':', '')}-{mode}.json"
    return Path(__file__).parent / "results" / name


def print_table(report: dict, args: argparse.Namespace) -> None:
    print(
        f"{report['parameters'] / 1e9:.3f} B parameters, {report['tokens']} tokens, {args.dtype} on {args.device}"
    )
    once = {name: f"{report[f'{name}_s']:.2f} s" for name in ("load", "prepare", "first_forward")}
    print(", ".join(f"{name} {seconds}" for name, seconds in once.items()))
    for name in ("forward", "step"):
        row = report[name]
        print(
            f"{name:8} median {row['median_s']:.4f} s (min {row['min_s']:.4f}, max {row['max_s']:.4f}), "
            f"{row['tflop']:.4g} TFLOP, {row['tflop_per_s']:.4g} TFLOP/s"
        )
    print(f"peak memory {report['peak_memory_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
