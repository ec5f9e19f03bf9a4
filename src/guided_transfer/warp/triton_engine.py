"""The CUDA engine: two kernels over all frames of a clip.

`_splat` runs over source pixels and keeps the nearest surface of every target pixel with an integer maximum,
whose result does not depend on the order of arrival. `_look_up` runs over target pixels and gathers. There is
no floating-point atomic, so one device gives the same bits on every run. The definitions are those of `splat`
and `lookup`, which explain them; the arithmetic is arranged so that a pixel costs few instructions, which bound
both kernels: the bytes alone would take a fraction of the time.

A program works through tiles of pixels of one frame, from left to right. Tiles are small squares rather than
runs of a row, so that neighbours in one camera are neighbours in the other, and so that a tile which shows
nothing is left early.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton's arguments are tensors or pointers that only its compiler can type.

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from guided_transfer.errors import UsageError
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
_REACH = tl.constexpr(MAX_REACH_PX)
_SNAP = tl.constexpr(SNAP)
_SNAP_BITS = tl.constexpr(SNAP.bit_length() - 1)
MAX_SOURCE_PX = 2**22 // SNAP
"""Largest source picture: positions beside `_ORIGIN` reach this far before the next power of two."""
_ORIGIN = tl.constexpr(3.0 * MAX_SOURCE_PX)
"""Beside this number a float has steps of 1 / SNAP, so that adding it rounds to them, and the bits count them."""
_ORIGIN_BITS = tl.constexpr(struct.unpack("i", struct.pack("f", 3.0 * MAX_SOURCE_PX))[0])
_INFINITY_BITS = tl.constexpr(0x7F800000)
_NEAREST = tl.constexpr(1e30)
"""Inverse depth is below this, unless the depth is 0."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is spread over the device; changes the time, never a bit of the result.

    Attributes:
        WIDE, TALL: a tile in pixels, powers of two.
        TILES: tiles that one program works through.
    """

    TILES: int
    WIDE: int = 8
    TALL: int = 4

    @property
    def options(self) -> dict[str, int]:
        """One group of 32 threads per program: every "does any pixel?" is then a single instruction."""
        return asdict(self) | {"num_warps": 1}

    def grid(self, clip: int, rows: int, columns: int) -> tuple[int, int, int]:
        return triton.cdiv(columns, self.WIDE * self.TILES), triton.cdiv(rows, self.TALL), clip


SPLAT = Launch(TILES=8)
LOOK_UP = Launch(TILES=4)


def warp(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, known_m: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The engine interface of `view`: colours, covered, inverse depth of the nearest surface."""
    clip, rows, columns = depth_m.shape
    if max(rows, columns) > MAX_SOURCE_PX:
        raise UsageError(
            f"frames must not be larger than {MAX_SOURCE_PX} px on a side for the Triton engine, "
            f'got {rows} x {columns}; use backend="cpu"'
        )
    shape = (clip, target.height_px, target.width_px)
    frames, depth_m = frames.contiguous(), depth_m.float().contiguous()
    usable_bytes = usable.contiguous().view(torch.uint8)
    cameras = _pack(relation).to(frames.device, non_blocking=True)
    sizes = (rows, columns, *shape[1:])
    integer = frames.dtype == torch.uint8
    if known_m is None:
        nearest = torch.zeros(shape, dtype=torch.int32, device=frames.device)
        if clip:
            _splat[SPLAT.grid(clip, rows, columns)](
                depth_m, usable_bytes, cameras, nearest, *sizes, **SPLAT.options
            )
        given = seen = nearest.view(torch.float32)
    else:
        given = known_m.float().contiguous()
        seen = torch.empty_like(given)
    # one 32-bit word per pixel for bytes: red, green, blue, covered
    pixels = torch.empty(*shape, 4, dtype=frames.dtype, device=frames.device)
    if clip:
        _look_up[LOOK_UP.grid(*shape)](
            frames,
            depth_m,
            usable_bytes,
            cameras,
            given,
            seen,
            pixels.view(torch.int32) if integer else pixels,
            *sizes,
            KNOWN=known_m is not None,
            INTEGER=integer,
            **LOOK_UP.options,
        )
    covered = pixels[..., 3].view(torch.bool) if integer else pixels[..., 3] > 0
    return pixels[..., :3], covered, seen


def _pack(relation: Relation) -> Tensor:
    """[T, 24] float32: ray map, epipole, the ray map's inverse, and the inverse applied to the epipole."""
    pull = (relation.ray_map_inverse @ relation.epipole[..., None])[..., 0]
    maps = (relation.ray_map.flatten(1), relation.epipole, relation.ray_map_inverse.flatten(1))
    return torch.cat([*maps, pull], 1).contiguous()


@triton.jit
def _three(ptr):
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2)


_PTX = tl.constexpr(torch.version.cuda is not None and isinstance(_three, triton.JITFunction))
"""Whether the kernels are compiled for NVIDIA, rather than run by Triton's interpreter."""


@triton.jit
def _reciprocal(x):
    """1 / x to a unit in the last place: one instruction, where Triton's division takes seven."""
    if _PTX:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
        )
    return 1.0 / x


@triton.jit
def _any(condition):
    return tl.max(condition.to(tl.int32), axis=0) > 0


@triton.jit
def _inverse(depth_m):
    """Inverse depth; 0 or infinite where the depth is unknown.

    As unsigned integers, the bits of negative numbers and of NaN are above those of infinity.
    """
    bits = tl.minimum(depth_m.to(tl.uint32, bitcast=True), tl.full(depth_m.shape, _INFINITY_BITS, tl.uint32))
    return _reciprocal(bits.to(tl.float32, bitcast=True))


@triton.jit
def _smaller_step(behind, centre, ahead):
    """The slope; beside an unknown (0 or infinite) the step is at least `centre`, which no surface has."""
    forward = ahead - centre
    backward = centre - behind
    slope = tl.where(tl.abs(forward) <= tl.abs(backward), forward, backward)
    return tl.where(tl.abs(slope) <= _SLOPE * centre, slope, 0.0)


@triton.jit
def _neighbours(at, row, column, rows, columns, there):
    """Inverse depth at a pixel's left, right, upper and lower neighbour, as far as they exist."""
    left = tl.load(at - 1, mask=there & (column > 0), other=0.0)
    right = tl.load(at + 1, mask=there & (column < columns - 1), other=0.0)
    above = tl.load(at - columns, mask=there & (row > 0), other=0.0)
    below = tl.load(at + columns, mask=there & (row < rows - 1), other=0.0)
    return _inverse(left), _inverse(right), _inverse(above), _inverse(below)


@triton.jit
def _same_surface(inverse_depth, other):
    return tl.abs(inverse_depth - other) < inverse_depth * tl.maximum(_SAME_M * other, _SAME_RATIO)


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
    WIDE: tl.constexpr,
    TALL: tl.constexpr,
    TILES: tl.constexpr,
):
    frame = tl.program_id(2).to(tl.int64)
    depth_ptr += frame * rows * columns
    usable_ptr += frame * rows * columns
    nearest_ptr += frame * height * width
    camera = camera_ptr + frame * 24
    a0, a1, a2 = _three(camera)
    a3, a4, a5 = _three(camera + 3)
    a6, a7, a8 = _three(camera + 6)
    e0, e1, e2 = _three(camera + 9)
    b0, b1, b2 = _three(camera + 12)
    b3, b4, b5 = _three(camera + 15)
    b6, b7, b8 = _three(camera + 18)
    p0, p1, p2 = _three(camera + 21)

    # how far a facet's corners lie from its centre at most, times z: a part that is constant and one that grows
    # with inverse depth, as the slope may
    corner_x, corner_y = _HALF * (tl.abs(b0) + tl.abs(b1)), _HALF * (tl.abs(b3) + tl.abs(b4))
    corner_z = _HALF * (tl.abs(b6) + tl.abs(b7))
    steepest = 2 * _HALF * _SLOPE
    steep_x, steep_y, steep_z = steepest * tl.abs(p0), steepest * tl.abs(p1), steepest * tl.abs(p2)

    lane = tl.arange(0, WIDE * TALL)
    row = tl.program_id(1) * TALL + lane // WIDE
    column = tl.program_id(0) * (TILES * WIDE) + lane % WIDE
    u, v = column + 0.5, row + 0.5
    row_x, row_y, row_z = b1 * v + b2, b4 * v + b5, b7 * v + b8
    end = tl.where(row < rows, columns, 0)
    depth_ptr += row * columns + column
    usable_ptr += row * columns + column
    depth_m = tl.load(depth_ptr, mask=column < end, other=0.0)
    usable = tl.load(usable_ptr, mask=column < end, other=0)
    for _ in range(TILES):
        depth = _inverse(depth_m)
        there = (usable != 0) & (depth > 0) & (depth < _NEAREST)
        # the next tile is on its way while this one is worked on
        depth_m = tl.load(depth_ptr + WIDE, mask=column + WIDE < end, other=0.0)
        usable = tl.load(usable_ptr + WIDE, mask=column + WIDE < end, other=0)
        # the facet's centre in the target, times z; could the facet reach into the picture?
        x_c = b0 * u + row_x - p0 * depth
        y_c = b3 * u + row_y - p1 * depth
        z_c = b6 * u + row_z - p2 * depth
        far_x, far_y = steep_x * depth + corner_x, steep_y * depth + corner_y
        z_most = steep_z * depth + corner_z + z_c
        most = tl.minimum(x_c + far_x, y_c + far_y)
        least = tl.minimum(width * z_most - (x_c - far_x), height * z_most - (y_c - far_y))
        there &= tl.minimum(tl.minimum(most, least), z_most) >= 0
        if _any(there):
            before, after, above, below = _neighbours(depth_ptr, row, column, rows, columns, there)
            slope_u, slope_v = _smaller_step(before, depth, after), _smaller_step(above, depth, below)

            # a box around the facet's corners, from the half sides u and v of the footprint:
            # corner - centre = (step - centre * z_step) / z, and z is least at the nearest corner
            z_u, z_v = b6 - p2 * slope_u, b7 - p2 * slope_v
            z_least = z_c - _HALF * (tl.abs(z_u) + tl.abs(z_v))
            inverse_z = _reciprocal(z_c)
            x, y = x_c * inverse_z, y_c * inverse_z
            grow = _HALF * _reciprocal(z_least)
            half_x = grow * (tl.abs(b0 - p0 * slope_u - x * z_u) + tl.abs(b1 - p0 * slope_v - x * z_v))
            half_y = grow * (tl.abs(b3 - p1 * slope_u - y * z_u) + tl.abs(b4 - p1 * slope_v - y * z_v))
            # the first and last pixel centres in the box
            x, y = x - 0.5, y - 0.5
            left, right = tl.maximum(tl.ceil(x - half_x), 0.0), tl.minimum(x + half_x, width - 1.0)
            top, bottom = tl.maximum(tl.ceil(y - half_y), 0.0), tl.minimum(y + half_y, height - 1.0)
            pull_u, pull_v = e0 - u * e2, e1 - v * e2
            facing = 1.0 - (slope_u * pull_u + slope_v * pull_v + depth * e2)
            there &= (z_least > 0) & (facing != 0) & (right >= left) & (bottom >= top)
            across = tl.where(there, right - left, -1.0).to(tl.int32)
            down = tl.where(there, bottom - top, -1.0).to(tl.int32)
            widest, tallest = tl.max(across, axis=0), tl.max(down, axis=0)
            if widest >= 0:
                # On the facet's plane, inverse depth, reach (half a footprint times scale) and place relative to
                # the footprint's centre (times scale) are linear in target pixels: their values at the box's first
                # centre, and their steps.
                inverse_facing = _reciprocal(facing)
                u_x, u_y = a0 - u * a6, a1 - u * a7
                v_x, v_y = a3 - v * a6, a4 - v * a7
                d_x = (slope_u * u_x + slope_v * v_x + depth * a6) * inverse_facing
                d_y = (slope_u * u_y + slope_v * v_y + depth * a7) * inverse_facing
                px, py = left + 0.5, top + 0.5
                u_0 = u_x * px + u_y * py + (a2 - u * a8)
                v_0 = v_x * px + v_y * py + (a5 - v * a8)
                scale_0 = a6 * px + a7 * py + a8
                d_0 = (slope_u * u_0 + slope_v * v_0 + depth * scale_0) * inverse_facing
                u_0, u_x, u_y = u_0 + pull_u * d_0, u_x + pull_u * d_x, u_y + pull_u * d_y
                v_0, v_x, v_y = v_0 + pull_v * d_0, v_x + pull_v * d_x, v_y + pull_v * d_y
                reach_0 = _HALF * (scale_0 + e2 * d_0)  # below 0 behind the source, where nothing is within it
                reach_x, reach_y = _HALF * (a6 + e2 * d_x), _HALF * (a7 + e2 * d_y)
                row_ptr = nearest_ptr + (top.to(tl.int32) * width + left.to(tl.int32))
                j = 0
                while j <= tallest:
                    d_j, reach_j = d_0 + d_y * j, reach_0 + reach_y * j
                    u_j, v_j = u_0 + u_y * j, v_0 + v_y * j
                    last = tl.where(j <= down, across, -1)
                    at = row_ptr
                    i = 0
                    while i <= widest:
                        reach = reach_j + reach_x * i
                        sees = (tl.abs(u_j + u_x * i) <= reach) & (tl.abs(v_j + v_x * i) <= reach) & (i <= last)
                        # below 0, behind the target, the bits are below 0, too, and change nothing
                        bits = (d_j + d_x * i).to(tl.int32, bitcast=True)
                        tl.atomic_max(at, bits, mask=sees, sem="relaxed")
                        at += 1
                        i += 1
                    row_ptr += width
                    j += 1
        depth_ptr += WIDE
        usable_ptr += WIDE
        column += WIDE
        u += WIDE


@triton.jit
def _steps(position):
    """How many steps of 1 / SNAP a position beside _ORIGIN lies ahead of it; huge where it is negative or NaN."""
    return (position.to(tl.int32, bitcast=True) - _ORIGIN_BITS).to(tl.uint32, bitcast=True)


@triton.jit
def _between(position, size):
    """0 <= position < size, in one comparison."""
    return position.to(tl.uint32, bitcast=True) < size


@triton.jit
def _weighted(image_ptr, weight):
    """A source pixel's colour times its weight."""
    red, green, blue = _three(image_ptr)
    share = weight if red.dtype == tl.uint8 else weight.to(tl.float32)
    return share * red, share * green, share * blue


@triton.jit
def _tap(image_ptr, usable_ptr, index, weight, lends):
    """A source pixel's weight, 0 where it does not lend or is not usable, and its weighted colour."""
    lends &= tl.load(usable_ptr + index) != 0
    weight = tl.where(lends, weight, 0).to(tl.uint32)
    red, green, blue = _weighted(image_ptr + index * 3, weight)
    return weight, red, green, blue


@triton.jit
def _byte(weighted, share):
    """A mean of bytes, rounded half up."""
    return (weighted.to(tl.float32) * share + 0.5).to(tl.int32)


@triton.jit
def _look_up(
    image_ptr,
    depth_ptr,
    usable_ptr,
    camera_ptr,
    given_ptr,
    seen_ptr,
    pixels_ptr,
    rows,
    columns,
    height,
    width,
    KNOWN: tl.constexpr,
    INTEGER: tl.constexpr,
    WIDE: tl.constexpr,
    TALL: tl.constexpr,
    TILES: tl.constexpr,
):
    frame = tl.program_id(2).to(tl.int64)
    image_ptr += frame * rows * columns * 3
    depth_ptr += frame * rows * columns
    usable_ptr += frame * rows * columns
    camera = camera_ptr + frame * 24
    a0, a1, a2 = _three(camera)
    a3, a4, a5 = _three(camera + 3)
    a6, a7, a8 = _three(camera + 6)
    e0, e1, e2 = _three(camera + 9)

    lane = tl.arange(0, WIDE * TALL)
    y = tl.program_id(1) * TALL + lane // WIDE
    x = tl.program_id(0) * (TILES * WIDE) + lane % WIDE
    px, py = x + 0.5, y + 0.5
    row_u, row_v, row_scale = a1 * py + a2, a4 * py + a5, a7 * py + a8
    first = frame * height * width + (y * width + x)
    given_ptr += first
    seen_ptr += first
    pixels_ptr += first * (1 if INTEGER else 4)
    end = tl.where(y < height, width, 0)
    ahead = tl.load(given_ptr, mask=x < end, other=0.0)
    for _ in range(TILES):
        # the next tile is on its way while this one is worked on
        exists, seen = x < end, ahead
        x += WIDE
        given_ptr += WIDE
        ahead = tl.load(given_ptr, mask=x < end, other=0.0)
        if KNOWN:
            seen = tl.where(seen > 0, _inverse(seen), 0.0)
            tl.store(seen_ptr, seen, mask=exists)

        # follow each target pixel into the source, to the nearest 1 / SNAP of a pixel
        scale = a6 * px + row_scale + e2 * seen
        inverse_scale = _reciprocal(scale)
        u = (a0 * px + row_u + e0 * seen) * inverse_scale + _ORIGIN
        v = (a3 * px + row_v + e1 * seen) * inverse_scale + _ORIGIN
        steps_u, steps_v = _steps(u), _steps(v)
        column, row = (steps_u >> _SNAP_BITS).to(tl.int32), (steps_v >> _SNAP_BITS).to(tl.int32)
        hit = (tl.minimum(seen, scale) > 0) & _between(column, columns) & _between(row, rows)
        word = tl.zeros([WIDE * TALL], tl.int32)
        if not INTEGER:
            red, green, blue = word.to(tl.float32), word.to(tl.float32), word.to(tl.float32)
        if _any(hit):
            ahead_u = (steps_u & (_SNAP - 1)).to(tl.int32) - _SNAP // 2
            ahead_v = (steps_v & (_SNAP - 1)).to(tl.int32) - _SNAP // 2
            off_u, off_v = ahead_u * (1.0 / _SNAP), ahead_v * (1.0 / _SNAP)
            index = tl.where(hit, row * columns + column, 0)

            # the facet there must be usable, agree in depth and face the target
            facet = depth_ptr + index
            centre = _inverse(tl.load(facet, mask=hit, other=0.0))
            before, after, above, below = _neighbours(facet, row, column, rows, columns, hit)
            slope_u, slope_v = _smaller_step(before, centre, after), _smaller_step(above, centre, below)
            expected = slope_u * off_u + slope_v * off_v + centre
            u, v = u - _ORIGIN, v - _ORIGIN
            pull_u, pull_v = e0 - u * e2, e1 - v * e2
            facing = 1.0 - (slope_u * pull_u + slope_v * pull_v + expected * e2)
            hit &= (facing > 0) & _same_surface(expected, seen * inverse_scale)
            hit &= tl.load(usable_ptr + index) != 0
            if _any(hit):
                # The tent of one source pixel: this pixel, the next towards (u, v) on either axis, and the one
                # between. Weights count in steps, so that bytes are summed exactly: a tent's add up to 2^24 at
                # most. In place of a pixel that does not lend, this one is read, with weight 0.
                left, up = ahead_u < 0, ahead_v < 0
                step_u, step_v = tl.where(left, -1, 1), tl.where(up, -1, 1)
                beside, down = index + step_u, tl.where(up, -columns, columns)
                inside = hit & _between(column + step_u, columns) & _between(row + step_v, rows)
                across = tl.load(depth_ptr + (beside + down), mask=inside, other=0.0)
                rise_u = centre + slope_u * tl.where(left, -1.0, 1.0)
                rise_v = slope_v * tl.where(up, -1.0, 1.0)
                lends_u = _same_surface(tl.where(left, before, after), rise_u)
                lends_v = _same_surface(tl.where(up, above, below), centre + rise_v)
                lends = _same_surface(_inverse(across), rise_u + rise_v)
                share_u, share_v = tl.abs(ahead_u), tl.abs(ahead_v)
                rest_u, rest_v = -share_u + _SNAP, -share_v + _SNAP
                w0 = (rest_u * rest_v).to(tl.uint32)
                r0, g0, b0 = _weighted(image_ptr + index * 3, w0)
                at = tl.where(lends_u, beside, index)
                w1, r1, g1, b1 = _tap(image_ptr, usable_ptr, at, share_u * rest_v, lends_u)
                at = tl.where(lends_v, index + down, index)
                w2, r2, g2, b2 = _tap(image_ptr, usable_ptr, at, rest_u * share_v, lends_v)
                at = tl.where(lends, beside + down, index)
                w3, r3, g3, b3 = _tap(image_ptr, usable_ptr, at, share_u * share_v, lends)
                weights, red = w0 + w1 + w2 + w3, r0 + r1 + r2 + r3
                green, blue = g0 + g1 + g2 + g3, b0 + b1 + b2 + b3

                # how far a step of one target pixel moves in the source, times scale
                turn = _reciprocal(facing)
                u_x, u_y = a0 - u * a6, a1 - u * a7
                v_x, v_y = a3 - v * a6, a4 - v * a7
                tilt_x = (slope_u * u_x + slope_v * v_x + expected * a6) * turn
                tilt_y = (slope_u * u_y + slope_v * v_y + expected * a7) * turn
                moved_u = tl.maximum(tl.abs(u_x + pull_u * tilt_x), tl.abs(u_y + pull_u * tilt_y))
                moved_v = tl.maximum(tl.abs(v_x + pull_v * tilt_x), tl.abs(v_y + pull_v * tilt_y))
                shrunk = hit & (tl.maximum(moved_u, moved_v) >= 1.5 * scale)
                if _any(shrunk):
                    reach_u = (moved_u * inverse_scale + 0.5).to(tl.int32)
                    reach_v = (moved_v * inverse_scale + 0.5).to(tl.int32)
                    reach_u = tl.where(shrunk, tl.minimum(tl.maximum(reach_u, 1), _REACH), 1)
                    reach_v = tl.where(shrunk, tl.minimum(tl.maximum(reach_v, 1), _REACH), 1)
                    widest, tallest = tl.max(reach_u, axis=0), tl.max(reach_v, axis=0)
                    # those that are not shrunk keep what they have
                    weights = tl.where(shrunk, 0, weights)
                    red, green, blue = (
                        tl.where(shrunk, 0, red),
                        tl.where(shrunk, 0, green),
                        tl.where(shrunk, 0, blue),
                    )
                    j = -tallest
                    while j <= tallest:
                        weight_v = tl.maximum(reach_v * _SNAP - tl.abs(j * _SNAP - ahead_v), 0)
                        i = -widest
                        while i <= widest:
                            weight_u = tl.maximum(reach_u * _SNAP - tl.abs(i * _SNAP - ahead_u), 0)
                            inside = shrunk & _between(column + i, columns) & _between(row + j, rows)
                            at = tl.where(inside, index + j * columns + i, index)
                            there = _inverse(tl.load(depth_ptr + at))
                            lends = inside & _same_surface(there, centre + slope_u * i + slope_v * j)
                            w, r, g, b = _tap(image_ptr, usable_ptr, at, weight_u * weight_v, lends)
                            weights, red, green, blue = weights + w, red + r, green + g, blue + b
                            i += 1
                        j += 1

                share = _reciprocal(weights.to(tl.float32))
                if INTEGER:
                    colour = _byte(red, share) + (_byte(green, share) << 8) + (_byte(blue, share) << 16)
                    word = tl.where(hit, colour + (1 << 24), 0)
                else:
                    red, green, blue = red * share, green * share, blue * share

        if INTEGER:
            tl.store(pixels_ptr, word, mask=exists)
            pixels_ptr += WIDE
        else:
            tl.store(pixels_ptr, tl.where(hit, red, 0.0), mask=exists)
            tl.store(pixels_ptr + 1, tl.where(hit, green, 0.0), mask=exists)
            tl.store(pixels_ptr + 2, tl.where(hit, blue, 0.0), mask=exists)
            tl.store(pixels_ptr + 3, tl.where(hit, 1.0, 0.0), mask=exists)
            pixels_ptr += WIDE * 4
        seen_ptr += WIDE
        px += WIDE
