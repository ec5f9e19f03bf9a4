"""One episode as a rerun recording: both cameras where they were, and the room in its generated colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.report.figures import Chart, Metrics, charts_of
from guided_transfer.types import Camera, Episode, View
from guided_transfer.whole import whole_file

POINTS = 10_000
"""So many points per frame at most: every third row and column of a picture of 224 x 224."""

JPEG_QUALITY = 90
FRUSTUM_M = 0.1
POINT_RADIUS_PX = 2.0


def require_rerun() -> Any:
    """The rerun package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import rerun
    except ImportError:
        raise UsageError("--rerun needs the rerun SDK: pip install 'guided-transfer[rerun]'") from None
    return rerun


def write_recording(
    path: Path, episode: Episode, generated: Mapping[str, Tensor], metrics: Metrics | None = None
) -> Path:
    """Write an .rrd file; `rerun FILE` opens it.

    Holds by view the camera with its frustum, the simulated and the generated pictures, and for the first view with
    depth and camera its surface as points in the generated colours; the figures over time as curves.

    Args:
        path: the new file; it appears whole or not at all.
        episode: as simulated.
        generated: [T, H, W, 3] uint8 by view name.
        metrics: of the episode, as its record holds them.

    Raises:
        UsageError: rerun is not installed.
    """
    rr = require_rerun()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=False) as partial:
        recording = rr.RecordingStream("guided-transfer", recording_id=episode.id)
        recording.save(partial, default_blueprint=_blueprint(list(generated)))
        _log(rr, recording, episode, generated, metrics)
        recording.flush()
        recording.disconnect()
    return path


def _log(
    rr: Any, recording: Any, episode: Episode, generated: Mapping[str, Tensor], metrics: Metrics | None
) -> None:
    """All frames of an episode."""
    recording.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    views = {name: episode.views[name] for name in generated}
    with_surface = next((v for v in views.values() if v.depth_m is not None and v.camera is not None), None)
    charts = charts_of(metrics, ()) if metrics else ()
    for frame in range(episode.num_frames):
        recording.set_time("frame", sequence=frame)
        recording.set_time("time", duration=frame / episode.fps)
        for name, view in views.items():
            if view.camera is not None:
                for archetype in _camera(rr, view.camera, frame):
                    recording.log(f"world/{name}", archetype)
            pictures = {f"world/{name}/generated": generated[name], f"simulated/{name}": view.rgb}
            for entity, rgb in pictures.items():
                recording.log(entity, rr.Image(rgb[frame].numpy()).compress(jpeg_quality=JPEG_QUALITY))
        if with_surface is not None:
            points_m, colours = surface(with_surface, generated[with_surface.name], frame)
            radius = rr.Radius.ui_points(POINT_RADIUS_PX)
            recording.log("world/surface", rr.Points3D(points_m.numpy(), colors=colours.numpy(), radii=radius))
        for entity, value in _curves(charts, frame):
            recording.log(entity, rr.Scalars(value))


def surface(view: View, rgb: Tensor, frame: int) -> tuple[Tensor, Tensor]:
    """What a view sees of the world in one frame: points [N, 3] float32 in metres, and their colours [N, 3] uint8.

    Pixels on an even grid of at most POINTS; those without depth are left out.

    Args:
        view: with depth_m and camera.
        rgb: [T, H, W, 3] uint8, of the colours.
        frame: which.
    """
    assert view.depth_m is not None
    assert view.camera is not None
    height, width = view.depth_m.shape[1:]
    stride = math.ceil((height * width / POINTS) ** 0.5)
    v, u = torch.meshgrid(torch.arange(0, height, stride), torch.arange(0, width, stride), indexing="ij")
    z = view.depth_m[frame][v, u].double()
    known = z.isfinite() & (z > 0)
    u, v, z = u[known], v[known], z[known]
    pixels = torch.stack([u + 0.5, v + 0.5, torch.ones_like(z)]).double()  # [3, N]
    in_camera = torch.linalg.inv(view.camera.intrinsics_px[frame].double()) @ pixels * z
    world_from_cam = torch.linalg.inv(view.camera.cam_from_world[frame].double())
    in_world = world_from_cam[:3, :3] @ in_camera + world_from_cam[:3, 3:]
    return in_world.mT.float().contiguous(), rgb[frame][v, u]


def _camera(rr: Any, camera: Camera, frame: int) -> tuple[Any, Any]:
    world_from_cam = torch.linalg.inv(camera.cam_from_world[frame].double())
    pose = rr.Transform3D(translation=world_from_cam[:3, 3].numpy(), mat3x3=world_from_cam[:3, :3].numpy())
    pinhole = rr.Pinhole(
        image_from_camera=camera.intrinsics_px[frame].numpy(),
        resolution=[camera.width_px, camera.height_px],
        camera_xyz=rr.ViewCoordinates.RDF,
        image_plane_distance=FRUSTUM_M,
    )
    return pose, pinhole


def _curves(charts: Sequence[Chart], frame: int) -> Iterator[tuple[str, float]]:
    """Entity and value of every figure that is known in a frame."""
    for chart in charts:
        for line in chart.lines:
            if frame < len(line.values) and (value := line.values[frame]) is not None:
                yield f"metrics/{chart.title}/{line.name}".replace(" ", "_"), value


def _blueprint(names: list[str]) -> Any:
    """The world on the left, the pictures beside it, the curves below."""
    import rerun.blueprint as rrb

    pictures = [
        rrb.Spatial2DView(origin=origin, name=title)
        for name in names
        for origin, title in ((f"simulated/{name}", f"{name}, simulated"), (f"world/{name}", f"{name}, generated"))
    ]
    above = rrb.Horizontal(rrb.Spatial3DView(origin="world", name="world"), rrb.Grid(*pictures))
    return rrb.Blueprint(rrb.Vertical(above, rrb.TimeSeriesView(origin="metrics"), row_shares=[4, 1]))
