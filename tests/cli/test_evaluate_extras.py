"""`evaluate --extras`: what is there is measured, what is missing says how to get it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from guided_transfer.cli.evaluate_extras import EXTRAS, Extras, chosen_extras
from guided_transfer.cli.main import main
from guided_transfer.episodes.example import make_example_episode
from guided_transfer.episodes.read import open_episodes
from guided_transfer.episodes.video import write_mp4
from guided_transfer.errors import UsageError
from guided_transfer.metrics.learned import depth, frechet, lpips, masks
from guided_transfer.metrics.suite import baseline_videos, jittered
from guided_transfer.report.data import read_run
from guided_transfer.report.page import write_pages
from tiny_vision import write_depth_anything, write_sam2, write_video_features


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with every network but DOVER, each small and random."""
    root = tmp_path_factory.mktemp("networks")
    (root / "lpips").mkdir()
    torch.manual_seed(0)
    write_depth_anything(root / depth.REPOSITORY)
    write_sam2(root / masks.REPOSITORY)
    write_video_features(root / frechet.REPOSITORY)
    model = lpips.Lpips()
    trunk = {
        f"features.{place}.{kind}": getattr(convolution, kind)
        for place, convolution in zip(lpips.PLACES, model.convolutions, strict=True)
        for kind in ("weight", "bias")
    }
    heads = {f"lin{index}.model.1.weight": head.weight.abs() for index, head in enumerate(model.heads)}
    torch.save(trunk, root / "lpips" / lpips.TRUNK)
    torch.save(heads, root / "lpips" / lpips.HEADS)
    return root


@pytest.fixture
def folder(baseline, tmp_path):
    """A copy of a finished run, to be written to."""
    return shutil.copytree(baseline.folder, tmp_path / "copy")


def test_what_is_missing_is_named_and_the_rest_measured(folder, checkpoints, capsys):
    words = ["evaluate", str(folder), "--extras", "all", "--checkpoint_dir", str(checkpoints), "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    rows = {line.pop("row"): line for line in lines if "row" in line}
    missing = {line["not_measured"]: line["reason"] for line in lines if "not_measured" in line}
    assert set(missing) == {"dover", "diversity", "fvd"}
    assert "onnx_dover.onnx" in missing["dover"]
    assert "--variants" in missing["diversity"]
    assert "--real_video_dir" in missing["fvd"]
    assert list(rows) == ["data_0", "mean", "identity", "colour jitter"]
    for row in rows.values():
        assert {"foreground_lpips", "background_lpips", "depth_si_rmse_m", "mask_miou"} <= row.keys()
    assert rows["identity"]["background_lpips"] == pytest.approx(0, abs=1e-9)
    assert rows["mean"]["background_lpips"] > 0
    assert rows["mean"]["depth_si_rmse_m"] == rows["data_0"]["depth_si_rmse_m"]
    kept = json.loads((folder / "evaluation.json").read_text())
    assert kept["not_measured"] == missing
    page = write_pages(folder).read_text()
    assert "Measured on request" in page
    assert "foreground LPIPS" in page
    assert "DOVER technical" not in page  # a column that nobody has
    assert "not measured" in page
    assert list(read_run(folder).extra_rows) == ["this run", "identity", "colour jitter"]


def test_without_any_network_the_table_is_still_there(folder, tmp_path, capsys):
    assert main(["evaluate", str(folder), "--extras", "all", "--checkpoint_dir", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} not measured:" in out for name in EXTRAS)
    assert "checkpoints download --only sam2" in out
    assert json.loads((folder / "evaluation.json").read_text())["rows"]["mean"]["foreground_psnr_db"]


def test_sets_of_videos_are_compared(checkpoints, tmp_path):
    make_example_episode(tmp_path / "data_0.hdf5", 32, height_px=32, width_px=32)
    with open_episodes(tmp_path / "data_0.hdf5") as file:
        source = file.read("demo_0")
    real = tmp_path / "real" / "monday"
    real.mkdir(parents=True)
    for name, view in source.views.items():
        write_mp4(real / f"{name}.mp4", view.rgb, 30, crf=1)
    extras = Extras.load(("diversity", "fvd"), checkpoints, "cpu", str(real.parent))
    assert not extras.missing
    labels = (3, 4)
    rows = baseline_videos(source)
    for method, videos in rows.items():
        extras.measure(method, method, source, videos, labels)
    variants = [rows["identity"], {name: jittered(rgb) for name, rgb in rows["colour jitter"].items()}]
    for index, videos in enumerate(variants):
        extras.measure(f"data_0_v{index}", "mean", source, videos, labels)
    found = {}
    for row, figures in extras.of_rows():
        found.setdefault(row, {}).update(figures)
    assert found["data_0_v0"]["diversity_lpips"] == found["data_0_v1"]["diversity_lpips"] > 0
    # what is compared with itself lies near, but for the video's compression
    assert found["identity"]["fvd"] < 0.2 * found["colour jitter"]["fvd"]
    other = replace(source, id="data_1/demo_0", source=Path("data_1.hdf5"))
    extras.measure("data_1", "mean", other, variants[0], labels)
    assert "data_1" not in dict(extras.of_rows())  # one variant has nobody to differ from


def test_too_few_clips_are_a_reason_and_no_fault(checkpoints, tmp_path):
    make_example_episode(tmp_path / "data_0.hdf5", 8, height_px=32, width_px=32)
    with open_episodes(tmp_path / "data_0.hdf5") as file:
        source = file.read("demo_0")
    write_mp4(tmp_path / "real.mp4", source.views["room"].rgb, 30)
    extras = Extras.load(("fvd",), checkpoints, "cpu", str(tmp_path))
    extras.measure("data_0", "mean", source, {"room": source.views["room"].rgb}, (3,))
    assert dict(extras.of_rows()) == {"mean": {"fvd": None}}
    assert "two clips" in extras.missing["fvd"]


def test_words_that_are_no_extras_are_refused(folder, tmp_path, capsys):
    assert main(["evaluate", str(folder), "--extras", "lpips,beauty"]) == 1
    assert "'beauty' is none" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds no video"):
        Extras.load(("fvd",), tmp_path, "cpu", str(tmp_path / "none"))
    assert chosen_extras("", "videos") == ("fvd",)
    assert chosen_extras("depth, lpips", "") == ("lpips", "depth")
