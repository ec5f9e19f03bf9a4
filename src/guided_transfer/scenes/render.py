"""From a scene to pictures, depth and labels; geometry once, then one shading pass per look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.scenes.shading import Surface, contact, develop, shade_real, shade_simulated
from guided_transfer.scenes.solids import Kind, Pinhole, Solids, cast, local_normal, pixel_bounds
from guided_transfer.scenes.styles import Slot, Style
from guided_transfer.scenes.world import GROUND, Scene
from guided_transfer.types import Camera

VIEWS = ("room", "wrist")

FRAMES_AT_ONCE = 33
"""On a GPU, where many rays hide the cost of a launch; a CPU's caches like one frame at a time."""


@dataclass(frozen=True)
class RenderedClip:
    """T frames of both views in S looks.

    Attributes:
        rgb: [S, V, T, H, W, 3] uint8; V = room, wrist.
        depth_m: [V, T, H, W] float32 along the optical axis.
        labels: [V, T, H, W] uint8, docs/conventions.md.
        cameras: one per view, on the CPU.
    """

    rgb: Tensor
    depth_m: Tensor
    labels: Tensor
    cameras: tuple[Camera, Camera]


def render_clip(
    scene: Scene,
    styles: Sequence[Style | None],
    *,
    frames: slice | range = slice(None),
    size_px: int = 224,
    device: torch.device | str = "cpu",
    noise_seed: int = 0,
) -> RenderedClip:
    """Render both views of some frames in every look.

    Args:
        scene: from sample_scene.
        styles: looks; None is the simulated one. May be empty where only geometry is wanted.
        frames: of the scene's trajectory.
        size_px: height and width of the pictures.
        device: where to compute; the result stays there.
        noise_seed: of the sensor noise; equal seeds give equal pictures on one device type.

    Raises:
        UsageError: no frame is asked for.
    """
    index = list(range(scene.num_frames)[frames] if isinstance(frames, slice) else frames)
    if not index:
        raise UsageError(f"frames {frames} names none of the scene's {scene.num_frames} frames")
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(noise_seed)
    at_once = FRAMES_AT_ONCE if device.type == "cuda" else 1
    still_room = _cast_still_room(scene, size_px, device)
    parts = []
    for start in range(0, len(index), at_once):
        surface = trace(scene, index[start : start + at_once], size_px, device, still_room)
        rgb = _looks(scene, surface, styles, generator)
        empty = torch.empty(0, *surface.shape, 3, dtype=torch.uint8, device=device)
        parts.append((torch.stack(rgb) if rgb else empty, surface.depth_m, surface.labels))
    looks_rgb, depths_m, label_maps = zip(*parts, strict=True)
    cameras = (_camera(scene.room, len(index), size_px), _camera(scene.wrist.frames(index), len(index), size_px))
    return RenderedClip(torch.cat(looks_rgb, 2), torch.cat(depths_m, 1), torch.cat(label_maps, 1), cameras)


def _looks(
    scene: Scene, surface: Surface, styles: Sequence[Style | None], generator: torch.Generator
) -> list[Tensor]:
    """One picture [V, T, H, W, 3] per style; what does not depend on the style is computed once."""
    ambient = contact(surface) if any(s is not None for s in styles) else None
    colours = (
        shade_simulated(surface, scene) if s is None or ambient is None else shade_real(surface, ambient, s)
        for s in styles
    )
    return [develop(c, surface, s, generator) for c, s in zip(colours, styles, strict=True)]


def _camera(pinhole: Pinhole, frames: int, size_px: int) -> Camera:
    view = pinhole.resized(size_px)
    rotation = view.rotation.double().mT.expand(frames, 3, 3)
    position = view.position_m.double().expand(frames, 3)
    pose = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = -(rotation @ position[..., None])[..., 0]
    half = size_px / 2
    k = torch.tensor([[view.focal_px, 0, half], [0, view.focal_px, half], [0, 0, 1]], dtype=torch.float64)
    return Camera(k.repeat(frames, 1, 1), pose, size_px, size_px)


Hits = tuple[Tensor, Tensor]
"""Depth [T, H, W] and the number of the solid that was met."""


def _no_hits(frames: int, size_px: int, device: torch.device) -> Hits:
    shape = (frames, size_px, size_px)
    depth_m = torch.full(shape, float("inf"), device=device)
    return depth_m, torch.zeros(shape, dtype=torch.int16, device=device)


def _cast_still_room(scene: Scene, size_px: int, device: torch.device) -> Hits:
    """Room view without the arm: neither camera nor things move, so one frame serves all."""
    camera = scene.room.resized(size_px)
    hits = _no_hits(1, size_px, device)
    cast(camera.to(device), scene.still.to(device), pixel_bounds(camera, scene.still), *hits, 0)
    return hits


def trace(scene: Scene, index: Sequence[int], size_px: int, device: torch.device, still_room: Hits) -> Surface:
    """What every pixel of both views sees in the given frames."""
    still, moving = scene.still, scene.moving.frames(index)
    room, wrist = scene.room.resized(size_px), scene.wrist.resized(size_px).frames(index)
    still_there, moving_there = still.to(device), moving.to(device)
    room_hits = (still_room[0].repeat(len(index), 1, 1), still_room[1].repeat(len(index), 1, 1))
    cast(room.to(device), moving_there, pixel_bounds(room, moving), *room_hits, len(still))
    wrist_hits = _no_hits(len(index), size_px, device)
    cast(wrist.to(device), still_there, pixel_bounds(wrist, still), *wrist_hits, 0)
    cast(wrist.to(device), moving_there, pixel_bounds(wrist, moving), *wrist_hits, len(still))
    depth_m, number = (torch.stack(pair) for pair in zip(room_hits, wrist_hits, strict=True))
    return _surface(still_there.joined(moving_there), (room.to(device), wrist.to(device)), depth_m, number.long())


def _surface(solids: Solids, cameras: tuple[Pinhole, Pinhole], depth_m: Tensor, number: Tensor) -> Surface:
    """Points, normals and materials at the hits [V, T, H, W], flattened to [V * T * H * W]."""
    views, frames, size_px, _ = depth_m.shape
    device = depth_m.device
    direction = torch.stack([_rays(c, frames) for c in cameras], 1)
    eye = torch.stack([c.position_m.expand(frames, 3) for c in cameras])  # [V, T, 3]
    eye_px = eye.permute(2, 0, 1)[..., None, None]
    point = (eye_px + depth_m * direction).reshape(3, -1)
    length = (direction * direction).sum(0).sqrt()
    view = (-direction / length).reshape(3, -1)

    which = (number + len(solids) * torch.arange(solids.centre_m.shape[0], device=device)[:, None, None]).reshape(
        -1
    )
    rotation = solids.rotation.reshape(-1, 9).T[:, which]  # world from local, row-major
    offset = point - solids.centre_m.reshape(-1, 3).T[:, which]
    q = torch.stack([(rotation[k::3] * offset).sum(0) for k in range(3)])
    flat = number.reshape(-1)
    kind_of = torch.tensor(solids.kind, device=device)[flat]
    slot = torch.tensor(solids.slot, device=device)[flat]
    label = torch.tensor(solids.label, dtype=torch.uint8, device=device)[flat]
    normal_q = torch.zeros_like(q)
    for kind in sorted(set(solids.kind)):
        here = (kind_of == kind).nonzero()[:, 0]
        size = solids.size_m.T[:, flat[here]]
        normal_q[:, here] = local_normal(solids, Kind(kind), size, q[:, here])
    normal_q = F.normalize(normal_q, dim=0)
    room = kind_of == Kind.ROOM
    floor = room & (normal_q[2] > 0.5)
    slot = torch.where(floor, int(Slot.FLOOR), torch.where(room & (normal_q[2] < -0.5), int(Slot.CEILING), slot))
    label = torch.where(floor, GROUND, label)
    normal = torch.stack([(rotation[3 * k : 3 * k + 3] * normal_q).sum(0) for k in range(3)])
    facing = (normal * view).sum(0).clamp(min=0.2)
    focal = torch.tensor([c.focal_px for c in cameras], device=device)[:, None, None, None]
    footprint = (depth_m / focal).reshape(-1) / facing.sqrt()
    slots = {Slot(s): (slot == s).nonzero()[:, 0] for s in sorted({*solids.slot, Slot.FLOOR, Slot.CEILING})}
    return Surface(
        (views, frames, size_px, size_px),
        depth_m,
        label.reshape(depth_m.shape),
        number,
        point,
        normal,
        view,
        q,
        normal_q,
        solids.size_m.T[:, flat],
        footprint,
        slot,
        {s: i for s, i in slots.items() if len(i)},
        solids.tint[flat],
        solids,
    )


def _rays(camera: Pinhole, frames: int) -> Tensor:
    """World directions [3, T, H, W] with unit component along the optical axis."""
    a = camera.offsets(camera.position_m.device)
    m = camera.rotation.permute(1, 2, 0)[..., None, None]  # [3, 3, T, 1, 1]
    directions = m[:, 0] * a + m[:, 2] + m[:, 1] * a[:, None]
    return directions.expand(3, frames, -1, -1)
