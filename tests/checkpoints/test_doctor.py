"""What the doctor says of a machine."""

import json
import sys

import pytest

from guided_transfer.cli import doctor
from guided_transfer.cli.main import main


def lines(capsys, *words):
    code = main(["doctor", "--json", *words])
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    return code, {row["name"]: row for row in rows}


def test_the_bundled_model_is_ready(capsys, tmp_path):
    code, found = lines(capsys, "--checkpoint_dir", "bundled", "--output_dir", str(tmp_path / "not" / "yet"))
    assert code == 0
    assert list(found) == [
        "Python",
        "torch",
        "GPU",
        "memory",
        "attention",
        "disk",
        "checkpoint",
        "guardrails",
        "upsampler",
        "endpoint",
    ]
    assert found["checkpoint"]["state"] == "ok"
    assert str(tmp_path) in found["disk"]["text"]


def test_an_official_tree_without_guardrails_is_not(capsys, tiny_tree):
    code, found = lines(capsys, "--checkpoint_dir", str(tiny_tree))
    assert code == 1
    assert found["checkpoint"]["state"] == "ok"
    assert "edge" in found["checkpoint"]["text"]
    assert found["guardrails"]["state"] == "fault"
    assert "Resnet50_Final.pth" in found["guardrails"]["text"]
    assert f"checkpoints download --output_dir {tiny_tree} --only guardrail" in found["guardrails"]["todo"]


def test_the_upsampler_is_looked_for_and_missed_by_nobody_else(capsys, tiny_tree, tmp_path):
    from guided_transfer.prompts.upsampler import FILES, FOLDER

    _, found = lines(capsys, "--checkpoint_dir", str(tiny_tree))
    assert found["upsampler"]["state"] == "note"
    assert f"download --output_dir {tiny_tree} --only upsampler" in found["upsampler"]["todo"]
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).touch()
    _, found = lines(capsys, "--checkpoint_dir", str(tmp_path), "--upsampler_command", "/nowhere/vllm")
    assert "pip install vllm" in found["upsampler"]["todo"]
    _, found = lines(capsys, "--checkpoint_dir", str(tmp_path), "--upsampler_command", sys.executable)
    assert found["upsampler"]["state"] == "ok"


def test_a_tree_that_is_not_there(capsys, tmp_path):
    code, found = lines(capsys, "--checkpoint_dir", str(tmp_path / "none"))
    assert code == 1
    assert "no such folder" in found["checkpoint"]["text"]
    assert f"guided-transfer checkpoints download --output_dir {tmp_path}" in found["checkpoint"]["text"]


def test_an_endpoint_that_does_not_answer(capsys):
    code, found = lines(capsys, "--checkpoint_dir", "bundled", "--llm_base_url", "http://127.0.0.1:9/v1")
    assert code == 1
    assert "no OpenAI-compatible endpoint" in found["endpoint"]["text"]


def test_a_check_that_breaks_hides_no_other_line(capsys, monkeypatch):
    def broken():
        raise OSError("driver mismatch")

    monkeypatch.setattr(doctor, "gpu", broken)
    code, found = lines(capsys, "--checkpoint_dir", "bundled")
    assert code == 1
    assert "driver mismatch" in found["GPU"]["text"]
    assert found["endpoint"]["state"] == "ok"


@pytest.mark.parametrize(("version", "state"), [("2.5.1+cu121", "fault"), ("2.6.0", "ok"), ("2.13.0+cpu", "ok")])
def test_torch_that_can_run_code_of_a_pickle_is_too_old(monkeypatch, version, state):
    import torch

    monkeypatch.setattr(torch, "__version__", version)
    assert doctor.torch_version().state == state


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert doctor.python().state == "fault"


def test_for_a_person(capsys):
    assert main(["doctor", "--checkpoint_dir", "bundled"]) == 0
    said = capsys.readouterr().out
    assert "ok    Python: 3." in said
    assert "ok    guardrails: the bundled model needs none" in said
