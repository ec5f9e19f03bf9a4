"""The integration's own warp and compositing, kept so that parity can be measured.

It has no depth test and blurs over 6 px; `docs/differences.md` names its faults. Two things differ: sums are
complete (the original drops contributions that meet in one pixel), and points on or behind the target's plane,
whose place is undefined, are left out.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.types import Camera
from guided_transfer.warp.zones import Zone

MAX_DEPTH_M = 5.0
SPLAT_RADIUS_PX = 6
TABLE_LABEL = 2


def splat_soft(
    frames: Tensor, depth_m: Tensor, source: Camera, target: Camera, usable: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted splat: every pixel spreads over a disc of 6 px, nearer ones up to 2.5 times stronger.

    A disc of bilinear splats is a bilinear splat followed by a convolution, so one scatter suffices. Pixel
    centres are at integers here. Runs in float64 on the CPU, where the order of additions is fixed.

    Args:
        frames: [T, H, W, 3] uint8, or float32 in -1..1.
        depth_m: as in `warp_view`, like all that follow.
        source: camera of `frames`.
        target: the other camera.
        usable: the mask.

    Returns:
        rgb [T, H', W', 3] like `frames` (uint8 truncated; nothing landed: 0, or -1 for float) and valid
        [T, H', W'] bool.
    """
    colours = frames.cpu().double() / 127.5 - 1 if frames.dtype == torch.uint8 else frames.cpu().double()
    views = [
        _splat_frame(colours[t], depth_m[t].cpu().double(), source[t : t + 1], target[t : t + 1], usable[t].cpu())
        for t in range(len(frames))
    ]
    rgb, valid = torch.stack([v[0] for v in views]), torch.stack([v[1] for v in views])
    if frames.dtype == torch.uint8:
        rgb = rgb * 127.5 + 127.5
    return rgb.to(frames.dtype).to(frames.device), valid.to(frames.device)


def _splat_frame(
    colours: Tensor, depth_m: Tensor, source: Camera, target: Camera, usable: Tensor
) -> tuple[Tensor, Tensor]:
    u, v, z = _project(depth_m.clamp(max=MAX_DEPTH_M), source, target)
    nearness = z.clamp(0, 1000)
    low, high = nearness.min(), nearness.max()
    weight = usable.reshape(-1) / (1 + 1.5 * (nearness - low) / (high - low).clamp(min=1e-12))
    weight = torch.where(z > 0, weight, 0.0)
    summed = _scatter_bilinear(colours.reshape(-1, 3), weight, u, v, target.height_px, target.width_px)
    summed = F.conv2d(summed[:, None], _disc()[None, None])[:, 0]
    valid = summed[3] > 1e-6
    rgb = torch.where(valid, summed[:3] / (summed[3] + 1e-8), -1.0).clamp(-1, 1)
    return rgb.permute(1, 2, 0), valid


def _project(depth_m: Tensor, source: Camera, target: Camera) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = depth_m.shape
    v, u = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1)
    points = torch.linalg.inv(source.intrinsics_px[0].cpu()) @ pixels * depth_m.reshape(-1)
    relative = (target.cam_from_world[0] @ torch.linalg.inv(source.cam_from_world[0])).cpu()
    seen = target.intrinsics_px[0].cpu() @ (relative[:3, :3] @ points + relative[:3, 3:])
    place = torch.where(seen[2] > 0, seen[:2] / seen[2], -torch.inf)
    return place[0], place[1], seen[2]


def _scatter_bilinear(colours: Tensor, weight: Tensor, u: Tensor, v: Tensor, height: int, width: int) -> Tensor:
    """Sums [4, H + 2 pad, W + 2 pad] of weighted colours and of weights."""
    pad = SPLAT_RADIUS_PX
    size = (height + 2 * pad, width + 2 * pad)
    summed = torch.zeros(size[0] * size[1], 4, dtype=torch.float64)
    values = torch.cat([colours * weight[:, None], weight[:, None]], 1)
    left, top = u.floor(), v.floor()
    for x, share_x in ((left, left + 1 - u), (left + 1, u - left)):
        for y, share_y in ((top, top + 1 - v), (top + 1, v - top)):
            lands = (x >= -pad) & (x < width + pad) & (y >= -pad) & (y < height + pad)
            index = ((y + pad) * size[1] + x + pad)[lands].long()
            summed.index_add_(0, index, values[lands] * (share_x * share_y)[lands, None])
    return summed.T.reshape(4, *size)


def _disc() -> Tensor:
    """[13, 13] float64: 1 at the centre, falling linearly to 0 at the radius."""
    offset = torch.arange(-SPLAT_RADIUS_PX, SPLAT_RADIUS_PX + 1).double()
    return (1 - torch.hypot(offset[:, None], offset) / SPLAT_RADIUS_PX).clamp(min=0)


def composite(
    warped: Tensor, valid: Tensor, wrist_rgb: Tensor, wrist_labels: Tensor, foreground: Tensor, *, fill: bool
) -> tuple[Tensor, Tensor]:
    """The integration's wrist picture and zones: median colour in the table's holes, foreground on top.

    Args:
        warped: [T, H, W, 3] uint8, from `splat_soft`.
        valid: [T, H, W] bool, from `splat_soft`.
        wrist_rgb: [T, H, W, 3] uint8.
        wrist_labels: [T, H, W] uint8.
        foreground: [T, H, W] bool.
        fill: whether holes of the table get the median colour of what was warped.

    Returns:
        picture [T, H, W, 3] uint8 and zones [T, H, W] uint8.
    """
    pictures, zones = [], []
    for t in range(len(warped)):
        picture, seen = warped[t].cpu().numpy(), valid[t].cpu().numpy()
        zone = np.where(seen, Zone.COVERED, Zone.OUT_OF_SIGHT).astype(np.uint8)
        if fill:
            holes = _table_holes(seen, wrist_labels[t].cpu().numpy())
            picture = _paint_median(picture, seen, holes)
            zone[holes & ~seen] = Zone.FILLED
        front = foreground[t].cpu().numpy()
        picture = np.where(front[..., None], wrist_rgb[t].cpu().numpy(), picture)
        zone[front] = Zone.FOREGROUND
        pictures.append(torch.from_numpy(picture))
        zones.append(torch.from_numpy(zone))
    return torch.stack(pictures).to(warped.device), torch.stack(zones).to(warped.device)


def _table_holes(seen: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (14, 14))
    return (cv2.erode(seen.astype(np.uint8), ellipse) == 0) & (labels == TABLE_LABEL)


def _paint_median(picture: np.ndarray, seen: np.ndarray, holes: np.ndarray) -> np.ndarray:
    if not seen.any():
        return picture
    median = np.median(picture[seen], axis=0).astype(np.uint8)
    alpha = cv2.GaussianBlur(holes.astype(np.uint8) * 255, (21, 21), 0)[..., None] / 255.0
    return (picture * (1 - alpha) + median * alpha).astype(np.uint8)
