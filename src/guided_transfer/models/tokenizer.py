"""Video to latents and back: diffusers' Cosmos autoencoder with the official weights and statistics."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.checkpoint import read_tensors
from guided_transfer.models.torchscript import is_torchscript, read_torchscript
from guided_transfer.models.tree import CheckpointTree
from guided_transfer.types import Numerics

PIXELS_PER_LATENT = 8
FRAMES_PER_LATENT = 8
LATENT_STD = 0.5
"""Normalised latents are scaled to the standard deviation that the network was trained on."""

WEIGHTS = (("model.safetensors",), ("autoencoder.jit",), ("encoder.jit", "decoder.jit"), ("model.pt",))
"""Sets of files that hold a whole autoencoder; the first that is there is read."""

STATISTICS = ("mean_std.safetensors", "mean_std.pt")

DIFFUSERS_NAMES = (  # pieces of official names -> diffusers' pieces, one after the other
    (r"\bdown\.(\d+)", r"down_blocks.\1"),
    (r"\bup\.(\d+)", r"up_blocks.\1"),
    (r"\.block\.", ".resnets."),
    (r"\bdownsample\b", "downsamplers.0"),
    (r"\bupsample\b", "upsamplers.0"),
    (r"\bmid\.block_1\b", "mid_block.resnets.0"),
    (r"\bmid\.block_2\b", "mid_block.resnets.1"),
    (r"\bmid\.attn_1\.0\b", "mid_block.attentions.0"),
    (r"\bmid\.attn_1\.1\b", "mid_block.temp_attentions.0"),
    (r"\.([qkv])\.conv3d\b", r".to_\1"),
    (r"\.proj_out\.conv3d\b", ".to_out.0"),
    (r"\.0\.conv3d\b", ".conv_s"),
    (r"\.1\.conv3d\b", ".conv_t"),
    (r"\bnin_shortcut\b", "conv_shortcut"),
    (r"\.conv3d\b", ""),
)
UNUSED = re.compile(r"wavelets|_arange|patch_size_buffer")
"""Constants that diffusers computes."""


class VideoTokenizer(nn.Module):
    """A causal autoencoder with the statistics of its latents.

    8 x 8 pixels and 8 frames become one latent; the first frame is a latent frame of its own. The middle of
    the autoencoder attends over the whole picture, and its norms average over it, so that tiles would not be exact:
    a clip needs the memory of a whole decode. Batches are worked off one video at a time.

    Args:
        autoencoder: diffusers' `AutoencoderKLCosmos`; its layers get their fast form (`fast_layers`).
        mean: [C, T] of the latents, per channel and latent frame of a whole clip; shorter clips use its start.
        std: likewise.
        numerics: "exact" normalises in float32, "reference" in bfloat16.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Any, mean: Tensor, std: Tensor, *, numerics: Numerics = "exact") -> None:
        from guided_transfer.models.fast_layers import accelerate  # imports diffusers

        super().__init__()
        self.autoencoder = accelerate(autoencoder).eval().requires_grad_(False)
        self.autoencoder.enable_slicing()
        precision = torch.bfloat16 if numerics == "reference" else torch.float32
        self.register_buffer("mean", mean.to(precision)[None, :, :, None, None])
        self.register_buffer("std", std.to(precision)[None, :, :, None, None])

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        numerics: Numerics = "exact",
    ) -> Self:
        """Load the official files, or safetensors in official or in diffusers' names.

        Args:
            folder: holds one of `WEIGHTS` and one of `STATISTICS`.
            device: where the weights go.
            dtype: what the autoencoder computes in; on a CPU, which lacks some operations in bfloat16,
                always float32.
            numerics: see the class.

        Raises:
            CheckpointError: files are missing, damaged, or not those of such an autoencoder.
        """
        files = _first_found(folder)
        if torch.device(device).type == "cpu":
            dtype = torch.float32
        # Not the autoencoder's own `to`, which warns of casts that do not concern it.
        autoencoder: Any = nn.Module.to(_build(_sizes(folder), files), dtype=dtype)
        mean, std = _read_statistics(folder, autoencoder.config.latent_channels)
        return cls(autoencoder, mean, std, numerics=numerics).to(device)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Normalised latents of standard deviation 0.5.

        Args:
            video: [B, 3, T, H, W] in -1..1, T = 1 + 8k, H and W multiples of 8.

        Returns:
            [B, C, 1 + k, H/8, W/8] in the dtype of the statistics.

        Raises:
            UsageError: a size that cannot be encoded, or a clip longer than the tokenizer's own.
        """
        _check_video(video)
        mean, std = self._statistics(1 + video.shape[2] // FRAMES_PER_LATENT)
        latents = self.autoencoder.encode(video.to(self.autoencoder.dtype)).latent_dist.mode()
        return (latents.to(mean.dtype) - mean) / std * LATENT_STD

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Video [B, 3, T, H, W], about -1..1, of latents as `encode` returns them.

        Raises:
            UsageError: more latent frames than the tokenizer's own clip has.
        """
        mean, std = self._statistics(latents.shape[2])
        latents = latents.to(mean.dtype) / LATENT_STD * std + mean
        return self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample.to(mean.dtype)

    def _statistics(self, num_frames: int) -> tuple[Tensor, Tensor]:
        known = self.mean.shape[2]
        if num_frames > known:
            longest = 1 + (known - 1) * FRAMES_PER_LATENT
            raise UsageError(
                f"a clip of {num_frames} latent frames is longer than the tokenizer's own of {known} "
                f"({longest} frames of video); cut it into clips"
            )
        return self.mean[:, :, :num_frames], self.std[:, :, :num_frames]


def load_tokenizer(tree: CheckpointTree, *, device: torch.device | str, dtype: torch.dtype) -> VideoTokenizer:
    """The tokenizer of a checkpoint tree; raises as `VideoTokenizer.from_folder`."""
    numerics: Numerics = tree.config.numerics
    return VideoTokenizer.from_folder(tree.tokenizer_folder, device=device, dtype=dtype, numerics=numerics)


def _check_video(video: Tensor) -> None:
    if video.ndim != 5 or video.shape[1] != 3:
        raise UsageError(f"a video must be [B, 3, T, H, W], got {list(video.shape)}")
    frames, height, width = video.shape[2:]
    if frames % FRAMES_PER_LATENT != 1:
        below = max(1, (frames - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1)
        raise UsageError(f"a clip must have 1 + 8k frames, got {frames}; the nearest are {below} and {below + 8}")
    if height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT:
        raise UsageError(f"height and width must be multiples of {PIXELS_PER_LATENT}, got {height} x {width}")


def _first_found(folder: Path) -> list[Path]:
    for names in WEIGHTS:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    accepted = ", ".join(" with ".join(names) for names in WEIGHTS)
    raise CheckpointError(f"{folder}: no weights of a video tokenizer; accepted: {accepted}")


def _sizes(folder: Path) -> dict[str, Any] | None:
    """What diffusers' own config.json says; the official config.json says nothing about the autoencoder."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from None
    ours = isinstance(config, dict) and config.get("_class_name") == "AutoencoderKLCosmos"
    return {name: value for name, value in config.items() if not name.startswith("_")} if ours else None


def _build(sizes: dict[str, Any] | None, files: list[Path]) -> Any:
    """A diffusers autoencoder with the weights of `files`; its sizes are read from them unless they are given."""
    from diffusers import AutoencoderKLCosmos

    names = " and ".join(str(file) for file in files)
    weights = _in_diffusers_names(_read_weights(files))
    try:
        autoencoder: Any = AutoencoderKLCosmos(**(sizes or _sizes_of(weights)))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{names}: not the weights of a video tokenizer: {error}") from None
    expected = autoencoder.state_dict()
    faults = [f"missing: {key}" for key in expected.keys() - weights.keys()]
    faults += [f"unexpected: {key}" for key in weights.keys() - expected.keys()]
    faults += [
        f"{key} is {list(weights[key].shape)}, must be {list(expected[key].shape)}"
        for key in expected.keys() & weights.keys()
        if weights[key].shape != expected[key].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:8]) + (f" and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise CheckpointError(f"{names}: {shown}")
    autoencoder.load_state_dict(weights)
    return autoencoder


def _read_weights(files: list[Path]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _read_archive(file) if is_torchscript(file) else read_tensors([file])
    return {key: value for key, value in weights.items() if not UNUSED.search(key)}


def _in_diffusers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename official keys; keys of diffusers stay as they are."""
    if not any("conv3d" in key for key in weights):
        return dict(weights)
    renamed = {}
    for key, value in weights.items():
        for piece, replacement in DIFFUSERS_NAMES:
            key = re.sub(piece, replacement, key)
        renamed[key] = value
    last = _count(renamed, r"decoder\.up_blocks\.(\d+)") - 1
    # The official decoder counts its blocks from the picture, diffusers from the latents.
    return {
        re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{last - int(m[1])}", k): v for k, v in renamed.items()
    }


def _sizes_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `AutoencoderKLCosmos`, read from the shapes of its weights."""
    encoder_blocks = _count(weights, r"encoder\.down_blocks\.(\d+)")
    decoder_blocks = _count(weights, r"decoder\.up_blocks\.(\d+)")

    def width(part: str) -> int:
        return weights[f"{part}.conv_s.weight"].shape[0]

    encoder = [width(f"encoder.down_blocks.{i}.resnets.0.conv1") for i in range(encoder_blocks)]
    decoder = [width(f"decoder.up_blocks.{i}.resnets.0.conv1") for i in reversed(range(decoder_blocks))]
    return {
        "encoder_block_out_channels": (width("encoder.conv_in"), *encoder),
        "decode_block_out_channels": (*decoder, width("decoder.conv_in")),
        "latent_channels": width("encoder.conv_out"),
        "num_layers": _count(weights, r"encoder\.down_blocks\.0\.resnets\.(\d+)"),
    }


def _count(keys: Mapping[str, Any], pattern: str) -> int:
    """One more than the largest number that `pattern` finds."""
    return max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1) + 1


def _read_archive(file: Path) -> dict[str, Tensor]:
    try:
        return read_torchscript(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: holds more than modules and tensors, and was not read: {error}") from None
    except Exception as error:  # every layer of the archive fails with errors of its own
        raise CheckpointError(f"{file}: damaged or cut short, download it again: {error}") from None


def _read_statistics(folder: Path, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents, each [channels, T]."""
    file = next((folder / name for name in STATISTICS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: no statistics of the latents; accepted: {', '.join(STATISTICS)}")
    try:
        if file.suffix == ".safetensors":
            tensors = read_tensors([file])
            mean, std = tensors["mean"], tensors["std"]
        else:
            mean, std = torch.load(file, map_location="cpu", weights_only=True)
        mean, std = mean.reshape(channels, -1), std.reshape(channels, -1)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{file}: must hold the mean and the standard deviation of {channels} channels: {error}"
        ) from None
    if mean.shape != std.shape or not (std > 0).all():
        raise CheckpointError(f"{file}: mean is {list(mean.shape)}, std is {list(std.shape)} and must be positive")
    return mean, std
