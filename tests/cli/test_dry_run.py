"""A dry run refuses what the run would refuse, says what it would find, and writes nothing."""

import json
import math

import h5py
import numpy as np
import pytest

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.estimate import Pace, clip_seconds_at, episode_seconds
from guided_transfer.cli.main import main
from guided_transfer.cli.plan import plan_episodes
from guided_transfer.cli.resolve import resolve
from guided_transfer.episodes import make_example_episode, open_episodes, write_mp4


def content(folder):
    """Every file and its bytes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def both(episodes, tiny, tmp_path, capsys):
    """Exit code and error of the dry run, then of the run; the first leaves everything as it was."""

    def check(*arguments, out=tmp_path / "out"):
        words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(out), *tiny, *arguments]
        before = content(tmp_path)
        found = []
        for more in (["--dry_run"], []):
            code = main([*words, *more])
            found.append((code, capsys.readouterr().err))
            if more:
                assert content(tmp_path) == before
        return found

    return check


@pytest.fixture
def plan(episodes, tiny, tmp_path, capsys):
    """What the dry run prints, as JSON."""

    def ask(*arguments, expect=0):
        words = ["--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
        assert main(["transfer", *words, "--dry_run", "--json", *arguments]) == expect
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return next(line for line in lines if line["event"] == "plan")

    return ask


def test_a_run_of_other_settings_is_refused_alike(both):
    assert both()[1][0] == 0
    dry, real = both("--seed", "2")
    assert dry == real
    assert dry[0] == 1
    assert "settings.seed: the folder has 1, this run 2" in dry[1]


def test_an_output_folder_in_use_is_refused_alike(both, tmp_path):
    assert both()[1][0] == 0
    beat = tmp_path / "out" / "ledger" / "runs" / "another" / "worker-of-another-machine.beat"
    beat.parent.mkdir(parents=True)
    beat.write_text("another-boot 1")
    dry, real = both("--seed", "2", "--overwrite")
    assert dry == real
    assert dry[0] == 1
    assert "may still be worked on by worker-of-another-machine" in dry[1]


def test_an_output_folder_below_a_file_is_refused_alike(both, tmp_path):
    (tmp_path / "file").write_text("no folder")
    dry, real = both(out=tmp_path / "file" / "out")
    assert dry[0] == real[0] == 1
    assert "cannot be written" in dry[1]
    assert "cannot be written" in real[1]


def test_an_engine_that_is_not_there_is_refused_alike(both):
    dry, real = both("--engine", "torchrun")
    assert dry == real
    assert dry[0] == 1


def test_what_is_finished_is_not_planned_again(both, plan):
    assert plan()["finished_before"] == 0
    both()
    found = plan()
    assert (found["episodes"], found["finished_before"], found["estimated_minutes"]) == (0, 1, 0)


def test_a_file_in_the_way_is_named_with_the_exit_code_of_the_run(both, plan, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data_0.hdf5").write_bytes(b"from somewhere else")
    assert "no record knows it" in plan(expect=3)["refused"]["data_0"]
    dry, real = both()
    assert dry[0] == real[0] == 3


def test_a_file_that_cannot_be_used_is_named_with_the_exit_code_of_the_run(tiny, episodes, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    whole = (episodes / "data_0.hdf5").read_bytes()
    (source / "data_0.hdf5").write_bytes(whole)
    (source / "data_1.hdf5").write_bytes(whole[: len(whole) // 2])
    (source / "data_2.hdf5").write_bytes(whole)
    with h5py.File(source / "data_2.hdf5", "a") as file:
        del file["data/demo_0/action"]
        file["data/demo_0/action"] = np.zeros((3, 7), np.float32)
    words = ["transfer", "--source_data_dir", str(source), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main([*words, "--variants", "2", "--dry_run", "--json"]) == 2
    plan = next(json.loads(line) for line in capsys.readouterr().out.splitlines() if '"plan"' in line)
    assert plan["episodes"] == 2
    assert set(plan["refused"]) == {"data_1", "data_1_v1", "data_2", "data_2_v1"}
    assert "truncated" in plan["refused"]["data_1"]
    assert "has 3 rows, the pictures have" in plan["refused"]["data_2_v1"]
    assert main(words) == 2


def test_a_weight_map_that_does_not_fit_is_one_too(plan, both, tmp_path):
    np.save(tmp_path / "map.npy", np.ones((5, 32, 32), np.float32))
    (tmp_path / "specs.json").write_text(json.dumps({"edge": {"control_weight": str(tmp_path / "map.npy")}}))
    found = plan("--controlnet_specs", str(tmp_path / "specs.json"), expect=3)
    assert "data_0.hdf5: demo_0: edge.control_weight" in found["refused"]["data_0"]
    assert "has 5 frames, the video has" in found["refused"]["data_0"]
    dry, real = both("--controlnet_specs", str(tmp_path / "specs.json"))
    assert dry[0] == real[0] == 3


def test_of_one_video_too(tiny, episodes, tmp_path):
    with open_episodes(episodes / "data_0.hdf5") as file:
        video = write_mp4(tmp_path / "walk.mp4", file.read("demo_0").views["room"].rgb, 12)
    (tmp_path / "edge.json").write_text('{"edge": {"control_weight": 1}}')
    words = ["--input_video_path", str(video), "--controlnet_specs", str(tmp_path / "edge.json"), *tiny]
    assert main(["transfer", *words, "--dry_run"]) == 0
    assert not (tmp_path / "outputs").exists()


@pytest.fixture
def resolved(tiny):
    def resolve_for(folder):
        return resolve(parse_transfer(["--source_data_dir", str(folder), *tiny], prog="transfer", about=""))

    return resolve_for


def test_the_estimate_counts_tokenizer_and_network(resolved, episodes):
    run = resolved(episodes)
    pixels = 9 * 32 * 32
    encoding = clip_seconds_at(run, Pace(math.inf, encode_s=1.0, decode_s=0.0))
    decoding = clip_seconds_at(run, Pace(math.inf, encode_s=0.0, decode_s=1.0))
    assert encoding((32, 32), False) == 4 * pixels  # the video and three controls
    assert decoding((32, 32), False) == 1.5 * pixels  # half of it once more, for the ceiling
    assert (encoding((32, 32), True), decoding((32, 32), True)) == (5 * pixels, 2.5 * pixels)
    assert clip_seconds_at(run, Pace(1.0, 0.0, 0.0))((32, 32), False) > 0


@pytest.mark.parametrize(
    ("words", "matched"),
    [([], False), (["--match_rim"], True), (["--match_rim", "--foreground_label", ""], False)],
)
def test_the_estimate_counts_a_matched_rim_of_the_room_view(episodes, tiny, monkeypatch, words, matched):
    run = resolve(parse_transfer(["--source_data_dir", str(episodes), *tiny, *words], prog="transfer", about=""))
    asked = []
    monkeypatch.setattr(
        "guided_transfer.cli.estimate.clip_seconds_at",
        lambda run, pace: lambda size, of_rim: asked.append(of_rim) or 1.0,
    )
    list(episode_seconds(run, plan := plan_episodes(run)))
    assert asked == [matched, False] * len(plan)


def test_the_estimate_grows_with_the_episode_and_says_what_it_leaves_out(resolved, tmp_path, plan):
    for stem, num_frames in (("data_0", 9), ("data_1", 90)):
        make_example_episode(tmp_path / f"{stem}.hdf5", num_frames, height_px=32, width_px=32)
    short, long = episode_seconds(run := resolved(tmp_path), plan_episodes(run))
    assert 0 < short < long
    assert "not loading" in plan()["estimate_counts"]
