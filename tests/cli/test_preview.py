"""`--preview` shows the middle of an episode as the run would make it, and refuses what the run refuses."""

import json

import cv2
import h5py
import numpy as np
import pytest
from tiny_run import SIZE_PX, same

from guided_transfer.cli import process
from guided_transfer.episodes import make_example_episode

NUM_FRAMES = 25
MIDDLE = slice(8, 17)
"""One clip of the small model."""


@pytest.fixture
def long(tmp_path):
    """A folder with one episode that is longer than what a preview shows."""
    folder = tmp_path / "source"
    folder.mkdir()
    make_example_episode(folder / "data_0.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    return folder


@pytest.fixture
def sheet(transfer, long):
    """Preview it with further arguments; returns the picture."""

    def run(*arguments):
        outcome = transfer("--preview", *arguments, source=long)
        assert not list(outcome.folder.glob("*.hdf5"))
        return cv2.imread(str(outcome.folder / "preview" / "data_0.png"))

    return run


def test_simulated_above_generated_for_both_views(sheet, long):
    picture = sheet()
    assert picture.shape == (4 * SIZE_PX, 4 * SIZE_PX, 3)
    with h5py.File(long / "data_0.hdf5") as file:
        shown = file["data/demo_0/observations/rgb_images"][MIDDLE][[0, -1]]
    for row, view in ((0, 0), (2, 1)):
        cells = picture[row * SIZE_PX : (row + 1) * SIZE_PX, :, ::-1]
        assert same(cells[:, :SIZE_PX], shown[0, view])
        assert same(cells[:, -SIZE_PX:], shown[1, view])
        assert not same(cells, picture[(row + 1) * SIZE_PX : (row + 2) * SIZE_PX, :, ::-1])


def test_a_mask_counts_for_the_frames_that_are_shown(sheet, tmp_path):
    """Pasted back wherever the mask says so, the simulation is all there is in these frames."""
    mask = np.zeros((NUM_FRAMES, SIZE_PX, SIZE_PX), np.float32)
    mask[MIDDLE] = 1
    for view in ("room", "wrist"):
        np.save(tmp_path / f"data_0_{view}.npy", mask)
    picture = sheet("--foreground_mask", tmp_path, "--composite_foreground")
    assert same(picture[:SIZE_PX], picture[SIZE_PX : 2 * SIZE_PX])


def test_weight_maps_count_for_the_frames_that_are_shown(sheet, tmp_path):
    """What a map says of other frames changes nothing, what it says of these does."""

    def shown(name, outside, inside):
        weights = np.full((NUM_FRAMES, SIZE_PX, SIZE_PX), outside, np.float32)
        weights[MIDDLE] = inside
        np.save(tmp_path / f"{name}.npy", weights)
        specs = tmp_path / f"{name}.json"
        specs.write_text(json.dumps({"edge": {"control_weight": f"{name}.npy"}, "depth": {"control_weight": 0.5}}))
        return sheet("--controlnet_specs", specs)

    some = shown("some", 0.0, 0.25)
    assert same(some, shown("other", 3.0, 0.25))
    assert not same(some, shown("less", 0.0, 0.0))


def test_a_faulty_episode_is_refused(transfer, long, capsys, monkeypatch):
    """Wherever in the episode the fault is, and before a model is loaded."""
    with h5py.File(long / "data_0.hdf5", "a") as file:
        file["data/demo_0/observations/depth_images"][0, 0, 2, 3] = float("nan")
    monkeypatch.setattr(process, "load_pipeline", None)
    transfer("--preview", source=long, expect=1)
    assert "guided-transfer validate" in capsys.readouterr().err
