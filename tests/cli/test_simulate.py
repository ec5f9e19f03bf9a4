"""What `simulate` refuses before it renders anything."""

import pytest

from guided_transfer.cli.main import main
from guided_transfer.scenes import HELDOUT_SCENE_SEEDS, sample_scene


@pytest.mark.parametrize("heldout", [False, True])
def test_more_frames_than_a_motion_has_are_refused(tmp_path, capsys, heldout):
    first = HELDOUT_SCENE_SEEDS.start if heldout else 0
    shortest = min(sample_scene(first + k, heldout=heldout).num_frames for k in (3, 4))
    words = ["simulate", str(tmp_path / "made"), "--episodes", "2", "--seed", "3", *["--heldout"] * heldout]
    assert main([*words, "--num_frames", "9999"]) == 1
    assert f"--num_frames is 9999; accepted are 1 to {shortest}" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_as_many_frames_as_a_motion_has_are_made(tmp_path):
    frames = sample_scene(0).num_frames
    words = ["simulate", str(tmp_path / "made"), "--size_px", "16", "--num_frames"]
    assert main([*words, str(frames + 1)]) == 1
    assert main([*words, str(frames)]) == 0
