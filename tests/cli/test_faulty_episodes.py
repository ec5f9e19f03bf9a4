"""What `validate` calls faulty, `transfer` does not take: with the same words, and before a model is loaded."""

import h5py
import pytest
from tiny_run import NUM_FRAMES, SIZE_PX

from guided_transfer.cli import process
from guided_transfer.cli.main import main
from guided_transfer.episodes import make_example_episode


def no_number(file):
    file["data/demo_0/observations/depth_images"][4, 0, 2, 3] = float("nan")


def behind_the_camera(file):
    labels = file["data/demo_0/observations/seg_images"][3, 1]
    row, column = (labels == labels[SIZE_PX // 2, SIZE_PX // 2]).all(-1).nonzero()
    file["data/demo_0/observations/depth_images"][3, 1, row[0], column[0]] = -1.0


def unknown_colour(file):
    file["data/demo_0/observations/seg_images"][2, 0, 0, 0, :3] = (1, 2, 3)


def no_rotation(file):
    file["data/demo_0/observations/wrist_camera_quat_w_ros"][5] *= 2


def lost_frames(file):
    file["data"].attrs["total"] = NUM_FRAMES + 1


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for stem in ("data_0", "data_1"):
        make_example_episode(folder / f"{stem}.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    return folder


@pytest.mark.parametrize("spoil", [no_number, behind_the_camera, unknown_colour, lost_frames])
def test_a_faulty_episode_is_refused_with_the_finding_of_validate(transfer, folder, capsys, monkeypatch, spoil):
    with h5py.File(folder / "data_0.hdf5", "a") as file:
        spoil(file)
    assert main(["validate", str(folder / "data_0.hdf5")]) == 3
    finding = capsys.readouterr().out.strip()
    monkeypatch.setattr(process, "load_pipeline", None)
    transfer("--only", "data_0", source=folder, expect=3)
    error = capsys.readouterr().err
    assert f"{finding}; `guided-transfer validate {folder / 'data_0.hdf5'}` lists every fault" in error


def test_its_neighbours_are_transferred(transfer, folder):
    with h5py.File(folder / "data_0.hdf5", "a") as file:
        no_number(file)
    run = transfer(source=folder, expect=2)
    assert not (run.folder / "data_0.hdf5").exists()
    assert (run.folder / "data_1.hdf5").is_file()


def test_a_faulty_pose_names_the_command_too(transfer, folder, capsys):
    with h5py.File(folder / "data_0.hdf5", "a") as file:
        no_rotation(file)
    transfer("--only", "data_0", "--foreground_label", "4", source=folder, expect=3)
    command = f"guided-transfer validate {folder / 'data_0.hdf5'} --foreground_label 4"
    assert f"`{command}` lists every fault" in capsys.readouterr().err
    assert main(command.split()[1:]) == 3


def test_depth_counts_where_the_asked_labels_are(transfer, folder):
    """A hole in the depth of something that is not kept is none of a fault's business."""
    with h5py.File(folder / "data_0.hdf5", "a") as file:
        behind_the_camera(file)
    transfer("--only", "data_0", "--foreground_label", "", source=folder)
