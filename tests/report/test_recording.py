"""The rerun recording, read back."""

import json

import numpy as np
import pytest
import torch

from guided_transfer.cli.main import main
from guided_transfer.episodes.example import make_example_episode
from guided_transfer.episodes.read import open_episodes
from guided_transfer.report.page import write_pages
from guided_transfer.report.recording import POINTS, surface, write_recording


@pytest.fixture(scope="module")
def episode(tmp_path_factory):
    path = make_example_episode(tmp_path_factory.mktemp("source") / "data_0.hdf5", 3, height_px=48, width_px=64)
    with open_episodes(path) as file:
        return file.read("demo_0")


def chunks_of(path):
    """Record batches by entity."""
    reader = pytest.importorskip("rerun.chunk", reason="rerun is not installed (extra rerun)").RrdReader
    found = {}
    for chunk in reader(path).store().stream():
        batch = chunk.to_record_batch()
        clocks = [name for name in batch.schema.names if name in ("time", "log_time")]
        found.setdefault(chunk.entity_path, []).append(batch.drop_columns(clocks))
    return found


def test_points_lie_on_the_surface_they_show(episode):
    view = episode.views["room"]
    points_m, colours = surface(view, view.rgb, 1)
    known = view.depth_m[1].isfinite()
    assert not known.all()
    assert points_m.shape == colours.shape == (int(known.sum()), 3)
    camera = view.camera
    seen = camera.cam_from_world[1, :3, :3].float() @ points_m.mT + camera.cam_from_world[1, :3, 3:].float()
    pixels = camera.intrinsics_px[1].float() @ seen / seen[2]
    torch.testing.assert_close(seen[2], view.depth_m[1][known], atol=1e-5, rtol=0)
    centres = torch.stack(torch.meshgrid(torch.arange(64) + 0.5, torch.arange(48) + 0.5, indexing="xy"))
    torch.testing.assert_close(pixels[:2], centres[:, known], atol=1e-3, rtol=0)
    assert torch.equal(colours, view.rgb[1][known])
    table = points_m[view.labels[1][known] == 2]
    assert table[:, 2].abs().max() < 1e-4  # the simulator's table is the plane z = 0


def test_large_pictures_give_no_more_points():
    from guided_transfer.types import Camera, View

    size = 224
    k = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]]).double()[None]
    depth_m = torch.full((1, size, size), 2.0)
    depth_m[0, :100] = torch.inf  # sky is no surface
    view = View(
        "room",
        torch.zeros(1, size, size, 3, dtype=torch.uint8),
        depth_m,
        None,
        Camera(k, torch.eye(4).double()[None], size, size),
    )
    points_m, _ = surface(view, view.rgb, 0)
    assert POINTS / 4 < len(points_m) <= POINTS
    assert points_m[:, 2].unique().tolist() == [2.0]


def test_recording_holds_cameras_pictures_and_points(episode, tmp_path):
    pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    generated = {name: 255 - view.rgb for name, view in episode.views.items()}
    path = write_recording(tmp_path / "data_0.rrd", episode, generated)
    assert [file.name for file in tmp_path.iterdir()] == ["data_0.rrd"]
    found = chunks_of(path)
    assert {"/world/room/generated", "/world/wrist/generated", "/simulated/room", "/simulated/wrist"} <= set(found)
    points = [row for batch in found["/world/surface"] for row in batch.to_pylist()]
    assert [row["frame"] for row in points] == [0, 1, 2]
    wanted, colours = surface(episode.views["room"], generated["room"], 2)
    assert np.allclose(points[2]["Points3D:positions"], wanted)
    packed = torch.tensor(points[2]["Points3D:colors"])
    rgb = torch.stack([packed >> 24 & 255, packed >> 16 & 255, packed >> 8 & 255], -1)
    assert torch.equal(rgb, colours.long())
    rows = [row for batch in found["/world/wrist"] for row in batch.to_pylist()]
    poses = {row["frame"]: row for row in rows if row.get("Transform3D:translation")}
    centre = torch.linalg.inv(episode.views["wrist"].camera.cam_from_world[1])[:3, 3]
    assert np.allclose(poses[1]["Transform3D:translation"][0], centre)


def test_report_records_what_was_published(real_run, tmp_path):
    pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    import shutil

    out = shutil.copytree(real_run, tmp_path / "out")
    record = json.loads((out / "ledger" / "data_0.json").read_text())
    shutil.copy(record["source"]["file"], out / "data_0.hdf5")  # as published, but unchanged
    assert main(["report", str(out), "--rerun"]) == 0
    found = chunks_of(out / "report" / "media" / "data_0" / "data_0.rrd")
    assert "/metrics/Foreground_PSNR/room" in found
    page = (out / "report" / "episodes" / "data_0.html").read_text()
    assert 'href="../media/data_0/data_0.rrd"' in page
    assert not list((out / "report" / "media").glob("data_1/*.rrd"))  # rejected: nothing was published
    (out / "data_0.hdf5").unlink()
    assert main(["report", str(out), "--rerun"]) == 0
    write_pages(out)
