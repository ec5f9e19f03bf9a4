"""Runs as a whole: nothing lost, resumed, reported; an episode from outside; several processes."""

import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from tiny_run import NUM_FRAMES, SIZE_PX, same

from guided_transfer.cli import process
from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.main import main
from guided_transfer.cli.resolve import resolve
from guided_transfer.episodes import make_example_episode, read_video
from guided_transfer.runner.seeds import prompt_choice, view_seed

PANDA = Path(__file__).parents[1] / "data" / "episodes" / "panda_wipe.hdf5"


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, obj: found.update({name: obj[()]}) if isinstance(obj, h5py.Dataset) else None)
    return found


def test_everything_but_the_pictures_is_kept(baseline, episodes):
    source, target = datasets(episodes / "data_0.hdf5"), datasets(baseline.folder / "data_0.hdf5")
    assert source.keys() == target.keys()
    changed = {name for name in source if not np.array_equal(source[name], target[name])}
    assert changed == {"data/demo_0/observations/rgb_images"}


def light(frames):
    """[T, 4, 4] brightness of large patches: what H.264 keeps even of noise."""
    return np.stack(
        [
            cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(float), (4, 4), interpolation=cv2.INTER_AREA)
            for f in frames
        ]
    )


def test_videos_and_prompts_lie_beside_the_episode(baseline):
    for view, index in (("room", 0), ("wrist", 1)):
        rgb, _ = read_video(baseline.folder / f"data_0_{view}_view.mp4")
        shown, written = (light(frames) for frames in (rgb.numpy(), baseline.rgb()[:, index]))
        assert np.abs(shown - written).mean() < 6
        assert (baseline.folder / f"data_0_{view}_view.txt").read_text() == "a clinic\n"


def test_the_record_tells_how_it_was_made(baseline):
    record = baseline.record()
    assert record["weights"]["nvidia/Cosmos-Transfer1-7B/base_model.pt"]
    assert record["settings"]["num_steps"] == 2
    result = record["result"]["demo_0"]
    assert result["guardrail"] == "off"
    assert result["peak_memory_gb"] > 0
    assert result["metrics"]["views"]["wrist"]["foreground"]["psnr_db"] > 0
    assert result["metrics"]["views"]["room"]["ceiling"]["psnr_db"] > 0
    seeds = {name: view_seed(1, "data_0/demo_0", 0, 0, name) for name in ("room", "wrist")}
    assert {name: view["seed"] for name, view in result["views"].items()} == seeds
    with h5py.File(baseline.folder / "data_0.hdf5") as file:
        attributes = file["data/demo_0/observations/rgb_images"].attrs
        assert json.loads(attributes["guided_transfer.seeds"]) == seeds
        assert json.loads(attributes["guided_transfer.prompts"]) == {"room": "a clinic", "wrist": "a clinic"}
    assert set(result["views"]["wrist"]["seconds"]) == {"warp", "encode", "sample", "decode", "ceiling"}
    run = json.loads((baseline.folder / "run.json").read_text())
    assert run["about"]["torch"] == torch.__version__


def test_several_demos_and_variants(transfer, tmp_path):
    source = tmp_path / "demos"
    source.mkdir()
    make_example_episode(source / "take_7.hdf5", NUM_FRAMES, num_demos=2, height_px=SIZE_PX, width_px=SIZE_PX)
    run = transfer("--variants", 2, source=source)
    names = {path.name for path in run.folder.glob("*.*")}
    assert {
        "data_7.hdf5",
        "data_7_v1.hdf5",
        "data_7_demo_1_room_view.mp4",
        "data_7_v1_demo_0_wrist_view.txt",
    } <= names
    with h5py.File(run.folder / "data_7.hdf5") as one, h5py.File(run.folder / "data_7_v1.hdf5") as other:
        paths = [f"data/{demo}/observations/rgb_images" for demo in ("demo_0", "demo_1")]
        pictures = [file[path][:].tobytes() for file in (one, other) for path in paths]
    assert len(set(pictures)) == 4


def test_without_videos_no_video_library_is_needed(transfer, baseline, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    run = transfer("--no_videos", "--no_report")
    assert {path.name for path in run.folder.iterdir()} == {"data_0.hdf5", "ledger", "logs", "run.json"}
    assert same(run.rgb(), baseline.rgb())


def test_only_and_limit(transfer, tmp_path):
    source = tmp_path / "many"
    source.mkdir()
    for stem in ("data_2", "data_10", "data_1"):
        make_example_episode(source / f"{stem}.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    assert sorted(p.stem for p in transfer("--limit", 2, source=source).folder.glob("*.hdf5")) == [
        "data_1",
        "data_2",
    ]
    assert [p.stem for p in transfer("--only", "data_10", source=source).folder.glob("*.hdf5")] == ["data_10"]


def test_a_finished_run_loads_no_model(episodes, tiny, tmp_path, monkeypatch):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(words) == 0
    before = (tmp_path / "out" / "data_0.hdf5").read_bytes()
    for loads in ("load_pipeline", "load_run_guardrails", "load_vision"):
        monkeypatch.setattr(process, loads, None)
    assert main(words) == 0
    assert (tmp_path / "out" / "data_0.hdf5").read_bytes() == before


@pytest.fixture
def passes(monkeypatch):
    """Sizes of the pictures that are generated; the second pass of all is cut off."""
    passes = []
    real_generate = process.TransferPipeline.generate

    def stop_at_the_second(self, *args, **kwargs):
        passes.append(kwargs["size"])
        if len(passes) == 2:
            raise RuntimeError("power cut")
        return real_generate(self, *args, **kwargs)

    monkeypatch.setattr(process.TransferPipeline, "generate", stop_at_the_second)
    return passes


def test_an_interrupted_episode_continues_from_its_room_view(episodes, tiny, tmp_path, passes, baseline):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(words) == 3
    assert main(words) == 0
    assert passes == [(32, 32), (64, 32), (64, 32)]  # the room view was not made again
    with h5py.File(tmp_path / "out" / "data_0.hdf5") as file:
        assert same(file["data/demo_0/observations/rgb_images"][:], baseline.rgb())


def test_an_interrupted_episode_keeps_its_prompts(episodes, tiny, tmp_path, passes):
    """Of many entries, the one that the room view was made with is the wrist view's as well."""
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    pairs = {str(k): {"top_view_prompt": f"above {k}", "bottom_view_prompt": f"below {k}"} for k in range(50)}
    (tmp_path / "prompts.json").write_text(json.dumps(pairs))
    words += ["--prompt", str(tmp_path / "prompts.json")]
    assert main(words) == 3
    assert main(words) == 0
    assert len(passes) == 3
    chosen = prompt_choice(1, "data_0/demo_0", 0, 50)
    for view, text in (("room", f"above {chosen}"), ("wrist", f"below {chosen}")):
        assert (tmp_path / "out" / f"data_0_{view}_view.txt").read_text() == f"{text}\n"


@pytest.mark.parametrize("other", [["--seed", "2"], ["--prompt", "a ward"], ["--num_steps", "3"]])
def test_a_kept_room_view_of_other_settings_is_not_taken(episodes, tiny, tmp_path, passes, other):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(words) == 3
    assert main([*words, *other]) == 1  # refused, unless told to replace what is there
    assert main([*words, *other, "--overwrite"]) == 0
    assert passes == [(32, 32), (64, 32), (32, 32), (64, 32)]


def test_nothing_is_left_where_temporary_files_go(transfer, tmp_path, monkeypatch, passes):
    """Neither by a run that fails nor by one that ends well; nor are finished stages kept."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(folder)
    transfer(expect=3)
    run = transfer()
    assert len(passes) == 4
    assert not list(folder.iterdir())
    assert not list((run.folder / "ledger" / "stages").iterdir())


def test_no_line_is_logged_for_an_evaluation(transfer, caplog):
    """One more step is two more evaluations of each view, and not one more line."""
    counts = []
    for steps in (1, 4):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="guided_transfer"):
            transfer("--num_steps", steps)
        counts.append(sum(entry.name.startswith("guided_transfer") for entry in caplog.records))
    assert counts[0] == counts[1] < 10


def test_dry_run_writes_nothing(transfer, capsys):
    run = transfer("--dry_run")
    shown = capsys.readouterr().out
    assert "data_0.hdf5 (variant 0)" in shown
    assert "estimated_minutes" in shown
    assert not run.folder.exists()


def test_json_lines(episodes, tiny, tmp_path, capsys):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    words.remove("--quiet")
    assert main([*words, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["note", "start"]  # the note: that the guardrails are off
    assert kinds.count("done") == 1
    steps = [event for event in events if event["event"] == "progress"]
    assert {step["view"] for step in steps} == {"room", "wrist"}
    assert all(step["memory_gb"] > 0 for step in steps)


def test_a_folder_of_another_run_is_refused_before_anything_is_drawn(episodes, tiny, tmp_path, capsys):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(words) == 0
    words.remove("--quiet")
    assert main([*words, "--json", "--seed", "7"]) == 1
    out, error = capsys.readouterr()
    assert "start" not in [json.loads(line)["event"] for line in out.splitlines()]
    assert "settings.seed: the folder has 1, this run 7" in error


def test_bars_for_a_person(episodes, tiny, tmp_path, capsys):
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    words.remove("--quiet")
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert "episodes" in shown
    assert f"1 done in {tmp_path / 'out'}".split()[-1] in shown.replace("\n", "")


def test_an_episode_from_outside_the_project(transfer, tmp_path):
    source = tmp_path / "panda"
    source.mkdir()
    shutil.copy(PANDA, source / "data_0.hdf5")
    run = transfer(source=source)
    with h5py.File(PANDA) as before:
        rgb = before["data/demo_0/observations/rgb_images"][:]
    assert run.rgb().shape == rgb.shape
    assert not same(run.rgb(), rgb)
    assert run.view("wrist")["warp"]["zones"]["covered"] > 0.1


def test_the_official_numerics_run_too(transfer, tmp_path, baseline):
    """No numerics in the YAML and no --dtype: bfloat16 and the official run's rounding, as for the 7B files."""
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text("{clip_frames: 9, text_tokens: 16, native_sizes: [[32, 32], [64, 32]]}")
    run = transfer("--model_config_file", sizes, "--dtype", "bfloat16")
    assert not same(run.rgb(), baseline.rgb())
    assert run.record()["settings"]["dtype"] == "torch.bfloat16"


def test_two_ranks_make_the_same_pictures(tiny, tmp_path):
    source = tmp_path / "two"
    source.mkdir()
    for stem in ("data_0", "data_1"):
        make_example_episode(source / f"{stem}.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    words = ["--source_data_dir", str(source), *tiny]
    ranks = [*launch, "-m", "guided_transfer.transfer", *words, "--output_data_dir", str(tmp_path / "ranks")]
    done = subprocess.run(ranks, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert main(["transfer", *words, "--output_data_dir", str(tmp_path / "local")]) == 0
    for stem in ("data_0", "data_1"):
        ranks_rgb, local_rgb = (
            datasets(tmp_path / run / f"{stem}.hdf5")["data/demo_0/observations/rgb_images"]
            for run in ("ranks", "local")
        )
        assert same(ranks_rgb, local_rgb)


def test_order_and_neighbours_change_nothing(transfer, tmp_path, episodes, baseline):
    source = tmp_path / "more"
    source.mkdir()
    shutil.copy(episodes / "data_0.hdf5", source / "data_0.hdf5")
    make_example_episode(source / "alpha.hdf5", 3, height_px=SIZE_PX, width_px=SIZE_PX)  # sorts first
    assert same(transfer(source=source).rgb(), baseline.rgb())


def test_shards_share_the_work(transfer, tmp_path):
    source = tmp_path / "shared"
    source.mkdir()
    for stem in ("data_0", "data_1"):
        make_example_episode(source / f"{stem}.hdf5", NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
    first, second = (transfer("--shard", f"{k}/2", source=source).folder for k in (0, 1))
    assert [path.stem for path in first.glob("*.hdf5")] == ["data_0"]
    assert [path.stem for path in second.glob("*.hdf5")] == ["data_1"]


def test_a_run_can_be_sent_to_other_machines(episodes, tiny, tmp_path):
    words = ["--source_data_dir", str(episodes), *tiny]
    run = resolve(parse_transfer(words, prog="transfer", about=""))
    factory = process.EpisodeTransferFactory(run, tmp_path)
    assert pickle.loads(pickle.dumps(factory)) == factory
