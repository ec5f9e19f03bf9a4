"""Depth and labels against an independent march in float64, and both views against each other."""

import functools

import pytest
import torch
from torch import Tensor

from guided_transfer import scenes
from guided_transfer.scenes.render import RenderedClip, _cast_still_room, trace
from guided_transfer.scenes.shading import shadow
from guided_transfer.scenes.solids import Kind, Solids
from guided_transfer.types import Camera

SIZE_PX = 64


@functools.cache
def clip_of(seed: int) -> tuple[scenes.Scene, RenderedClip, int]:
    scene = scenes.sample_scene(seed)
    frame = scene.num_frames * 2 // 3
    return scene, scenes.render_clip(scene, [], frames=[frame], size_px=SIZE_PX), frame


def signed(solids: Solids, i: int, points: Tensor) -> Tensor:
    """Negative inside solid i, for world points [N, 3]; written from the definition of each shape."""
    q = (points - solids.centre_m[0, i].double()) @ solids.rotation[0, i].double()
    size = solids.size_m[i].double()
    kind = solids.kind[i]
    if kind == Kind.ROOM:
        return (size - q.abs()).amin(-1)
    if kind == Kind.BOX:
        return (q.abs() - size).amax(-1)
    if kind == Kind.ELLIPSOID:
        return (q / size).norm(dim=-1) - 1
    if kind == Kind.CAPSULE:
        nearest = torch.stack([q[:, 0] * 0, q[:, 1] * 0, q[:, 2].clamp(-size[2], size[2])], -1)
        return (q - nearest).norm(dim=-1) - size[0]
    if kind == Kind.CYLINDER:
        return torch.maximum(q[:, :2].norm(dim=-1) - size[0], q[:, 2].abs() - size[2])
    assert solids.torso is not None
    value = solids.torso.value(*q.T)
    return torch.where((q.abs() <= size).all(-1), value, 1.0)


def rays(camera: Camera, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Origin [3] and directions [N, 3] of unit depth through the centres of pixels [N, 2] (row, column)."""
    pose, k = camera.cam_from_world[0], camera.intrinsics_px[0]
    centre = torch.stack([pixels[:, 1] + 0.5, pixels[:, 0] + 0.5, torch.ones(len(pixels))], -1).double()
    return -pose[:3, :3].T @ pose[:3, 3], centre @ torch.linalg.inv(k).T @ pose[:3, :3]


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("seed", [3, 8, 20])
def test_depth_and_label_are_those_of_the_first_surface_on_the_ray(seed: int, view: int) -> None:
    scene, clip, frame = clip_of(seed)
    solids = scene.still.joined(scene.moving.frames([frame]))
    pixels = torch.cartesian_prod(torch.arange(3, SIZE_PX, 7), torch.arange(2, SIZE_PX, 7))
    origin, direction = rays(clip.cameras[view], pixels)
    depth = clip.depth_m[view, 0][pixels[:, 0], pixels[:, 1]].double()
    label = clip.labels[view, 0][pixels[:, 0], pixels[:, 1]].long()
    assert torch.isfinite(depth).all()

    on_surface = torch.full((len(pixels),), torch.inf, dtype=torch.float64)
    matched = torch.full((len(pixels),), -1)
    for i, kind in enumerate(solids.kind):
        before = [
            signed(solids, i, origin + s * depth[:, None] * direction) for s in torch.linspace(0.03, 0.995, 120)
        ]
        if kind != Kind.ROOM:
            assert (torch.stack(before) > -0.02).all(), f"solid {i} of kind {kind} lies in front of the depth"
        there = signed(solids, i, origin + depth[:, None] * direction).abs()
        closer = there < on_surface
        on_surface, matched = torch.where(closer, there, on_surface), torch.where(closer, i, matched)
    assert float(on_surface.max()) < 2e-2  # unitless for ellipsoids and the torso, metres elsewhere
    assert float(on_surface.median()) < 1e-5
    expected = torch.tensor(solids.label)[matched]
    floor = torch.tensor(solids.kind)[matched] == Kind.ROOM
    low = (origin + depth[:, None] * direction)[:, 2] < -0.779
    expected = torch.where(floor & low, 1, expected)
    assert (expected == label).float().mean() > 0.98  # ties where two solids touch


@pytest.mark.parametrize("seed", [3, 8, 20])
def test_views_agree_where_both_see_the_same_point(seed: int) -> None:
    _, clip, _ = clip_of(seed)
    room, wrist = clip.cameras
    pixels = torch.cartesian_prod(torch.arange(SIZE_PX), torch.arange(SIZE_PX))
    origin, direction = rays(wrist, pixels)
    world = origin + clip.depth_m[1, 0].double().reshape(-1, 1) * direction
    pose, k = room.cam_from_world[0], room.intrinsics_px[0]
    in_room = world @ pose[:3, :3].T + pose[:3, 3]
    px = (in_room / in_room[:, 2:]) @ k.T
    column, row = px[:, 0].floor().long(), px[:, 1].floor().long()
    seen = (in_room[:, 2] > 0) & (column >= 0) & (column < SIZE_PX) & (row >= 0) & (row < SIZE_PX)
    measured = clip.depth_m[0, 0].double()[row[seen], column[seen]]
    predicted = in_room[seen, 2]
    visible = (measured - predicted).abs() < 0.03 * predicted
    assert visible.float().mean() > 0.2
    nearby = -torch.nn.functional.max_pool2d(-clip.depth_m[0, :1], 3, 1, 1)[0].double()[row[seen], column[seen]]
    assert (nearby < 1.01 * predicted).float().mean() > 0.99, "nothing is seen through"
    same = clip.labels[1, 0].reshape(-1)[seen][visible] == clip.labels[0, 0][row[seen], column[seen]][visible]
    assert same.float().mean() > 0.93


def test_every_scene_frames_the_setup_and_the_wrist_sees_probe_and_phantom() -> None:
    for seed in (0, 5, 11, 17, 29):
        scene = scenes.sample_scene(seed)
        middle = scene.num_frames * 3 // 4
        labels = scenes.render_clip(scene, [], frames=[middle], size_px=56).labels
        room, wrist = (torch.bincount(v.flatten().long(), minlength=5) / 56**2 for v in labels)
        assert room[2] > 0.10
        assert 0.01 < room[3] < 0.3
        assert 0.01 < room[4] < 0.3
        assert wrist[3] > 0.10
        assert wrist[4] > 0.02
        assert wrist[2] > 0.01


def test_sharp_shadows_on_the_table_are_those_of_a_march_to_the_lamp() -> None:
    scene = scenes.sample_scene(8)
    device, frame = torch.device("cpu"), scene.num_frames // 2
    surface = trace(scene, [frame], SIZE_PX, device, _cast_still_room(scene, SIZE_PX, device))
    toward = torch.nn.functional.normalize(torch.tensor([-0.6, 0.3, 0.8]), dim=0)
    lit = shadow(surface, toward, softness=1e-3)
    table = ((surface.labels.flatten() == 2) & (surface.point[2] > -1e-3)).nonzero()[::3, 0]
    points = surface.point[:, table].T.double()
    blocked = torch.zeros(len(table), dtype=torch.bool)
    for i, casts in enumerate(surface.solids.casts):
        if casts and surface.solids.label[i] != 2:
            for s in torch.linspace(0.01, 1.2, 120).double():
                blocked |= signed(surface.solids, i, points + s * toward.double()) < 0
    dark = lit[table] < 0.5
    assert blocked.sum() > 30
    assert dark[blocked].float().mean() > 0.85
    assert dark[~blocked].float().mean() < 0.03
