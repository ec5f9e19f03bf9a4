"""Two output folders: a small recorded one, and one whose videos are real."""

import json
import shutil

import pytest
import torch
from recorded_run import RECORDED, recorded_run

from guided_transfer.cli.media import write_media
from guided_transfer.cli.report import finish_report
from guided_transfer.episodes.example import make_example_episode
from guided_transfer.episodes.read import open_episodes
from guided_transfer.episodes.video import write_mp4
from guided_transfer.metrics.suite import episode_metrics, jittered
from guided_transfer.report.curve import Point, Sweep, write_sweep
from guided_transfer.two_view import TwoViewSettings
from guided_transfer.types import TransferResult

NUM_FRAMES = 24
SIZE_PX = 64


@pytest.fixture
def recorded(tmp_path):
    """The recorded folder, to be written to."""
    return recorded_run(tmp_path)


@pytest.fixture(scope="session")
def real_run(tmp_path_factory):
    """The report of two measured episodes with every kind of video, and of a failed one; with a curve, and figures
    that were taken on request.
    """
    root = tmp_path_factory.mktemp("real_run")
    out = root / "out"
    shutil.copytree(RECORDED / "out", out)
    settings = TwoViewSettings(control_weights={"edge": 0.5, "depth": 0.5})
    for stem in ("data_0", "data_1"):
        source = root / f"{stem}.hdf5"
        make_example_episode(source, NUM_FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
        with open_episodes(source) as file:
            episode = file.read("demo_0")
        generated = {name: jittered(view.rgb) for name, view in episode.views.items()}
        zones = {"wrist": episode.views["wrist"].labels.clamp(max=4)}
        for name, rgb in generated.items():
            write_mp4(out / f"{stem}_{name}_view.mp4", rgb, episode.fps)
        write_media(out, stem, episode, TransferResult(stem, generated, {}, zones=zones), settings)
        path = out / "ledger" / f"{stem}.json"
        record = json.loads(path.read_text())
        record["source"]["file"] = str(source)
        record["result"]["demo_0"]["metrics"] = episode_metrics(episode, generated).as_dict()
        path.write_text(json.dumps(record))
    rows = {row: {"foreground_lpips": 0.2, "mask_miou": None} for row in ("mean", "identity", "colour jitter")}
    missing = {"depth": "checkpoints/config.json is missing; get it with `guided-transfer checkpoints download`"}
    (out / "evaluation.json").write_text(json.dumps({"rows": rows, "not_measured": missing}))
    figures = {"foreground_psnr_db": 21.0, "background_delta_e": 12.0, "ceiling_psnr_db": 24.0}
    points = [Point("guided", "num_steps", 12, figures, chosen=True), Point("direct", "", None, figures)]
    write_sweep(out / "sweep", Sweep(["data_0/demo_0"], points, {}))
    finish_report(out)
    return out


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
