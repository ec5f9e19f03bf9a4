"""One real episode and one made up."""

from pathlib import Path

import pytest

from guided_transfer.episodes import make_example_episode

REAL = Path(__file__).parents[1] / "data" / "episodes" / "panda_wipe.hdf5"


@pytest.fixture(scope="session")
def real_file() -> Path:
    return REAL


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Two demos of 5 frames, 32 x 40 pixels, contiguous as the state machine writes them."""
    return make_example_episode(tmp_path / "data_0.hdf5", 5, num_demos=2, height_px=32, width_px=40)
