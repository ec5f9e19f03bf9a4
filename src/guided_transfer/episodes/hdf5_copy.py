"""Copy an HDF5 tree object by object as it is stored, some datasets left empty to be filled anew; verify it."""

from __future__ import annotations

import io
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5, h5a, h5d, h5g, h5o, h5p, h5s

from guided_transfer.errors import OutputError

OWN_PREFIX = "guided_transfer."
"""Attributes this project writes; those of an earlier transfer are not carried over."""

PIECE_BYTES = 1 << 16
"""What is compared at once: two of them stay in the cache, and nothing is asked of the system for them."""


def address(obj: h5py.HLObject) -> int:
    """What tells an object of one file from another, whatever its names."""
    return int(h5o.get_info(obj.id).addr)


def copy_tree(source: h5py.File, target: h5py.File, renew: Container[int]) -> None:
    """Copy every object, link and attribute with bytes, chunks and filters untouched.

    Args:
        source: opened for reading and found safe.
        target: empty.
        renew: addresses of datasets that get their type, shape, filters and attributes, but no data.
    """
    root, new = source["/"].id, target["/"].id
    _copy_attributes(root, new)
    _copy_members(root, new, renew, {address(source["/"]): new})


class Sink(io.FileIO):
    """The file libhdf5 writes to. It never sees a write fail, for it crashes when it cannot close what it opened.

    Attributes:
        failure: the first error; what comes after it is dropped. Whoever writes has to look.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """All of `data`, or none where writing has failed."""
        rest = memoryview(data)
        while rest and self.failure is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.failure = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def require_sound(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.failure is not None:
            raise self.failure


def file_like(source: h5py.File, sink: Sink) -> h5py.File:
    """A new empty HDF5 file whose root keeps the order of links and attributes as the source's does."""
    plist = _ordered_like(source["/"].id, h5p.create(h5p.FILE_CREATE))
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_LATEST)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, sink)
    return h5py.File(h5py.h5f.create(os.fsencode(str(sink.name)), h5py.h5f.ACC_TRUNC, plist, access))


def _copy_members(source: h5g.GroupID, target: h5g.GroupID, renew: Container[int], copied: dict[int, Any]) -> None:
    for name, kind, charset in _links(source):
        lcpl = h5p.create(h5p.LINK_CREATE)
        lcpl.set_char_encoding(charset)
        if kind == h5py.h5l.TYPE_SOFT:
            target.links.create_soft(name, source.links.get_val(name), lcpl=lcpl)
        else:
            _copy_object(source, target, name, lcpl, renew, copied)


def _copy_object(
    source: h5g.GroupID,
    target: h5g.GroupID,
    name: bytes,
    lcpl: h5p.PropLCID,
    renew: Container[int],
    copied: dict[int, Any],
) -> None:
    obj = h5o.open(source, name)
    where = int(h5o.get_info(obj).addr)
    if where in copied:
        h5o.link(copied[where], target, name, lcpl=lcpl)
        return
    if isinstance(obj, h5g.GroupID):
        copied[where] = new = h5g.create(target, name, lcpl, _ordered_like(obj, h5p.create(h5p.GROUP_CREATE)))
        _copy_attributes(obj, new)
        _copy_members(obj, new, renew, copied)
    elif where in renew:
        copied[where] = new = _create_like(obj, target, name, lcpl)
        _copy_attributes(obj, new)
    else:
        h5o.copy(source, name, target, name, lcpl=lcpl)
        copied[where] = h5o.open(target, name)


def _ordered_like(group: h5g.GroupID, plist: Any) -> Any:
    """Make `plist` keep the order of links and attributes as the group does.

    The group's own property list cannot be used: in HDF5 2.0 that of a group with many links carries the address
    of the source's heap. Times are left out, since they would make two equal runs differ.
    """
    own = group.get_create_plist()
    plist.set_link_creation_order(own.get_link_creation_order())
    plist.set_attr_creation_order(own.get_attr_creation_order())
    plist.set_obj_track_times(False)
    return plist


def _create_like(source: h5d.DatasetID, target: h5g.GroupID, name: bytes, lcpl: h5p.PropLCID) -> h5d.DatasetID:
    """The same type, shape and filters; where the source was not chunked, one chunk per frame with a checksum."""
    plist = source.get_create_plist()
    if plist.get_layout() != h5d.CHUNKED:
        shape = source.shape
        plist.set_layout(h5d.CHUNKED)
        plist.set_chunk((1,) * (len(shape) - 3) + shape[-3:])
        plist.set_fletcher32()
    plist.set_obj_track_times(False)
    return h5d.create(target, name, source.get_type(), source.get_space(), plist, lcpl=lcpl)


def _copy_attributes(source: Any, target: Any) -> None:
    for name in _attribute_names(source):
        if not name.startswith(OWN_PREFIX.encode()):
            kept = h5a.open(source, name)
            new = h5a.create(target, name, kept.get_type(), kept.get_space())
            if kept.get_space().get_simple_extent_type() != h5s.NULL:
                value, stored_as = _attribute_value(kept)
                new.write(value, mtype=stored_as)


def _attribute_value(attribute: h5a.AttrID) -> tuple[np.ndarray, Any]:
    """An attribute's bytes as stored, or its strings where the file holds pointers to them; and the type to use."""
    kind = attribute.get_type()
    if attribute.dtype.hasobject:
        value, kind = np.empty(attribute.shape, dtype=attribute.dtype), None
    else:
        value = np.empty(attribute.shape, dtype=f"V{kind.get_size()}")
    attribute.read(value, mtype=kind)
    return value, kind


def _links(group: h5g.GroupID) -> list[tuple[bytes, int, int]]:
    """Name, type and character set of every link, in creation order where the group keeps it."""
    tracked = group.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_TRACKED
    found: list[tuple[bytes, int, int]] = []

    def note(name: bytes, info: Any) -> None:
        found.append((name, info.type, info.cset))

    index = h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME
    group.links.iterate(note, idx_type=index, order=h5.ITER_INC, info=True)
    return found


def _attribute_names(obj: Any) -> list[bytes]:
    count = h5a.get_num_attrs(obj)
    tracked = not isinstance(obj, h5py.h5t.TypeID) and (
        obj.get_create_plist().get_attr_creation_order() & h5p.CRT_ORDER_TRACKED
    )
    index = h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME
    return [h5a.open(obj, index=i, index_type=index).name for i in range(count)]


def verify_tree(source: h5py.File, target: h5py.File, renewed: Container[int]) -> None:
    """Compare what was copied with its source, down to the stored bytes.

    Raises:
        OutputError: something is missing, added or different; names it.
    """
    with Path(source.filename).open("rb") as source_bytes, Path(target.filename).open("rb") as target_bytes:
        _verify_members(source["/"], target["/"], renewed, (source_bytes, target_bytes), set())


def _verify_members(
    source: h5py.Group, target: h5py.Group, renewed: Container[int], raw: tuple[BinaryIO, BinaryIO], seen: set[int]
) -> None:
    _verify_attributes(source, target)
    _same(_links(source.id), _links(target.id), source.name, "links")
    for name, kind, _ in _links(source.id):
        if kind == h5py.h5l.TYPE_SOFT:
            _same(source.id.links.get_val(name), target.id.links.get_val(name), f"{source.name}/{name!r}", "target")
            continue
        ours, theirs = source[name], target[name]
        _same(type(ours), type(theirs), ours.name, "kind")
        if address(ours) in seen:
            continue
        seen.add(address(ours))
        if isinstance(ours, h5py.Group):
            _verify_members(ours, theirs, renewed, raw, seen)
            continue
        _verify_attributes(ours, theirs)
        if isinstance(ours, h5py.Dataset):
            _same(
                (ours.shape, ours.maxshape, ours.id.get_type()),
                (theirs.shape, theirs.maxshape, theirs.id.get_type()),
                ours.name,
                "type",
            )
            if address(ours) not in renewed:
                _verify_storage(ours, theirs, raw)


def _verify_attributes(source: h5py.HLObject, target: h5py.HLObject) -> None:
    own = OWN_PREFIX.encode()
    names = [n for n in _attribute_names(source.id) if not n.startswith(own)]
    _same(names, [n for n in _attribute_names(target.id) if not n.startswith(own)], source.name, "attributes")
    for name in names:
        ours, theirs = h5a.open(source.id, name), h5a.open(target.id, name)
        same = ours.get_type() == theirs.get_type() and ours.shape == theirs.shape
        if same and ours.get_space().get_simple_extent_type() != h5s.NULL:
            same = _attribute_value(ours)[0].tolist() == _attribute_value(theirs)[0].tolist()
        _same(same, True, source.name, f"attribute {name!r}")


def _verify_storage(source: h5py.Dataset, target: h5py.Dataset, raw: tuple[BinaryIO, BinaryIO]) -> None:
    _same(source.id.get_create_plist(), target.id.get_create_plist(), source.name, "chunks and filters")
    pairs = zip(_extents(source), _extents(target), strict=True)
    for (place, at, size), (target_place, target_at, target_size) in pairs:
        _same((place, size), (target_place, target_size), source.name, "chunks")
        same = all(a == b for a, b in zip(_pieces(raw[0], at, size), _pieces(raw[1], target_at, size), strict=True))
        _same(same, True, source.name, "stored bytes")


def _extents(dataset: h5py.Dataset) -> list[tuple[Any, int, int]]:
    """Where a dataset's bytes lie in the file: (chunk and filter mask, offset, size), in order."""
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5d.CHUNKED:
        found: list[tuple[Any, int, int]] = []
        dataset.id.chunk_iter(lambda c: found.append(((c.chunk_offset, c.filter_mask), c.byte_offset, c.size)))
        return sorted(found)
    offset = dataset.id.get_offset()
    return [] if offset is None else [((), offset, dataset.id.get_storage_size())]


def _pieces(file: BinaryIO, at: int, size: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE_BYTES):
        yield os.pread(file.fileno(), min(PIECE_BYTES, size - start), at + start)


def _same(ours: object, theirs: object, name: object, what: str) -> None:
    if ours != theirs:
        raise OutputError(
            f"verifying the copy failed: {what} of {name} differ from the source; nothing was published"
        )
