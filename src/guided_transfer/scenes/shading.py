"""Light on surfaces: the plain simulated look and the real one, and what a camera makes of it.

Shadows and contact shadows are closed forms too. A solid's shadow is its outline in the plane across the light,
with an edge as wide as the gap times the lamp's angular size; nothing is sampled, so nothing is grainy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.scenes.materials import PATTERNS, Patch
from guided_transfer.scenes.solids import Kind, Solids
from guided_transfer.scenes.styles import (
    LIGHTS,
    Colour,
    Light,
    Material,
    Slot,
    Style,
    materials_of,
    simulated_materials,
)
from guided_transfer.scenes.world import Scene

GAMMA = 2.2


@dataclass(frozen=True)
class Surface:
    """What the pixels see; N = V * T * H * W.

    Attributes:
        shape: (V, T, H, W); depth_m, labels, number: that shape; number is the solid's.
        point, normal, view: [3, N] in the world; view points to the eye, unit.
        q, normal_q: [3, N] in the solid's own frame; half_m: [3, N] its half extents there.
        footprint_m: [N] width of a pixel on the surface.
        slot: [N]; where: pixels of each slot that is present; tint: [N].
        solids: still ones first.
    """

    shape: tuple[int, int, int, int]
    depth_m: Tensor
    labels: Tensor
    number: Tensor
    point: Tensor
    normal: Tensor
    view: Tensor
    q: Tensor
    normal_q: Tensor
    half_m: Tensor
    footprint_m: Tensor
    slot: Tensor
    where: dict[Slot, Tensor]
    tint: Tensor
    solids: Solids


def shade_simulated(surface: Surface, scene: Scene) -> Tensor:
    """Colour (sRGB) [3, N] under one directional light and soft ambient, without shadows or texture."""
    materials = simulated_materials(scene.sim_arm, scene.sim_phantom, scene.sim_room)
    colours = surface.point.new_tensor([materials[s].colour for s in Slot]).T[:, surface.slot]
    n = surface.normal
    lamp = (n[0] * 0.55 + n[1] * 0.30 + n[2] * 0.78).clamp(min=0)
    return colours * (0.55 + 0.12 * n[2] + 0.40 * lamp) * surface.tint


def shade_real(surface: Surface, ambient: Tensor, style: Style) -> Tensor:
    """Linear radiance [3, N] of the style's materials under its light; `ambient` [N] comes from `contact`."""
    rng = Random(f"light {style.seed}")
    materials, light = materials_of(style), LIGHTS[style.light]
    albedo = _albedo(surface, materials, rng).clamp_(0.01, 0.97).pow_(GAMMA)
    toward = _lamp_direction(rng, light, surface.point)
    n, v = surface.normal, surface.view

    facing = (n * toward[:, None]).sum(0)
    lit = facing.clamp(min=0) * light.strength * 1.5
    lit *= shadow(surface, toward, light.softness * rng.uniform(0.8, 1.3))
    lit *= _spot(surface.point, light.spot)
    up = (0.5 + 0.5 * n[2]) * ambient
    down = (0.5 - 0.5 * n[2]) * ambient
    sky, ground, lamp = (surface.point.new_tensor(c)[:, None] for c in (light.sky, light.ground, light.colour))

    table = surface.point.new_tensor(
        [[materials[s].gloss, materials[s].roughness, materials[s].glow] for s in Slot]
    )
    gloss, roughness, glow = table.T[:, surface.slot]
    radiance = albedo * (1 - gloss) * (lamp * lit + sky * (1.15 * up) + ground * (1.15 * down))
    cosine = (n * v).sum(0).clamp(0, 1)
    mirrored = 2 * cosine * n - v
    height = (0.5 + 0.5 * mirrored[2]).clamp(0, 1)
    fresnel = gloss + (1 - roughness) * 0.35 * (1 - cosine) ** 5
    surroundings = (ground + (sky - ground) * height) * (1.1 * ambient)
    metal = (gloss > 0.25).to(gloss.dtype)
    mirror_colour = 1 + (albedo * 1.8 - 1) * metal
    radiance += surroundings * fresnel * mirror_colour
    half = F.normalize(toward[:, None] + v, dim=0)
    sharpness = 6 + 90 * (1 - roughness) ** 2
    shine = (half * n).sum(0).clamp(min=0).pow(sharpness) * (0.2 + 0.8 * (1 - roughness))
    radiance += lamp * (shine * lit * (0.15 + 1.2 * fresnel) * (gloss > 0.02))
    return radiance + albedo * glow


def _albedo(surface: Surface, materials: dict[Slot, Material], rng: Random) -> Tensor:
    albedo = torch.empty_like(surface.point)
    for slot, here in surface.where.items():
        material = materials[slot]
        shift = [0.0] * 3 if material.pattern in ("screen", "window") else [rng.uniform(0, 3) for _ in range(3)]
        # grain of fronts runs upwards
        axes = [2, 0, 1] if slot in (Slot.CABINET, Slot.DOOR) else [0, 1, 2]
        q, normal, half = (of[:, here][axes] for of in (surface.q, surface.normal_q, surface.half_m))
        patch = Patch(q + q.new_tensor(shift)[:, None], normal, surface.footprint_m[here], q + half, 2 * half)
        albedo[:, here] = PATTERNS[material.pattern](patch, material)
    return albedo * surface.tint


def _lamp_direction(rng: Random, light: Light, like: Tensor) -> Tensor:
    """From the right, left or back of the room camera, never straight into it."""
    azimuth = math.radians(45 + rng.uniform(-125, 125))
    elevation = math.radians(20 + 65 * min(1.0, max(0.0, light.height + rng.uniform(-0.08, 0.08))))
    flat = math.cos(elevation)
    return like.new_tensor([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def _spot(point: Tensor, share: float) -> Tensor | float:
    if share == 0:
        return 1.0
    away = point[0] * point[0] + point[1] * point[1]
    return (1 - share) + share * torch.exp(-away / 0.45**2)


def _outline(solids: Solids, i: int, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre [T, 3] of solid i and its half axes [T, 3 axes, 3] in the frame across the light."""
    half = solids.rotation[:, i].mT * solids.size_m[i][:, None]
    return solids.centre_m[:, i] @ basis.T, half @ basis.T, solids.size_m[i]


def shadow(surface: Surface, toward: Tensor, softness: float) -> Tensor:
    """Share of the lamp that reaches each point: [N], 0 in full shadow."""
    helper = (
        toward.new_tensor([0.0, 0.0, 1.0]) if abs(float(toward[2])) < 0.95 else toward.new_tensor([1.0, 0.0, 0.0])
    )
    u = F.normalize(torch.linalg.cross(helper, toward), dim=0)
    basis = torch.stack([u, torch.linalg.cross(toward, u), toward])
    v, t, h, w = surface.shape
    across = (basis @ surface.point).reshape(3, v, t, h * w)
    light = torch.ones_like(across[0])
    for i, casts in enumerate(surface.solids.casts):
        if casts:
            light *= 1 - _blocked(surface.solids, i, basis, across, softness)
    return light.reshape(-1)


def _blocked(solids: Solids, i: int, basis: Tensor, across: Tensor, softness: float) -> Tensor:
    centre, axes, size = _outline(solids, i, basis)
    x, y, z = (across[k] - centre[:, k, None] for k in range(3))
    kind = solids.kind[i]
    if kind in (Kind.CAPSULE, Kind.CYLINDER):
        a = axes[:, 2, :, None]
        s = ((x * a[:, 0] + y * a[:, 1]) / (a[:, 0] ** 2 + a[:, 1] ** 2 + 1e-6)).clamp_(-1, 1)
        gap = s * a[:, 2] - z
        edge = (x - s * a[:, 0]).square_().add_((y - s * a[:, 1]).square_()).sqrt_().sub_(size[0])
        return _soft_edge(edge, gap, softness, 0.5 * size[0])
    if kind == Kind.BOX:
        a, b, c = (axes[:, k, :, None] for k in range(3))
        determinant = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        determinant = torch.where(determinant.abs() < 1e-7, 1e-7, determinant)
        p = (x * b[:, 1] - y * b[:, 0]) / determinant
        q = (y * a[:, 0] - x * a[:, 1]) / determinant
        gap = p * a[:, 2] + q * b[:, 2] - c[:, 2].abs() - z
        edge = torch.maximum((p.abs() - 1) * size[0], (q.abs() - 1) * size[1])
        return _soft_edge(edge, gap, softness, 0.5 * size[2])
    spread = torch.einsum("tki,tkj->tij", axes[..., :2], axes[..., :2])
    determinant = (spread[:, 0, 0] * spread[:, 1, 1] - spread[:, 0, 1] ** 2).clamp(min=1e-9)[:, None]
    form = (
        spread[:, 1, 1, None] * x * x - 2 * spread[:, 0, 1, None] * x * y + spread[:, 0, 0, None] * y * y
    ) / determinant
    radius = determinant.sqrt().sqrt()
    edge = (form.sqrt() - (0.86 if kind == Kind.TORSO else 1.0)) * radius
    return _soft_edge(edge, -z, softness, 0.6 * size[2])


def _soft_edge(edge_m: Tensor, gap_m: Tensor, softness: float, depth_m: Tensor) -> Tensor:
    """0..1 from the distance to an outline and the gap along the light to what casts it."""
    width = (gap_m * softness).clamp(min=0.004)
    s = (0.5 - 0.5 * edge_m / width).clamp_(0, 1)
    return s * s * (3 - 2 * s) * ((gap_m - 0.3 * depth_m) / depth_m).clamp_(0, 1)


def contact(surface: Surface) -> Tensor:
    """Ambient light left near other things: [N]. Solids count as capsules along their longest axis."""
    v, t, h, w = surface.shape
    point = surface.point.reshape(3, v, t, h * w)
    normal = surface.normal.reshape(3, v, t, h * w)
    ambient = torch.ones_like(point[0])
    for i, casts in enumerate(surface.solids.casts):
        if casts and surface.solids.slot[i] != Slot.TABLE:
            ambient *= 1 - _occlusion(surface.solids, i, point, normal)
    return (ambient.reshape(-1) * _corners(surface)).clamp_(min=0.15)


def _occlusion(solids: Solids, i: int, point: Tensor, normal: Tensor) -> Tensor:
    """Share of the hemisphere hidden by a sphere at the nearest point of the axis: about r^2 cos / d^2."""
    size = solids.size_m[i]
    longest = solids.longest[i]
    others = [k for k in range(3) if k != longest]
    radius = size[others].prod().sqrt()
    length = size[longest] if solids.kind[i] == Kind.CAPSULE else (size[longest] - radius).clamp(min=0)
    axis = (solids.rotation[:, i, :, longest] * length)[..., None]
    rel = [solids.centre_m[:, i, k, None] - point[k] for k in range(3)]
    s = sum(r * axis[:, k] for k, r in enumerate(rel)) / (length * length + 1e-6)
    s = (-s).clamp(-1, 1)
    rel = [r + s * axis[:, k] for k, r in enumerate(rel)]
    square = rel[0] ** 2 + rel[1] ** 2 + rel[2] ** 2
    cosine = (rel[0] * normal[0] + rel[1] * normal[1] + rel[2] * normal[2]).clamp_(min=0)
    distance = square.clamp(min=1e-5).sqrt()
    return (0.55 * radius * radius * cosine / (distance * square.clamp(min=1e-5))).clamp_(0, 0.75)


def _corners(surface: Surface) -> Tensor:
    """Walls, floor and ceiling darken each other where they meet."""
    room = surface.solids.kind.index(Kind.ROOM)
    local = surface.solids.rotation[0, room].T
    q = (local @ (surface.point - surface.solids.centre_m[0, room][:, None])).abs()
    n = (local @ surface.normal).abs()
    gap = (surface.solids.size_m[room][:, None] - q).clamp(min=0)
    return (1 - 0.40 * torch.exp(-gap / 0.22) * (1 - n)).prod(0)


def develop(colour: Tensor, surface: Surface, style: Style | None, generator: torch.Generator) -> Tensor:
    """[3, N] to uint8 [V, T, H, W, 3]; the real look gets exposure, a lens's blur, vignette and sensor noise."""
    v, t, h, w = surface.shape
    picture = colour.reshape(3, v * t, h, w).transpose(0, 1)
    if style is not None:
        rng = Random(f"camera {style.seed}")
        exposure = rng.uniform(1.25, 1.6)
        picture = (1 - torch.exp(-exposure * picture)).clamp(min=1e-5).pow(1 / GAMMA)
    outline = _outlines(surface.number.reshape(v * t, 1, h, w))
    picture = torch.lerp(_blur(picture, 0.05 if style is None else 0.13), _blur(picture, 0.25), outline)
    if style is not None:
        ramp = torch.linspace(-1, 1, h, device=picture.device) ** 2
        picture = picture * (1 - rng.uniform(0.04, 0.11) * (ramp[:, None] + ramp))
        noise = torch.randn(picture.shape, generator=generator, device=picture.device)
        picture = picture + noise * (rng.uniform(0.6, 1.5) / 255)
    frames = (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8)
    return frames.permute(0, 2, 3, 1).reshape(v, t, h, w, 3)


def _outlines(number: Tensor) -> Tensor:
    """1 at pixels beside another solid, where one sample per pixel would leave stairs: float [B, 1, H, W]."""
    edge = torch.zeros_like(number, dtype=torch.bool)
    for dim in (-1, -2):
        size = number.shape[dim]
        differs = number.narrow(dim, 1, size - 1) != number.narrow(dim, 0, size - 1)
        edge.narrow(dim, 1, size - 1).logical_or_(differs)
        edge.narrow(dim, 0, size - 1).logical_or_(differs)
    return edge.float()


def _blur(picture: Tensor, side: float) -> Tensor:
    """A 3 x 3 binomial-like kernel; `side` is the weight of each neighbour in one direction."""
    for dim in (-1, -2):
        pad = (1, 1, 0, 0) if dim == -1 else (0, 0, 1, 1)
        p = F.pad(picture, pad, mode="replicate")
        size = picture.shape[dim]
        picture = (1 - 2 * side) * picture + side * (p.narrow(dim, 0, size) + p.narrow(dim, 2, size))
    return picture


__all__ = ["Colour", "Surface", "contact", "develop", "shade_real", "shade_simulated", "shadow"]
