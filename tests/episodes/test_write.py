import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from stored_hdf5 import stored
from torch import Tensor

from guided_transfer.episodes import EpisodeFile, make_example_episode, open_episodes, write, write_transferred
from guided_transfer.episodes.hdf5_copy import Sink
from guided_transfer.errors import OutputError, UsageError

KEEP_WRITING = Path(__file__).with_name("keep_writing.py")
FILL_THE_DISK = Path(__file__).with_name("fill_the_disk.py")


def inverted(file: EpisodeFile) -> dict[str, dict[str, Tensor]]:
    return {demo: {name: 255 - view.rgb for name, view in file.read(demo).views.items()} for demo in file.demos}


def transfer(source: Path, target: Path) -> Path:
    with open_episodes(source) as file:
        return write_transferred(file, target, inverted(file), {demo: {"seed": 7} for demo in file.demos})


def assert_only_pictures_differ(source: Path, target: Path) -> None:
    ours, theirs = stored(source), stored(target)
    assert list(ours) == list(theirs)
    for path, value in ours.items():
        if path.endswith("rgb_images"):
            assert value[1:3] == theirs[path][1:3]  # shape, maxshape
        else:
            assert value == theirs[path], path


def assert_nothing_new(folder: Path, source: Path) -> None:
    assert {path.name for path in folder.iterdir()} <= {source.name}


def test_a_real_episode_keeps_everything_but_its_pictures(real_file: Path, tmp_path: Path) -> None:
    target = transfer(real_file, tmp_path / "data_0.hdf5")
    assert_only_pictures_differ(real_file, target)
    with h5py.File(real_file) as old, h5py.File(target) as new:
        ours, theirs = (file["data/demo_0/observations/rgb_images"] for file in (old, new))
        assert np.array_equal(theirs, 255 - ours[()])
        assert (theirs.dtype, theirs.chunks, theirs.compression_opts, theirs.shuffle) == (
            ours.dtype,
            ours.chunks,
            ours.compression_opts,
            ours.shuffle,
        )
        assert theirs.attrs["guided_transfer.seed"] == 7
        assert set(theirs.attrs) - set(ours.attrs) == {"guided_transfer.seed", "guided_transfer.views"}


def test_contiguous_pictures_get_one_frame_chunks_with_a_checksum(example: Path, tmp_path: Path) -> None:
    target = transfer(example, tmp_path / "out.hdf5")
    assert_only_pictures_differ(example, target)
    with h5py.File(target) as new:
        for demo in ("demo_0", "demo_1"):
            rgb = new[f"data/{demo}/observations/rgb_images"]
            assert (rgb.chunks, rgb.fletcher32, rgb.compression) == ((1, 1, 32, 40, 3), True, None)


@pytest.mark.skipif(
    shutil.which("h5dump") is None, reason="h5dump is not installed (Debian: apt install hdf5-tools)"
)
def test_h5dump_reads_the_result(real_file: Path, tmp_path: Path) -> None:
    target = transfer(real_file, tmp_path / "data_0.hdf5")
    command = ["h5dump", "-d", "/data/demo_0/observations/rgb_images", "-s", "0,0,0,0,0", "-c", "1,1,1,1,3", target]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with h5py.File(target) as new:
        pixel = new["data/demo_0/observations/rgb_images"][0, 0, 0, 0].tolist()
    assert ", ".join(map(str, pixel)) in dumped
    assert "guided_transfer.seed" in subprocess.run(["h5dump", "-A", target], capture_output=True, text=True).stdout


def test_frames_may_come_one_by_one_and_other_views_stay(example: Path, tmp_path: Path) -> None:
    def one_by_one(video: Tensor) -> Iterator[Tensor]:
        yield from video

    with open_episodes(example) as file:
        new = inverted(file)
        frames = {"demo_0": {"wrist": one_by_one(new["demo_0"]["wrist"])}, "demo_1": new["demo_1"]}
        write_transferred(file, tmp_path / "out.hdf5", frames, {})
        with open_episodes(tmp_path / "out.hdf5", trusted=True) as out:
            first, source = out.read("demo_0"), file.read("demo_0")
            assert torch.equal(first.views["wrist"].rgb, new["demo_0"]["wrist"])
            assert torch.equal(first.views["room"].rgb, source.views["room"].rgb)
            rgb = out.h5["data/demo_0/observations/rgb_images"]
            assert rgb.attrs["guided_transfer.views"] == '["wrist"]'


def test_separate_datasets_per_camera_are_replaced_too(tmp_path: Path) -> None:
    source = tmp_path / "data.hdf5"
    with h5py.File(source, "w") as file:
        for camera in ("table", "wrist"):
            rgb = np.random.default_rng(0).integers(0, 256, (21, 6, 9, 3), np.uint8)
            file.create_dataset(f"data/demo_0/obs/{camera}_cam", data=rgb, compression="gzip", chunks=(5, 6, 9, 3))
    target = transfer(source, tmp_path / "out.hdf5")
    with h5py.File(source) as old, h5py.File(target) as new:
        for camera in ("table", "wrist"):
            path = f"data/demo_0/obs/{camera}_cam"
            assert np.array_equal(new[path], 255 - old[path][()])
            assert new[path].chunks == (5, 6, 9, 3)


def test_provenance_of_an_earlier_transfer_is_not_mixed_in(example: Path, tmp_path: Path) -> None:
    with open_episodes(example) as file:
        first = {"demo_0": {"seed": 1, "old": 1.5}, "demo_1": {"prompts": {"room": "a ward"}}}
        write_transferred(file, tmp_path / "first.hdf5", inverted(file), first)
    with open_episodes(tmp_path / "first.hdf5") as file:
        write_transferred(file, tmp_path / "second.hdf5", inverted(file), {"demo_0": {"seed": 2}})
    with h5py.File(tmp_path / "second.hdf5") as new:
        attributes = dict(new["data/demo_0/observations/rgb_images"].attrs)
    assert attributes == {"guided_transfer.seed": 2, "guided_transfer.views": '["room", "wrist"]'}


def test_the_same_input_gives_the_same_bytes(example: Path, tmp_path: Path) -> None:
    first = transfer(example, tmp_path / "first.hdf5")
    time.sleep(1.1)  # HDF5 keeps times in whole seconds, where it keeps them
    assert first.read_bytes() == transfer(example, tmp_path / "second.hdf5").read_bytes()


@pytest.mark.parametrize("as_iterator", [False, True])
@pytest.mark.parametrize(
    "change", [lambda v: v[:-1], lambda v: v[[0, 1, 2, 3, 4, 4]], lambda v: v[:, 1:], Tensor.float]
)
def test_another_length_size_or_type_is_an_error(example: Path, tmp_path: Path, change, as_iterator: bool) -> None:
    with open_episodes(example) as file:
        frames = inverted(file)
        wrong = change(frames["demo_1"]["room"])
        frames["demo_1"]["room"] = iter(wrong) if as_iterator else wrong
        with pytest.raises(OutputError, match="demo_1, view room"):
            write_transferred(file, tmp_path / "out.hdf5", frames, {})
    assert_nothing_new(tmp_path, example)


def test_what_is_copied_is_not_held_in_memory(example: Path, tmp_path: Path) -> None:
    with h5py.File(example, "r+") as file:
        values = np.random.default_rng(0).random(2**22)
        file["data/demo_0/points"] = values
        file["data/demo_1"].create_dataset("points", data=values, chunks=(2**16,), compression="lzf")
    with open_episodes(example) as source:
        frames = inverted(source)
        tracemalloc.start()  # sees NumPy's blocks and Python's bytes
        write_transferred(source, tmp_path / "out.hdf5", frames, {})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < values.nbytes / 8
    assert_only_pictures_differ(example, tmp_path / "out.hdf5")


def test_a_missing_demo_or_unknown_view_is_an_error(example: Path, tmp_path: Path) -> None:
    with open_episodes(example) as file:
        frames = inverted(file)
        with pytest.raises(OutputError, match="demo_1"):
            write_transferred(file, tmp_path / "out.hdf5", {"demo_0": frames["demo_0"]}, {})
        with pytest.raises(OutputError, match="ceiling"):
            write_transferred(file, tmp_path / "out.hdf5", {**frames, "demo_1": {"ceiling": frames}}, {})
    assert_nothing_new(tmp_path, example)


def test_nothing_is_overwritten_unless_asked(example: Path, tmp_path: Path) -> None:
    target = transfer(example, tmp_path / "out.hdf5")
    before = target.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        transfer(example, target)
    with open_episodes(example) as file:
        with pytest.raises(UsageError, match="source itself"):
            write_transferred(file, example, inverted(file), {}, replace=True)
        same = {demo: {n: v.rgb for n, v in file.read(demo).views.items()} for demo in file.demos}
        write_transferred(file, target, same, {}, replace=True)
    assert target.read_bytes() != before


def test_a_folder_that_is_not_there_is_a_clear_error(example: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.hdf5 could not be written"):
        transfer(example, tmp_path / "absent" / "out.hdf5")


def test_a_full_disk_is_a_clear_error_and_earlier_outputs_stay(example: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    earlier = transfer(example, folder / "data_0.hdf5")
    before = earlier.read_bytes()
    limits = [str(size) for size in (1_000, len(before) // 2, len(before) - 1_000)]
    command = [sys.executable, str(FILL_THE_DISK), str(example), str(folder / "data_1.hdf5"), *limits]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("data_1.hdf5 could not be written: File too large") == len(limits)
    assert [path.name for path in folder.iterdir()] == ["data_0.hdf5"]
    assert earlier.read_bytes() == before


class LyingDisk(Sink):
    """Keeps another byte than it was given, in every write of one size."""

    size_bytes = 0

    def write(self, data: Any) -> int:
        kept = bytearray(data)
        if len(kept) == self.size_bytes:
            kept[len(kept) // 2] ^= 1
        return super().write(kept)


@pytest.mark.parametrize(
    ("checksum_in_file", "size_bytes", "words"),
    [
        (False, 32 * 40 * 3, "rgb_images reads back other pictures than were written"),
        (True, 32 * 40 * 3 + 4, "could not be written: Can't synchronously read data"),
        (True, 5 * 2 * 32 * 40 * 4, "stored bytes of /data/demo_0/observations/depth_images differ"),
    ],
)
def test_what_the_disk_keeps_is_compared_before_it_appears(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checksum_in_file: bool,
    size_bytes: int,
    words: str,
) -> None:
    if not checksum_in_file:  # chunks without filters are kept as they are
        with h5py.File(example, "r+") as file:
            for demo in file["data"].values():
                pictures = demo["observations/rgb_images"][()]
                del demo["observations/rgb_images"]
                demo.create_dataset("observations/rgb_images", data=pictures, chunks=(1, 1, 32, 40, 3))
    monkeypatch.setattr(LyingDisk, "size_bytes", size_bytes)
    monkeypatch.setattr(write, "Sink", LyingDisk)
    with pytest.raises(OutputError, match=words):
        transfer(example, tmp_path / "out.hdf5")
    assert_nothing_new(tmp_path, example)


def kill_a_writer(writers: subprocess.Popen[str], source: Path, folder: Path, wait_s: float) -> int:
    """SIGKILL a process that writes one output after another; how many it left, all of them whole."""
    folder.mkdir()
    assert writers.stdin is not None
    assert writers.stdout is not None
    writers.stdin.write(f"{folder}\n")
    writers.stdin.flush()
    writer = int(writers.stdout.readline())
    time.sleep(wait_s)
    os.kill(writer, signal.SIGKILL)
    told = set(iter(writers.stdout.readline, "killed\n")) - {"\n"}
    outputs = sorted(folder.glob("*.hdf5"))
    assert told <= {f"{path.name}\n" for path in outputs}
    for path in outputs:
        assert_only_pictures_differ(source, path)
        with open_episodes(source, trusted=True) as old, open_episodes(path) as new:
            for demo in old.demos:
                for name, view in old.read(demo).views.items():
                    assert torch.equal(new.read(demo).views[name].rgb, 255 - view.rgb)
    return len(outputs)


def kill_many(tmp_path: Path, times: int) -> None:
    source = make_example_episode(tmp_path / "data_0.hdf5", 20, num_demos=2, height_px=96, width_px=96)
    transfer(source, tmp_path / "first.hdf5")
    started = time.perf_counter()
    transfer(source, tmp_path / "second.hdf5")
    waits_s = np.random.default_rng(5).uniform(0, 4 * (time.perf_counter() - started), times)
    command = [sys.executable, str(KEEP_WRITING), str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        left = [kill_a_writer(writers, source, tmp_path / f"run_{i}", wait_s) for i, wait_s in enumerate(waits_s)]
    partial = list(tmp_path.rglob("*.partial"))
    assert sum(left) > 0
    assert partial, "no kill hit a write; the test shows nothing"
    folder = partial[0].parent
    name = partial[0].name.split(".")[1] + ".hdf5"
    transfer(source, folder / name)
    assert not partial[0].exists(), "the next writer of a target removes what a killed one left"


def test_a_killed_writer_leaves_whole_outputs_or_none(tmp_path: Path) -> None:
    kill_many(tmp_path, 5)


@pytest.mark.soak
def test_fifty_killed_writers_leave_whole_outputs_or_none(tmp_path: Path) -> None:
    kill_many(tmp_path, 50)
