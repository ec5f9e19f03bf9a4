"""Damaged files: each gives a typed error, or an episode whose shapes are the original's; never a crash."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from guided_transfer.episodes import EpisodeFile, make_example_episode, open_episodes, write_transferred
from guided_transfer.errors import EpisodeError, GuidedTransferError
from guided_transfer.types import Episode

Mutation = Callable[[bytearray, np.random.Generator], None]
BYTES_OF_STRUCTURE = 24_000
"""Pictures are most of a file, and damage there is dull; half of the mutations stay below this offset."""


def flip_bits(data: bytearray, random: np.random.Generator) -> None:
    for at in random.integers(0, reach(data, random), random.integers(1, 9)):
        data[at] ^= 1 << random.integers(8)


def flip_one_bit(data: bytearray, random: np.random.Generator) -> None:
    data[random.integers(reach(data, random))] ^= 1 << random.integers(8)


def truncate(data: bytearray, random: np.random.Generator) -> None:
    del data[random.integers(len(data)) :]


def wipe(data: bytearray, random: np.random.Generator) -> None:
    start, length = random.integers(reach(data, random)), random.integers(1, 600)
    data[start : start + length] = bytes([random.choice([0, 255])]) * len(data[start : start + length])


def swap_blocks(data: bytearray, random: np.random.Generator) -> None:
    length = int(random.integers(8, 400))
    one, two = sorted(random.integers(0, reach(data, random) - length, 2).tolist())
    data[one : one + length], data[two : two + length] = data[two : two + length], data[one : one + length]


def huge_number(data: bytearray, random: np.random.Generator) -> None:
    at = 8 * random.integers(reach(data, random) // 8)
    data[at : at + 8] = int(random.choice([2**63, 2**40, 2**31, 2**16 + 1])).to_bytes(8, "little")[: len(data) - at]


def reach(data: bytearray, random: np.random.Generator) -> int:
    return min(BYTES_OF_STRUCTURE, len(data)) if random.random() < 0.5 else len(data)


BYTE_MUTATIONS: list[Mutation] = [flip_bits, flip_one_bit, truncate, wipe, swap_blocks, huge_number]


def wrong_rank(file: h5py.File, random: np.random.Generator) -> None:
    """One dataset loses or gains an axis, or a row."""
    path = pick_dataset(file, random)
    value = file[path][()]
    del file[path]
    file[path] = [value[0], value[None], value[1:], value[..., :1]][random.integers(4)]


def swap_datasets(file: h5py.File, random: np.random.Generator) -> None:
    one, two = pick_dataset(file, random), pick_dataset(file, random)
    if one != two:
        file.move(one, "aside")
        file.move(two, one)
        file.move("aside", two)


def other_type(file: h5py.File, random: np.random.Generator) -> None:
    path = pick_dataset(file, random)
    value = np.nan_to_num(file[path][()].astype("f8"), posinf=9)
    del file[path]
    file[path] = value.astype(random.choice(["i8", "f2", "?", "u1"]))


def drop_dataset(file: h5py.File, random: np.random.Generator) -> None:
    del file[pick_dataset(file, random)]


def pick_dataset(file: h5py.File, random: np.random.Generator) -> str:
    found: list[str] = []
    file.visititems(lambda name, obj: found.append(name) if isinstance(obj, h5py.Dataset) and obj.shape else None)
    return str(random.choice(found))


TREE_MUTATIONS = [wrong_rank, swap_datasets, other_type, drop_dataset]


def mutants(folder: Path, count: int) -> Iterator[Path]:
    """Files that each differ from a sound one in one way: contiguous, compressed and new-format ones in turn."""
    bases = [
        make_example_episode(folder / "contiguous.hdf5", 3, height_px=12, width_px=16),
        make_example_episode(folder / "compressed.hdf5", 3, height_px=12, width_px=16, compression="gzip"),
        folder / "latest.hdf5",
    ]
    with h5py.File(bases[0]) as old, h5py.File(bases[2], "w", libver="latest", track_order=True) as new:
        old.copy("data", new)
    path = folder / "data_0.hdf5"
    for index in range(count):
        random = np.random.default_rng(index)
        base = bytearray(bases[index % 3].read_bytes())
        if random.random() < 0.8:
            BYTE_MUTATIONS[random.integers(len(BYTE_MUTATIONS))](base, random)
            path.write_bytes(base)
        else:
            path.write_bytes(base)
            with h5py.File(path, "r+") as file:
                TREE_MUTATIONS[random.integers(len(TREE_MUTATIONS))](file, random)
        yield path


def shapes(episode: Episode) -> dict[str, list[object]]:
    return {
        name: [v.rgb.shape, *(None if t is None else t.shape for t in (v.depth_m, v.labels)), v.camera is not None]
        for name, v in episode.views.items()
    }


def without_labels(expected: dict[str, list[object]]) -> dict[str, list[object]]:
    """What is left of an episode that lost the one dataset it need not have."""
    return {name: [rgb, depth, None, camera] for name, (rgb, depth, _, camera) in expected.items()}


def holds_labels(file: EpisodeFile) -> bool:
    return "observations/seg_images" in file.group("demo_0")


def outcome(path: Path, target: Path, expected: dict[str, list[object]]) -> str:
    """What reading a mutant gave, and writing it where it could be read."""
    try:
        with open_episodes(path) as file:
            episodes = [file.read(demo) for demo in file.demos]
            assert len(episodes) == 1
            found = shapes(episodes[0])
            assert found == expected or (found == without_labels(expected) and not holds_labels(file))
            frames = {
                demo: {n: v.rgb for n, v in e.views.items()} for demo, e in zip(file.demos, episodes, strict=True)
            }
            try:
                write_transferred(file, target, frames, {}, replace=True)
            except GuidedTransferError as error:
                return f"read, then {type(error).__name__}"
    except EpisodeError as error:
        return type(error).__name__ if error.file == path and error.reason else f"incomplete {error!r}"
    return "read and written"


def outcomes(folder: Path, count: int) -> Counter[str]:
    with open_episodes(make_example_episode(folder / "sound.hdf5", 3, height_px=12, width_px=16)) as file:
        expected = shapes(file.read("demo_0"))
    return Counter(outcome(path, folder / "out" / "data_0.hdf5", expected) for path in mutants(folder, count))


def check(tmp_path: Path, count: int) -> None:
    (tmp_path / "out").mkdir()
    found = outcomes(tmp_path, count)
    print(dict(found))
    assert found.total() == count
    assert not [what for what in found if what.startswith("incomplete")]
    assert found["EpisodeUnreadable"] > count // 10
    assert found["EpisodeInconsistent"] > 0
    assert found["read and written"] > count // 10


def test_sixty_damaged_files(tmp_path: Path) -> None:
    check(tmp_path, 60)


@pytest.mark.soak
def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    check(tmp_path, 1000)
