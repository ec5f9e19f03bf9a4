import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from guided_transfer.episodes import guard, make_example_episode, open_episodes, validate_file
from guided_transfer.errors import EpisodeUnreadable

SECRET = b"not for everyone"


def external_link(demo: h5py.Group) -> None:
    demo["actions_elsewhere"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link_through_an_external_one(demo: h5py.Group) -> None:
    demo["door"] = h5py.ExternalLink("other.hdf5", "/")
    demo["way"] = h5py.SoftLink("door/data")


def external_storage(demo: h5py.Group) -> None:
    secret = Path(demo.file.filename).with_name("secret.txt")
    secret.write_bytes(SECRET)
    demo.create_dataset("notes", (len(SECRET),), "u1", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_storage(demo: h5py.Group) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("secret.hdf5", "x", (4,))
    demo.create_virtual_dataset("notes", layout)


def strings_of_any_length(demo: h5py.Group) -> None:
    demo["notes"] = ["one", "two and a half"]


def references(demo: h5py.Group) -> None:
    demo.create_dataset("notes", data=[demo.ref], dtype=h5py.ref_dtype)


def reference_attribute(demo: h5py.Group) -> None:
    demo.attrs.create("notes", demo.ref, dtype=h5py.ref_dtype)


def absurd_shape(demo: h5py.Group) -> None:
    demo.create_dataset("notes", (10**6, 10**6, 10**3), "f8", chunks=(1, 1, 10))


def nothing_behind_a_shape(demo: h5py.Group) -> None:
    demo.create_dataset("notes", (200, 10**6), "u1", chunks=(1, 10**6))


def absurd_chunk(demo: h5py.Group) -> None:
    demo.create_dataset("notes", (1, 2**31 - 1), "u1", chunks=(1, 2**31 - 1), compression="gzip")


def chunk_that_inflates(demo: h5py.Group) -> None:
    """1.2 MB of deflate that would become 1.2 GB, behind a chunk of 2 MB."""
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 24)
    first = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    notes = demo.create_dataset("notes", (1 << 21,), "u1", chunks=(1 << 21,), compression="gzip")
    notes.id.write_direct_chunk((0,), first + again * 75)


def rare_filter(demo: h5py.Group) -> None:
    demo.create_dataset("notes", data=np.arange(9), scaleoffset=0, chunks=(3,))


def deep_groups(demo: h5py.Group) -> None:
    demo.create_group("/".join("deeper" for _ in range(40)))


HOSTILE: dict[Callable[[h5py.Group], None], str] = {
    external_link: "link into another file ('/etc/hostname')",
    soft_link_through_an_external_one: "link into another file ('other.hdf5')",
    external_storage: "keeps its data in another file",
    virtual_storage: "is virtual",
    strings_of_any_length: "strings of variable length (object dtype)",
    references: "references or sequences of variable length (object dtype)",
    reference_attribute: "attribute 'notes' holds references",
    absurd_shape: "claims shape [1000000, 1000000, 1000]",
    nothing_behind_a_shape: "but 0 are stored",
    absurd_chunk: "has chunks of [1, 2147483647]",
    chunk_that_inflates: "has a chunk that inflates beyond its 2097152 bytes",
    rare_filter: "accepted are gzip, shuffle, fletcher32, lzf",
    deep_groups: "levels of groups",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_file_is_refused_before_it_is_opened(
    example: Path, make: Callable[[h5py.Group], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(example, "r+") as file:
        make(file["data/demo_0"])
    monkeypatch.setattr(h5py, "File", lambda *_: pytest.fail("the file was opened by the program itself"))
    with pytest.raises(EpisodeUnreadable) as caught:
        open_episodes(example)
    assert HOSTILE[make] in str(caught.value)
    assert caught.value.file == example
    assert caught.value.dataset is not None
    assert caught.value.dataset.startswith("/data/demo_0")


def test_every_hazard_is_listed_at_once(example: Path) -> None:
    with h5py.File(example, "r+") as file:
        external_link(file["data/demo_0"])
        absurd_shape(file["data/demo_1"])
        strings_of_any_length(file)
    assert {fault.dataset for fault in validate_file(example)} == {
        "/data/demo_0/actions_elsewhere",
        "/data/demo_1/notes",
        "/notes",
    }


def test_links_inside_a_file_and_plain_strings_are_welcome(example: Path) -> None:
    with h5py.File(example, "r+") as file:
        file["shortcut"] = h5py.SoftLink("/data/demo_0")
        file["dangling"] = h5py.SoftLink("/data/demo_9")
        file["data/demo_0/again"] = file["data/demo_1"]
        file["data/demo_0/itself"] = file["data"]
        file["names"] = np.array([b"room", b"wrist"])
        file.attrs["notes"] = "any length \u00fc"
        file.attrs["empty"] = h5py.Empty("f4")
        file.create_dataset("squeezed", data=np.arange(100), compression="lzf", shuffle=True, fletcher32=True)
    assert validate_file(example) == []


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data_0.hdf5")
    with pytest.raises(EpisodeUnreadable, match="no regular file"):
        open_episodes(tmp_path / "data_0.hdf5")


def test_a_folder_is_not_a_file_and_says_who_takes_one(tmp_path: Path) -> None:
    with pytest.raises(EpisodeUnreadable, match=r"is a folder; name one of its files, or .*validate"):
        open_episodes(tmp_path)


def test_a_helper_that_died_is_replaced(example: Path) -> None:
    guard.require_safe(example)
    process = guard._helper.process
    assert process is not None
    process.kill()
    process.wait()
    guard.require_safe(example)
    assert guard._helper.process is not process


def test_a_forked_process_gets_a_helper_of_its_own(example: Path) -> None:
    guard.require_safe(example)
    child = os.fork()
    if child == 0:
        before = guard._helper.process
        safe = guard.find_hazards(example) == [] and guard._helper.process is not before
        guard._helper.stop()
        os._exit(0 if safe else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    guard.require_safe(example)


WALK = "return Walk(path).run()"


def replace_the_walk(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let a helper of its own do `body` for a walk."""
    source = guard.PROBE.read_text()
    assert WALK in source
    script = folder / "probe.py"
    script.write_text(source.replace(WALK, body))
    monkeypatch.setattr(guard, "PROBE", script)
    monkeypatch.setattr(guard, "_helper", guard._Helper())


def one_frame(path: Path) -> Path:
    return make_example_episode(path, 1, height_px=8, width_px=8)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while 'bad' in path: pass", "does not end"),
        ("if 'bad' in path: bytearray(1 << 40)", "more memory"),
        ("if 'bad' in path: os.kill(os.getpid(), signal.SIGSEGV)", "crashes the HDF5 library"),
    ],
)
def test_what_a_walk_may_do_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    """The walk is replaced by one that runs on, takes all memory or crashes: what damage may make libhdf5 do."""
    bad, good = one_frame(tmp_path / "bad.hdf5"), one_frame(tmp_path / "good.hdf5")
    replace_the_walk(tmp_path, monkeypatch, f"{body}\n        {WALK}")
    started = time.process_time()
    for _ in range(2):
        assert guard.find_hazards(good) == []
        with pytest.raises(EpisodeUnreadable, match=words):
            guard.require_safe(bad)
    assert time.process_time() - started < 1, "the program itself must not work meanwhile"
    guard._helper.stop()


def test_what_earlier_files_left_behind_condemns_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk is replaced by one that crashes in every child that has walked before."""
    path = one_frame(tmp_path / "data_0.hdf5")
    body = f"""if hasattr(Walk, "used"): os.kill(os.getpid(), signal.SIGSEGV)
        Walk.used = True
        {WALK}"""
    replace_the_walk(tmp_path, monkeypatch, body)
    assert [guard.find_hazards(path) for _ in range(4)] == [[]] * 4
    guard._helper.stop()


def test_a_child_that_met_a_fault_is_not_asked_again(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk is replaced by one that tells its process."""
    told = tmp_path / "processes"
    body = f"""print(os.getpid(), file=open({str(told)!r}, "a"))
        {WALK}"""
    replace_the_walk(tmp_path, monkeypatch, body)
    (tmp_path / "text").write_text("no HDF5" * 99)
    for path in (example, example, tmp_path / "text", example):
        guard.find_hazards(path)
    first, second, third, fourth = told.read_text().split()
    assert first == second == third != fourth
    guard._helper.stop()
