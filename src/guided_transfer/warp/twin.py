"""The warp as its definition reads: every facet against every pixel, every tap of the widest tent, in float64.

Nothing is skipped, bucketed or scattered, so it is slow (a second for a frame of 64 x 64) and says what the
fast engines must return.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guided_transfer.types import Camera
from guided_transfer.warp.geometry import HALF_FOOTPRINT_PX, Facets, Relation, facets, invert, same_surface
from guided_transfer.warp.lookup import MAX_REACH_PX, SNAP, as_dtype

FACETS_AT_ONCE = 256


def warp(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, known_m: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The engine interface of `view`: colours, covered, inverse depth of the nearest surface."""
    size = (target.height_px, target.width_px)
    rgb = torch.zeros(len(frames), *size, 3, dtype=frames.dtype, device=frames.device)
    covered = torch.zeros(len(frames), *size, dtype=torch.bool, device=frames.device)
    nearest = torch.zeros(covered.shape, device=frames.device) if known_m is None else invert(known_m)
    for t in range(len(frames)):
        plane = _Planes(facets(depth_m[t]), usable[t], relation, t)
        pixels = _centres(*size, frames.device)
        if known_m is None:
            nearest[t] = plane.nearest(pixels).reshape(size)
        colour, hit = plane.colours(frames[t], pixels, nearest[t].double().reshape(-1))
        rgb[t], covered[t] = colour.reshape(*size, 3), hit.reshape(size)
    return rgb, covered, nearest


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """Homogeneous pixel centres [H * W, 3]."""
    y, x = torch.meshgrid(torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3).to(device)


class _Planes:
    """One source frame as plane patches: inverse depth = row . (u, v, 1), one row [3] per source pixel."""

    def __init__(self, surface: Facets, usable: Tensor, relation: Relation, frame: int) -> None:
        self.rows, self.columns = usable.shape
        self.centre = _centres(self.rows, self.columns, usable.device)
        self.usable = (usable & (surface.inverse_depth > 0)).reshape(-1)
        self.inverse_depth = surface.inverse_depth.double().reshape(-1)
        slope = torch.stack([surface.slope_u, surface.slope_v], -1).double().reshape(-1, 2)
        constant = self.inverse_depth - (slope * self.centre[:, :2]).sum(-1)
        self.plane = torch.cat([slope, constant[:, None]], 1)
        self.ray_map, self.epipole = relation.ray_map[frame].double(), relation.epipole[frame].double()
        self.facing = 1 - self.plane @ self.epipole

    def nearest(self, pixels: Tensor) -> Tensor:
        """Inverse depth [P] of the nearest facet that each target pixel [P, 3] sees; 0 = none."""
        rays = pixels @ self.ray_map.T
        best = rays.new_zeros(len(rays))
        for facet in torch.nonzero(self.usable & self._in_front())[:, 0].split(FACETS_AT_ONCE):
            inverse_depth = self.plane[facet] @ rays.T / self.facing[facet, None]  # [F, P]
            place = rays + inverse_depth[..., None] * self.epipole  # [F, P, 3]
            offset = place[..., :2] / place[..., 2:] - self.centre[facet, None, :2]
            sees = (offset.abs() <= HALF_FOOTPRINT_PX).all(-1) & (place[..., 2] > 0) & (inverse_depth > 0)
            best = torch.maximum(best, torch.where(sees, inverse_depth, 0.0).amax(0))
        return best.float()

    def _in_front(self) -> Tensor:
        """[F] bool: all four corners of the facet lie before the target camera."""
        back = torch.linalg.inv(self.ray_map)
        ahead = torch.ones_like(self.usable)
        for du, dv in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            corner = self.centre + HALF_FOOTPRINT_PX * self.centre.new_tensor([du, dv, 0])
            depth = (self.plane * corner).sum(-1, keepdim=True)
            ahead &= ((corner - depth * self.epipole) @ back.T)[:, 2] > 0
        return ahead

    def colours(self, image: Tensor, pixels: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [P, 3] and covered [P] of target pixels that see something at inverse depth `seen` [P]."""
        place = pixels @ self.ray_map.T + seen[:, None] * self.epipole
        scale = place[:, 2]
        position = torch.floor(place[:, :2] / scale[:, None] * SNAP + 0.5) / SNAP
        u, v = position.unbind(-1)
        hit = (seen > 0) & (scale > 0) & (u >= 0) & (u < self.columns) & (v >= 0) & (v < self.rows)
        position[~hit], scale[~hit] = 0.5, 1.0
        nearest_pixel = position.long()
        facet = nearest_pixel[:, 1] * self.columns + nearest_pixel[:, 0]
        plane = self.plane[facet]
        expected = (plane[:, :2] * position).sum(-1) + plane[:, 2]
        hit &= self.usable[facet] & (self.facing[facet] > 0) & same_surface(expected, seen / scale)

        reach = self._reach(position, scale, plane / self.facing[facet, None])
        first = torch.floor(position - 0.5).long() - (MAX_REACH_PX - 1)
        total, weights = position.new_zeros(len(seen), 3), position.new_zeros(len(seen), 1)
        for down in range(2 * MAX_REACH_PX):
            for across in range(2 * MAX_REACH_PX):
                tap = first + first.new_tensor([across, down])
                weight = (1 - (tap + 0.5 - position).abs() / reach).clamp(min=0).prod(-1)
                colour, lends = self._tap(image, tap, plane)
                weight = torch.where(lends & hit, weight, 0.0)[:, None]
                total, weights = total + weight * colour, weights + weight
        return as_dtype(torch.where(hit[:, None], total / weights, 0.0), image.dtype), hit

    def _reach(self, position: Tensor, scale: Tensor, tilt: Tensor) -> Tensor:
        """Half widths [P, 2] of the tent: the target pixel's extent in the source, in whole pixels, at least 1."""
        extent = torch.zeros_like(position)
        for axis in (0, 1):
            step = self.ray_map[:, axis]
            moved = step + (tilt @ step)[:, None] * self.epipole  # [P, 3], derivative of place
            derivative = (moved[:, :2] - position * moved[:, 2:]) / scale[:, None]
            extent = torch.maximum(extent, derivative.abs())
        return torch.floor(extent + 0.5).clamp(1, MAX_REACH_PX)

    def _tap(self, image: Tensor, tap: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
        """Colour [P, 3] of source pixels [P, 2], and whether each lies on its plane and may lend."""
        size = tap.new_tensor([self.columns, self.rows])
        inside = ((tap >= 0) & (tap < size)).all(-1)
        index = torch.where(inside, tap[:, 1] * self.columns + tap[:, 0], 0)
        expected = (plane[:, :2] * (tap + 0.5)).sum(-1) + plane[:, 2]
        lends = inside & self.usable[index] & same_surface(self.inverse_depth[index], expected)
        return image.reshape(-1, 3)[index].double(), lends
