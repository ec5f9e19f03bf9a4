"""The reference's own numbers; tests/data/parity/README.md says how they were made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

PARITY = Path(__file__).parents[1] / "data" / "parity"


def _arrays(file: str) -> dict[str, Tensor]:
    with np.load(PARITY / file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="session")
def sampler() -> dict[str, Tensor]:
    return _arrays("c_sampler.npz")


@pytest.fixture(scope="session")
def guided() -> dict[str, Tensor]:
    return _arrays("d_guided.npz")
