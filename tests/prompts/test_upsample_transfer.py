"""`transfer --upsample_prompt` as a whole, with a small server in the place of vLLM."""

import json
import os
import shlex
import shutil
import socket
import sys
from pathlib import Path

import h5py
import pytest
import torch
from processes import is_running

from guided_transfer.cli import progress
from guided_transfer.cli.main import main
from guided_transfer.episodes.example import make_example_episode
from guided_transfer.episodes.video import write_mp4
from guided_transfer.prompts.upsampler import FILES, FOLDER

SMALL_VLLM = Path(__file__).with_name("small_vllm.py")


@pytest.fixture
def upsampled(tiny_tree, tmp_path, monkeypatch):
    """Run `transfer --upsample_prompt` on two small episodes; what the server was asked is in `run.asked()`."""
    source, tree = tmp_path / "in", tmp_path / "tree"
    source.mkdir()
    for index in range(2):
        make_example_episode(source / f"data_{index}.hdf5", 9, height_px=32, width_px=32)
    shutil.copytree(tiny_tree, tree)
    folder = tree / FOLDER
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("guided_transfer.cli.upsample.TRIES", 1)
    torch.set_num_threads(1)
    progress.reporter.cache_clear()

    def run(*arguments, way="well", out="out", video=None, expect=0):
        words = ["transfer", "--source_data_dir", str(source), "--output_data_dir", str(tmp_path / out)]
        if video:
            words = ["transfer", "--input_video_path", str(video), "--video_save_folder", str(tmp_path / out)]
        words += ["--checkpoint_dir", str(tree), "--model_config_file", str(tree / "tiny.yaml"), "--no_report"]
        words += ["--dtype", "float32", "--guardrail", "off", "--num_steps", "1", "--prompt", "a ward", "--json"]
        command = shlex.join([sys.executable, str(SMALL_VLLM), way])
        words += ["--upsample_prompt", "--upsampler_command", command]
        assert main([*words, *arguments]) == expect
        return tmp_path / out

    run.folder, run.source = folder, source
    run.asked = lambda: [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]
    return run


def record(out, episode="data_0"):
    return json.loads((out / "ledger" / f"{episode}.json").read_text())


@pytest.mark.parametrize("flag", ["--offload_prompt_upsampler", "--no_offload_prompt_upsampler"])
def test_prompts_are_written_out_recorded_and_used(upsampled, capsys, flag):
    """With either flag the upsampler is gone before another model is loaded."""
    out = upsampled(flag)
    said = capsys.readouterr().out
    assert "prompts written out: 2 of 2" in said
    assert said.index("its memory is free") < said.index('"start"')
    assert said.count("prompts are longer than the 16 tokens") == 1  # of two episodes
    demo = record(out)["result"]["demo_0"]
    prompt = demo["views"]["room"]["prompt"]
    assert prompt.startswith("a ward, in rich detail, seen in [[32, 32], [32, 32]], seed ")
    assert demo["views"]["wrist"]["prompt"] != prompt  # another view, another seed
    assert (out / "data_0_room_view.txt").read_text() == prompt + "\n"
    short = {"room": "a ward", "wrist": "a ward"}
    assert demo["upsampler"] == {"upsampled": True, "short": short, "shown": "edge"}
    assert record(out)["weights"][f"{FOLDER}/params.json"]
    pids = json.loads((upsampled.folder / "started.json").read_text())["pids"]
    assert not any(is_running(pid) for pid in pids)
    assert len(upsampled.asked()) == 4  # two views of two episodes
    assert len({request["seed"] for request in upsampled.asked()}) == 4


def test_runs_side_by_side_do_not_write_into_each_others_log(upsampled):
    out = upsampled("--limit", "1")
    (log,) = (out / "ledger" / "prompts").glob("*.log")
    assert log.name == f"vllm.{socket.gethostname()}-{os.getpid()}.log"


def test_what_was_written_out_is_not_asked_again(upsampled):
    out = upsampled()
    before = record(out)
    (upsampled.folder / "started.json").unlink()
    (out / "ledger" / "data_0.json").unlink()
    for file in out.glob("data_0*"):
        file.unlink()
    upsampled()
    assert not (upsampled.folder / "started.json").exists()
    assert (
        record(out)["result"]["demo_0"]["views"]["room"]["prompt"]
        == (before["result"]["demo_0"]["views"]["room"]["prompt"])
    )
    upsampled("--seed", "2", out="other")
    assert len(upsampled.asked()) == 8


def test_a_demo_without_an_answer_fails_alone(upsampled):
    out = upsampled(way="mute on the third", expect=2)
    states = sorted(record(out, name)["state"] for name in ("data_0", "data_1"))
    assert states == ["done", "failed"]
    failed = next(r for r in (record(out, "data_0"), record(out, "data_1")) if r["state"] == "failed")
    assert "an empty answer" in failed["reason"]
    upsampled()  # the same command asks for what is missing, and no more
    assert record(out, "data_0")["state"] == record(out, "data_1")["state"] == "done"


def test_a_short_prompt_is_kept_where_that_is_asked_for(upsampled):
    out = upsampled("--keep_short_prompt", way="mute")
    demo = record(out)["result"]["demo_0"]
    assert demo["views"]["room"]["prompt"] == "a ward"
    assert not demo["upsampler"]["upsampled"]
    assert "an empty answer" in demo["upsampler"]["fault"]


def test_an_upsampler_that_cannot_start_stops_the_run(upsampled, capsys):
    out = upsampled(way="broken", expect=1)
    assert "25 GiB wanted" in capsys.readouterr().err
    assert not list(out.glob("*.hdf5"))
    out = upsampled("--keep_short_prompt", way="broken", out="kept")
    assert "25 GiB wanted" in record(out)["result"]["demo_0"]["upsampler"]["fault"]


def test_an_upsampler_that_dies_stops_the_run(upsampled, capsys):
    upsampled(way="dies", expect=1)
    assert "no usable answer in 1 tries" in capsys.readouterr().err


def test_what_is_missing_is_named_before_any_work(upsampled, capsys):
    upsampled("--upsampler_command", "/nowhere/vllm", expect=1)
    assert "upsampler_command '/nowhere/vllm': no such program" in capsys.readouterr().err
    (upsampled.folder / "tekken.json").unlink()
    upsampled(expect=1)
    said = capsys.readouterr().err
    assert f"{FOLDER}/tekken.json" in said
    assert "--only upsampler" in said


def test_episodes_that_fit_two_layouts_are_read_as_asked(upsampled):
    for file in upsampled.source.iterdir():
        with h5py.File(file, "r+") as episode:
            episode["data/demo_0/obs/table_cam"] = episode["data/demo_0/observations/rgb_images"][:, 0]
    out = upsampled("--schema_name", "i4h")
    assert record(out)["result"]["demo_0"]["upsampler"]["upsampled"]
    assert len(upsampled.asked()) == 4


def test_a_server_that_runs_already(upsampled):
    from guided_transfer.prompts.vllm import VllmServer

    command = shlex.join([sys.executable, str(SMALL_VLLM), "well"])
    with VllmServer(command, upsampled.folder, log=upsampled.folder / "log") as server:
        pids = json.loads((upsampled.folder / "started.json").read_text())["pids"]
        out = upsampled("--upsampler_base_url", server.base_url, "--limit", "1")
        assert all(is_running(pid) for pid in pids)  # it is not ours to end
    assert record(out)["result"]["demo_0"]["upsampler"]["upsampled"]


def test_the_prompt_of_one_video(upsampled, tmp_path):
    write_mp4(tmp_path / "room.mp4", torch.zeros(9, 32, 32, 3, dtype=torch.uint8), 30)
    (tmp_path / "specs.json").write_text('{"vis": {"control_weight": 1.0}}')
    words = ["--controlnet_specs", str(tmp_path / "specs.json"), "--variants", "2"]
    upsampled(*words, video=tmp_path / "room.mp4")
    told = json.loads((tmp_path / "out/room.json").read_text())
    assert told["prompt"].startswith("a ward, in rich detail, seen in [[32, 32], [32, 32]], seed ")
    assert told["upsampler"] == {"upsampled": True, "short": "a ward", "shown": "vis"}
    assert json.loads((tmp_path / "out/room_v1.json").read_text())["prompt"] != told["prompt"]
    upsampled(*words, "--keep_short_prompt", way="mute", video=tmp_path / "room.mp4", out="kept")
    kept = json.loads((tmp_path / "kept/room.json").read_text())
    assert (kept["prompt"], kept["upsampler"]["upsampled"]) == ("a ward", False)


def test_a_folder_of_other_settings_is_refused_before_the_model_is_asked(upsampled, capsys):
    upsampled("--limit", "1")
    (upsampled.folder / "asked.jsonl").unlink()
    upsampled("--seed", "5", expect=1)
    assert "other settings" in capsys.readouterr().err
    assert not (upsampled.folder / "asked.jsonl").exists()
