"""--min_foreground_psnr, --max_cross_view_error, --max_attempts on whole runs of the tiny checkpoint."""

import json

import h5py
import pytest
from tiny_run import Outcome

from guided_transfer.cli.gate import faults
from guided_transfer.cli.settings import QualitySettings
from guided_transfer.errors import EpisodeInconsistent
from guided_transfer.metrics.suite import EpisodeMetrics


@pytest.fixture(scope="module")
def rejected(episodes, tiny, tmp_path_factory):
    """A run that asks for more than any attempt can give."""
    from guided_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("rejected") / "out"
    words = ["transfer", "--source_data_dir", str(episodes), "--output_data_dir", str(folder), *tiny]
    code = main([*words, "--min_foreground_psnr", "190"])
    return Outcome(code, folder)


def demo(outcome):
    return outcome.record()["result"]["demo_0"]


def psnr_db(reason):
    return float(reason.split()[2])


def test_what_no_attempt_reaches_is_rejected_with_figures(rejected):
    record = rejected.record()
    assert rejected.code == 3
    assert record["state"] == "rejected"
    assert record["reason"].endswith("dB is below --min_foreground_psnr 190")
    assert [attempt["attempt"] for attempt in demo(rejected)["failed_attempts"]] == [0, 1]
    assert demo(rejected)["attempt"] == 2


def test_a_rejected_episode_publishes_nothing_to_train_on(rejected):
    assert rejected.record()["outputs"] == []
    assert not list(rejected.folder.glob("*.hdf5"))
    assert not list(rejected.folder.glob("*.mp4"))
    assert (rejected.folder / "report/media/data_0/room.generated.mp4").is_file()
    assert "rejected" in (rejected.folder / "report/index.html").read_text()


def test_attempts_differ_in_noise_alone(rejected, baseline):
    reasons = [attempt["reason"] for attempt in demo(rejected)["failed_attempts"]]
    assert len({psnr_db(reason) for reason in [*reasons, demo(rejected)["rejected"]]}) == 3
    assert demo(rejected)["views"]["room"]["seed"] != baseline.view()["seed"]
    assert demo(rejected)["views"]["room"]["prompt"] == baseline.view()["prompt"]


def test_the_first_attempt_that_is_good_enough_is_kept(rejected, transfer):
    reasons = [*(attempt["reason"] for attempt in demo(rejected)["failed_attempts"]), demo(rejected)["rejected"]]
    reached = [psnr_db(reason) for reason in reasons]
    asked = sorted(reached)[1] - 1e-3  # two of the three reach it
    first = next(attempt for attempt, value in enumerate(reached) if value >= asked)
    outcome = transfer("--min_foreground_psnr", asked)
    assert outcome.record()["state"] == "done"
    assert demo(outcome)["attempt"] == first
    assert len(demo(outcome)["failed_attempts"]) == first
    with h5py.File(outcome.folder / "data_0.hdf5") as file:
        pictures = file["data/demo_0/observations/rgb_images"]
        assert pictures.attrs["guided_transfer.attempt"] == first
        assert json.loads(pictures.attrs["guided_transfer.seeds"])["room"] == outcome.view()["seed"]


def test_without_limits_everything_is_kept(baseline):
    assert demo(baseline)["attempt"] == 0
    assert demo(baseline)["rejected"] == ""


def test_what_cannot_be_measured_is_not_waved_through():
    nothing = EpisodeMetrics({}, None)
    assert faults(QualitySettings(), nothing) == ""
    for limit in ({"min_foreground_psnr": 20.0}, {"max_cross_view_error": 0.5}):
        with pytest.raises(EpisodeInconsistent, match="cannot be measured"):
            faults(QualitySettings(**limit), nothing)
