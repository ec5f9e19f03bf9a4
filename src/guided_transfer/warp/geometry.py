"""How two cameras relate, and what a depth image says about the surfaces it saw.

A depth image is read as **facets**: pixel (row, column) stands for a small plane patch that covers the pixel's
footprint, and on a plane the inverse depth is linear in pixel coordinates, so a facet is `inverse_depth` at
the pixel's centre and its slope along u and v. Facets never reach across a depth edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided_transfer.types import Camera

MAX_SLOPE = 0.1
"""Largest relative change of inverse depth from one pixel to the next that is still one surface: at a focal
length of 250 px a plane turned 88 degrees away. Anything steeper is a depth edge."""

HALF_FOOTPRINT_PX = 0.5 + 1 / 16
"""Half side of a facet. The 1/16 px closes the cracks between facets of curved surfaces."""

SAME_SURFACE_M = 0.01
SAME_SURFACE_RATIO = 0.015
"""Two depths belong to one surface when they differ by less than 1 cm or 1.5 %, whichever is more."""


@dataclass(frozen=True)
class Relation:
    """Where a target pixel lies in the source image, for every inverse depth it may have.

    With `p` = (x, y, 1) in target pixels and `w` the inverse depth there, the source pixel is the homogeneous
    vector `ray_map @ p + w * epipole`, whose last component is source depth over target depth
    (Hartley and Zisserman, Multiple View Geometry, section 9.2).

    Attributes:
        ray_map: [T, 3, 3] float32, K_source R K_target^-1.
        ray_map_inverse: [T, 3, 3] float32.
        epipole: [T, 3] float32, K_source t: the target's centre in source pixels times its depth.
    """

    ray_map: Tensor
    ray_map_inverse: Tensor
    epipole: Tensor


def relate(source: Camera, target: Camera) -> Relation:
    """The relation between two cameras of T frames each; computed in float64, kept in float32."""
    pose, target_pose = source.cam_from_world.double(), target.cam_from_world.double()
    rotation = pose[:, :3, :3] @ target_pose[:, :3, :3].mT  # source from target
    offset = pose[:, :3, 3:] - rotation @ target_pose[:, :3, 3:]
    intrinsics, target_intrinsics = source.intrinsics_px.double(), target.intrinsics_px.double()
    ray_map = intrinsics @ rotation @ torch.linalg.inv(target_intrinsics)
    back = target_intrinsics @ rotation.mT @ torch.linalg.inv(intrinsics)
    return Relation(ray_map.float(), back.float(), (intrinsics @ offset)[..., 0].float())


@dataclass(frozen=True)
class Facets:
    """A depth image as plane patches.

    Attributes:
        inverse_depth: [..., H, W] float32, 1/m at the pixel's centre; 0 = nothing known there.
        slope_u, slope_v: [..., H, W] float32, change of inverse depth per pixel to the right and downwards.
    """

    inverse_depth: Tensor
    slope_u: Tensor
    slope_v: Tensor

    def __getitem__(self, frame: int) -> Facets:
        return Facets(self.inverse_depth[frame], self.slope_u[frame], self.slope_v[frame])


def facets(depth_m: Tensor) -> Facets:
    """Read depth images [..., H, W] as facets; depth that is infinite, NaN, 0 or negative is unknown."""
    known = invert(depth_m)
    return Facets(known, _slope(known, -1), _slope(known, -2))


def invert(depth_m: Tensor) -> Tensor:
    """Inverse depth in 1/m, float32; 0 where the depth is infinite, NaN, 0 or negative."""
    known = torch.isfinite(depth_m) & (depth_m > 0)
    return torch.where(known, 1 / depth_m.float(), 0.0)


def _slope(inverse_depth: Tensor, dim: int) -> Tensor:
    """The smaller of the two one-sided differences: beside a depth edge it is the one on the own surface."""
    size = inverse_depth.shape[dim]
    near, far = inverse_depth.narrow(dim, 0, size - 1), inverse_depth.narrow(dim, 1, size - 1)
    step = torch.where((near > 0) & (far > 0), far - near, torch.inf)
    edge = torch.full_like(inverse_depth.narrow(dim, 0, 1), torch.inf)
    ahead, behind = torch.cat([step, edge], dim), torch.cat([edge, step], dim)
    slope = torch.where(ahead.abs() <= behind.abs(), ahead, behind)
    return torch.where(slope.abs() <= MAX_SLOPE * inverse_depth, slope, 0.0)


def follow(relation: Relation, frame: int, inverse_depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the source sees what target pixels of known inverse depth [H, W] see.

    Returns:
        u, v: [H, W] source position in pixels, meaningless where `scale` is not positive.
        scale: [H, W] source depth over target depth; not positive behind the source.
    """
    height, width = inverse_depth.shape
    device = inverse_depth.device
    x = torch.arange(width, device=device) + 0.5
    y = (torch.arange(height, device=device) + 0.5)[:, None]
    rays, shifts = relation.ray_map[frame].tolist(), relation.epipole[frame].tolist()
    u, v, scale = (
        (ray[0] * x + ray[2]) + ray[1] * y + shift * inverse_depth for ray, shift in zip(rays, shifts, strict=True)
    )
    return u / scale, v / scale, scale


def same_surface(inverse_depth: Tensor, other: Tensor) -> Tensor:
    """Whether two inverse depths (1/m) are close enough to be one surface; False where either is not positive."""
    # |1/a - 1/b| < max(SAME_SURFACE_M, ratio / b), times a b; nothing that is 0 or negative passes
    return (inverse_depth - other).abs() < inverse_depth * (SAME_SURFACE_M * other).clamp(min=SAME_SURFACE_RATIO)
