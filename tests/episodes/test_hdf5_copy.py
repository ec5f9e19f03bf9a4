import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_hdf5 import stored

from guided_transfer.episodes.guard import find_hazards
from guided_transfer.episodes.hdf5_copy import Sink, copy_tree, file_like, verify_tree
from guided_transfer.errors import OutputError

DTYPES = st.sampled_from(
    [
        *("u1", "<i2", ">i4", "<i8", "<f2", ">f4", "<f8", "?", "S5"),
        np.dtype([("x", "<f4"), ("name", "S3"), ("grid", ">i2", (2, 2))]),
        h5py.enum_dtype({"SETUP": 0, "SCANNING": 3}, basetype="i1"),
    ]
)
NAMES = st.text("abcé_ 0", min_size=1, max_size=4).filter(lambda name: name.strip() not in ("", "."))
FILTERS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from([None, "gzip", "lzf"]),
        "shuffle": st.booleans(),
        "fletcher32": st.booleans(),
    }
)
ATTRIBUTES = st.dictionaries(
    NAMES,
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=5).filter(lambda text: "\0" not in text),
        st.binary(min_size=1, max_size=5).filter(lambda data: not data.endswith(b"\0")).map(np.bytes_),
        st.lists(st.integers(0, 9), min_size=1, max_size=3).map(lambda v: np.array(v, ">u2")),
        st.just(h5py.Empty("f4")),
    ),
    max_size=10,  # from 9 on, HDF5 keeps attributes in another structure
)


@st.composite
def datasets(draw: st.DrawFn) -> Callable[[h5py.Group, str], None]:
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    dtype, filters, attributes = np.dtype(draw(DTYPES)), draw(FILTERS), draw(ATTRIBUTES)
    chunked, growing, written = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    data = np.frombuffer(draw(st.binary(min_size=8, max_size=8)) * 27 * dtype.itemsize, dtype=f"V{dtype.itemsize}")

    def make(group: h5py.Group, name: str) -> None:
        options = {}
        if shape and chunked and 0 not in shape:
            options = {"chunks": tuple(max(1, n // 2) for n in shape), **filters}
            options["maxshape"] = (None, *shape[1:]) if growing else shape
        made = group.create_dataset(name, shape, dtype, track_order=growing, **options)
        if written and made.size:
            made.id.write(h5py.h5s.ALL, h5py.h5s.ALL, data[: made.size].copy(), mtype=made.id.get_type())
        set_attributes(made, attributes)

    return make


def set_attributes(obj: h5py.HLObject, attributes: dict[str, object]) -> None:
    for name, value in attributes.items():
        obj.attrs[name] = value


TREES = st.recursive(
    datasets(),
    lambda inner: st.tuples(st.dictionaries(NAMES, inner, max_size=12), ATTRIBUTES, st.booleans()),
    max_leaves=15,
)


def grow(group: h5py.Group, name: str, tree: object) -> None:
    if callable(tree):
        tree(group, name)
        return
    members, attributes, ordered = tree  # type: ignore[misc]
    made = group.create_group(name, track_order=ordered)
    set_attributes(made, attributes)
    for child, below in members.items():
        grow(made, child, below)


def copy(source: Path, target: Path) -> None:
    with h5py.File(source) as old:
        with Sink(target, "x+") as sink, file_like(old, sink) as new:
            copy_tree(old, new, ())
        with h5py.File(target) as new:
            verify_tree(old, new, ())


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(NAMES, TREES, max_size=4), ATTRIBUTES, st.booleans(), st.sampled_from(["earliest", "latest"])
)
def test_any_tree_survives(
    trees: dict[str, object], attributes: dict[str, object], ordered: bool, libver: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.hdf5"), Path(folder, "target.hdf5")
        with h5py.File(source, "w", libver=libver, track_order=ordered) as file:
            set_attributes(file, attributes)
            for name, tree in trees.items():
                grow(file, name, tree)
                file[f"soft {name}"] = h5py.SoftLink(f"/{name}")
            file["dangling"] = h5py.SoftLink("/nowhere/at all")
        assert find_hazards(source) == []
        copy(source, target)
        ours, theirs = stored(source), stored(target)
        assert list(ours) == list(theirs)
        assert ours == theirs


def test_one_object_under_two_names_stays_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["a/data"] = np.arange(9)
        file["b/same"] = file["a/data"]
        file["a/up"] = file["/"]
        file["kind"] = np.dtype("<i4")
        file["c"] = file["a"]
    copy(tmp_path / "source.hdf5", tmp_path / "target.hdf5")
    with h5py.File(tmp_path / "target.hdf5") as file:
        assert file["a/data"] == file["b/same"] == file["c/data"]
        assert file["a/up"] == file["/"]
        assert file["kind"].dtype == np.dtype("<i4")


def test_attributes_too_large_for_an_object_header_survive(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.hdf5", "w", libver="latest") as file:
        file.create_group("g").attrs["large"] = np.arange(40_000)
    copy(tmp_path / "source.hdf5", tmp_path / "target.hdf5")
    with h5py.File(tmp_path / "target.hdf5") as file:
        assert np.array_equal(file["g"].attrs["large"], np.arange(40_000))


def change_a_byte(file: h5py.File) -> None:
    file["data/demo_1/action"][3, 2] += 1


def change_a_chunk(file: h5py.File) -> None:
    file["data/demo_0/observations/depth_images"][2, 1, 0, 0] = 9


def drop_a_dataset(file: h5py.File) -> None:
    del file["data/demo_0/observations/joint_vel"]


def add_a_group(file: h5py.File) -> None:
    file.create_group("data/demo_2")


def change_an_attribute(file: h5py.File) -> None:
    file["data/demo_0"].attrs["sim"] = False


def change_a_shape(file: h5py.File) -> None:
    del file["data/demo_0/state"]
    file["data/demo_0/state"] = np.zeros(4, np.int64)


@pytest.mark.parametrize(
    "damage", [change_a_byte, change_a_chunk, drop_a_dataset, add_a_group, change_an_attribute, change_a_shape]
)
def test_verifying_finds_what_differs(example: Path, tmp_path: Path, damage: Callable[[h5py.File], None]) -> None:
    copy(example, tmp_path / "copy.hdf5")
    with h5py.File(tmp_path / "copy.hdf5", "r+") as new:
        damage(new)
    with (
        h5py.File(example) as old,
        h5py.File(tmp_path / "copy.hdf5") as new,
        pytest.raises(OutputError, match="verifying"),
    ):
        verify_tree(old, new, ())
