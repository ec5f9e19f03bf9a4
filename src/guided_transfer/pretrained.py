"""Models of transformers from a folder: complete, as data, and from nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from guided_transfer.errors import CheckpointError


def load_pretrained(model_class: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers model for inference, every weight from its folder: a missing one would be drawn at random.

    Args:
        model_class: with transformers' `from_pretrained`.
        folder: with config.json and safetensors.
        dtype: of the weights.

    Raises:
        CheckpointError: it cannot be read, or lacks weights.
    """
    try:
        model, report = model_class.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers passes on whatever its parts raise
        raise CheckpointError(f"{folder}: cannot be read as {model_class.__name__}: {error}") from None
    if faults := [*report["missing_keys"], *report["mismatched_keys"]]:
        found = ", ".join(map(str, faults[:5]))
        raise CheckpointError(
            f"{folder}: weights are missing or of another shape than {model_class.__name__}'s: {found}"
        )
    return model.eval().requires_grad_(False)
