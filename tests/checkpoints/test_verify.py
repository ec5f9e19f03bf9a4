"""The tree on disk against what belongs there."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from guided_transfer.checkpoints.catalogue import (
    CATALOGUE,
    DEFAULT_PARTS,
    LOCK_FILE,
    PARTS,
    Repository,
    Wanted,
    chosen_parts,
    wanted_of,
)
from guided_transfer.checkpoints.verify import verify
from guided_transfer.cli.main import main
from guided_transfer.errors import CheckpointError, UsageError

WEIGHTS = b"weights of the base network"
CATALOGUE_OF_TWO = (
    Repository(
        "maker/net",
        (
            Wanted("base", "base.pt", hashlib.md5(WEIGHTS).hexdigest(), ("base.safetensors",)),
            Wanted("words", "lists/*"),
        ),
    ),
    Repository("maker/extra", (Wanted("extra", "extra.bin"),)),
)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "maker/net"
    (folder / "lists").mkdir(parents=True)
    (folder / "base.pt").write_bytes(WEIGHTS)
    (folder / "lists/words").write_text("word\n")
    (folder / "README.md").write_text("about")
    return tmp_path


def states(root, parts=("base", "words"), **options):
    found = verify(root, parts, catalogue=CATALOGUE_OF_TWO, **options)
    return {state.path: (state.state, state.note) for state in found}


def test_a_whole_tree(root):
    assert states(root) == {
        "maker/net/base.pt": ("present", "md5"),
        "maker/net/lists/words": ("present", "no checksum known"),
    }


def test_a_flipped_byte_is_found_by_its_checksum_alone(root):
    file = root / "maker/net/base.pt"
    file.write_bytes(WEIGHTS[:-1] + b"K")
    state, note = states(root)["maker/net/base.pt"]
    assert state == "corrupt"
    assert CATALOGUE_OF_TWO[0].files[0].md5 in note
    assert states(root, checksums=False)["maker/net/base.pt"][0] == "present"


def test_missing_unneeded_and_optional_files(root):
    (root / "maker/net/base.pt").unlink()
    (root / "maker/net/tf_model.h5").write_bytes(b"x" * 10)
    found = states(root)
    assert found["maker/net/base.pt"] == ("missing", "")
    assert found["maker/net/tf_model.h5"] == ("unneeded", "")
    assert "maker/extra/extra.bin" not in found
    assert states(root, ("extra",))["maker/extra/extra.bin"][0] == "missing"


def test_a_folder_without_a_list_is_missing(root):
    (root / "maker/net/lists/words").unlink()
    assert states(root)["maker/net/lists/*"][0] == "missing"


def test_an_empty_file_is_corrupt(root):
    (root / "maker/net/lists/words").write_text("")
    assert states(root)["maker/net/lists/words"] == ("corrupt", "empty")


def test_a_converted_file_stands_in_and_is_checked_by_its_header(root):
    (root / "maker/net/base.pt").unlink()
    file = root / "maker/net/base.safetensors"
    save_file({"w": torch.zeros(8)}, file)
    assert states(root)["maker/net/base.safetensors"] == ("present", "no checksum known")
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"x", b"\xff" * 40, whole[:8] + b"[" + whole[9:]):
        file.write_bytes(damaged)
        assert states(root, checksums=False)["maker/net/base.safetensors"][0] == "corrupt"


def test_the_lock_file_checks_what_has_no_published_checksum(root):
    content = b"word\n"
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (root / LOCK_FILE).write_text(json.dumps({"files": {"maker/net/lists/words": facts}}))
    assert states(root)["maker/net/lists/words"] == ("present", "sha256")
    (root / "maker/net/lists/words").write_bytes(b"worse")
    assert states(root)["maker/net/lists/words"][0] == "corrupt"
    (root / "maker/net/lists/words").write_bytes(b"longer")
    assert states(root, checksums=False)["maker/net/lists/words"][0] == "corrupt"


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_lock_file(root, content):
    (root / LOCK_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=LOCK_FILE):
        states(root)


def test_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoints download"):
        verify(tmp_path / "none", DEFAULT_PARTS)


def test_parts_by_name():
    assert chosen_parts("") == DEFAULT_PARTS
    assert chosen_parts(" base, edge ,") == ("base", "edge")
    with pytest.raises(UsageError, match="'bas' is no part; parts are base, edge"):
        chosen_parts("bas")


def test_the_catalogue_agrees_with_itself():
    assert set(DEFAULT_PARTS) <= set(PARTS)
    paths = [f"{repository.id}/{file.path}" for repository in CATALOGUE for file in repository.files]
    assert len(paths) == len(set(paths))
    sums = [file.md5 for repository in CATALOGUE for file in repository.files if file.md5]
    assert len(sums) == len(set(sums))
    assert all(len(md5) == 32 and int(md5, 16) for md5 in sums)
    assert [repository.id for repository in wanted_of(["text"])] == ["google-t5/t5-11b"]


def test_the_official_tree_as_the_command_draws_it(tiny_tree, capsys):
    assert main(["checkpoints", "verify", "--checkpoint_dir", str(tiny_tree), "--only", "base,vis,text"]) == 3
    drawn = capsys.readouterr().out
    line = {name: next(row for row in drawn.splitlines() if f" {name} " in row) for name in ("base_model.pt",)}
    assert "corrupt" in line["base_model.pt"]  # a tiny file is not the published one
    assert "md5 is" in line["base_model.pt"]
    assert "spiece.model  missing" in drawn
    assert f"checkpoints download --output_dir {tiny_tree} --only" in drawn


def test_a_tree_that_is_whole_by_size(tiny_tree, capsys):
    words = [
        "checkpoints",
        "verify",
        "--checkpoint_dir",
        str(tiny_tree),
        "--only=base,edge",
        "--no_checksums",
        "--json",
    ]
    assert main(words) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert {row["state"] for row in rows if row["part"] == "base"} == {"present"}


def test_convert_leaves_the_originals_and_changes_no_tensor(parity_tree, tmp_path, capsys):
    import shutil

    from guided_transfer.models.checkpoint import read_tensors

    root = tmp_path / "tree"
    shutil.copytree(parity_tree, root)
    folder = root / "nvidia/Cosmos-Transfer1-7B"
    before = {file: file.read_bytes() for file in folder.glob("*.pt")}
    for _ in range(2):
        assert main(["checkpoints", "convert", "--checkpoint_dir", str(root)]) == 0
    assert "is there already" in capsys.readouterr().out
    for file, content in before.items():
        assert file.read_bytes() == content
        original, converted = read_tensors([file]), read_tensors([file.with_suffix(".safetensors")])
        assert original.keys() == converted.keys()
        assert all(torch.equal(original[key], converted[key]) for key in original)


def write_whole_t5(folder):
    """A whole tiny T5 in the published form: one pickle, with a decoder that nobody reads."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=30, d_model=64, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def test_convert_takes_the_encoder_out_of_the_text_model(tiny_tree, tmp_path, capsys):
    import shutil

    from guided_transfer.models.text import TextEncoder

    root = tmp_path / "tree"
    folder = root / "google-t5/t5-11b"
    shutil.copytree(tiny_tree / "google-t5/t5-11b", folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_layers": 2, "vocab_size": 30}))
    write_whole_t5(folder)
    before, original = TextEncoder.from_folder(folder, num_tokens=16), (folder / "pytorch_model.bin").read_bytes()
    assert main(["checkpoints", "convert", "--checkpoint_dir", str(root)]) == 0
    assert (folder / "pytorch_model.bin").read_bytes() == original
    assert (folder / "model.safetensors").stat().st_size < 0.6 * len(original)
    (folder / "pytorch_model.bin").unlink()  # so that nothing but the new file can be read
    after = TextEncoder.from_folder(folder, num_tokens=16)
    assert torch.equal(after.encode(["a robot arm"]), before.encode(["a robot arm"]))
    assert str(folder / "model.safetensors") in capsys.readouterr().out


def test_convert_refuses_what_is_no_t5(tmp_path, capsys):
    folder = tmp_path / "google-t5/t5-11b"
    folder.mkdir(parents=True)
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert main(["checkpoints", "convert", "--checkpoint_dir", str(tmp_path)]) == 1
    assert "holds no T5" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["pytorch_model.bin"]


def test_convert_reads_files_of_an_old_torch(parity_tree, tmp_path):
    from guided_transfer.models.checkpoint import convert_to_safetensors, read_tensors

    tensors = read_tensors([parity_tree / "nvidia/Cosmos-Transfer1-7B/edge_control.pt"])
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    converted = read_tensors([convert_to_safetensors(tmp_path / "old.pt")])
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(tensors[key], converted[key]) for key in tensors)


def test_an_old_file_with_code_is_refused(tmp_path):
    from guided_transfer.models.checkpoint import read_tensors

    torch.save({"a": tmp_path}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="could run code"):
        read_tensors([tmp_path / "old.pt"])


def test_convert_without_anything_to_convert(tmp_path, capsys):
    assert main(["checkpoints", "convert", "--checkpoint_dir", str(tmp_path)]) == 1
    assert "no .pt file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["upload"]])
def test_an_unknown_action_names_the_known(words, capsys):
    assert main(["checkpoints", *words]) == 1
    assert "download, verify, convert" in capsys.readouterr().err
