"""The whole command on a whole tiny checkpoint, in this process."""

import pytest
import torch
from tiny_run import NUM_FRAMES, SIZE_PX, Outcome

from guided_transfer.cli import progress
from guided_transfer.cli.main import main
from guided_transfer.episodes.example import make_example_episode


@pytest.fixture(scope="session")
def episodes(tmp_path_factory):
    """A folder with one small episode."""
    folder = tmp_path_factory.mktemp("episodes")
    make_example_episode(folder / "data_0.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_tree):
    """Arguments that name the tiny checkpoint."""
    return [
        *("--checkpoint_dir", str(tiny_tree), "--model_config_file", str(tiny_tree / "tiny.yaml")),
        *("--dtype", "float32", "--guardrail", "off", "--num_steps", "2", "--prompt", "a clinic", "--quiet"),
        *("--cpu_threads", "1"),
    ]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Where hashes of weights are remembered between the runs of this session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch, tmp_path, home):
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    progress.reporter.cache_clear()


@pytest.fixture
def transfer(episodes, tiny, tmp_path):
    """Run the command on the small episode with further arguments; each run has an output folder of its own."""
    count = iter(range(1000))

    def run(*arguments, source=None, expect=0):
        folder = tmp_path / f"out_{next(count)}"
        words = ["transfer", "--source_data_dir", str(source or episodes), "--output_data_dir", str(folder)]
        code = main([*words, *tiny, *map(str, arguments)])
        assert code == expect
        return Outcome(code, folder)

    return run


@pytest.fixture(scope="session")
def baseline(episodes, tiny, tmp_path_factory):
    """A run without further arguments, to compare others with."""
    folder = tmp_path_factory.mktemp("baseline") / "out"
    code = main(["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(folder), *tiny])
    assert code == 0
    return Outcome(code, folder)
