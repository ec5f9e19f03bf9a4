"""Walk an HDF5 file in a process that may die: `guard` runs this file as a script and asks it about paths.

A damaged or hostile file can make libhdf5 loop, allocate without end or crash. Each file is therefore walked by
a forked child with limits on memory and processor time, and only what survived here is opened by the program.
Forking is most of what a check costs, so the child is kept until a file is at fault.
The script imports nothing of the package, so that it starts fast and holds no secrets or devices.

Protocol: one JSON string per line in (a path); one JSON object per line out, either `{"faults": [[dataset, reason],
...]}` or `{"died": why}`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import socket
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from h5py import h5, h5a, h5d, h5g, h5o, h5s, h5t, h5z

GIB, MIB = 1 << 30, 1 << 20
MEMORY_BYTES = 2 * GIB
BASE_CPU_S, CPU_S_PER_BYTE = 0.8, 1e-7
WALL_S = 60
SOUND: dict[str, Any] = {"faults": []}
OUT_OF_MEMORY = 2
"""Exit status of a child that reached its limit."""
ENDLESS = "reading its structure does not end"

MAX_OBJECTS, MAX_DEPTH, MAX_ATTRIBUTES, MAX_FAULTS = 100_000, 32, 4096, 100
MAX_DATASET_BYTES, MAX_CHUNK_BYTES, MAX_ATTRIBUTE_BYTES = 64 * GIB, GIB, 16 * MIB
HARMLESS_BYTES = 64 * MIB
"""Memory nobody misses: what claims less than this is not examined for being a bomb."""
DEFLATE_RATIO = 1032
"""zlib never expands more than this (zlib.net, technical details)."""

LZF = 32000
FILTERS = {
    h5z.FILTER_DEFLATE: "gzip",
    h5z.FILTER_SHUFFLE: "shuffle",
    h5z.FILTER_FLETCHER32: "fletcher32",
    LZF: "lzf",
}
LINK_HARD, LINK_SOFT, LINK_EXTERNAL = h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL


class UnsafeError(Exception):
    """A reason not to open the file."""


class Walk:
    """One pass over everything a file holds; collects faults instead of stopping at the first."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file_bytes = Path(path).stat().st_size
        self.stored_bytes = 0
        self.faults: list[tuple[str, str]] = []

    def run(self) -> list[tuple[str, str]]:
        try:
            with h5py.File(self.path, "r") as file:
                self.visit_all(file.id)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            self.faults.append(("", f"cannot be opened: {error}"))
        if self.stored_bytes > self.file_bytes:
            self.faults.append(
                ("", f"its datasets claim {self.stored_bytes} bytes of {self.file_bytes} in the file")
            )
        return self.faults[:MAX_FAULTS]

    def visit_all(self, root: Any) -> None:
        todo: list[tuple[str, Any, int]] = [("/", h5g.open(root, b"/"), 0)]
        seen: set[int] = set()
        while todo and len(self.faults) < MAX_FAULTS:
            name, obj, depth = todo.pop()
            where = h5o.get_info(obj).addr
            if where in seen:
                continue
            seen.add(where)
            try:
                if len(seen) > MAX_OBJECTS or depth > MAX_DEPTH:
                    raise UnsafeError(f"more than {MAX_OBJECTS} objects or {MAX_DEPTH} levels of groups")
                self.visit(obj)
                if isinstance(obj, h5g.GroupID):
                    todo += [(child_name, child, depth + 1) for child_name, child in self.children(name, obj)]
            except (UnsafeError, OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
                self.faults.append(
                    (name, str(error) if isinstance(error, UnsafeError) else f"cannot be read: {error}")
                )

    def visit(self, obj: Any) -> None:
        _check_attributes(obj)
        if isinstance(obj, h5d.DatasetID):
            self.stored_bytes += _check_dataset(obj, self.file_bytes)
        elif isinstance(obj, h5t.TypeID):
            _check_type(obj)
        elif not isinstance(obj, h5g.GroupID):
            raise UnsafeError("is neither a group, a dataset nor a type")

    def children(self, name: str, group: Any) -> Iterator[tuple[str, Any]]:
        """Objects behind hard links; soft links stay inside a file that has no other kind."""
        found: list[tuple[bytes, int]] = []
        group.links.iterate(lambda link, info: found.append((link, info.type)), info=True)
        if len(found) > MAX_OBJECTS:
            raise UnsafeError(f"holds {len(found)} links")
        for link, kind in found:
            path = f"{name.rstrip('/')}/{link.decode('utf-8', 'backslashreplace')}"
            if kind == LINK_EXTERNAL:
                file, _ = group.links.get_val(link)
                self.faults.append((path, f"is a link into another file ({os.fsdecode(file)!r}); copy the data in"))
            elif kind == LINK_HARD:
                try:
                    yield path, h5o.open(group, link)
                except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
                    self.faults.append((path, f"cannot be opened: {error}"))
            elif kind != LINK_SOFT:
                self.faults.append((path, f"is a link of unknown kind {kind}"))


def _check_attributes(obj: Any) -> None:
    count = h5a.get_num_attrs(obj)
    if count > MAX_ATTRIBUTES:
        raise UnsafeError(f"has {count} attributes; {MAX_ATTRIBUTES} are accepted")
    for index in range(count):
        attribute = h5a.open(obj, index=index, index_type=h5.INDEX_NAME)
        try:
            _check_attribute(attribute)
        except UnsafeError as error:
            raise UnsafeError(f"attribute {attribute.name.decode('utf-8', 'backslashreplace')!r} {error}") from None


def _check_attribute(attribute: Any) -> None:
    _check_type(attribute.get_type(), allow_text=True)
    if attribute.get_space().get_simple_extent_type() == h5s.NULL:
        return
    size = math.prod(attribute.shape) * attribute.get_type().get_size()
    if size > MAX_ATTRIBUTE_BYTES:
        raise UnsafeError(f"claims {size} bytes; {MAX_ATTRIBUTE_BYTES} are accepted")
    attribute.read(np.empty(attribute.shape, dtype=attribute.dtype))


def _check_type(kind: Any, allow_text: bool = False) -> None:
    """Plain numbers, fixed strings, enums and records of them; nothing that points elsewhere."""
    number = kind.get_class()
    if kind.get_size() > MAX_ATTRIBUTE_BYTES:
        raise UnsafeError(f"has elements of {kind.get_size()} bytes")
    if number in (h5t.INTEGER, h5t.FLOAT):
        # Exotic bit layouts go through the least used code of libhdf5; simulators do not write them.
        if kind != h5t.py_create(kind.dtype):
            raise UnsafeError("has a number format that NumPy lacks")
    elif number == h5t.STRING:
        if kind.is_variable_str() and not allow_text:
            raise UnsafeError("holds strings of variable length (object dtype); fixed-length strings are accepted")
    elif number == h5t.COMPOUND:
        for index in range(kind.get_nmembers()):
            _check_type(kind.get_member_type(index))
    elif number in (h5t.ARRAY, h5t.ENUM):
        _check_type(kind.get_super())
    elif number not in (h5t.OPAQUE, h5t.BITFIELD):
        raise UnsafeError(
            "holds references or sequences of variable length (object dtype); plain arrays are accepted"
        )


def _check_dataset(dataset: Any, file_bytes: int) -> int:
    """Refuse what would read other files or ask for absurd memory; returns the bytes stored."""
    plist = dataset.get_create_plist()
    if plist.get_external_count():
        raise UnsafeError(
            f"keeps its data in another file ({os.fsdecode(plist.get_external(0)[0])!r}); copy the data in"
        )
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL:
        raise UnsafeError("is virtual: its data lie in other files; copy the data in")
    _check_type(dataset.get_type())
    if dataset.get_space().get_simple_extent_type() == h5s.NULL:
        return 0
    shape, item_bytes = dataset.shape, dataset.get_type().get_size()
    logical_bytes = math.prod(shape) * item_bytes
    if logical_bytes > MAX_DATASET_BYTES:
        raise UnsafeError(f"claims shape {list(shape)}, {logical_bytes} bytes; {MAX_DATASET_BYTES} are accepted")
    if layout == h5d.CHUNKED:
        stored_bytes = _check_chunks(dataset, plist, shape, item_bytes, file_bytes)
    else:
        stored_bytes = dataset.get_storage_size()
        offset = dataset.get_offset()
        if offset is not None and offset + stored_bytes > file_bytes:
            raise UnsafeError(f"claims bytes {offset} to {offset + stored_bytes} of a file of {file_bytes}")
        if stored_bytes not in (0, logical_bytes):
            raise UnsafeError(f"claims shape {list(shape)}, {logical_bytes} bytes, but {stored_bytes} are stored")
    if logical_bytes > HARMLESS_BYTES and logical_bytes > 1.1 * DEFLATE_RATIO * stored_bytes:
        raise UnsafeError(f"claims shape {list(shape)}, {logical_bytes} bytes, but {stored_bytes} are stored")
    _sample(dataset, shape, logical_bytes)
    return stored_bytes


def _check_chunks(dataset: Any, plist: Any, shape: tuple[int, ...], item_bytes: int, file_bytes: int) -> int:
    chunk = plist.get_chunk()
    chunk_bytes = math.prod(chunk) * item_bytes
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise UnsafeError(f"has chunks of {list(chunk)}, {chunk_bytes} bytes; {MAX_CHUNK_BYTES} are accepted")
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    strange = [number for number in filters if number not in FILTERS]
    if strange or len(set(filters)) != len(filters):
        raise UnsafeError(
            f"uses filters {filters}; accepted are {', '.join(FILTERS.values())}, each once. "
            "Rewrite it with `h5repack -f GZIP=4 old new`"
        )
    chunks: list[Any] = []
    dataset.chunk_iter(chunks.append)
    if len({c.chunk_offset for c in chunks}) != len(chunks):
        raise UnsafeError("lists a chunk twice")
    for found in chunks:
        # Filters add a few bytes to what cannot be compressed, never more.
        if found.size > 1.01 * chunk_bytes + 1024 or found.byte_offset + found.size > file_bytes:
            raise UnsafeError(f"has a chunk of {found.size} bytes at {found.byte_offset} in a file of {file_bytes}")
        if any(
            at % step or at >= max(length, 1)
            for at, step, length in zip(found.chunk_offset, chunk, shape, strict=True)
        ):
            raise UnsafeError(f"has a chunk at {found.chunk_offset} outside its shape {list(shape)}")
        if h5z.FILTER_DEFLATE in filters and found.size * DEFLATE_RATIO > GIB and found.size > 0:
            _refuse_bomb(dataset, found, chunk_bytes)
    return sum(found.size for found in chunks)


def _refuse_bomb(dataset: Any, found: Any, chunk_bytes: int) -> None:
    """Inflate a chunk that could become huge, no further than it may."""
    _, stored = dataset.read_direct_chunk(found.chunk_offset)
    try:
        inflated = zlib.decompressobj().decompress(stored, chunk_bytes + 1024)
    except zlib.error:
        return  # Reading it gives an error of its own, and no memory is lost.
    if len(inflated) > chunk_bytes + 512:
        raise UnsafeError(f"has a chunk that inflates beyond its {chunk_bytes} bytes")


def _sample(dataset: Any, shape: tuple[int, ...], logical_bytes: int) -> None:
    """Read what is small, and first and last row of what is not: the program will read the same way."""
    array = h5py.Dataset(dataset)
    if logical_bytes <= MIB:
        array[()]
    elif shape and logical_bytes // shape[0] <= HARMLESS_BYTES:
        array[0], array[-1]


class Child:
    """A forked process that walks one file after another, as long as they are sound.

    The program opens what was found sound with the same library, so a child that walked it is worth no less than
    the program is then. One that met anything else is not asked again.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _serve(theirs)
        theirs.close()
        with ours:
            self.talk = ours.makefile("rw")

    def examine(self, path: str) -> dict[str, Any]:
        """What the child found, or how it died; unless that is `SOUND`, the child has ended."""
        try:
            self.talk.write(json.dumps(path) + "\n")
            self.talk.flush()
            text = self.talk.readline()
        except OSError:
            text = ""
        if not text.endswith("\n"):
            return {"died": _describe_death(self.end())}
        answer = json.loads(text)
        if answer["faults"]:
            self.end()
        return answer

    def end(self) -> int:
        """End the child, if it has not ended itself; its exit status."""
        with contextlib.suppress(OSError):
            self.talk.close()
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _serve(parent: socket.socket) -> NoReturn:
    """A child's life: answer under a limit of memory until the parent hangs up."""
    status = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)  # The pipes to the program belong to the parent alone.
        os.dup2(nowhere, 1)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        talk = parent.makefile("rw")
        for line in talk:
            talk.write(json.dumps({"faults": walk_limited(json.loads(line))}) + "\n")
            talk.flush()
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


def walk_limited(path: str) -> list[tuple[str, str]]:
    """`Walk` under limits of time that kill this process; for a child."""
    signal.setitimer(signal.ITIMER_PROF, BASE_CPU_S + Path(path).stat().st_size * CPU_S_PER_BYTE)
    signal.alarm(WALL_S)
    try:
        return Walk(path).run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def _describe_death(status: int) -> str:
    if status in (-signal.SIGPROF, -signal.SIGALRM):
        return ENDLESS
    if status in (OUT_OF_MEMORY, -signal.SIGKILL):
        return "reading its structure takes more memory than a file of its size can need"
    return "its structure is damaged: it crashes the HDF5 library"


def main() -> None:
    """Answer until standard input ends, which it does when the program that asks is gone."""
    child = Child()
    for line in sys.stdin:
        path = json.loads(line)
        answer = child.examine(path)
        if answer.get("died", ENDLESS) != ENDLESS:
            # Another file's remains, or the system, may have ended the child: only a fresh one's death counts.
            child = Child()
            answer = child.examine(path)
        print(json.dumps(answer), flush=True)
        if answer != SOUND:
            child = Child()


if __name__ == "__main__":
    main()
