"""Weights of the guardrails: read as data, complete or not at all, and on the device only while they look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from guided_transfer.errors import CheckpointError

NOT_READ = ".num_batches_tracked"
"""Counts batches while a norm is trained; old files lack it."""


def shards(index: Path) -> list[Path]:
    """The files that an index of safetensors names.

    Raises:
        CheckpointError: it is no index.
    """
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: not an index of safetensors files: {error!r}") from None
    return [index.parent / name for name in sorted(names)]


def read_pickle(file: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors of a `.pt` file by name without `prefix`; code in it is refused.

    Raises:
        CheckpointError: it is damaged, carries code, or holds something else.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        for wrapper in ("model", "state_dict"):
            content = content.get(wrapper, content)
        return {str(key).removeprefix(prefix): value.float() for key, value in content.items()}
    except Exception as error:  # torch raises half a dozen kinds here
        raise CheckpointError(f"{file}: cannot be read as weights: {str(error).splitlines()[0]}") from None


def fill(module: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Give a module its weights, all of them and no others, and set it to its way of working.

    Raises:
        CheckpointError: names or shapes differ.
    """
    counters = {name: value for name, value in module.state_dict().items() if name.endswith(NOT_READ)}
    try:
        module.load_state_dict({**counters, **tensors})
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the weights of this guardrail: {error}") from None
    module.eval().requires_grad_(False)


@contextmanager
def looking(module: nn.Module, device: torch.device, *, offload: bool) -> Iterator[None]:
    """Have a module on the device while it looks."""
    module.to(device)
    try:
        with torch.inference_mode():
            yield
    finally:
        if offload and device.type != "cpu":
            module.to("cpu")


def must_be_finite(values: Tensor, guardrail: str) -> Tensor:
    """Pass `values` on: a comparison with NaN is never true, and would let everything pass.

    Raises:
        CheckpointError: not all are finite.
    """
    if not torch.isfinite(values).all():
        raise CheckpointError(
            f"guardrail {guardrail} computed numbers that are not finite; its weights are damaged"
        )
    return values
