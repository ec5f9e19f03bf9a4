"""The reference's own arrays and the tiny network they came from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_transfer.models.checkpoint import CheckpointTree, load_network
from guided_transfer.models.network import TransferNetwork

PARITY = Path(__file__).parents[1] / "data" / "parity"


def arrays(file: str) -> dict[str, Tensor]:
    with np.load(PARITY / file) as content:
        return {name: torch.from_numpy(value) for name, value in content.items() if value.dtype.kind == "f"}


@pytest.fixture(scope="session")
def base_arrays() -> dict[str, Tensor]:
    return arrays("a_base_net.npz")


@pytest.fixture(scope="session")
def control_arrays() -> dict[str, Tensor]:
    return arrays("b_control.npz")


@pytest.fixture(scope="session")
def tiny_network(parity_tree: Path) -> Callable[[], TransferNetwork]:
    """Makes a fresh tiny network each time, so that a test may change it."""

    def load() -> TransferNetwork:
        tree = CheckpointTree.open(parity_tree)
        return load_network(tree, ["edge", "depth", "seg"], device="cpu", dtype=torch.float32)

    return load


@pytest.fixture(scope="session")
def network(tiny_network: Callable[[], TransferNetwork]) -> TransferNetwork:
    """The tiny network, float32; shared, so it must be left as it is."""
    return tiny_network()


@pytest.fixture(scope="session")
def rope_arrays() -> dict[str, Tensor]:
    return arrays("a_rope_angles_7b.npz")


@pytest.fixture(scope="session")
def full_maps() -> Tensor:
    """Normalised weight maps [3, 5, 64, 96] of frames 0, 4, 8, 12 and 16."""
    return arrays("b_weight_maps_fullres.npz")["maps_norm"][:, 0, 0]
