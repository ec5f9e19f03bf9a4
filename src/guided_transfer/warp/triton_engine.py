"""The CUDA engine: two kernels over all frames of a clip.

`_splat` runs over source pixels and keeps the nearest surface of every target pixel with an integer maximum,
whose result does not depend on the order of arrival. `_look_up` runs over target pixels and gathers. There is
no floating-point atomic, so one device gives the same bits on every run. The arithmetic is that of `splat` and
`lookup`, line by line; those explain it.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton's arguments are tensors or pointers that only its compiler can type.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from guided_transfer.types import Camera
from guided_transfer.warp.geometry import (
    HALF_FOOTPRINT_PX,
    MAX_SLOPE,
    SAME_SURFACE_M,
    SAME_SURFACE_RATIO,
    Relation,
)
from guided_transfer.warp.lookup import MAX_REACH_PX, SNAP

_HALF = tl.constexpr(HALF_FOOTPRINT_PX)
_SLOPE = tl.constexpr(MAX_SLOPE)
_SAME_M = tl.constexpr(SAME_SURFACE_M)
_SAME_RATIO = tl.constexpr(SAME_SURFACE_RATIO)
_REACH = tl.constexpr(float(MAX_REACH_PX))
_SNAP = tl.constexpr(float(SNAP))

BLOCK = 256
"""Pixels per program."""
LANES = 4
"""Target pixels of one facet tested at a time; most facets cover no more than four."""


def warp(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The engine interface of `view`: colours, covered, inverse depth of the nearest surface."""
    clip, rows, columns = depth_m.shape
    height, width = target.height_px, target.width_px
    frames, depth_m = frames.contiguous(), depth_m.float().contiguous()
    usable_bytes = usable.contiguous().view(torch.uint8)
    cameras = _pack(relation).to(frames.device)
    sizes = (rows, columns, height, width)
    if seen is None:
        nearest = torch.zeros(clip, height, width, dtype=torch.int32, device=frames.device)
        if clip:
            grid = (triton.cdiv(rows * columns, BLOCK), clip)
            _splat[grid](depth_m, usable_bytes, cameras, nearest, *sizes, BLOCK=BLOCK, LANES=LANES)
        seen = nearest.view(torch.float32)
    seen = seen.contiguous()
    rgb = torch.empty(clip, height, width, 3, dtype=frames.dtype, device=frames.device)
    covered = torch.empty(clip, height, width, dtype=torch.uint8, device=frames.device)
    if clip:
        grid = (triton.cdiv(height * width, BLOCK), clip)
        integer = frames.dtype == torch.uint8
        _look_up[grid](
            frames, depth_m, usable_bytes, cameras, seen, rgb, covered, *sizes, BLOCK=BLOCK, INTEGER=integer
        )
    return rgb, covered.view(torch.bool), seen


def _pack(relation: Relation) -> Tensor:
    """[T, 24] float32: ray map, its inverse, epipole, and the inverse applied to the epipole."""
    pull = (relation.ray_map_inverse @ relation.epipole[..., None])[..., 0]
    maps = (relation.ray_map.flatten(1), relation.ray_map_inverse.flatten(1))
    return torch.cat([*maps, relation.epipole, pull], 1).contiguous()


@triton.jit
def _inverse_depth(depth_ptr, index, there):
    depth = tl.load(depth_ptr + index, mask=there, other=0.0)
    known = (depth > 0) & (depth < float("inf"))
    return tl.where(known, 1.0 / tl.where(known, depth, 1.0), 0.0)


@triton.jit
def _smaller_step(behind, centre, ahead):
    far = float("inf")
    forward = tl.where((ahead > 0) & (centre > 0), ahead - centre, far)
    backward = tl.where((behind > 0) & (centre > 0), centre - behind, far)
    slope = tl.where(tl.abs(forward) <= tl.abs(backward), forward, backward)
    return tl.where(tl.abs(slope) <= _SLOPE * centre, slope, 0.0)


@triton.jit
def _facet(depth_ptr, row, column, rows, columns, there):
    index = row * columns + column
    centre = _inverse_depth(depth_ptr, index, there)
    left = _inverse_depth(depth_ptr, index - 1, there & (column > 0))
    right = _inverse_depth(depth_ptr, index + 1, there & (column < columns - 1))
    above = _inverse_depth(depth_ptr, index - columns, there & (row > 0))
    below = _inverse_depth(depth_ptr, index + columns, there & (row < rows - 1))
    return centre, _smaller_step(left, centre, right), _smaller_step(above, centre, below)


@triton.jit
def _same_surface(inverse_depth, other):
    return tl.abs(inverse_depth - other) < inverse_depth * tl.maximum(_SAME_M * other, _SAME_RATIO)


@triton.jit
def _first(low, size):
    return tl.minimum(tl.maximum(tl.ceil(low - 0.5), 0.0), size * 1.0).to(tl.int32)


@triton.jit
def _last(high, size):
    return tl.minimum(tl.maximum(tl.floor(high - 0.5), -1.0), size - 1.0).to(tl.int32)


@triton.jit
def _splat(
    depth_ptr,
    usable_ptr,
    camera_ptr,
    nearest_ptr,
    rows,
    columns,
    height,
    width,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    depth_ptr += frame * rows * columns
    usable_ptr += frame * rows * columns
    nearest_ptr += frame * height * width
    m = camera_ptr + frame * 24

    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = pixel < rows * columns
    row = pixel // columns
    column = pixel - row * columns
    depth, slope_u, slope_v = _facet(depth_ptr, row, column, rows, columns, there)
    there &= (tl.load(usable_ptr + pixel, mask=there, other=0) != 0) & (depth > 0)
    u = column + 0.5
    v = row + 0.5

    # the footprint's corners in the target, and the box of pixel centres between them
    p0, p1, p2 = tl.load(m + 21), tl.load(m + 22), tl.load(m + 23)
    b0, b1, b2 = tl.load(m + 9), tl.load(m + 10), tl.load(m + 11)
    b3, b4, b5 = tl.load(m + 12), tl.load(m + 13), tl.load(m + 14)
    b6, b7, b8 = tl.load(m + 15), tl.load(m + 16), tl.load(m + 17)
    x_c = b0 * u + b1 * v + b2 - p0 * depth
    y_c = b3 * u + b4 * v + b5 - p1 * depth
    z_c = b6 * u + b7 * v + b8 - p2 * depth
    x_u, x_v = (b0 - p0 * slope_u) * _HALF, (b1 - p0 * slope_v) * _HALF
    y_u, y_v = (b3 - p1 * slope_u) * _HALF, (b4 - p1 * slope_v) * _HALF
    z_u, z_v = (b6 - p2 * slope_u) * _HALF, (b7 - p2 * slope_v) * _HALF
    there &= z_c - tl.abs(z_u) - tl.abs(z_v) > 0
    r0 = 1.0 / tl.where(there, z_c - z_u - z_v, 1.0)
    r1 = 1.0 / tl.where(there, z_c - z_u + z_v, 1.0)
    r2 = 1.0 / tl.where(there, z_c + z_u - z_v, 1.0)
    r3 = 1.0 / tl.where(there, z_c + z_u + z_v, 1.0)
    xa, xb, xc, xd = (x_c - x_u - x_v) * r0, (x_c - x_u + x_v) * r1, (x_c + x_u - x_v) * r2, (x_c + x_u + x_v) * r3
    ya, yb, yc, yd = (y_c - y_u - y_v) * r0, (y_c - y_u + y_v) * r1, (y_c + y_u - y_v) * r2, (y_c + y_u + y_v) * r3
    left = _first(tl.minimum(tl.minimum(xa, xb), tl.minimum(xc, xd)), width)
    right = _last(tl.maximum(tl.maximum(xa, xb), tl.maximum(xc, xd)), width)
    top = _first(tl.minimum(tl.minimum(ya, yb), tl.minimum(yc, yd)), height)
    bottom = _last(tl.maximum(tl.maximum(ya, yb), tl.maximum(yc, yd)), height)
    there &= (right >= left) & (bottom >= top)
    across = tl.where(there, right - left + 1, 1)
    area = tl.where(there, across * (bottom - top + 1), 0)
    most = tl.max(area, axis=0)

    # every centre in the box: does its ray meet the plane inside the footprint?
    a0, a1, a2 = tl.load(m + 0), tl.load(m + 1), tl.load(m + 2)
    a3, a4, a5 = tl.load(m + 3), tl.load(m + 4), tl.load(m + 5)
    a6, a7, a8 = tl.load(m + 6), tl.load(m + 7), tl.load(m + 8)
    e0, e1, e2 = tl.load(m + 18), tl.load(m + 19), tl.load(m + 20)
    facing = 1.0 - (slope_u * (e0 - u * e2) + slope_v * (e1 - v * e2) + depth * e2)
    there &= facing != 0
    inverse_facing = (1.0 / tl.where(there, facing, 1.0))[:, None]
    u, v, depth = u[:, None], v[:, None], depth[:, None]
    slope_u, slope_v = slope_u[:, None], slope_v[:, None]
    left, top, across, area = left[:, None], top[:, None], across[:, None], area[:, None]
    there = there[:, None]
    for start in range(0, most, LANES):
        step = start + tl.arange(0, LANES)[None, :]
        down = step // across
        x = left + step - down * across
        y = top + down
        px = x + 0.5
        py = y + 0.5
        ray_u = a0 * px + a1 * py + a2
        ray_v = a3 * px + a4 * py + a5
        ray_w = a6 * px + a7 * py + a8
        along = slope_u * (ray_u - u * ray_w) + slope_v * (ray_v - v * ray_w) + depth * ray_w
        inverse_depth = along * inverse_facing
        scale = ray_w + e2 * inverse_depth
        sees = there & (step < area) & (inverse_depth > 0) & (scale > 0)
        # |position - u| <= half, without dividing by scale
        sees &= tl.abs(ray_u + e0 * inverse_depth - u * scale) <= _HALF * scale
        sees &= tl.abs(ray_v + e1 * inverse_depth - v * scale) <= _HALF * scale
        bits = inverse_depth.to(tl.int32, bitcast=True)
        tl.atomic_max(nearest_ptr + y * width + x, bits, mask=sees, sem="relaxed")


@triton.jit
def _look_up(
    image_ptr,
    depth_ptr,
    usable_ptr,
    camera_ptr,
    seen_ptr,
    rgb_ptr,
    covered_ptr,
    rows,
    columns,
    height,
    width,
    BLOCK: tl.constexpr,
    INTEGER: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    image_ptr += frame * rows * columns * 3
    depth_ptr += frame * rows * columns
    usable_ptr += frame * rows * columns
    seen_ptr += frame * height * width
    rgb_ptr += frame * height * width * 3
    covered_ptr += frame * height * width
    m = camera_ptr + frame * 24
    a0, a1, a2 = tl.load(m + 0), tl.load(m + 1), tl.load(m + 2)
    a3, a4, a5 = tl.load(m + 3), tl.load(m + 4), tl.load(m + 5)
    a6, a7, a8 = tl.load(m + 6), tl.load(m + 7), tl.load(m + 8)
    e0, e1, e2 = tl.load(m + 18), tl.load(m + 19), tl.load(m + 20)

    # follow each target pixel into the source
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < height * width
    seen = tl.load(seen_ptr + pixel, mask=exists, other=0.0)
    y = pixel // width
    px = pixel - y * width + 0.5
    py = y + 0.5
    scale = (a6 * px + a8) + a7 * py + e2 * seen
    hit = (seen > 0) & (scale > 0)
    inverse_scale = 1.0 / tl.where(hit, scale, 1.0)
    u = tl.floor(((a0 * px + a2) + a1 * py + e0 * seen) * inverse_scale * _SNAP + 0.5) / _SNAP
    v = tl.floor(((a3 * px + a5) + a4 * py + e1 * seen) * inverse_scale * _SNAP + 0.5) / _SNAP
    hit &= (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
    u = tl.where(hit, u, 0.5)
    v = tl.where(hit, v, 0.5)
    column = u.to(tl.int32)
    row = v.to(tl.int32)

    # the facet there must be usable, agree in depth and face the target
    centre, slope_u, slope_v = _facet(depth_ptr, row, column, rows, columns, hit)
    hit &= tl.load(usable_ptr + row * columns + column, mask=hit, other=0) != 0
    u0 = column + 0.5
    v0 = row + 0.5
    facing = 1.0 - (slope_u * (e0 - u0 * e2) + slope_v * (e1 - v0 * e2) + centre * e2)
    expected = slope_u * (u - u0) + slope_v * (v - v0) + centre
    hit &= (facing > 0) & _same_surface(expected, seen * inverse_scale)

    # the tent: one source pixel wide, or about as wide as the target pixel
    inverse_facing = 1.0 / tl.where(hit, facing, 1.0)
    tilt_x = (slope_u * (a0 - u0 * a6) + slope_v * (a3 - v0 * a6) + centre * a6) * inverse_facing
    tilt_y = (slope_u * (a1 - u0 * a7) + slope_v * (a4 - v0 * a7) + centre * a7) * inverse_facing
    scale_x, scale_y = a6 + e2 * tilt_x, a7 + e2 * tilt_y
    u_x, u_y = a0 + e0 * tilt_x - u * scale_x, a1 + e0 * tilt_y - u * scale_y
    v_x, v_y = a3 + e1 * tilt_x - v * scale_x, a4 + e1 * tilt_y - v * scale_y
    reach_u = tl.floor(tl.maximum(tl.abs(u_x), tl.abs(u_y)) * inverse_scale + 0.5)
    reach_v = tl.floor(tl.maximum(tl.abs(v_x), tl.abs(v_y)) * inverse_scale + 0.5)
    reach_u = tl.where(hit, tl.minimum(tl.maximum(reach_u, 1.0), _REACH), 1.0)
    reach_v = tl.where(hit, tl.minimum(tl.maximum(reach_v, 1.0), _REACH), 1.0)
    widest = tl.max(tl.maximum(reach_u, reach_v), axis=0).to(tl.int32)

    first_column = tl.floor(u - 0.5).to(tl.int32) - (widest - 1)
    first_row = tl.floor(v - 0.5).to(tl.int32) - (widest - 1)
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    weights = tl.zeros([BLOCK], tl.float32)
    for j in range(0, 2 * widest):
        tap_row = first_row + j
        weight_v = tl.maximum(1.0 - tl.abs(tap_row + 0.5 - v) / reach_v, 0.0)
        for i in range(0, 2 * widest):
            tap_column = first_column + i
            weight = tl.maximum(1.0 - tl.abs(tap_column + 0.5 - u) / reach_u, 0.0) * weight_v
            lends = hit & (weight > 0) & (tap_row >= 0) & (tap_row < rows)
            lends &= (tap_column >= 0) & (tap_column < columns)
            tap = tap_row * columns + tap_column
            depth = _inverse_depth(depth_ptr, tap, lends)
            expected = centre + slope_u * (tap_column - column) + slope_v * (tap_row - row)
            lends &= _same_surface(depth, expected)
            lends &= tl.load(usable_ptr + tap, mask=lends, other=0) != 0
            weight = tl.where(lends, weight, 0.0)
            red += weight * tl.load(image_ptr + tap * 3, mask=lends, other=0).to(tl.float32)
            green += weight * tl.load(image_ptr + tap * 3 + 1, mask=lends, other=0).to(tl.float32)
            blue += weight * tl.load(image_ptr + tap * 3 + 2, mask=lends, other=0).to(tl.float32)
            weights += weight

    weights = tl.where(hit, weights, 1.0)
    red, green, blue = red / weights, green / weights, blue / weights
    if INTEGER:
        red, green, blue = tl.floor(red + 0.5), tl.floor(green + 0.5), tl.floor(blue + 0.5)
        red, green, blue = red.to(tl.int32), green.to(tl.int32), blue.to(tl.int32)
    tl.store(rgb_ptr + pixel * 3, red, mask=exists)
    tl.store(rgb_ptr + pixel * 3 + 1, green, mask=exists)
    tl.store(rgb_ptr + pixel * 3 + 2, blue, mask=exists)
    tl.store(covered_ptr + pixel, hit.to(tl.uint8), mask=exists)
