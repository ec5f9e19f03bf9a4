"""Which colour did the source see at the point that a target pixel sees? The CPU engine's second half.

Given the inverse depth of every target pixel, each pixel is followed into the source image and read there. A
pixel is covered only if the source saw that very surface: the facet it meets must agree in depth and face the
target. Colours are averaged over source pixels of the same surface with a tent that is one source pixel wide
where the source is magnified and about as wide as the target pixel where it is shrunk, always in the same
order, so that every run gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.warp.geometry import Facets, Relation, follow, same_surface

SNAP = 256
"""Source positions are rounded to 1/256 px, so that a pixel which maps onto a pixel centre returns exactly
that pixel, whatever the rounding of the arithmetic."""

MAX_REACH_PX = 4
"""Half width of the widest tent, in source pixels; beyond a 4.5-fold reduction some aliasing is accepted."""

MAX_TAPS = 1 << 22
"""Source pixels read at once: bounds the memory."""


@dataclass(frozen=True)
class _Hits:
    """Target pixels that see a usable facet: where, and the facet's plane continued to its neighbours."""

    pixel: Tensor
    u: Tensor
    v: Tensor
    column: Tensor
    row: Tensor
    inverse_depth: Tensor
    slope_u: Tensor
    slope_v: Tensor
    reach_u: Tensor
    reach_v: Tensor

    def select(self, part: Tensor) -> _Hits:
        return _Hits(*(getattr(self, name).index_select(0, part) for name in self.__dataclass_fields__))


def look_up(
    image: Tensor, surface: Facets, usable: Tensor, relation: Relation, frame: int, inverse_depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Read one source frame at the points a target image sees.

    Args:
        image: [H, W, 3], uint8 or float32.
        surface: facets of the source frame, [H, W].
        usable: [H, W] bool, which source pixels may lend their colour.
        relation: how the cameras relate.
        frame: which frame of it.
        inverse_depth: [H', W'] float32, 1/m at the target's pixel centres; 0 = nothing there.

    Returns:
        colours [H', W', 3] like `image`, 0 where not covered; covered [H', W'] bool.
    """
    height, width = inverse_depth.shape
    lendable = torch.where(usable, surface.inverse_depth, 0.0).reshape(-1)
    hits = _hits(surface, lendable, relation, frame, inverse_depth)
    colours = torch.zeros(height * width, 3, dtype=image.dtype, device=image.device)
    colours[hits.pixel] = _read(image, lendable, hits)
    covered = torch.zeros(height * width, dtype=torch.bool, device=image.device)
    covered[hits.pixel] = True
    return colours.reshape(height, width, 3), covered.reshape(height, width)


def _hits(surface: Facets, lendable: Tensor, relation: Relation, frame: int, inverse_depth: Tensor) -> _Hits:
    rows, columns = surface.inverse_depth.shape
    m, e = relation.ray_map[frame].tolist(), relation.epipole[frame].tolist()
    u, v, scale = follow(relation, frame, inverse_depth)
    u, v = torch.floor(u * SNAP + 0.5) / SNAP, torch.floor(v * SNAP + 0.5) / SNAP
    inside = (inverse_depth > 0) & (scale > 0) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)

    pixel = torch.nonzero(inside.reshape(-1))[:, 0]
    u, v, scale, seen = (t.reshape(-1).index_select(0, pixel) for t in (u, v, scale, inverse_depth))
    column, row = u.floor(), v.floor()
    facet = (row * columns + column).long()
    centre, slope_u, slope_v = (
        field.reshape(-1).index_select(0, facet) for field in (lendable, surface.slope_u, surface.slope_v)
    )
    u0, v0 = column + 0.5, row + 0.5

    def on_plane(w0: Tensor | float, w1: Tensor | float, w2: Tensor | float) -> Tensor:
        return slope_u * (w0 - u0 * w2) + slope_v * (w1 - v0 * w2) + centre * w2

    facing = 1 - on_plane(*e)
    hit = (centre > 0) & (facing > 0) & same_surface(on_plane(u, v, 1.0), seen / scale)
    tilt = [on_plane(m[0][k], m[1][k], m[2][k]) / facing for k in (0, 1)]
    reach = [_reach(axis, position, m, e, tilt, scale) for axis, position in ((0, u), (1, v))]
    hits = _Hits(pixel, u, v, column, row, centre, slope_u, slope_v, *reach)
    return hits.select(torch.nonzero(hit)[:, 0])


def _reach(
    axis: int, position: Tensor, m: list[list[float]], e: list[float], tilt: list[Tensor], scale: Tensor
) -> Tensor:
    """Half width of the tent along one source axis: what a step of one target pixel moves there, in whole
    pixels, because only then the tent's centre of gravity stays where it should; at least 1.
    """
    step_x, step_y = (
        (m[axis][k] + e[axis] * tilt[k] - position * (m[2][k] + e[2] * tilt[k])) / scale for k in (0, 1)
    )
    return torch.floor(torch.maximum(step_x.abs(), step_y.abs()) + 0.5).clamp(1, MAX_REACH_PX)


def _read(image: Tensor, lendable: Tensor, hits: _Hits) -> Tensor:
    """Colours [N, 3] of the hits; hits of like reach are read together."""
    colours = torch.empty(len(hits.pixel), 3, dtype=image.dtype, device=image.device)
    widest = torch.maximum(hits.reach_u, hits.reach_v)
    values, lower = image.float(), 0
    for reach in (1, 2, MAX_REACH_PX):
        group = torch.nonzero((widest > lower) & (widest <= reach))[:, 0]
        for part in group.split(MAX_TAPS // (4 * reach * reach)):
            colours[part] = _tent(values, lendable, hits.select(part), reach, image.dtype)
        lower = reach
    return colours


def _tent(image: Tensor, lendable: Tensor, hits: _Hits, reach: int, dtype: torch.dtype) -> Tensor:
    rows, columns = image.shape[:2]
    column, weight_u = _taps(hits.u, hits.reach_u, reach, columns)  # [2 reach, N]
    row, weight_v = _taps(hits.v, hits.reach_v, reach, rows)
    rise_u = hits.slope_u * (column - hits.column) + hits.inverse_depth
    rise_v = hits.slope_v * (row - hits.row)
    tap = (row.clamp(0, rows - 1) * columns)[:, None] + column.clamp(0, columns - 1)
    tap = tap.flatten(0, 1).long()  # [4 reach^2, N]
    there = lendable.index_select(0, tap.flatten()).reshape(tap.shape)
    weight = (weight_v[:, None] * weight_u).flatten(0, 1)
    weight *= same_surface(there, (rise_v[:, None] + rise_u).flatten(0, 1))
    taps, weights = tap.T.contiguous(), weight.T.contiguous()
    total = F.embedding_bag(taps, image.reshape(-1, 3), per_sample_weights=weights, mode="sum")
    return as_dtype(total / weight.sum(0)[:, None], dtype)


def _taps(position: Tensor, half_width: Tensor, reach: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixels along one axis [2 reach, N] and their weights, 0 outside the image."""
    first = (position - 0.5).floor() - (reach - 1)
    tap = first + torch.arange(2 * reach, device=position.device)[:, None]
    weight = (1 - (tap + 0.5 - position).abs() / half_width).clamp(min=0)
    return tap, weight * ((tap >= 0) & (tap < size))


def as_dtype(colours: Tensor, dtype: torch.dtype) -> Tensor:
    """Colours in the type of the input: uint8 rounded half up, float as it is."""
    return (colours + 0.5).clamp(0, 255).to(dtype) if dtype == torch.uint8 else colours.to(dtype)
