"""`evaluate` on a run of the tiny checkpoint."""

import csv
import json
import shutil

import pytest

from guided_transfer.cli.main import main
from guided_transfer.report.figures import FIGURES, figures_of


@pytest.fixture
def folder(baseline, tmp_path):
    """A copy of a finished run, to be written to."""
    return shutil.copytree(baseline.folder, tmp_path / "copy")


def rows_of(capsys):
    return {row.pop("row"): row for line in capsys.readouterr().out.splitlines() if (row := json.loads(line))}


def test_the_published_file_gives_the_figures_of_the_record(baseline, folder, capsys):
    assert main(["evaluate", str(folder), "--json"]) == 0
    rows = rows_of(capsys)
    assert list(rows) == ["data_0", "mean", "identity", "colour jitter"]
    recorded = figures_of(baseline.record()["result"]["demo_0"]["metrics"])
    assert rows["data_0"] == pytest.approx(recorded)
    assert rows["mean"] == pytest.approx(recorded)
    assert rows["identity"]["foreground_psnr_db"] == 200


def test_the_table_is_kept(folder, capsys):
    assert main(["evaluate", str(folder)]) == 0
    assert "colour jitter" in capsys.readouterr().out
    with (folder / "evaluation.csv").open() as file:
        assert next(csv.reader(file)) == ["episode", *FIGURES]
    kept = json.loads((folder / "evaluation.json").read_text())
    assert list(kept["rows"]) == ["data_0", "mean", "identity", "colour jitter"]
    assert kept["not_measured"] == {}


def test_a_lost_result_is_named(folder, capsys):
    (folder / "data_0.hdf5").unlink()
    assert main(["evaluate", str(folder)]) == 3
    assert "data_0.hdf5" in capsys.readouterr().out


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "run.json" in capsys.readouterr().err
