"""--schema_name: a file that fits two layouts is read by the one that the user names, in every command."""

import json
import shutil
from typing import get_args

import h5py
import numpy as np
import pytest
from tiny_run import NUM_FRAMES, SIZE_PX, same

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.main import main
from guided_transfer.cli.plan import episode_seconds, plan_episodes
from guided_transfer.cli.resolve import resolve
from guided_transfer.cli.settings import SchemaName
from guided_transfer.episodes import PRESETS

TABLE_CAM = "data/demo_0/obs/table_cam"
KEPT_COLOUR = (204, 110, 248)
"""Of label 4, in isaaclab's colours."""


@pytest.fixture(scope="module")
def ambiguous(episodes, tmp_path_factory):
    """The small episode of i4h, with a camera of isaaclab beside its two."""
    folder = shutil.copytree(episodes, tmp_path_factory.mktemp("ambiguous") / "in")
    with h5py.File(folder / "data_0.hdf5", "r+") as file:
        observed = file["data/demo_0/observations"]
        file[TABLE_CAM] = observed["rgb_images"][:, 1]
        file[f"{TABLE_CAM}_depth"] = observed["depth_images"][:, 1]
        file[f"{TABLE_CAM}_segmentation"] = np.full((NUM_FRAMES, SIZE_PX, SIZE_PX, 3), KEPT_COLOUR, np.uint8)
    return folder


def table_cam(folder):
    with h5py.File(folder / "data_0.hdf5") as file:
        return file[TABLE_CAM][:]


def test_every_preset_can_be_named():
    assert get_args(SchemaName) == ("", *PRESETS)


def test_an_ambiguous_file_fails_and_names_the_option(transfer, ambiguous):
    run = transfer(source=ambiguous, expect=3)
    assert "fits i4h and isaaclab; name one: --schema_name i4h" in run.record()["reason"]


def test_the_named_cameras_are_transferred_and_no_other(transfer, ambiguous, baseline):
    i4h = transfer("--schema_name", "i4h", source=ambiguous)
    assert same(i4h.rgb(), baseline.rgb())
    assert same(table_cam(i4h.folder), table_cam(ambiguous))
    isaaclab = transfer("--schema_name", "isaaclab", source=ambiguous)
    assert list(isaaclab.record()["result"]["demo_0"]["views"]) == ["table"]
    assert not same(table_cam(isaaclab.folder), table_cam(ambiguous))
    with h5py.File(ambiguous / "data_0.hdf5") as file:
        assert same(isaaclab.rgb(), file["data/demo_0/observations/rgb_images"][:])


def test_report_and_evaluate_read_a_run_as_it_was_read(transfer, ambiguous, capsys):
    run = transfer("--schema_name", "isaaclab", "--no_report", source=ambiguous)
    assert main(["report", str(run.folder)]) == 0
    assert "without videos" not in capsys.readouterr().out
    clip = run.folder / "report" / "media" / "data_0"
    assert {path.name for path in clip.glob("*.generated.mp4")} == {"table.generated.mp4"}
    assert json.loads((run.folder / "report" / "baselines.json").read_text())["episodes"] == 1
    assert main(["evaluate", str(run.folder), "--json"]) == 0
    assert '"row": "data_0"' in capsys.readouterr().out


def test_a_recording_is_made_of_the_named_camera(transfer, ambiguous, capsys):
    pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    run = transfer("--schema_name", "isaaclab", "--no_report", source=ambiguous)
    assert main(["report", str(run.folder), "--rerun"]) == 0
    assert "no recording" not in capsys.readouterr().out


def test_it_belongs_to_a_run_and_unset_to_those_from_before(baseline, episodes, tiny, capsys):
    """Runs begun when no layout could be named have no such setting in their fingerprint."""
    assert "schema_name" not in json.loads((baseline.folder / "run.json").read_text())["settings"]
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(baseline.folder), *tiny]
    assert main([*words, "--schema_name", "i4h"]) == 1
    assert 'settings.schema_name: the folder has null, this run "i4h"' in capsys.readouterr().err


def test_plan_preview_and_sweep_read_by_it(transfer, ambiguous, tiny, tmp_path):
    words = ["--source_data_dir", str(ambiguous), *tiny, "--schema_name", "i4h"]
    planned = resolve(parse_transfer(words, prog="transfer", about=""))
    assert sum(episode_seconds(planned, plan_episodes(planned))) > 0
    run = transfer("--schema_name", "i4h", "--preview", source=ambiguous)
    assert (run.folder / "preview" / "data_0.png").is_file()
    words = ["sweep", "--source_data_dir", str(ambiguous), "--output_data_dir", str(tmp_path / "swept"), *tiny]
    assert main([*words, "--schema_name", "isaaclab", "--sweep", "sigma_threshold=1"]) == 0
    assert json.loads((tmp_path / "swept/sweep/sweep.json").read_text())["episodes"] == ["data_0/demo_0"]


def test_a_wrong_name_is_refused_before_any_work(transfer, ambiguous, tmp_path, capsys):
    run = transfer("--schema_name", "rlds", source=ambiguous, expect=1)
    said = capsys.readouterr().err
    assert "schema_name" in said
    assert all(name in said for name in PRESETS)
    specs = tmp_path / "specs.json"
    specs.write_text(json.dumps({"edge": {"control_weight": 1.0}, "schema_name": "rlds"}))
    run = transfer("--controlnet_specs", specs, source=ambiguous, expect=1)
    [said] = capsys.readouterr().err.splitlines()
    assert "schema_name is 'rlds'" in said
    assert not run.folder.exists()
