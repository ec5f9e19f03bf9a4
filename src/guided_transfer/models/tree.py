"""Where the files of a checkpoint are: the official folder layout, or the one a `checkpoint.json` describes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from guided_transfer.errors import CheckpointError
from guided_transfer.models.control import ControlConfig
from guided_transfer.models.transformer import TransformerConfig

FILE_OF_KIND = {"upscale": "4kupscaler_control"}
"""Files of control kinds that are not simply `<kind>_control`."""

DRIVING_KINDS = ("hdmap", "lidar")
DRIVING_NETWORK = "nvidia/Cosmos-Transfer1-7B-Sample-AV"
"""Controls of driving scenes: they belong to a base network of their own, which lies in this folder."""

DISTILLED_FILE = "edge_control_distilled"
"""Holds the edge branch and the base network that take one step."""


class CheckpointConfig(BaseModel):
    """What `checkpoint.json` at the root of a checkpoint folder may say; the defaults are the official 7B tree.

    Attributes:
        name: shown to the user.
        network, tokenizer, text_encoder: folders below the root.
        clip_frames: frames per clip, 1 + 8k.
        text_tokens: tokens a prompt is padded to.
        prompt_tokens: tokens of a prompt that are read; 0 reads all of `text_tokens`. A network that was always
            shown padding makes noise of a prompt without any.
        native_sizes: (height, width) in pixels the network was trained at; None means by aspect ratio.
        numerics: "reference" computes as the official run does, "exact" in float32 throughout.
        dtype: of weights and activations.
        base_rope_ratios, control_rope_ratios: rotary stretch along (t, h, w).
        defaults: values for command-line arguments that neither the user nor the specs give.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "Cosmos-Transfer1-7B"
    network: str = "nvidia/Cosmos-Transfer1-7B"
    tokenizer: str = "nvidia/Cosmos-Tokenize1-CV8x8x8-720p"
    text_encoder: str = "google-t5/t5-11b"
    clip_frames: int = 121
    text_tokens: int = Field(default=512, gt=0)
    prompt_tokens: int = Field(default=0, ge=0)
    native_sizes: tuple[tuple[int, int], ...] | None = None
    numerics: Literal["reference", "exact"] = "reference"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    base_rope_ratios: tuple[float, float, float] = TransformerConfig.rope_ratios
    control_rope_ratios: tuple[float, float, float] = ControlConfig.rope_ratios
    defaults: dict[str, Any] = {}

    @field_validator("clip_frames")
    @classmethod
    def _fills_latent_frames(cls, frames: int) -> int:
        if frames < 1 or frames % 8 != 1:
            raise ValueError(f"must be 1 + 8k (1, 9, 17, ... 121), is {frames}")
        return frames

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class CheckpointTree:
    """A folder of checkpoints, in the official layout or the one its `checkpoint.json` describes."""

    root: Path
    config: CheckpointConfig

    @classmethod
    def open(cls, checkpoint_dir: Path | str) -> CheckpointTree:
        """Find the folder; "bundled" is the small model that comes with the package.

        Raises:
            CheckpointError: there is no such folder, or its `checkpoint.json` cannot be used.
        """
        bundled = str(checkpoint_dir) == "bundled"
        root = Path(__file__).parent / "bundled" if bundled else Path(checkpoint_dir)
        if not root.is_dir():
            raise CheckpointError(f"{root}: no such folder. {_how_to_get(root)}")
        file = root / "checkpoint.json"
        if not file.exists():
            return cls(root, CheckpointConfig())
        try:
            return cls(root, CheckpointConfig.model_validate_json(file.read_bytes()))
        except ValidationError as error:
            raise CheckpointError(f"{file}: {error}") from None

    def with_tokenizer(self, folder: str) -> CheckpointTree:
        """The same tree with its tokenizer in `folder`, looked for below the root, then below its `nvidia/`.

        Raises:
            CheckpointError: it is in neither.
        """
        for name in (folder, f"nvidia/{folder}"):
            if (self.root / name).is_dir():
                return replace(self, config=self.config.model_copy(update={"tokenizer": name}))
        raise CheckpointError(f"tokenizer folder {folder!r} is neither below {self.root} nor below its nvidia/")

    @property
    def network_folder(self) -> Path:
        return self.root / self.config.network

    @property
    def tokenizer_folder(self) -> Path:
        return self.root / self.config.tokenizer

    @property
    def text_encoder_folder(self) -> Path:
        return self.root / self.config.text_encoder

    def for_controls(self, kinds: Sequence[str]) -> CheckpointTree:
        """The same tree with the network that these controls steer.

        Raises:
            CheckpointError: they belong to different networks, or to one that is not there.
        """
        driving = [kind for kind in kinds if kind in DRIVING_KINDS]
        if not driving or set(driving) <= set(self.controls()):
            return self
        if not (self.root / DRIVING_NETWORK).is_dir():
            raise CheckpointError(
                f"{self.root / DRIVING_NETWORK}: no such folder; {', '.join(driving)} steer its network. "
                f"`guided-transfer checkpoints download --output_dir {self.root} --only driving` fetches it"
            )
        if others := [kind for kind in kinds if kind not in DRIVING_KINDS]:
            raise CheckpointError(
                f"{self.root}: {', '.join(driving)} steer the network of {DRIVING_NETWORK}, {', '.join(others)} "
                f"that of {self.config.network}; one run has one network"
            )
        return replace(self, config=self.config.model_copy(update={"network": DRIVING_NETWORK}))

    def controls(self) -> list[str]:
        """Kinds of the control branches that have a file here."""
        kind_of_file = {file: kind for kind, file in FILE_OF_KIND.items()}
        stems = {path.name.split(".")[0] for path in self.network_folder.glob("*_control*") if path.suffix != ".md"}
        stems = {re.sub(r"-\d+-of-\d+$", "", stem) for stem in stems}
        return sorted(kind_of_file.get(s, s.removesuffix("_control")) for s in stems if s.endswith("_control"))

    def network_files(self, stem: str) -> list[Path]:
        """Files that hold `stem` ("base_model", "edge_control", ...): safetensors, whole or in shards, else `.pt`.

        Raises:
            CheckpointError: there is none, or the index names a shard that is not there.
        """
        folder = self.network_folder
        whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if whole.exists():
            return [whole]
        if index.exists():
            return _shards(index)
        if shards := sorted(folder.glob(f"{stem}-*-of-*.safetensors")):
            return _complete(shards)
        if (folder / f"{stem}.pt").exists():
            return [folder / f"{stem}.pt"]
        controls = f" Controls found there: {', '.join(self.controls()) or 'none'}."
        raise CheckpointError(
            f"{folder / stem}.safetensors or .pt: no such file.{controls} {_how_to_get(self.root)}"
        )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of safetensors shards: {error!r}") from None
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(f"{index}: shards are missing: {', '.join(absent)}")
    return [index.parent / name for name in names]


def _complete(shards: list[Path]) -> list[Path]:
    total = int(shards[0].stem.rsplit("-of-", 1)[1])
    if len(shards) != total:
        raise CheckpointError(f"{shards[0].parent}: {len(shards)} of {total} shards found")
    return shards


def _how_to_get(root: Path) -> str:
    return (
        f"`guided-transfer checkpoints download --output_dir {root}` fetches what belongs there (--only upscale, "
        "distilled or driving what few need); `--checkpoint_dir bundled` needs nothing"
    )
