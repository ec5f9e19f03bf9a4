"""Download, resume and verify against a local server that speaks the hub's protocol."""

import hashlib
import json
import random
import shutil

import pytest
from hub_server import COMMIT, HubServer

from guided_transfer.checkpoints.catalogue import LOCK_FILE, Repository, Wanted
from guided_transfer.checkpoints.download import download
from guided_transfer.checkpoints.verify import verify
from guided_transfer.cli.main import main
from guided_transfer.errors import CheckpointError, DeviceError

BASE = random.Random(0).randbytes(300_000)
FILES = {
    "maker/net": {"base.pt": BASE, "lists/a": b"word", "lists/b": b"word", "tf_model.h5": b"x" * 1000},
    "maker/guard": {"config.json": b"{}"},
}
CATALOGUE = (
    Repository(
        "maker/net",
        (
            Wanted("base", "base.pt", hashlib.md5(BASE).hexdigest(), ("base.safetensors",)),
            Wanted("base", "lists/*"),
        ),
    ),
    Repository("maker/guard", (Wanted("guard", "config.json"),), gate="ask a person"),
)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = HubServer({name: dict(files) for name, files in FILES.items()})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own pauses between tries
    yield hub
    hub.close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


def fetch(root, parts=("base", "guard"), **options):
    return download(root, parts, catalogue=CATALOGUE, **options)


def test_only_what_is_used_comes_and_is_whole(hub, root):
    states = {state.path: state.state for state in fetch(root)}
    names = ["maker/guard/config.json", "maker/net/base.pt", "maker/net/lists/a", "maker/net/lists/b"]
    assert sorted(states) == names
    assert set(states.values()) == {"present"}
    assert (root / "maker/net/base.pt").read_bytes() == BASE
    assert not (root / "maker/net/tf_model.h5").exists()
    lock = json.loads((root / LOCK_FILE).read_text())["files"]
    assert lock["maker/net/base.pt"] == {
        "bytes": len(BASE),
        "revision": COMMIT,
        "sha256": hashlib.sha256(BASE).hexdigest(),
    }


def test_parts(hub, root):
    fetch(root, ("guard",))
    assert [name for _, name, _ in hub.log] == ["config.json"]


def test_a_second_run_fetches_nothing(hub, root):
    fetch(root)
    asked = len(hub.log)
    fetch(root)
    assert len(hub.log) == asked


def test_a_cut_connection_is_continued_where_it_was(hub, root, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # it keeps whole chunks
    hub.cut_after = {"base.pt": 100_000}
    fetch(root)
    assert (root / "maker/net/base.pt").read_bytes() == BASE
    ranges = [wanted for _, name, wanted in hub.log if name == "base.pt"]
    assert ranges[0] is None
    assert int(ranges[1].removeprefix("bytes=").rstrip("-").split("-")[0]) > 0


def test_a_stopped_download_is_continued_at_the_locked_revision(hub, root):
    hub.refuse_files = True
    with pytest.raises(CheckpointError, match=r"base.pt: not fetched.*goes on"):
        fetch(root)
    hub.refuse_files = False
    assert json.loads((root / LOCK_FILE).read_text())["files"]["maker/net/base.pt"]["revision"] == COMMIT
    hub.commit = "b" * 40  # the repository moved on, and dropped what we began with
    with pytest.raises(CheckpointError, match=f"maker/net at {COMMIT}: no usable answer"):
        fetch(root)
    hub.commit = COMMIT
    fetch(root)


def test_gates_are_met_before_the_first_byte(hub, root):
    hub.gated = {"maker/guard"}
    with pytest.raises(CheckpointError, match=r"huggingface.co/maker/guard: ask a person.*hf auth login"):
        fetch(root)
    assert not hub.log
    fetch(root, ("base",))


def test_an_unknown_repository_is_named(hub, root):
    del hub.files["maker/net"]
    with pytest.raises(CheckpointError, match="maker/net"):
        fetch(root)


def test_a_repository_that_lacks_a_file(hub, root):
    del hub.files["maker/net"]["base.pt"]
    with pytest.raises(CheckpointError, match=f"maker/net at {COMMIT} does not hold base.pt"):
        fetch(root)
    assert not hub.log


def test_nobody_at_the_port(root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(CheckpointError, match="no usable answer of the hub"):
        fetch(root)


def test_the_disk_is_looked_at_first(hub, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 2**30))
    planned = []
    with pytest.raises(DeviceError, match=r"the disk has 1\.0 GiB"):
        fetch(root, on_plan=planned.extend)
    assert sum(file.bytes for file in planned) == len(BASE) + 4 + 4 + 2
    assert not hub.log


def test_what_arrives_with_other_bytes_is_found_removed_and_fetched_again(hub, root):
    hub.files["maker/net"]["base.pt"] = BASE[:-1] + b"?"
    with pytest.raises(CheckpointError, match=r"corrupt and removed: maker/net/base.pt: md5"):
        fetch(root)
    assert not (root / "maker/net/base.pt").exists()
    (root / LOCK_FILE).unlink()
    hub.files["maker/net"]["base.pt"] = BASE
    fetch(root)
    assert (root / "maker/net/base.pt").read_bytes() == BASE


def test_a_file_corrupted_later_is_found_by_verify(hub, root):
    fetch(root)
    (root / "maker/net/lists/a").write_bytes(b"wird")
    states = {s.path: (s.state, s.note) for s in verify(root, ("base",), catalogue=CATALOGUE)}
    assert states["maker/net/lists/a"][0] == "corrupt"
    assert states["maker/net/lists/b"] == ("present", "sha256")


def test_a_converted_file_is_not_fetched_again(hub, root):
    import torch
    from safetensors.torch import save_file

    (root / "maker/net").mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, root / "maker/net/base.safetensors")
    fetch(root)
    assert not (root / "maker/net/base.pt").exists()


def test_the_command(hub, root, capsys):
    hub.files = {"google-t5/t5-11b": {"config.json": b"{}"}}
    assert main(["checkpoints", "download", "--output_dir", str(root), "--only", "text"]) == 1
    assert "does not hold spiece.model, tokenizer.json, pytorch_model.bin" in capsys.readouterr().err
