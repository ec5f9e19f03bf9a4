"""Scenes whose every ray has a closed answer: textured boxes over a floor, seen by pinhole cameras.

An oracle for the warp: it casts rays, shares no code with `guided_transfer.warp`, and can ask of any point
whether any camera sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from guided_transfer.types import Camera


def look_at(eye, at, up=(0.0, 0.0, 1.0)) -> np.ndarray:
    """cam_from_world [4, 4] of a camera at `eye` (x right, y down, z forward)."""
    forward = np.subtract(at, eye).astype(float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ np.asarray(eye, float)
    return matrix


def camera(poses, size=(48, 64), focal_px=60.0) -> Camera:
    height, width = size
    intrinsics = torch.tensor([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]], dtype=torch.float64)
    poses = torch.from_numpy(np.stack([np.asarray(p) for p in poses]))
    return Camera(intrinsics.repeat(len(poses), 1, 1), poses, height, width)


def texture(points: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Smooth colours [N, 3] in 0..255 that differ between surfaces."""
    phase = identity[:, None] * np.array([1.3, 2.1, 0.7])
    waves = np.sin(points @ np.array([[9.0, 5.0, 3.0], [4.0, 8.0, 6.0], [5.0, 3.0, 9.0]]) + phase)
    return 127 + 90 * waves


@dataclass
class Scene:
    """Boxes [(low corner, high corner)] in metres; box 0 is usually a thin floor."""

    boxes: list[tuple[tuple[float, float, float], tuple[float, float, float]]] = field(default_factory=list)

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest hit along each ray: parameter (inf = none) and which face, box * 6 + face."""
        best = np.full(len(rays), np.inf)
        which = np.full(len(rays), -1)
        for index, (low, high) in enumerate(self.boxes):
            with np.errstate(divide="ignore", invalid="ignore"):
                a = (np.asarray(low) - origin) / rays
                b = (np.asarray(high) - origin) / rays
            near, far = np.minimum(a, b), np.maximum(a, b)
            axis = np.nanargmax(near, 1)
            enter, leave = np.nanmax(near, 1), np.nanmin(far, 1)
            hit = (enter <= leave) & (enter > 1e-9) & (enter < best)
            best[hit] = enter[hit]
            side = np.take_along_axis(rays, axis[:, None], 1)[:, 0] > 0
            which[hit] = (index * 6 + axis * 2 + side)[hit]
        return best, which

    def render(self, cam: Camera, frame: int = 0, supersample: int = 1):
        """rgb [H, W, 3] uint8, depth_m [H, W] float32 (inf = nothing), face [H, W] of one frame."""
        origin, rays = _rays(cam, frame)
        distance, which = self.cast(origin, rays)
        points = origin + np.where(np.isfinite(distance), distance, 0)[:, None] * rays
        rgb = np.where(which[:, None] >= 0, texture(points, which), 0)
        shape = (cam.height_px, cam.width_px)
        return (
            torch.from_numpy((rgb + 0.5).astype(np.uint8).reshape(*shape, 3)),
            torch.from_numpy(distance.astype(np.float32).reshape(shape)),
            torch.from_numpy(which.reshape(shape)),
        )

    def clip(self, cam: Camera):
        frames = [self.render(cam, t) for t in range(len(cam))]
        return tuple(torch.stack([f[k] for f in frames]) for k in range(3))

    def seen_by_both(self, viewer: Camera, other: Camera, frame: int = 0) -> np.ndarray:
        """[H, W] bool: pixels of `viewer` whose surface point `other` sees, unoccluded and inside its image."""
        origin, rays = _rays(viewer, frame)
        distance, which = self.cast(origin, rays)
        hit = np.isfinite(distance)
        points = origin + np.where(hit, distance, 1.0)[:, None] * rays
        matrix = other.cam_from_world[frame].numpy()
        local = points @ matrix[:3, :3].T + matrix[:3, 3]
        k = other.intrinsics_px[frame].numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            u = k[0, 0] * local[:, 0] / local[:, 2] + k[0, 2]
            v = k[1, 1] * local[:, 1] / local[:, 2] + k[1, 2]
        inside = (local[:, 2] > 0) & (u > 0) & (u < other.width_px) & (v > 0) & (v < other.height_px)
        eye = -matrix[:3, :3].T @ matrix[:3, 3]
        reach, face = self.cast(eye, points - eye)
        seen = hit & inside & (np.abs(reach - 1) < 1e-6) & (face == which)
        return seen.reshape(viewer.height_px, viewer.width_px)


def _rays(cam: Camera, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """World origin [3] and rays [H * W, 3] of depth 1 along the axis."""
    k, matrix = cam.intrinsics_px[frame].numpy(), cam.cam_from_world[frame].numpy()
    x, y = np.meshgrid(np.arange(cam.width_px) + 0.5, np.arange(cam.height_px) + 0.5)
    local = np.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones_like(x)], -1).reshape(-1, 3)
    return -matrix[:3, :3].T @ matrix[:3, 3], local @ matrix[:3, :3]


def cluttered_table(seed: int) -> Scene:
    """A table over a floor with blocks on it, none of which is near a camera of `two_cameras`."""
    rng = np.random.default_rng(seed)
    boxes = [((-3, -3, -0.05), (3, 3, 0.0)), ((-0.6, -0.4, 0.7), (0.6, 0.4, 0.75))]
    for _ in range(6):
        x, y = rng.uniform(-0.45, 0.45), rng.uniform(-0.3, 0.3)
        half, high = rng.uniform(0.03, 0.1, 2), rng.uniform(0.05, 0.25)
        boxes.append(((x - half[0], y - half[1], 0.75), (x + half[0], y + half[1], 0.75 + high)))
    return Scene(boxes)


def two_cameras(seed: int, size=(96, 96)) -> tuple[Camera, Camera]:
    """A room camera far off and a wrist camera close above the table."""
    rng = np.random.default_rng(seed + 1000)
    room = look_at((1.6 + 0.3 * rng.random(), rng.uniform(-0.8, 0.8), 1.7), (0, 0, 0.7))
    at = np.array([*rng.uniform(-0.2, 0.2, 2), 0.75])
    wrist = look_at(at + np.array([rng.uniform(-0.3, -0.1), rng.uniform(-0.2, 0.2), 0.45]), at)
    return camera([room], size, 1.15 * size[1]), camera([wrist], size, 0.65 * size[1])
