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
    found = sweep("--sigma_thresholds", "0,20", "--sigma_threshold", "20")
    points = {(point["method"], point["sigma_threshold"]): point for point in found["points"]}
    assert list(points) == [
        *(("guided", 0.0), ("guided", 20.0), ("direct", None), ("composite", 20.0)),
        *(("identity", None), ("colour jitter", None)),
    ]
    assert [key for key, point in points.items() if point["chosen"]] == [("guided", 20.0)]
    psnr_db = {key: point["figures"]["foreground_psnr_db"] for key, point in points.items()}
    assert psnr_db["identity", None] == 200
    assert psnr_db["composite", 20.0] > psnr_db["guided", 20.0]
    # held to the very end, the foreground is what the tokenizer makes of it
    assert psnr_db["guided", 0.0] > psnr_db["direct", None]


def test_thresholds_that_are_none_are_refused(sweep, capsys):
    with pytest.raises(AssertionError):
        sweep("--sigma_thresholds", "low")
    assert "sigma_thresholds" in capsys.readouterr().err
