"""One clear error each, before any long work."""

import json
import os
import signal
import subprocess
import sys

import h5py
import pytest
import torch
from tiny_run import NUM_FRAMES, SIZE_PX

from guided_transfer.cli import process, single
from guided_transfer.cli.main import main
from guided_transfer.episodes import make_example_episode, write_mp4


@pytest.fixture
def refuses(transfer, capsys):
    """The command stops with exit code 1 and says `words`; nothing is written."""

    def check(words, *arguments):
        run = transfer(*arguments, expect=1)
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
        assert not run.folder.exists()

    return check


@pytest.mark.parametrize("device", ["cuda:99", *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])])
def test_a_gpu_that_is_absent(refuses, device):
    count = torch.cuda.device_count()
    found = f"this machine has {count} GPUs" if count else "torch sees no GPU here; --device cpu works everywhere"
    refuses(f"--device {device}: {found}", "--device", device)


def test_no_name_of_a_device(refuses):
    refuses("device is 'tpu'", "--device", "tpu")


@pytest.mark.parametrize(
    ("resolution", "words"),
    [
        ("250x448", "the nearest are 256x448"),
        ("large", "accepted: 480 (shorter side), 256x448 (rows x columns), native"),
        ("0", "accepted: 480"),
        ("4000", "takes at most 1920 x 1920"),
        ("976", "makes 1952 x 976 of a picture of 448 x 224 pixels; this model takes at most 1920 x 1920"),
        ("16x1936", "takes at most 1920 x 1920"),
    ],
)
def test_a_resolution_the_tokenizer_cannot_take(refuses, resolution, words):
    refuses(words, "--resolution", resolution)


def test_a_resolution_that_one_video_cannot_take(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(single, "load_pipeline", None)
    video = write_mp4(tmp_path / "wide.mp4", torch.zeros(NUM_FRAMES, 32, 96, 3, dtype=torch.uint8), 12)
    (tmp_path / "specs.json").write_text('{"edge": {"control_weight": 1.0}}')
    words = ["--input_video_path", str(video), "--controlnet_specs", str(tmp_path / "specs.json"), *tiny]
    assert main(["transfer", *words, "--resolution", "656"]) == 1
    assert "makes 656 x 1968 of a picture of 32 x 96 pixels" in capsys.readouterr().err
    assert main(["transfer", *words, "--resolution", "64", "--dry_run"]) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no JSON file of prompts"),
        ("{}", "no prompts"),
        ('{"a": {"top_view_prompt": "only one"}}', "entry 'a'"),
        ('{"a": 3}', "top_view_prompt"),
        ("[1]", "entry '0' is 1"),
        ('"a clinic"', "no prompts; the file holds"),
        ('{"a": {"top_view_prompt": "", "bottom_view_prompt": "b"}}', "entry 'a'"),
    ],
)
def test_a_prompts_file_of_another_shape(refuses, tmp_path, content, words):
    file = tmp_path / "prompts.json"
    file.write_text(content)
    refuses(words, "--prompt", file)


def test_a_prompts_file_that_is_missing(refuses):
    refuses("generated_prompts_two_seperate_views.json", "--prompt", "nowhere.json")


def test_specs_with_a_control_no_episode_has(refuses, tmp_path):
    file = tmp_path / "specs.json"
    file.write_text(json.dumps({"keypoint": {"control_weight": 1.0}}))
    refuses("keypoint control needs two ONNX files", "--controlnet_specs", file)


def test_a_tree_without_its_text_encoder(refuses, tiny_tree, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "nvidia").symlink_to(tiny_tree / "nvidia")
    refuses(
        "the text encoder of the official tree belongs there. `guided-transfer checkpoints download --output_dir "
        f"{tmp_path / 'tree'} --only text` fetches it",
        *("--checkpoint_dir", tmp_path / "tree"),
    )


def test_guardrails_are_not_left_out_silently(refuses):
    refuses("the guardrails cannot run, so nothing runs. Missing: ", "--guardrail", "on")


def test_a_clip_shorter_than_its_overlap(refuses):
    refuses("num_input_frames is 9, but a clip has 9 frames", "--num_input_frames", "9")


def test_an_engine_that_is_not_there(refuses):
    refuses("start with torchrun", "--engine", "torchrun")


@pytest.fixture
def maimed(tmp_path):
    """A folder with a whole episode and one that lacks a dataset."""

    def make(*datasets):
        folder = tmp_path / "maimed"
        folder.mkdir()
        for stem in ("data_0", "data_1"):
            make_example_episode(folder / f"{stem}.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
        with h5py.File(folder / "data_0.hdf5", "a") as file:
            for dataset in datasets:
                del file["data/demo_0/observations"][dataset]
        return folder

    return make


@pytest.mark.parametrize(
    ("dataset", "words"),
    [("depth_images", "depth"), ("seg_images", "labels"), ("wrist_camera_pos", "camera")],
)
def test_an_episode_that_lacks_something_fails_alone(transfer, maimed, capsys, dataset, words):
    run = transfer(source=maimed(dataset), expect=2)
    error = capsys.readouterr().err
    assert "data_0 failed" in error
    assert words in error
    assert not (run.folder / "data_0.hdf5").exists()
    assert (run.folder / "data_1.hdf5").is_file()


@pytest.mark.parametrize("dataset", ["depth_images", "seg_images"])
def test_an_episode_that_lacks_something_loads_no_model(transfer, maimed, monkeypatch, capsys, dataset):
    monkeypatch.setattr(process, "load_pipeline", None)
    transfer("--only", "data_0", source=maimed(dataset), expect=3)
    error = " ".join(capsys.readouterr().err.split())
    assert error.count("data_0 failed") == 1
    assert "data_0.hdf5" in error
    assert dataset in error or "has no labels" in error


def test_none_done(transfer, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "data_0.hdf5").write_bytes(b"no HDF5")
    transfer(source=folder, expect=3)


def test_other_settings_do_not_mix_into_a_folder(episodes, tiny, tmp_path, capsys):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(words) == 0
    assert main([*words, "--seed", "2"]) == 1
    assert "settings.seed: the folder has 1, this run 2" in capsys.readouterr().err
    assert main([*words, "--seed", "2", "--overwrite"]) == 0


def test_a_reader_that_has_had_enough_gets_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "guided_transfer.cli.main", "specs", "schema"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
