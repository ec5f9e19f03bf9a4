"""An independent backward look-up in numpy: what does the room show at each wrist pixel's own point?"""

from __future__ import annotations

import numpy as np

from guided_transfer.types import View


def project(room: View, wrist: View, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room pixel position (u, v) and room depth in metres of every wrist pixel's point, from the wrist's depth."""
    height, width = wrist.depth_m.shape[1:]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    k, pose = wrist.camera.intrinsics_px[frame].numpy(), wrist.camera.cam_from_world[frame].numpy()
    z = wrist.depth_m[frame].numpy().astype(float)
    z = np.where(np.isfinite(z), z, 1e6)
    local = np.stack([(x - k[0, 2]) / k[0, 0] * z, (y - k[1, 2]) / k[1, 1] * z, z], -1)
    world = (local - pose[:3, 3]) @ pose[:3, :3]
    k, pose = room.camera.intrinsics_px[frame].numpy(), room.camera.cam_from_world[frame].numpy()
    seen = world @ pose[:3, :3].T + pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = (k[i, i] * seen[..., i] / seen[..., 2] + k[i, 2] for i in (0, 1))
    return u, v, seen[..., 2]


def look_up(room: View, wrist: View, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours [H, W, 3] read bilinearly; visible [H, W]: all four room pixels within max(1 cm, 2 %) of the
    point; hidden [H, W]: outside the picture, or every room pixel in a 3 x 3 window clearly off the point.
    """
    u, v, z = project(room, wrist, frame)
    rows, columns = room.depth_m.shape[1:]
    depth, rgb = room.depth_m[frame].numpy(), room.rgb[frame].numpy().astype(float)
    inside = (z > 0) & (u > 0) & (v > 0) & (u < columns) & (v < rows)
    left = np.clip(np.floor(np.where(inside, u, 1) - 0.5).astype(int), 0, columns - 2)
    top = np.clip(np.floor(np.where(inside, v, 1) - 0.5).astype(int), 0, rows - 2)
    fraction_u, fraction_v = np.clip(u - 0.5 - left, 0, 1), np.clip(v - 0.5 - top, 0, 1)
    colour, visible = np.zeros((*u.shape, 3)), inside.copy()
    for dy, share_v in ((0, 1 - fraction_v), (1, fraction_v)):
        for dx, share_u in ((0, 1 - fraction_u), (1, fraction_u)):
            colour += (share_u * share_v)[..., None] * np.where(inside[..., None], rgb[top + dy, left + dx], 0)
            visible &= np.abs(depth[top + dy, left + dx] - z) < np.maximum(0.01, 0.02 * z)
    hidden = np.ones_like(inside)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            row, column = (
                np.clip(np.where(inside, p, 0).astype(int) + d, 0, n - 1)
                for p, d, n in ((v, dy, rows), (u, dx, columns))
            )
            hidden &= np.abs(depth[row, column] - z) > np.maximum(0.02, 0.03 * z)
    return np.where(inside[..., None], colour, 0), visible, hidden | ~inside


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((one.astype(float) - other.astype(float)) ** 2).mean()))
