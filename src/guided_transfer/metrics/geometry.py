"""Where a pixel of one camera is seen by another: backward look-up with an occlusion test.

Written apart from the warp room on purpose: what judges the warp must not share its code. It looks up, it never
splats, so every pixel gets at most one answer and nothing has to be filled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import EpisodeInconsistent
from guided_transfer.types import Camera, View

DEPTH_TOLERANCE_M = 0.01
DEPTH_TOLERANCE = 0.01
"""A point is the same surface when both depths agree within max(1 cm, 1 %)."""

ROUNDING_PX = 0.01
"""A still camera must see its own border pixels again, whatever float32 makes of their centres."""


@dataclass(frozen=True)
class Lookup:
    """For each pixel of one view, where the other sees the same surface point.

    Attributes:
        grid: [T, H, W, 2] float32 positions in the other view, -1..1 from border to border (x, y).
        seen: [T, H, W] bool: inside the other frame and not hidden there.
    """

    grid: Tensor
    seen: Tensor

    @property
    def coverage(self) -> float:
        """Share of the pixels that are seen."""
        return float(self.seen.float().mean())

    def read(self, rgb: Tensor) -> Tensor:
        """Bilinear colours [T, H, W, 3] float32 0..255 of the other view's `rgb`, valid where `seen`."""
        return _read(rgb.permute(0, 3, 1, 2).float(), self.grid).permute(0, 2, 3, 1)


def look_up(view: View, other: View) -> Lookup:
    """Find each pixel of `view` in `other`, frame by frame, by depth and poses of the simulator.

    A pixel is seen when its point lies in front of the other camera, projects at least half a pixel inside its
    frame and has the depth found there within the tolerance. The depth found is interpolated as 1/z, which
    is exact on planes and matches neither side at an edge.

    Args:
        view: with depth_m and camera.
        other: likewise, with as many frames.

    Raises:
        EpisodeInconsistent: depth or camera is missing (see `has_geometry`).
    """
    (depth_here_m, camera), (other_depth_m, other_camera) = _geometry(view), _geometry(other)
    position_px, depth_m = _project(depth_here_m, camera, other_camera)
    size = position_px.new_tensor([other_camera.width_px, other_camera.height_px])
    margin_px = 0.5 - ROUNDING_PX
    inside = ((position_px >= margin_px) & (position_px <= size - margin_px)).all(-1) & (depth_m > 0)
    grid = 2 * position_px / size - 1
    inverse = torch.where(other_depth_m > 0, other_depth_m, torch.nan).reciprocal()
    found_m = _read(inverse[:, None].float(), grid)[:, 0].reciprocal()
    tolerance_m = (DEPTH_TOLERANCE * depth_m).clamp(min=DEPTH_TOLERANCE_M)
    agrees = (depth_m - found_m).abs() < tolerance_m  # false for NaN and inf
    return Lookup(grid, inside & agrees)


def has_geometry(view: View) -> bool:
    """Whether a view has what `look_up` needs."""
    return view.depth_m is not None and view.camera is not None


def _geometry(view: View) -> tuple[Tensor, Camera]:
    if view.depth_m is None or view.camera is None:
        raise EpisodeInconsistent(f"{view.name}: a look-up needs depth_m and camera, one of them is missing")
    return view.depth_m, view.camera


def _read(picture: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values [T, C, H, W] at grid positions; align_corners=False puts pixel centres at i + 0.5."""
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _project(depth_m: Tensor, camera: Camera, other: Camera) -> tuple[Tensor, Tensor]:
    """Where pixel centres land in the other camera: positions [T, H, W, 2] in pixels, depths [T, H, W].

    With x = (u, v, 1) and depth z, z' x' = z K' R K^-1 x + K' t, where R and t lead from camera to camera; the
    third row is z' because the last row of K' is 0, 0, 1. NaN where there is no depth. Matrices are combined in
    float64, so that far from the world's origin float32 suffices for the pixels.
    """
    height, width = depth_m.shape[1:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1)  # [3, HW]
    motion = other.cam_from_world.double() @ torch.linalg.inv(camera.cam_from_world.double())
    k_other = other.intrinsics_px.double()
    turn = k_other @ motion[:, :3, :3] @ torch.linalg.inv(camera.intrinsics_px.double())
    z = torch.where((depth_m > 0) & depth_m.isfinite(), depth_m, torch.nan).float().flatten(1)
    landed = turn.float() @ pixels * z[:, None] + (k_other @ motion[:, :3, 3:]).float()  # [T, 3, HW]
    depth = landed[:, 2]
    position_px = torch.stack([landed[:, 0] / depth, landed[:, 1] / depth], -1)
    return position_px.unflatten(1, (height, width)), depth.unflatten(1, (height, width))
