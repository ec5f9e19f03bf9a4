"""Solids in closed form, and where the rays of a pinhole camera meet them.

Every solid has a local frame (centre, rotation) and three sizes, so one transform serves all kinds. A ray is
`origin + t * direction` with the direction's component along the optical axis equal to 1: `t` is the depth in
metres as docs/conventions.md defines it, and no square root per ray is needed to obtain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

NEAR_M = 0.02
"""Surfaces nearer than this are not seen, as with a real lens."""

MISS = float("inf")


class Kind(IntEnum):
    """Shapes. Sizes are half extents in metres along the local x, y and z."""

    ROOM = 0  # a box seen from inside
    BOX = 1
    ELLIPSOID = 2
    CAPSULE = 3  # along z; size = (radius, radius, half length of the axis)
    CYLINDER = 4  # along z; size = (radius, radius, half height)
    TORSO = 5  # see Torso


@dataclass(frozen=True)
class Torso:
    """A torso lying along x: |y / a(u)|^n + |z / b(u)|^n + |u|^p = 1 with u = x / half_length_m.

    `width_m` and `height_m` hold the coefficients of the polynomials a(u) and b(u), lowest power first.
    """

    half_length_m: float
    width_m: tuple[float, ...]
    height_m: tuple[float, ...]
    section_power: float
    end_power: float

    def value(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Negative inside, zero on the surface; all of one shape."""
        u = (x / self.half_length_m).clamp(-1.2, 1.2)
        across = (y / _polynomial(self.width_m, u)).abs().pow(self.section_power)
        up = (z / _polynomial(self.height_m, u)).abs().pow(self.section_power)
        return across.add_(up).add_(u.abs().pow(self.end_power)).sub_(1.0)

    def top_m(self, x: Tensor, y: Tensor) -> Tensor:
        """Height of the upper surface over (x, y); 0 beside the torso."""
        u = (x / self.half_length_m).clamp(-1.0, 1.0)
        rest = 1 - (y / _polynomial(self.width_m, u)).abs().pow(self.section_power) - u.abs().pow(self.end_power)
        return _polynomial(self.height_m, u) * rest.clamp(min=0.0).pow(1 / self.section_power)

    def gradient(self, q: Tensor) -> Tensor:
        """Outward direction [3, N] at the points q [3, N]; central differences, not normalised."""
        step = 1e-3
        shifted = [q + step * _unit(axis, q) for axis in range(3)]
        back = [q - step * _unit(axis, q) for axis in range(3)]
        return torch.stack([self.value(*a) - self.value(*b) for a, b in zip(shifted, back, strict=True)])


def _unit(axis: int, like: Tensor) -> Tensor:
    unit = like.new_zeros(3, *[1] * (like.ndim - 1))
    unit[axis] = 1.0
    return unit


def _polynomial(coefficients: Sequence[float], u: Tensor) -> Tensor:
    result = torch.full_like(u, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result.mul_(u).add_(c)
    return result


@dataclass(frozen=True)
class Solids:
    """P solids over T frames (T = 1: they stand still).

    Attributes:
        kind, slot, label: P integers each: shape, material slot (see styles.Slot), semantic label.
        tint: [P] factors near 1, so that neighbours of one material differ a little.
        size_m: [P, 3]; centre_m: [T, P, 3] in the world; rotation: [T, P, 3, 3], world from local.
        casts: P flags: throws a visible shadow.
        torso: the shape of the solid of kind TORSO, if there is one.
        longest: P numbers 0..2 of the axes that solids extend along, kept on the CPU.
    """

    kind: tuple[int, ...]
    slot: tuple[int, ...]
    label: tuple[int, ...]
    tint: Tensor
    size_m: Tensor
    centre_m: Tensor
    rotation: Tensor
    casts: tuple[bool, ...]
    torso: Torso | None = None
    longest: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    def frames(self, index: Sequence[int] | slice) -> Solids:
        """The same solids at some of the frames."""
        return replace(self, centre_m=self.centre_m[index], rotation=self.rotation[index])

    def to(self, device: torch.device | str) -> Solids:
        moved = {n: getattr(self, n).to(device) for n in ("tint", "size_m", "centre_m", "rotation")}
        return replace(self, **moved)

    def joined(self, other: Solids) -> Solids:
        """Both sets, these first, over the larger number of frames."""
        frames = max(len(self.centre_m), len(other.centre_m))
        return Solids(
            self.kind + other.kind,
            self.slot + other.slot,
            self.label + other.label,
            torch.cat([self.tint, other.tint]),
            torch.cat([self.size_m, other.size_m]),
            torch.cat([s.centre_m.expand(frames, -1, -1) for s in (self, other)], 1),
            torch.cat([s.rotation.expand(frames, -1, -1, -1) for s in (self, other)], 1),
            self.casts + other.casts,
            self.torso or other.torso,
            self.longest + other.longest,
        )


@dataclass(frozen=True)
class Pinhole:
    """One view of T frames: pose and focal length; T = 1 for a camera that stands still.

    Attributes:
        position_m: [T, 3]; rotation: [T, 3, 3], world from camera (x right, y down, z forward).
        focal_px: of a square image of size_px whose centre is the principal point.
    """

    position_m: Tensor
    rotation: Tensor
    focal_px: float
    size_px: int

    def frames(self, index: Sequence[int] | slice) -> Pinhole:
        return replace(self, position_m=self.position_m[index], rotation=self.rotation[index])

    def to(self, device: torch.device | str) -> Pinhole:
        return replace(self, position_m=self.position_m.to(device), rotation=self.rotation.to(device))

    def resized(self, size_px: int) -> Pinhole:
        return replace(self, focal_px=self.focal_px * size_px / self.size_px, size_px=size_px)

    def offsets(self, device: torch.device | str) -> Tensor:
        """Slopes x / z of the pixel centres of one row (and y / z of one column), [size_px]."""
        half = self.size_px / 2
        return (torch.arange(self.size_px, device=device, dtype=torch.float32) + (0.5 - half)) / self.focal_px


Bounds = tuple[int, int, int, int]


def pixel_bounds(camera: Pinhole, solids: Solids) -> list[Bounds | None]:
    """Rows and columns (top, bottom, left, right) outside which a solid is in no frame; None: nowhere.

    Computed on the CPU from box corners, so that the GPU never has to be asked.
    """
    half = solids.size_m.double().clone()
    capsules = [i for i, k in enumerate(solids.kind) if k == Kind.CAPSULE]
    half[capsules, 2] += half[capsules, 0]
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    corners = torch.einsum("tpij,pkj->tpki", solids.rotation.double(), half[:, None] * signs)
    corners = corners + solids.centre_m.double()[:, :, None] - camera.position_m.double()[:, None, None]
    x, y, z = torch.einsum("tji,tpkj->tpki", camera.rotation.double(), corners).unbind(-1)
    px = torch.stack([y, x], -1) / z.clamp(min=1e-6)[..., None] * camera.focal_px + camera.size_px / 2
    low = px.amin((0, 2)).floor().clamp(0, camera.size_px).int().tolist()
    high = px.amax((0, 2)).ceil().clamp(0, camera.size_px).int().tolist()
    behind, crossing = (z < NEAR_M).all((0, 2)).tolist(), (z < NEAR_M).any(2).any(0).tolist()
    bounds: list[Bounds | None] = []
    for i, kind in enumerate(solids.kind):
        if kind == Kind.ROOM or (crossing[i] and not behind[i]):
            bounds.append((0, camera.size_px, 0, camera.size_px))
        elif behind[i] or low[i][0] >= high[i][0] or low[i][1] >= high[i][1]:
            bounds.append(None)
        else:
            bounds.append((low[i][0], high[i][0], low[i][1], high[i][1]))
    return bounds


def cast(
    camera: Pinhole, solids: Solids, bounds: Sequence[Bounds | None], depth_m: Tensor, nearest: Tensor, first: int
) -> None:
    """Lower `depth_m` [T, H, W] where a solid is nearer, and write its number plus `first` to `nearest`.

    `camera` and `solids` are on one device, over T frames or 1; `bounds` comes from pixel_bounds for those frames.
    Both pictures are changed in place; depth is inf where nothing was met so far.
    """
    offsets = camera.offsets(depth_m.device)
    local_from_world = solids.rotation.mT
    origin = (local_from_world @ (camera.position_m[:, None] - solids.centre_m)[..., None])[..., 0]
    axes = local_from_world @ camera.rotation[:, None]
    for i, box in enumerate(bounds):
        if box is None:
            continue
        top, bottom, left, right = box
        m, o = axes[:, i, :, :, None, None], origin[:, i, :, None, None]
        across = m[:, :, 0] * offsets[left:right] + m[:, :, 2]
        down = m[:, :, 1] * offsets[top:bottom, None]
        direction = [across[:, k] + down[:, k] for k in range(3)]
        t = _meet(solids, i, [o[:, k] for k in range(3)], direction)
        window = depth_m[:, top:bottom, left:right]
        closer = t < window
        window.copy_(torch.where(closer, t, window))
        number = nearest[:, top:bottom, left:right]
        number.masked_fill_(closer, first + i)


def _meet(solids: Solids, i: int, o: list[Tensor], d: list[Tensor]) -> Tensor:
    """First t >= NEAR_M at which rays meet solid i, in its own frame; inf where they do not."""
    kind, size = solids.kind[i], solids.size_m[i]
    if kind == Kind.ROOM:
        return _slabs(size, o, d)[1]
    if kind == Kind.BOX:
        enter, leave = _slabs(size, o, d)
        return torch.where((enter < leave) & (enter > NEAR_M), enter, MISS)
    if kind == Kind.ELLIPSOID:
        enter, leave = _roots(
            [v / s for v, s in zip(o, size, strict=True)], [v / s for v, s in zip(d, size, strict=True)]
        )
        return torch.where((enter < leave) & (enter > NEAR_M), enter, MISS)
    if kind == Kind.CAPSULE:
        return _capsule(size, o, d)
    if kind == Kind.CYLINDER:
        side = _roots([v / size[0] for v in o[:2]], [v / size[0] for v in d[:2]])
        caps = _slabs(size[2:], o[2:], d[2:])
        enter, leave = torch.maximum(side[0], caps[0]), torch.minimum(side[1], caps[1])
        return torch.where((enter < leave) & (enter > NEAR_M), enter, MISS)
    assert solids.torso is not None
    return _torso(solids.torso, size, o, d)


def _slabs(size: Tensor, o: Sequence[Tensor], d: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    enter = leave = None
    for half, a, b in zip(size, o, d, strict=True):
        inverse = 1 / torch.where(b.abs() < 1e-9, 1e-9, b)
        middle, reach = a * inverse, inverse.abs() * half
        low, high = -(middle + reach), reach - middle
        enter = low if enter is None else torch.maximum(enter, low)
        leave = high if leave is None else torch.minimum(leave, high)
    assert enter is not None
    assert leave is not None
    return enter, leave


def _roots(o: Sequence[Tensor], d: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the unit sphere (or circle); enter > leave where they miss it."""
    a, b, c = _dot(d, d), _dot(o, d), _dot(o, o) - 1
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    inverse = 1 / a.clamp(min=1e-12)
    miss = discriminant <= 0
    return torch.where(miss, MISS, (-b - root) * inverse), torch.where(miss, -MISS, (root - b) * inverse)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def _capsule(size: Tensor, o: list[Tensor], d: list[Tensor]) -> Tensor:
    r, h = size[0], size[2]
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - r * r
    discriminant = b * b - a * c
    t = (-b - discriminant.clamp(min=0).sqrt()) / a.clamp(min=1e-12)
    z = o[2] + t * d[2]
    rise = o[2] - torch.where(z > 0, h, -h)
    b_cap, a_cap = b + rise * d[2], a + d[2] * d[2]
    discriminant_cap = b_cap * b_cap - a_cap * (c + rise * rise)
    t_cap = (-b_cap - discriminant_cap.clamp(min=0).sqrt()) / a_cap
    t = torch.where(z.abs() < h, t, torch.where(discriminant_cap > 0, t_cap, MISS))
    return torch.where((discriminant > 0) & (t > NEAR_M), t, MISS)


def _torso(
    torso: Torso, size: Tensor, o: list[Tensor], d: list[Tensor], steps: int = 20, halvings: int = 7
) -> Tensor:
    """Walk through the bounding box to the first change of sign, then halve; closed forms do not exist."""
    enter, leave = _slabs(size, o, d)
    enter = enter.clamp(min=NEAR_M)
    stride = ((leave - enter) / steps).clamp(min=0)

    def value(t: Tensor) -> Tensor:
        return torso.value(*[a + t * b for a, b in zip(o, d, strict=True)])

    number = torch.arange(1, steps + 1, device=enter.device, dtype=enter.dtype).view(-1, *[1] * enter.ndim)
    inside = value(enter + stride * number) < 0
    low = enter + stride * inside.byte().argmax(0)
    found = inside.any(0) & (leave > enter)
    high = low + stride
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        inside = value(middle) < 0
        high, low = torch.where(inside, middle, high), torch.where(inside, low, middle)
    return torch.where(found, 0.5 * (low + high), MISS)


def local_normal(solids: Solids, kind: Kind, size: Tensor, q: Tensor, bevel_m: float = 0.008) -> Tensor:
    """Outward normals [3, N], not of unit length, at local surface points q [3, N]; size [3, N].

    Edges of boxes and cylinders are rounded in the normal alone: it looks like a bevel and leaves depth exact.
    """
    if kind == Kind.ROOM:
        ratio = q.abs() / size
        return torch.where(ratio == ratio.amax(0), -q.sign(), 0.0)
    if kind == Kind.BOX:
        bevel = (0.3 * size.amin(0)).clamp(max=bevel_m)
        return q.sign() * (q.abs() - size + bevel).clamp(min=0) + 1e-6 * q
    if kind == Kind.ELLIPSOID:
        return q / (size * size)
    if kind == Kind.CAPSULE:
        return torch.stack([q[0], q[1], q[2] - torch.clamp(q[2], -size[2], size[2])])
    if kind == Kind.CYLINDER:
        bevel = (0.3 * size.amin(0)).clamp(max=bevel_m)
        radius = (q[0] * q[0] + q[1] * q[1]).sqrt().clamp(min=1e-6)
        side = (radius - size[0] + bevel).clamp(min=0) / radius + 1e-6
        return torch.stack([q[0] * side, q[1] * side, q[2].sign() * (q[2].abs() - size[2] + bevel).clamp(min=0)])
    assert solids.torso is not None
    return solids.torso.gradient(q)
