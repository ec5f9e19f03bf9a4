from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from guided_transfer.episodes import PRESETS, inspect_file, open_episodes, validate_file
from guided_transfer.episodes.schema import I4H
from guided_transfer.errors import EpisodeUnreadable, UsageError

RGB = np.zeros((3, 8, 10, 3), np.uint8)
DEPTH = np.ones((3, 8, 10, 1), np.float32)


def write(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[f"data/demo_0/{name.replace('__', '/')}"] = value
    return path


def isaaclab(path: Path) -> Path:
    colours = np.full((3, 8, 10, 4), 255, np.uint8)
    colours[..., :3] = (204, 110, 248)
    return write(
        path,
        obs__table_cam=RGB,
        obs__wrist_cam=RGB[:, :4],
        obs__table_cam_depth=DEPTH,
        obs__table_cam_segmentation=colours,
        obs__table_cam_normals=DEPTH.repeat(3, -1),
        actions=np.zeros((3, 7), np.float32),
    )


def test_isaac_lab_cameras_are_found_by_name(tmp_path: Path) -> None:
    with open_episodes(isaaclab(tmp_path / "data.hdf5")) as file:
        episode = file.read("demo_0")
        assert file.schema.name == "isaaclab"
    table, wrist = episode.views["table"], episode.views["wrist"]
    assert (table.labels == 4).all()
    assert table.depth_m is not None
    assert (wrist.depth_m, wrist.labels, wrist.camera) == (None, None, None)
    assert wrist.rgb.shape == (3, 4, 10, 3)


def test_robomimic_cameras_are_found_by_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.hdf5", obs__agentview_image=RGB, obs__robot0_eye_in_hand_image=RGB, obs__agentview_depth=DEPTH
    )
    with open_episodes(path) as file:
        assert file.schema.name == "robomimic"
        assert list(file.read("demo_0").views) == ["agentview", "robot0_eye_in_hand"]


def test_a_layout_that_fits_two_presets_must_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", obs__agentview_image=RGB, obs__wrist_cam=RGB)
    with pytest.raises(EpisodeUnreadable, match="fits isaaclab and robomimic; name one: --schema_name isaaclab"):
        open_episodes(path)
    with open_episodes(path, schema="robomimic") as file:
        assert list(file.read("demo_0").views) == ["agentview"]
    with pytest.raises(UsageError, match="i4h, isaaclab, robomimic"):
        open_episodes(path, schema="rlds")


def test_a_layout_that_fits_none_says_what_was_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", pictures=RGB)
    with pytest.raises(EpisodeUnreadable) as caught:
        open_episodes(path)
    assert all(schema.rgb in str(caught.value) for schema in PRESETS.values())


def test_a_schema_of_ones_own_names_any_number_of_cameras(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", frames=np.stack([RGB, RGB + 1, RGB + 2], 1))
    three = replace(I4H, name="three", rgb="frames", required=(), cameras=("left", "right", "top"))
    with open_episodes(path, schema=three) as file:
        views = file.read("demo_0").views
    assert [int(view.rgb.max()) for view in views.values()] == [0, 1, 2]
    assert list(views) == ["left", "right", "top"]


def test_a_misspelt_dataset_is_not_silently_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.hdf5", obs__table_cam=RGB, obs__table_cam_dept=DEPTH)
    [fault] = validate_file(path)
    assert fault.dataset == "/data/demo_0/obs/table_cam_depth"
    assert "did you mean 'table_cam_dept'" in str(fault)


def test_inspect_prints_schema_cameras_and_storage(real_file: Path) -> None:
    summary = inspect_file(real_file)
    assert (summary.schema, summary.demos[0].num_frames, len(summary.demos[0].cameras)) == ("i4h", 4, 2)
    page = str(summary)
    assert "demo_0: 4 frames at 20 per second" in page
    assert "wrist: 224 x 224 px, rgb, depth, labels, pose" in page
    assert "observations/rgb_images  [4, 2, 224, 224, 3] uint8  chunks [1, 1, 224, 224, 3] gzip shuffle" in page
