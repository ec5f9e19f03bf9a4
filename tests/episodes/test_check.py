from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from guided_transfer.episodes import make_example_episode, open_episodes, validate_file, validate_folder
from guided_transfer.episodes.check import require_sound
from guided_transfer.errors import EpisodeError, EpisodeInconsistent, UsageError

OBSERVATIONS = "data/demo_1/observations"


def replace(file: h5py.File, path: str, value: np.ndarray) -> None:
    del file[path]
    file[path] = value


def pictures_of_another_type(file: h5py.File) -> None:
    replace(file, f"{OBSERVATIONS}/rgb_images", np.zeros((5, 2, 32, 40, 3), np.float32))


def pictures_of_another_rank(file: h5py.File) -> None:
    replace(file, f"{OBSERVATIONS}/rgb_images", np.zeros((5, 32, 40, 3), np.uint8))


def three_cameras(file: h5py.File) -> None:
    replace(file, f"{OBSERVATIONS}/rgb_images", np.zeros((5, 3, 32, 40, 3), np.uint8))


def depth_of_another_size(file: h5py.File) -> None:
    replace(file, f"{OBSERVATIONS}/depth_images", np.ones((5, 2, 16, 40, 1), np.float32))


def too_few_actions(file: h5py.File) -> None:
    replace(file, "data/demo_1/action", np.zeros((4, 6), np.float32))


def other_sample_count(file: h5py.File) -> None:
    file["data/demo_1"].attrs["num_samples"] = 6


def no_rotation(file: h5py.File) -> None:
    file[f"{OBSERVATIONS}/wrist_camera_quat_w_ros"][2] = [1, 1, 0, 0]


def focal_length_0(file: h5py.File) -> None:
    file[f"{OBSERVATIONS}/room_camera_intrinsic_matrices"][3, 1, 1] = 0


def position_unknown(file: h5py.File) -> None:
    file[f"{OBSERVATIONS}/room_camera_pos"][4, 1] = np.nan


def foreground_without_depth(file: h5py.File) -> None:
    file[f"{OBSERVATIONS}/depth_images"][3, 1] = np.inf


def depth_not_a_number(file: h5py.File) -> None:
    file[f"{OBSERVATIONS}/depth_images"][1, 0, 0, :7] = np.nan


def blended_labels(file: h5py.File) -> None:
    file[f"{OBSERVATIONS}/seg_images"][2:4, 0, 5, :3] = [0, 128, 127]


def no_depth(file: h5py.File) -> None:
    del file[f"{OBSERVATIONS}/depth_images"]


def a_group_for_a_dataset(file: h5py.File) -> None:
    del file[f"{OBSERVATIONS}/depth_images"]
    file.create_group(f"{OBSERVATIONS}/depth_images")


FAULTS: dict[Callable[[h5py.File], None], tuple[str, str]] = {
    pictures_of_another_type: ("rgb_images", "[5, 2, 32, 40, 3] float32"),
    pictures_of_another_rank: ("rgb_images", "needs [T, 2, H, W, 3] uint8"),
    three_cameras: ("rgb_images", "[5, 3, 32, 40, 3] uint8"),
    depth_of_another_size: ("depth_images", "[T, 2, 32, 40, 1] float with T = 5"),
    too_few_actions: ("demo_1/action", "has 4 rows, the pictures have 5 frames"),
    no_rotation: ("wrist_camera_quat_w_ros", "1 of 5 frames, first 2, have a quaternion that is no rotation"),
    focal_length_0: ("room_camera_intrinsic_matrices", "1 of 5 frames, first 3"),
    position_unknown: ("room_camera_pos", "1 of 5 frames, first 4, have a position that is not finite"),
    foreground_without_depth: ("depth_images, camera wrist", "where labels are foreground in"),
    depth_not_a_number: ("depth_images, camera room", "not a number in 7 pixels, first in frame 1"),
    blended_labels: ("seg_images", "(0, 128, 127) in 6 pixels, first in frame 2"),
    no_depth: ("depth_images", "is missing; schema i4h needs it"),
    a_group_for_a_dataset: ("depth_images", "must be a dataset"),
}


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_each_fault_is_found_and_named(example: Path, damage: Callable[[h5py.File], None]) -> None:
    with h5py.File(example, "r+") as file:
        damage(file)
    [fault] = validate_file(example)
    dataset, words = FAULTS[damage]
    assert isinstance(fault, EpisodeInconsistent)
    assert fault.file == example
    assert str(fault.dataset).endswith(dataset)
    assert words in fault.reason


@pytest.mark.parametrize(
    "damage",
    [pictures_of_another_rank, depth_of_another_size, too_few_actions, no_rotation, blended_labels, no_depth],
)
def test_reading_refuses_them_too_and_the_other_demo_stays_readable(
    example: Path, damage: Callable[[h5py.File], None]
) -> None:
    with h5py.File(example, "r+") as file:
        damage(file)
    with open_episodes(example) as file:
        assert file.read("demo_0").num_frames == 5
        with pytest.raises(EpisodeError) as caught:
            file.read("demo_1")
    assert caught.value.file == example
    assert "demo_1" in str(caught.value.dataset)


def test_a_lost_demo_shows_in_the_total(example: Path) -> None:
    with h5py.File(example, "r+") as file:
        del file["data/demo_1"]
    [fault] = validate_file(example)
    assert "total is 10, the 1 demos have 5 frames" in str(fault)


def test_a_wrong_sample_count_is_told_for_the_demo_and_the_total(example: Path) -> None:
    with h5py.File(example, "r+") as file:
        other_sample_count(file)
    assert [str(fault.dataset) for fault in validate_file(example)] == ["/data", "/data/demo_1"]


def test_every_fault_of_every_file_in_one_pass(tmp_path: Path) -> None:
    for index in (10, 2, 1):
        make_example_episode(tmp_path / f"data_{index}.hdf5", 5, num_demos=2, height_px=32, width_px=40)
    several = [no_rotation, focal_length_0, foreground_without_depth, blended_labels]
    with h5py.File(tmp_path / "data_2.hdf5", "r+") as file:
        for damage in several:
            damage(file)
    (tmp_path / "data_10.hdf5").write_bytes(b"nothing")
    found = validate_folder(tmp_path)
    assert [path.name for path in found] == ["data_1.hdf5", "data_2.hdf5", "data_10.hdf5"]
    assert [len(faults) for faults in found.values()] == [0, 4, 1]


def test_which_labels_need_depth_can_be_said(example: Path) -> None:
    with h5py.File(example, "r+") as file:
        depth, colours = file[f"{OBSERVATIONS}/depth_images"], file[f"{OBSERVATIONS}/seg_images"][()]
        values = depth[()]
        values[(colours == [0, 255, 0]).all(-1)] = np.inf  # the table
        depth[...] = values
    assert validate_file(example) == []
    assert len(validate_file(example, foreground=(2, 3, 4))) == 2


def test_labels_of_another_numbering_would_keep_nothing(example: Path) -> None:
    """The picture would not show it: everything is new then, and looks fine."""
    [first, second] = validate_file(example, foreground=(77, 99))
    assert [first.dataset, second.dataset] == ["demo_0", "demo_1"]
    assert "no pixel of any camera has a label that is kept, 77, 99; the labels there are: 0, 1, 2, 3, 4." in str(
        first
    )
    assert "--foreground_label names others" in str(first)
    assert validate_file(example, foreground=(4, 99)) == []
    with open_episodes(example) as file:
        episode = file.read("demo_1")
        require_sound(file, episode, ("room", "wrist"), (99, 3))
        require_sound(file, episode, ("room", "wrist"), ())
        with pytest.raises(EpisodeInconsistent, match="no pixel of any camera has a label that is kept, 99"):
            require_sound(file, episode, ("room", "wrist"), (99,))


def test_the_real_episode_and_the_example_are_sound(real_file: Path, example: Path) -> None:
    assert validate_file(real_file) == []
    assert validate_file(example) == []


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no"):
        validate_folder(tmp_path)


def test_a_file_without_labels_has_no_foreground(example):
    with h5py.File(example, "a") as file:
        del file[f"{OBSERVATIONS}/seg_images"]
    room, wrist = validate_file(example)
    assert "camera room has no labels to tell the foreground by; --foreground_prompt" in str(room)
    assert "camera wrist" in str(wrist)
    assert validate_file(example, foreground=()) == []
