import gc
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from guided_transfer.episodes import (
    episode_files,
    labels_from_colours,
    make_example_episode,
    natural_key,
    open_episodes,
)
from guided_transfer.errors import EpisodeInconsistent, EpisodeUnreadable, UsageError
from guided_transfer.types import View


def test_the_real_episode_is_read_as_it_lies_in_the_file(real_file: Path) -> None:
    with open_episodes(real_file) as file, h5py.File(real_file) as raw:
        observations = raw["data/demo_0/observations"]
        episode = file.read("demo_0")
        assert (file.schema.name, file.demos, episode.id, episode.fps) == (
            "i4h",
            ("demo_0",),
            "panda_wipe/demo_0",
            20,
        )
        for index, (name, view) in enumerate(episode.views.items()):
            assert name == ("room", "wrist")[index]
            assert np.array_equal(view.rgb, observations["rgb_images"][:, index])
            assert np.array_equal(view.depth_m, observations["depth_images"][:, index, ..., 0])
            assert torch.equal(
                view.labels, labels_from_colours(torch.from_numpy(observations["seg_images"][:, index]))
            )


def test_the_views_of_the_real_episode_agree_through_their_cameras(real_file: Path) -> None:
    """Wrist pixels, lifted by depth and seen from the room camera, land on the room's own depth."""
    with open_episodes(real_file) as file:
        episode = file.read("demo_0", slice(1, 2))
    room, wrist = episode.views["room"], episode.views["wrist"]
    assert relative_depth_error(wrist, room).median() < 3e-3


def test_the_views_of_the_example_agree_through_their_cameras(tmp_path: Path) -> None:
    with open_episodes(make_example_episode(tmp_path / "data_0.hdf5", 2)) as file:
        episode = file.read("demo_0", slice(1, 2))
    error = relative_depth_error(episode.views["wrist"], episode.views["room"])
    assert error.median() < 3e-3


def relative_depth_error(seen: View, other: View) -> Tensor:
    """Of one frame's pixels that both cameras see, between lifted depth and the other camera's."""
    height, width = seen.labels.shape[1:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], -1).double()
    points = (torch.linalg.inv(seen.camera.intrinsics_px[0]) @ pixels[..., None])[..., 0] * seen.depth_m[
        0, ..., None
    ]
    points = points[torch.isfinite(points).all(-1)]
    other_from_seen = other.camera.cam_from_world[0] @ torch.linalg.inv(seen.camera.cam_from_world[0])
    points = points @ other_from_seen[:3, :3].T + other_from_seen[:3, 3]
    projected = points @ other.camera.intrinsics_px[0].T
    column, row = (projected[:, :2] / projected[:, 2:]).floor().long().unbind(-1)
    inside = (points[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    there = other.depth_m[0][row[inside], column[inside]].double()
    error = (points[inside, 2] - there) / there
    return error[error < 0.02].abs()  # what is farther away there is hidden


def test_every_demo_is_found_in_natural_order(tmp_path: Path) -> None:
    path = make_example_episode(tmp_path / "data_0.hdf5", 1, num_demos=11, height_px=8, width_px=8)
    with open_episodes(path) as file:
        assert file.demos == tuple(f"demo_{i}" for i in range(11))
        assert file.read("demo_10").id == "data_0/demo_10"


def test_a_demo_without_pictures_does_not_take_its_siblings_with_it(example: Path) -> None:
    with h5py.File(example, "r+") as raw:
        del raw["data/demo_0/observations"]
    with open_episodes(example) as file:
        assert file.read("demo_1").num_frames == 5
        with pytest.raises(EpisodeInconsistent, match="rgb_images") as caught:
            file.read("demo_0")
    assert caught.value.file == example


def test_files_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("data_10.hdf5", "data_2.hdf5", "data_1.h5", "notes.txt", ".data_0.hdf5.0a1b2c3d.partial"):
        (tmp_path / name).touch()
    assert [path.name for path in episode_files(tmp_path)] == ["data_1.h5", "data_2.hdf5", "data_10.hdf5"]
    names = ["b²", "b" + "1" * 5000, "b10", "b9", "b09", "b0", "a1", "a", "10", "9a", "0"]
    assert sorted(names, key=natural_key) == names[::-1]
    with pytest.raises(UsageError, match="does not exist"):
        episode_files(tmp_path / "absent")


def test_a_slice_is_the_same_as_slicing_the_whole(example: Path) -> None:
    with open_episodes(example) as file:
        whole, part = file.read("demo_1"), file.read("demo_1", slice(1, 4), views=["wrist"])
    expected = whole.views["wrist"][1:4]
    assert list(part.views) == ["wrist"]
    view = part.views["wrist"]
    assert torch.equal(view.rgb, expected.rgb)
    assert torch.equal(view.depth_m, expected.depth_m)
    assert torch.equal(view.labels, expected.labels)
    assert torch.equal(view.camera.cam_from_world, expected.camera.cam_from_world)


@pytest.mark.parametrize("frames", [slice(3, 3), slice(0, 5, 2), slice(7, 9)])
def test_no_frames_or_gaps_are_refused(example: Path, frames: slice) -> None:
    with open_episodes(example) as file, pytest.raises(UsageError, match="it has 5"):
        file.read("demo_0", frames)


def test_an_unknown_demo_or_view_names_those_there_are(example: Path) -> None:
    with open_episodes(example) as file:
        with pytest.raises(UsageError, match="demo_0, demo_1"):
            file.read("demo_7")
        with pytest.raises(UsageError, match="room, wrist"):
            file.read("demo_0", views=["ceiling"])


def test_pixels_are_held_once(tmp_path: Path) -> None:
    path = make_example_episode(tmp_path / "data_0.hdf5", 60, height_px=64, width_px=64, compression="gzip")
    with h5py.File(path) as raw:
        once = sum(raw[f"data/demo_0/observations/{kind}_images"].nbytes for kind in ("rgb", "depth"))
        once += raw["data/demo_0/observations/seg_images"].nbytes // 3
    with open_episodes(path) as file:
        gc.collect()
        tracemalloc.start()  # sees NumPy's blocks, in which pictures lie, too
        episode = file.read("demo_0")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    held = sum(v.rgb.nbytes + v.depth_m.nbytes + v.labels.nbytes for v in episode.views.values())
    assert held == once
    assert peak < 1.35 * once


def test_one_channel_labels_and_flat_depth_are_read_too(example: Path) -> None:
    with h5py.File(example, "r+") as raw:
        for demo in raw["data"].values():
            observations = demo["observations"]
            colours, depth = observations["seg_images"][()], observations["depth_images"][..., 0]
            del observations["seg_images"], observations["depth_images"]
            observations["seg_images"] = (colours[..., :1] > 0).astype(np.int32)
            observations["depth_images"] = depth.astype(np.float64)
    with open_episodes(example) as file:
        view = file.read("demo_0").views["wrist"]
        assert np.array_equal(view.labels, file.h5["data/demo_0/observations/seg_images"][:, 1, ..., 0])
        assert np.array_equal(
            view.depth_m, file.h5["data/demo_0/observations/depth_images"][:, 1].astype(np.float32)
        )


def test_labels_beyond_a_byte_are_refused(example: Path) -> None:
    with h5py.File(example, "r+") as raw:
        del raw["data/demo_0/observations/seg_images"]
        raw["data/demo_0/observations/seg_images"] = np.full((5, 2, 32, 40), 300, np.int32)
    with open_episodes(example) as file, pytest.raises(EpisodeInconsistent, match="from 300 to 300"):
        file.read("demo_0")


@pytest.mark.parametrize(("content", "words"), [(b"", "cannot be opened"), (b"no HDF5" * 99, "signature")])
def test_what_is_no_hdf5_file_is_unreadable(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "data_0.hdf5"
    path.write_bytes(content)
    with pytest.raises(EpisodeUnreadable, match=words) as caught:
        open_episodes(path)
    assert caught.value.file == path


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(EpisodeUnreadable, match="no such file"):
        open_episodes(tmp_path / "data_0.hdf5")


def test_damaged_pixels_name_the_dataset(example: Path, tmp_path: Path) -> None:
    path = make_example_episode(tmp_path / "data_1.hdf5", 9, height_px=32, width_px=32, compression="gzip")
    with h5py.File(path) as raw:
        chunk = raw["data/demo_0/observations/depth_images"].id.get_chunk_info(9)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset + 2 : chunk.byte_offset + chunk.size] = bytes(chunk.size - 2)
    path.write_bytes(damaged)
    with (
        open_episodes(path, trusted=True) as file,
        pytest.raises(EpisodeUnreadable, match="depth_images") as caught,
    ):
        file.read("demo_0")
    assert caught.value.dataset == "/data/demo_0/observations/depth_images"


def test_the_files_own_rate_wins(example: Path) -> None:
    with open_episodes(example) as file:
        assert file.fps("demo_0") == 30
    with h5py.File(example, "r+") as raw:
        raw["data"].attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
        raw["data/demo_1"].attrs["fps"] = 12.5
    with open_episodes(example) as file:
        assert (file.fps("demo_0"), file.fps("demo_1")) == (20, 12.5)


@pytest.mark.parametrize("name", ["../demo_0", "demo_", "demo_1x", "demo_٣", "other"])
def test_names_that_could_become_paths_are_refused(example: Path, name: str) -> None:
    with h5py.File(example, "r+") as raw:
        group = raw["data"]
        for part in name.split("/"):
            group = group.create_group(part)
    with pytest.raises(EpisodeUnreadable, match=r"demo_<n>"):
        open_episodes(example)
