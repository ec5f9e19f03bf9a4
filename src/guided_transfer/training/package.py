r"""Put trained weights into the tree that `--checkpoint_dir` reads.

python -m guided_transfer.training package --tokenizer runs/tokenizer --transformer runs/transformer \
        --out src/guided_transfer/models/bundled
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from guided_transfer.errors import CheckpointError
from guided_transfer.models.checkpoint import save_network
from guided_transfer.training.data import CLIP_FRAMES
from guided_transfer.training.latents import load_tokenizer
from guided_transfer.training.transformer import TransformerTraining, build, text_tower


@dataclass(frozen=True)
class Packaging:
    """Settings of the packaging; the network's sizes are those of its training's defaults."""

    tokenizer: Path
    """Folder with tokenizer.pt, or a checkpoint tree whose tokenizer stays."""
    out: Path
    """Checkpoint tree; its text_encoder folder already holds the vocabulary."""
    transformer: Path | None = None
    """Folder with transformer.pt; none leaves network, text encoder and the latents' statistics as they are."""


PROMPT_TOKENS = 84
"""One caption in a thousand has over 76, with the suffix of the joint pass over 82, so padding follows."""

DEFAULTS = {"num_steps": 12, "guidance": 2.0, "negative_prompt": "", "sigma_threshold": 0.15, "match_rim": True}


def run(settings: Packaging) -> Path:
    """Write the tree: bf16 safetensors, configurations, SHA-256 of every weights file; returns its root."""
    sizes = TransformerTraining(latents=Path(), vocabulary=settings.out / "text_encoder", out=Path())
    if settings.transformer is not None:
        package_network(settings.transformer / "transformer.pt", settings.out, sizes)
    vae = load_tokenizer(settings.tokenizer, "cpu")
    vae.to(torch.bfloat16).save_pretrained(settings.out / "tokenizer")
    (settings.out / "tokenizer" / "diffusion_pytorch_model.safetensors").rename(
        settings.out / "tokenizer" / "model.safetensors"
    )
    config = {
        "name": "bundled",
        "network": "transformer",
        "tokenizer": "tokenizer",
        "text_encoder": "text_encoder",
        "clip_frames": CLIP_FRAMES,
        "text_tokens": sizes.text_tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "native_sizes": [[224, 224], [448, 224]],
        "numerics": "exact",
        "dtype": "float32",
        "defaults": DEFAULTS,
    }
    (settings.out / "checkpoint.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in settings.out.rglob("*.safetensors"):
        file.chmod(0o644)
    sums = [f"{_sha256(f)}  {f.relative_to(settings.out)}\n" for f in sorted(settings.out.rglob("*.safetensors"))]
    (settings.out / "SHA256SUMS").write_text("".join(sums))
    return settings.out


def package_network(file: Path, out: Path, sizes: TransformerTraining) -> None:
    """Network, text encoder, and mean and deviation of the latents they were trained on."""
    trained = torch.load(file, map_location="cpu", weights_only=True)
    tower = torch.nn.ModuleDict({"network": build(sizes), "text": text_tower(sizes)})
    load_parameters(tower, trained["model"])
    save_network(tower["network"], out / "transformer", dtype=torch.bfloat16)  # type: ignore[arg-type]
    tower["text"].t5.to(torch.bfloat16).save_pretrained(out / "text_encoder")  # type: ignore[operator, union-attr]
    (out / "tokenizer").mkdir(exist_ok=True)
    _save({name: trained[name] for name in ("mean", "std")}, out / "tokenizer" / "mean_std.safetensors")


def load_parameters(module: torch.nn.Module, parameters: dict[str, Tensor]) -> None:
    """Load parameters by name, each once; a tensor that two names share is stored under the first.

    Raises:
        CheckpointError: parameters are missing or left over.
    """
    names = {name for name, _ in module.named_parameters()}
    if names != set(parameters):
        wrong = sorted(names ^ set(parameters))
        raise CheckpointError(f"trained with other sizes: {len(wrong)} names differ, {wrong[:3]}")
    module.load_state_dict(parameters, strict=False)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.contiguous().float() for name, value in tensors.items()}, str(path))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
