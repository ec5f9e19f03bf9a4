"""The whole command with guardrails: what passes, and what becomes a reason."""

import json
import shutil

import pytest
import torch
from tiny_guardrails import write_classifier, write_detector, write_llama_guard

from guided_transfer.cli import progress
from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.load import load_run_guardrails
from guided_transfer.cli.main import main
from guided_transfer.cli.resolve import resolve
from guided_transfer.episodes.example import make_example_episode
from guided_transfer.episodes.video import write_mp4
from guided_transfer.safety import LICENCE_NOTE
from guided_transfer.safety.guardrails import BLOCKLIST, CONTENT_FILTER, FACE_DETECTOR, LLAMA_GUARD


@pytest.fixture
def guarded(tree, tiny_tree, tmp_path_factory, monkeypatch):
    """Run `transfer` on a small episode with a tree that holds the tiny network and the guardrails."""
    for folder in ("nvidia/Cosmos-Transfer1-7B", "nvidia/Cosmos-Tokenize1-CV8x8x8-720p", "google-t5"):
        shutil.copytree(tiny_tree / folder, tree / folder)
    work = tmp_path_factory.mktemp("work")
    make_example_episode(work / "data_0.hdf5", 9, height_px=32, width_px=32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
    torch.set_num_threads(1)
    progress.reporter.cache_clear()

    def run(*arguments, source=("--source_data_dir", str(work)), expect=0):
        out = work / f"out{len(list(work.glob('out*')))}"
        common = ["--checkpoint_dir", str(tree), "--model_config_file", str(tiny_tree / "tiny.yaml")]
        common += ["--dtype", "float32", "--num_steps", "1", "--prompt", "a robot arm", *source]
        out_argument = "--output_data_dir" if source[0] == "--source_data_dir" else "--video_save_folder"
        assert main(["transfer", *common, out_argument, str(out), *arguments]) == expect
        return out

    run.work = work
    return run


def record(out):
    return json.loads((out / "ledger" / "data_0.json").read_text())


def test_a_guarded_run_passes_and_says_so(guarded):
    out = guarded("--quiet")
    assert record(out)["result"]["demo_0"]["guardrail"] == "on"
    assert (out / "data_0.hdf5").exists()


@pytest.mark.parametrize(("words", "waits"), [((), True), (("--no_offload_guardrail_models",), False)])
def test_guardrails_wait_where_the_flag_says(guarded, tree, tiny_tree, words, waits):
    common = ["--checkpoint_dir", str(tree), "--model_config_file", str(tiny_tree / "tiny.yaml")]
    common += ["--source_data_dir", str(guarded.work)]
    guardrails = load_run_guardrails(resolve(parse_transfer([*common, *words], prog="", about="")))
    _, llama_guard = guardrails.prompt
    assert [model.offload for model in (llama_guard, *guardrails.video)] == [waits] * 3


def test_other_guardrails_are_another_run(guarded, tree, capsys):
    out = guarded("--quiet")
    weights = record(out)["weights"]
    assert {FACE_DETECTOR, CONTENT_FILTER, f"{BLOCKLIST}/custom/words", f"{LLAMA_GUARD}/model.safetensors"} <= set(
        weights
    )
    (tree / BLOCKLIST / "custom/words").write_text("something else\n")
    guarded("--quiet", "--output_data_dir", str(out), expect=1)
    assert f"weights.{BLOCKLIST}/custom/words" in capsys.readouterr().err


def test_a_blocked_prompt_is_an_outcome_with_a_reason(guarded, capsys):
    out = guarded("--quiet", "--prompt", "a bloodbath", expect=3)
    assert "blocklist" in capsys.readouterr().err
    assert "blocked" in json.dumps(record(out))
    assert not (out / "data_0.hdf5").exists()


def test_a_prompt_that_the_model_blocks(guarded, tree, capsys):
    write_llama_guard(tree / LLAMA_GUARD, "unsafe S9 <end>")
    guarded("--quiet", expect=3)
    assert "S9 indiscriminate weapons" in capsys.readouterr().err


def test_a_blocked_video_leaves_no_file(guarded, tree, capsys):
    write_classifier(tree / CONTENT_FILTER, 3)
    out = guarded("--quiet", expect=3)
    assert "9 of 9 frames are unsafe: drugs" in capsys.readouterr().err
    assert not list(out.glob("*.mp4")) + list(out.glob("*.hdf5"))


def test_metrics_are_taken_after_the_faces_are_gone(guarded, tree):
    psnr = {}
    for face in (False, True):
        write_detector(tree / FACE_DETECTOR, face=face)
        views = record(guarded("--quiet"))["result"]["demo_0"]["metrics"]["views"]
        psnr[face] = views["room"]["foreground"]["psnr_db"]
    assert psnr[True] != psnr[False]


def test_a_guardrail_that_is_not_there_stops_before_any_work(guarded, tree, capsys):
    (tree / FACE_DETECTOR).unlink()
    out = guarded("--quiet", expect=1)
    assert "Resnet50_Final.pth" in capsys.readouterr().err
    assert not out.exists()


def test_without_guardrails_the_licence_is_named_once_and_it_is_recorded(guarded, tree, capsys):
    shutil.rmtree(tree / LLAMA_GUARD)
    out = guarded("--guardrail", "off", "--json")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("text") for line in said].count(LICENCE_NOTE) == 1
    assert record(out)["result"]["demo_0"]["guardrail"] == "off"


def test_a_single_video(guarded, tree, capsys):
    video, specs = guarded.work / "room.mkv", guarded.work / "specs.json"
    write_mp4(guarded.work / "room.mp4", torch.zeros(9, 32, 32, 3, dtype=torch.uint8), 30)
    specs.write_text('{"edge": {"control_weight": 1.0}}')
    source = ("--input_video_path", str(video.with_suffix(".mp4")), "--controlnet_specs", str(specs))
    out = guarded("--quiet", source=source)
    assert json.loads((out / "room.json").read_text())["guardrail"] == "on"
    write_classifier(tree / CONTENT_FILTER, 1)
    out = guarded("--quiet", source=source, expect=3)
    assert "sexual content" in capsys.readouterr().err
    assert not list(out.glob("*"))
