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

from dataclasses import asdict, dataclass

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
_SNAP = tl.constexpr(SNAP)
_SNAP_BITS = tl.constexpr(SNAP.bit_length() - 1)


@dataclass(frozen=True)
class Launch:
    """How a kernel is spread over the device; changes the time, never a bit of the result.

    Attributes:
        WIDE, TALL: a tile in pixels, powers of two.
        TILES: tiles that one program works through.
        num_warps: groups of 32 threads per program. One makes every "does any pixel?" a single instruction.
    """

    WIDE: int = 8
    TALL: int = 4
    TILES: int = 4
    num_warps: int = 1

    def grid(self, clip: int, rows: int, columns: int) -> tuple[int, int, int]:
        return triton.cdiv(columns, self.WIDE * self.TILES), triton.cdiv(rows, self.TALL), clip


SPLAT = Launch()
LOOK_UP = Launch()


def warp(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, known_m: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The engine interface of `view`: colours, covered, inverse depth of the nearest surface."""
    clip, rows, columns = depth_m.shape
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
                depth_m, usable_bytes, cameras, nearest, *sizes, **asdict(SPLAT)
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
            **asdict(LOOK_UP),
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
def _inverse(depth_m):
    return tl.where(depth_m > 0, _reciprocal(depth_m), 0.0)  # 1 / inf is 0, and NaN is not above 0


@triton.jit
def _smaller_step(behind, centre, ahead):
    """The slope; beside an unknown (0) the step is as large as `centre`, which no surface has."""
    forward = ahead - centre
    backward = centre - behind
    slope = tl.where(tl.abs(forward) <= tl.abs(backward), forward, backward)
    return tl.where(tl.abs(slope) <= _SLOPE * centre, slope, 0.0)


@triton.jit
def _cross(depth_ptr, row, column, rows, columns, there):
    """Inverse depth at a pixel and its left, right, upper and lower neighbour; 0 where unknown or not `there`."""
    at = depth_ptr + (row * columns + column)
    centre = tl.load(at, mask=there, other=0.0)
    left = tl.load(at - 1, mask=there & (column > 0), other=0.0)
    right = tl.load(at + 1, mask=there & (column < columns - 1), other=0.0)
    above = tl.load(at - columns, mask=there & (row > 0), other=0.0)
    below = tl.load(at + columns, mask=there & (row < rows - 1), other=0.0)
    return _inverse(centre), _inverse(left), _inverse(right), _inverse(above), _inverse(below)


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

    lane = tl.arange(0, WIDE * TALL)
    row = tl.program_id(1) * TALL + lane // WIDE
    v = row + 0.5
    column = tl.program_id(0) * (TILES * WIDE) + lane % WIDE
    u = column + 0.5
    for _ in range(TILES):
        there = (row < rows) & (column < columns)
        usable = tl.load(usable_ptr + (row * columns + column), mask=there, other=0)
        depth, before, after, above, below = _cross(depth_ptr, row, column, rows, columns, there)
        slope_u = _smaller_step(before, depth, after)
        slope_v = _smaller_step(above, depth, below)

        # the facet's centre in the target and a box around its corners, from the half sides u and v of the
        # footprint: corner - centre = (step - centre * z_step) / z, and z is least at the nearest corner
        x_c = b0 * u + b1 * v + b2 - p0 * depth
        y_c = b3 * u + b4 * v + b5 - p1 * depth
        z_c = b6 * u + b7 * v + b8 - p2 * depth
        z_u, z_v = b6 - p2 * slope_u, b7 - p2 * slope_v
        z_least = z_c - _HALF * (tl.abs(z_u) + tl.abs(z_v))
        inverse_z = _reciprocal(z_c)
        x, y = x_c * inverse_z, y_c * inverse_z
        grow = _HALF * _reciprocal(z_least)
        half_x = grow * (tl.abs(b0 - p0 * slope_u - x * z_u) + tl.abs(b1 - p0 * slope_v - x * z_v))
        half_y = grow * (tl.abs(b3 - p1 * slope_u - y * z_u) + tl.abs(b4 - p1 * slope_v - y * z_v))
        # the first and last pixel centres in the box
        left, right = tl.maximum(tl.ceil(x - half_x - 0.5), 0.0), tl.minimum(x + half_x - 0.5, width - 1.0)
        top, bottom = tl.maximum(tl.ceil(y - half_y - 0.5), 0.0), tl.minimum(y + half_y - 0.5, height - 1.0)
        there = (usable != 0) & (depth > 0) & (depth < float("inf")) & (z_least > 0)
        there &= (right >= left) & (bottom >= top)
        across = tl.where(there, right - left, -1.0).to(tl.int32)
        down = tl.where(there, bottom - top, -1.0).to(tl.int32)
        widest, tallest = tl.max(across, axis=0), tl.max(down, axis=0)
        if widest >= 0:
            # On the facet's plane, inverse depth, scale and place relative to the footprint's centre (times scale)
            # are linear in target pixels: their values at the box's first centre, and their steps.
            facing = 1.0 - (slope_u * (e0 - u * e2) + slope_v * (e1 - v * e2) + depth * e2)
            there &= facing != 0
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
            pull_u, pull_v = e0 - u * e2, e1 - v * e2
            u_0, u_x, u_y = u_0 + pull_u * d_0, u_x + pull_u * d_x, u_y + pull_u * d_y
            v_0, v_x, v_y = v_0 + pull_v * d_0, v_x + pull_v * d_x, v_y + pull_v * d_y
            scale_0, scale_x, scale_y = scale_0 + e2 * d_0, a6 + e2 * d_x, a7 + e2 * d_y
            row_ptr = nearest_ptr + top.to(tl.int32) * width + left.to(tl.int32)
            j = 0
            while j <= tallest:
                d_j, scale_j = d_0 + d_y * j, scale_0 + scale_y * j
                u_j, v_j = u_0 + u_y * j, v_0 + v_y * j
                at = row_ptr
                i = 0
                while i <= widest:
                    inverse_depth = d_j + d_x * i
                    reach = _HALF * (scale_j + scale_x * i)  # below 0 behind the source, where nothing is within it
                    sees = there & (i <= across) & (j <= down) & (inverse_depth > 0)
                    sees &= (tl.abs(u_j + u_x * i) <= reach) & (tl.abs(v_j + v_x * i) <= reach)
                    bits = inverse_depth.to(tl.int32, bitcast=True)
                    tl.atomic_max(at, bits, mask=sees, sem="relaxed")
                    at += 1
                    i += 1
                row_ptr += width
                j += 1
        column += WIDE
        u += WIDE


@triton.jit
def _tap(image_ptr, usable_ptr, index, weight, lends):
    """A source pixel's weight and weighted colour."""
    lends &= tl.load(usable_ptr + index) != 0
    weight = tl.where(lends, weight, 0.0)
    red, green, blue = _three(image_ptr + index * 3)
    return weight, weight * red.to(tl.float32), weight * green.to(tl.float32), weight * blue.to(tl.float32)


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
    given_ptr += frame * height * width
    seen_ptr += frame * height * width
    pixels_ptr += frame * height * width * (1 if INTEGER else 4)
    camera = camera_ptr + frame * 24
    a0, a1, a2 = _three(camera)
    a3, a4, a5 = _three(camera + 3)
    a6, a7, a8 = _three(camera + 6)
    e0, e1, e2 = _three(camera + 9)

    lane = tl.arange(0, WIDE * TALL)
    y = tl.program_id(1) * TALL + lane // WIDE
    py = y + 0.5
    x = tl.program_id(0) * (TILES * WIDE) + lane % WIDE
    px = x + 0.5
    u_end, v_end = columns * (_SNAP * 1.0), rows * (_SNAP * 1.0)
    for _ in range(TILES):
        exists = (y < height) & (x < width)
        pixel = y * width + x
        seen = tl.load(given_ptr + pixel, mask=exists, other=0.0)
        if KNOWN:
            seen = _inverse(seen)
            tl.store(seen_ptr + pixel, seen, mask=exists)

        # follow each target pixel into the source; positions there count in steps of 1 / SNAP
        scale = (a6 * px + a8) + a7 * py + e2 * seen
        inverse_scale = _reciprocal(scale)
        u = ((a0 * px + a2) + a1 * py + e0 * seen) * inverse_scale * _SNAP + 0.5
        v = ((a3 * px + a5) + a4 * py + e1 * seen) * inverse_scale * _SNAP + 0.5
        hit = (tl.minimum(seen, scale) > 0) & (tl.minimum(u, v) >= 0) & (tl.maximum(u - u_end, v - v_end) < 0)
        nothing = tl.zeros([WIDE * TALL], tl.float32)
        red, green, blue, weights = nothing, nothing, nothing, nothing
        if tl.max(hit.to(tl.int32), axis=0) > 0:
            steps_u, steps_v = tl.where(hit, u, 0.0).to(tl.int32), tl.where(hit, v, 0.0).to(tl.int32)
            u, v = steps_u * (1.0 / _SNAP), steps_v * (1.0 / _SNAP)
            column, row = steps_u >> _SNAP_BITS, steps_v >> _SNAP_BITS
            off_u, off_v = u - (column + 0.5), v - (row + 0.5)
            index = row * columns + column

            # the facet there must be usable, agree in depth and face the target
            centre, before, after, above, below = _cross(depth_ptr, row, column, rows, columns, hit)
            slope_u, slope_v = _smaller_step(before, centre, after), _smaller_step(above, centre, below)
            expected = slope_u * off_u + slope_v * off_v + centre
            pull_u, pull_v = e0 - u * e2, e1 - v * e2
            facing = 1.0 - (slope_u * pull_u + slope_v * pull_v + expected * e2)
            hit &= (facing > 0) & _same_surface(expected, seen * inverse_scale)

            # how far a step of one target pixel moves in the source, times scale and facing
            u_x, u_y = a0 - u * a6, a1 - u * a7
            v_x, v_y = a3 - v * a6, a4 - v * a7
            tilt_x = slope_u * u_x + slope_v * v_x + expected * a6
            tilt_y = slope_u * u_y + slope_v * v_y + expected * a7
            moved_u = tl.maximum(tl.abs(u_x * facing + pull_u * tilt_x), tl.abs(u_y * facing + pull_u * tilt_y))
            moved_v = tl.maximum(tl.abs(v_x * facing + pull_v * tilt_x), tl.abs(v_y * facing + pull_v * tilt_y))
            unit = scale * facing
            shrunk = hit & (tl.maximum(moved_u, moved_v) >= 1.5 * unit)

            # the tent of one source pixel: this pixel, the next towards (u, v) on either axis, and the one between
            share_u, share_v = tl.abs(off_u), tl.abs(off_v)
            step_u, step_v = tl.where(off_u < 0, -1, 1), tl.where(off_v < 0, -1, 1)
            next_u, next_v = tl.where(off_u < 0, before, after), tl.where(off_v < 0, above, below)
            rise_u, rise_v = centre + slope_u * step_u, slope_v * step_v
            inside_u = (column + step_u >= 0) & (column + step_u < columns)
            inside_v = (row + step_v >= 0) & (row + step_v < rows)
            beside = index + tl.where(inside_u, step_u, 0)
            down = tl.where(inside_v, step_v * columns, 0)
            between = _inverse(tl.load(depth_ptr + (beside + down)))
            w0, r0, g0, b0 = _tap(image_ptr, usable_ptr, index, (1 - share_u) * (1 - share_v), hit)
            w1, r1, g1, b1 = _tap(
                image_ptr, usable_ptr, beside, share_u * (1 - share_v), _same_surface(next_u, rise_u)
            )
            w2, r2, g2, b2 = _tap(
                image_ptr, usable_ptr, index + down, (1 - share_u) * share_v, _same_surface(next_v, centre + rise_v)
            )
            w3, r3, g3, b3 = _tap(
                image_ptr,
                usable_ptr,
                beside + down,
                share_u * share_v,
                inside_u & inside_v & _same_surface(between, rise_u + rise_v),
            )
            hit = w0 > 0  # usable, too
            weights, red, green, blue = w0 + w1 + w2 + w3, r0 + r1 + r2 + r3, g0 + g1 + g2 + g3, b0 + b1 + b2 + b3
            if tl.max((hit & shrunk).to(tl.int32), axis=0) > 0:
                reach_u = tl.minimum(tl.maximum(tl.floor(moved_u / unit + 0.5), 1.0), _REACH)
                reach_v = tl.minimum(tl.maximum(tl.floor(moved_v / unit + 0.5), 1.0), _REACH)
                reach_u, reach_v = tl.where(hit, reach_u, 1.0), tl.where(hit, reach_v, 1.0)
                widest, tallest = tl.max(reach_u, axis=0).to(tl.int32), tl.max(reach_v, axis=0).to(tl.int32)
                red, green, blue, weights = nothing, nothing, nothing, nothing
                j = -tallest
                while j <= tallest:
                    weight_v = tl.maximum(1.0 - tl.abs(j - off_v) / reach_v, 0.0)
                    in_row = (row + j >= 0) & (row + j < rows)
                    i = -widest
                    while i <= widest:
                        weight = tl.maximum(1.0 - tl.abs(i - off_u) / reach_u, 0.0) * weight_v
                        inside = in_row & (column + i >= 0) & (column + i < columns)
                        tap = tl.where(inside, index + j * columns + i, index)
                        there = _inverse(tl.load(depth_ptr + tap))
                        lends = inside & _same_surface(there, centre + slope_u * i + slope_v * j)
                        w, r, g, b = _tap(image_ptr, usable_ptr, tap, weight, lends)
                        weights, red, green, blue = weights + w, red + r, green + g, blue + b
                        i += 1
                    j += 1

        share = tl.where(hit, _reciprocal(weights), 0.0)
        red, green, blue = red * share, green * share, blue * share
        if INTEGER:
            red, green, blue = (red + 0.5).to(tl.int32), (green + 0.5).to(tl.int32), (blue + 0.5).to(tl.int32)
            word = red + (green << 8) + (blue << 16) + (1 << 24)
            tl.store(pixels_ptr + pixel, tl.where(hit, word, 0), mask=exists)
        else:
            at = pixels_ptr + pixel * 4
            tl.store(at, tl.where(hit, red, 0.0), mask=exists)
            tl.store(at + 1, tl.where(hit, green, 0.0), mask=exists)
            tl.store(at + 2, tl.where(hit, blue, 0.0), mask=exists)
            tl.store(at + 3, tl.where(hit, 1.0, 0.0), mask=exists)
        x += WIDE
        px += WIDE
