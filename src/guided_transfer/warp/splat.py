"""Which surface does each target pixel see? The CPU engine's depth test.

Every facet of the source is a plane patch; a target pixel centre sees it if the ray through that centre meets
the plane inside the facet's footprint. The nearest facet wins, one seen from behind too: it hides
what lies behind it, and `lookup` finds that the source never saw that side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from guided_transfer.warp.geometry import HALF_FOOTPRINT_PX, Facets, Relation

MAX_CANDIDATES = 1 << 22
"""Facet-pixel pairs tested at once: bounds the memory to a few hundred MB where facets are large."""


@dataclass(frozen=True)
class _Boxes:
    """Facets that may be seen, and the target pixels [left, left + width) x [top, top + height) to test."""

    facet: Tensor
    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor

    def __getitem__(self, part: slice) -> _Boxes:
        return _Boxes(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


def render_depth(
    surface: Facets, usable: Tensor, relation: Relation, frame: int, height: int, width: int
) -> Tensor:
    """Inverse depth [height, width] of the nearest facet at every target pixel centre, 0 where none shows.

    Args:
        surface: facets of the source frame, [H, W].
        usable: [H, W] bool; other pixels are treated as if nothing were there.
        relation: how the cameras relate.
        frame: which frame of it.
        height: rows of the target image.
        width: columns of the target image.
    """
    boxes = _bounding_boxes(surface, usable, relation, frame, height, width)
    nearest = torch.zeros(height * width, dtype=torch.int32, device=usable.device)
    for part in _parts(boxes):
        pixel, bits = _visible(surface, part, relation, frame, width)
        nearest.scatter_reduce_(0, pixel, bits, "amax")  # positive floats sort like their bits, in any order
    return nearest.view(torch.float32).reshape(height, width)


def _bounding_boxes(
    surface: Facets, usable: Tensor, relation: Relation, frame: int, height: int, width: int
) -> _Boxes:
    rows, columns = usable.shape
    u = torch.arange(columns, device=usable.device) + 0.5
    v = (torch.arange(rows, device=usable.device) + 0.5)[:, None]
    depth, slope_u, slope_v = surface.inverse_depth, surface.slope_u, surface.slope_v
    back = relation.ray_map_inverse[frame].tolist()
    pull = (relation.ray_map_inverse[frame] @ relation.epipole[frame]).tolist()
    centre = [(row[0] * u + row[2]) + row[1] * v - shift * depth for row, shift in zip(back, pull, strict=True)]
    half_u = [(row[0] - shift * slope_u) * HALF_FOOTPRINT_PX for row, shift in zip(back, pull, strict=True)]
    half_v = [(row[1] - shift * slope_v) * HALF_FOOTPRINT_PX for row, shift in zip(back, pull, strict=True)]
    corners = [
        [c + a * du + b * dv for c, du, dv in zip(centre, half_u, half_v, strict=True)]
        for a, b in ((-1, -1), (-1, 1), (1, -1), (1, 1))
    ]
    in_front = (centre[2] - half_u[2].abs() - half_v[2].abs()) > 0
    left, right = _span([c[0] / c[2] for c in corners], width)
    top, bottom = _span([c[1] / c[2] for c in corners], height)
    kept = usable & (depth > 0) & in_front & (right >= left) & (bottom >= top)
    facet = torch.nonzero(kept.reshape(-1))[:, 0]
    left, right, top, bottom = (edge.reshape(-1).index_select(0, facet) for edge in (left, right, top, bottom))
    return _Boxes(facet, left, top, right - left + 1, bottom - top + 1)


def _centres(facet: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Position (u, v) of facets' centres from their flat index."""
    row = torch.floor(facet / columns)
    return facet - row * columns + 0.5, row + 0.5


def _span(positions: list[Tensor], size: int) -> tuple[Tensor, Tensor]:
    """First and last pixel whose centre lies between the smallest and largest position."""
    low = torch.minimum(torch.minimum(positions[0], positions[1]), torch.minimum(positions[2], positions[3]))
    high = torch.maximum(torch.maximum(positions[0], positions[1]), torch.maximum(positions[2], positions[3]))
    return (low - 0.5).ceil().clamp(0, size), (high - 0.5).floor().clamp(-1, size - 1)


def _parts(boxes: _Boxes) -> list[_Boxes]:
    """The boxes in runs of at most about MAX_CANDIDATES pairs."""
    total = torch.cumsum(boxes.width.long() * boxes.height, 0)
    if not len(total) or total[-1] <= MAX_CANDIDATES:
        return [boxes]
    marks = torch.arange(MAX_CANDIDATES, int(total[-1]), MAX_CANDIDATES, device=total.device)
    cuts = sorted({0, *(torch.searchsorted(total, marks) + 1).tolist(), len(total)})
    return [boxes[a:b] for a, b in pairwise(cuts)]


def _visible(surface: Facets, boxes: _Boxes, relation: Relation, frame: int, width: int) -> tuple[Tensor, Tensor]:
    """Target pixels that see a facet of `boxes`, and the bits of its inverse depth there."""
    columns = surface.inverse_depth.shape[1]
    area = boxes.width * boxes.height
    box = torch.repeat_interleave(area.int())
    step = torch.arange(len(box), device=area.device) - (area.cumsum(0) - area).index_select(0, box)
    across = boxes.width.index_select(0, box)
    down = torch.floor(step / across)
    x = boxes.left.index_select(0, box) + (step - down * across)
    y = boxes.top.index_select(0, box) + down

    depth0, slope_u, slope_v = (
        field.reshape(-1).index_select(0, boxes.facet)
        for field in (surface.inverse_depth, surface.slope_u, surface.slope_v)
    )
    u0, v0 = _centres(boxes.facet, columns)
    m, e = relation.ray_map[frame].tolist(), relation.epipole[frame].tolist()
    facing = 1 - (slope_u * (e[0] - u0 * e[2]) + slope_v * (e[1] - v0 * e[2]) + depth0 * e[2])
    u0, v0, depth0, slope_u, slope_v, facing = (
        t.index_select(0, box) for t in (u0, v0, depth0, slope_u, slope_v, facing)
    )

    px, py = x + 0.5, y + 0.5
    ray = [row[0] * px + row[1] * py + row[2] for row in m]
    along = slope_u * (ray[0] - u0 * ray[2]) + slope_v * (ray[1] - v0 * ray[2]) + depth0 * ray[2]
    inverse_depth = along / facing
    scale = ray[2] + e[2] * inverse_depth
    reach = HALF_FOOTPRINT_PX * scale  # |place / scale - u0| <= HALF_FOOTPRINT_PX, without the division
    sees = (ray[0] + e[0] * inverse_depth - u0 * scale).abs() <= reach
    sees &= (ray[1] + e[1] * inverse_depth - v0 * scale).abs() <= reach
    sees &= (inverse_depth > 0) & (scale > 0)
    sees = torch.nonzero(sees)[:, 0]
    pixel = (y * width + x).index_select(0, sees).long()
    return pixel, inverse_depth.index_select(0, sees).view(torch.int32)
