"""`sweep` on the tiny checkpoint."""

import json

import pytest

from guided_transfer.cli.main import main


@pytest.fixture
def sweep(episodes, tiny, tmp_path):
    """Run the command with further arguments and return what it wrote."""

    def run(*arguments):
        words = ["sweep", "--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
        assert main([*words, *arguments]) == 0
        return json.loads((tmp_path / "out/sweep/sweep.json").read_text())

    return run


def test_every_point_is_measured_and_the_runs_own_is_marked(sweep):
    found = sweep("--sweep", "sigma_threshold=0,20", "--sigma_threshold", "20")
    points = {(point["method"], point["value"]): point for point in found["points"]}
    assert list(points) == [
        *(("guided", 0.0), ("guided", 20.0), ("direct", None), ("composite", None)),
        *(("identity", None), ("colour jitter", None)),
    ]
    assert [key for key, point in points.items() if point["chosen"]] == [("guided", 20.0)]
    psnr_db = {key: point["figures"]["foreground_psnr_db"] for key, point in points.items()}
    assert psnr_db["identity", None] == 200
    assert psnr_db["composite", None] > psnr_db["guided", 20.0]
    # held to the very end, the foreground is what the tokenizer makes of it
    assert psnr_db["guided", 0.0] > psnr_db["direct", None]


def test_steps_sizes_and_weights_are_tried_one_at_a_time(sweep):
    found = sweep("--sweep", "num_steps=1,2", "resolution=64x32", "edge=0", "--sigma_threshold", "20")
    guided = [point for point in found["points"] if point["method"] == "guided"]
    assert [(point["setting"], point["value"]) for point in guided] == [
        *(("num_steps", 1), ("num_steps", 2)),
        *(("resolution", "native"), ("resolution", "64x32")),
        *(("edge", 0.0), ("edge", 0.5)),
    ]
    chosen = [point["figures"] for point in guided if point["chosen"]]
    assert len(chosen) == 3
    assert all(figures == chosen[0] for figures in chosen)
    others = [point["figures"]["background_delta_e"] for point in guided if not point["chosen"]]
    assert len({chosen[0]["background_delta_e"], *others}) == 4  # every setting has its effect


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        ("sigma_threshold=low", "accepted are numbers of at least 0"),
        ("sigma_threshold", "accepted is NAME=VALUE,VALUE"),
        ("num_steps=0", "accepted are whole numbers of at least 1"),
        ("resolution=7x7", "multiples of 16"),
        ("guidance=1", "accepted is NAME=VALUE,VALUE"),
        ("edge=-1", "accepted are numbers of at least 0"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_any_work(episodes, tiny, tmp_path, capsys, words, accepted):
    arguments = ["--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(["sweep", *arguments, "--sweep", words]) == 1
    error = capsys.readouterr().err
    assert words.partition("=")[0] in error
    assert accepted in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["dry_run", "preview"])
def test_a_plan_of_a_sweep_is_refused_rather_than_run(episodes, tiny, tmp_path, capsys, name):
    arguments = ["--source_data_dir", str(episodes), "--output_data_dir", str(tmp_path / "out"), *tiny]
    assert main(["sweep", *arguments, f"--{name}"]) == 1
    assert f"transfer --{name}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
