"""Procedural surface colour as a function of the 3-D point, band-limited to the pixel.

Patterns live in each solid's own frame, so they look the same from both cameras and move with what they are on.
What grows or is woven lies anywhere on it; what is laid (tiles, bricks, boards) fills each face in whole numbers
from its corners, as a careful craftsman lays it: where a joint runs follows from the shape of the room.
Every component fades as its wavelength nears the pixel's footprint: distant texture turns flat, it never shimmers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.scenes.styles import Material

NOISE_CELLS = 64
NOISE_FEATURES = 8
"""The noise volume repeats after this many features, each about one unit wide."""


@dataclass(frozen=True)
class Patch:
    """Surface points of one material.

    Attributes:
        q: [3, N] metres in the solid's frame, moved by the style's phase.
        normal: [3, N] unit, in the same frame.
        footprint_m: [N] width of a pixel on the surface.
        from_corner_m: [3, N] metres from the lowest corner of the solid's bounds, in the same frame.
        extent_m: [3, N] of those bounds.
    """

    q: Tensor
    normal: Tensor
    footprint_m: Tensor
    from_corner_m: Tensor
    extent_m: Tensor

    def noise(self, x: float, y: float, z: float, shift: float | Tensor = 0.0) -> Tensor:
        """Smooth noise in about -1..1 with x, y, z features per metre along the axes, faded to 0 far away."""
        unit = torch.stack([self.q[0] * x + shift, self.q[1] * y, self.q[2] * z])
        return _noise(unit).mul_(self.fade(1.6 / max(x, y, z)))

    def fade(self, wavelength_m: Tensor | float) -> Tensor:
        """1 where a wave spans many pixels, near 0 below two pixels."""
        return torch.exp(-((self.footprint_m * (2.4 / wavelength_m)) ** 2))

    def lines(self, before: Tensor, period_m: Tensor | float, width_m: float) -> Tensor:
        """1 on thin lines at whole numbers of `before`, period_m apart, box-filtered over the footprint."""
        distance = (torch.remainder(before + 0.5, 1) - 0.5).abs() * period_m
        wide = self.footprint_m.clamp(min=width_m)
        cover = (1 - ((distance - 0.5 * wide) / self.footprint_m + 0.5).clamp(0, 1)) * (width_m / wide)
        return cover * self.fade(0.5 * period_m)

    def uv(self) -> tuple[Tensor, Tensor]:
        """Coordinates in the face a flat pattern lies on: horizontal and upward, or x and y on level faces."""
        return self._on_face(self.q)

    def laid(self, wide_m: float, high_m: float) -> tuple[Course, Course]:
        """Pieces of about this size, side by side and one above the other, that fill the face in whole numbers."""
        at, extent = self._on_face(self.from_corner_m), self._on_face(self.extent_m)
        return _course(at[0], extent[0], wide_m), _course(at[1], extent[1], high_m)

    def _on_face(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        n = self.normal.abs()
        level = n[2] > torch.maximum(n[0], n[1])
        side = torch.where(n[0] > n[1], xyz[1], xyz[0])
        return torch.where(level, xyz[0], side), torch.where(level, xyz[1], xyz[2])


class Course(NamedTuple):
    """A row of equal pieces: how many lie before each point, its own in part, and how long each is."""

    before: Tensor
    piece_m: Tensor


def _course(at_m: Tensor, extent_m: Tensor, piece_m: float) -> Course:
    piece = extent_m / (extent_m / piece_m).round().clamp(min=1)
    return Course(at_m / piece, piece)


@lru_cache(maxsize=4)
def _volume(device: torch.device) -> Tensor:
    """[1, 1, D, D, D]: seamless Gaussian noise of one octave, one cell repeated at the far sides."""
    spectrum = torch.fft.rfftn(torch.randn([NOISE_CELLS] * 3, generator=torch.Generator().manual_seed(7)))
    f = torch.fft.fftfreq(NOISE_CELLS) * NOISE_CELLS / NOISE_FEATURES
    half = torch.fft.rfftfreq(NOISE_CELLS) * NOISE_CELLS / NOISE_FEATURES
    radius = (f[:, None, None] ** 2 + f[None, :, None] ** 2 + half**2).sqrt()
    noise = torch.fft.irfftn(spectrum * torch.exp(-(((radius - 0.45) / 0.22) ** 2)), s=[NOISE_CELLS] * 3)
    noise = (noise / noise.std() * 0.5).clamp(-1.4, 1.4)
    return F.pad(noise[None, None], (0, 1) * 3, mode="circular").to(device)


def _noise(unit: Tensor) -> Tensor:
    grid = torch.remainder(unit / NOISE_FEATURES, 1.0).mul_(2).sub_(1).T.contiguous()
    out = F.grid_sample(_volume(unit.device), grid[None, None, None], mode="bilinear", align_corners=True)
    return out.reshape(-1)


def _random_of(cell: Tensor, salt: float = 0.0) -> Tensor:
    """A fixed pseudo-random number 0..1 for each whole number."""
    return torch.frac(torch.sin(cell * 12.9898 + salt) * 43.7585).abs()


def _mix(m: Material, amount: Tensor) -> Tensor:
    """[3, N] from colour (0) to second (1)."""
    a, b = amount.new_tensor(m.colour)[:, None], amount.new_tensor(m.second)[:, None]
    return a + (b - a) * amount.clamp(0, 1)


def _lit(m: Material, level: Tensor) -> Tensor:
    """The first colour, scaled."""
    return level.new_tensor(m.colour)[:, None] * level


def _smooth(edge0: float, edge1: float, x: Tensor) -> Tensor:
    s = ((x - edge0) / (edge1 - edge0)).clamp(0, 1)
    return s * s * (3 - 2 * s)


def _flat(p: Patch, m: Material) -> Tensor:
    return p.q.new_tensor(m.colour)[:, None].expand_as(p.q)


def _plain(p: Patch, m: Material) -> Tensor:
    return _lit(m, 1 + 0.03 * p.noise(14, 14, 14))


def _paint(p: Patch, m: Material) -> Tensor:
    return _lit(m, 1 + 0.035 * p.noise(1.3, 1.3, 1.3) + 0.015 * p.noise(9, 9, 9))


def _grain(p: Patch, m: Material, along: Tensor, across: Tensor, boards: Course) -> Tensor:
    board = torch.floor(boards.before)
    q = torch.stack([along + 3.1 * _random_of(board), across + 0.37 * board, p.q[2] * 0.2])
    wood = replace(p, q=q)
    bands = wood.noise(1.6, 17, 17)
    waves = torch.sin(70 * across + 3.0 * bands + 9 * _random_of(board)) * p.fade(0.07)
    fine = wood.noise(5, 75, 75)
    amount = 0.42 + 0.34 * bands + 0.16 * waves + 0.16 * fine + 0.28 * (_random_of(board, 2.0) - 0.5)
    seam = p.lines(*boards, 0.004)
    return _mix(m, amount) * (1 - 0.45 * seam)


def _wood(p: Patch, m: Material) -> Tensor:
    """Boards run upwards on upright faces, along x on level ones."""
    u, v = p.uv()
    side, above = p.laid(0.17 * m.scale, 0.17 * m.scale)
    upright = p.normal[2].abs() < 0.5
    boards = Course(*(torch.where(upright, a, b) for a, b in zip(side, above, strict=True)))
    return _grain(p, m, torch.where(upright, v, u), torch.where(upright, u, v), boards)


def _planks(p: Patch, m: Material) -> Tensor:
    _, boards = p.laid(0.15 * m.scale, 0.15 * m.scale)
    return _grain(p, m, p.q[0], p.q[1], boards)


def _panel(p: Patch, m: Material) -> Tensor:
    u, v = p.uv()
    boards, _ = p.laid(0.24 * m.scale, 1.0)
    return _grain(p, m, v, u, boards) * (1 - 0.35 * p.lines(*boards, 0.014))


def _steel(p: Patch, m: Material) -> Tensor:
    return _mix(m, 0.5 + 0.45 * p.noise(0.8, 26, 26) + 0.30 * p.noise(2.5, 85, 85) + 0.2 * p.noise(2, 3, 3))


def _laminate(p: Patch, m: Material) -> Tensor:
    return _mix(m, 0.2 + 0.2 * p.noise(2.5, 2.5, 2.5)) * (1 + 0.012 * p.noise(45, 45, 45))


def _fabric(p: Patch, m: Material) -> Tensor:
    drift = p.noise(3, 3, 3)
    wrinkles = 0.55 * p.noise(4, 12, 9, shift=0.8 * drift) + 0.6 * p.noise(9, 4, 9, shift=1.1 * drift + 5.0)
    hanging = (1 - p.normal[2].abs()).clamp(0, 1)
    u, _ = p.uv()
    folds = torch.sin(u * (44 * m.scale) + 1.6 * wrinkles) * hanging * p.fade(0.12)
    amount = 0.45 + 0.55 * wrinkles + 0.20 * p.noise(28, 28, 28) + 0.35 * folds
    return _mix(m, amount) * (1 + 0.05 * p.noise(80, 80, 80))


def _canvas(p: Patch, m: Material) -> Tensor:
    u, _ = p.uv()
    folds = torch.sin(u * 7 + 1.5 * p.noise(1.2, 1.2, 0.6)) * p.fade(0.9)
    return _mix(m, 0.45 + 0.35 * folds + 0.25 * p.noise(4, 4, 2)) * (1 - 0.25 * p.lines(u / 0.9, 0.9, 0.03))


def _marble(p: Patch, m: Material) -> Tensor:
    scale = 6.5 * m.scale
    warp = p.noise(5, 5, 5)
    n = p.noise(scale, 1.5 * scale, scale, shift=0.9 * warp)
    fine = p.noise(11, 16, 11, shift=0.7 * warp + 3.3)
    veins = torch.exp(-((n / 0.18) ** 2)) * (0.75 + 0.4 * warp) * p.fade(0.05)
    threads = 0.35 * torch.exp(-((fine / 0.13) ** 2)) * p.fade(0.03)
    return _mix(m, 0.06 + veins + threads * (0.5 + 0.5 * warp))


def _granite(p: Patch, m: Material) -> Tensor:
    coarse, fine = p.noise(32, 32, 32), p.noise(75, 75, 75, shift=2.0)
    return _mix(
        m, 0.12 + 0.55 * _smooth(0.15, 0.75, coarse) + 0.55 * _smooth(0.25, 0.9, fine) + 0.08 * p.noise(5, 5, 5)
    )


def _tile(p: Patch, m: Material) -> Tensor:
    u, v = p.laid(0.6 * m.scale, 0.6 * m.scale)
    grout = torch.maximum(p.lines(*u, 0.028), p.lines(*v, 0.028))
    tone = _random_of(torch.floor(u.before) + 57 * torch.floor(v.before))
    return _mix(m, grout) * (0.96 + 0.08 * tone * p.fade(0.6 * m.scale))


def _brick(p: Patch, m: Material) -> Tensor:
    u, v = p.laid(0.30 * m.scale, 0.105 * m.scale)
    row = torch.floor(v.before)
    along = u.before + 0.5 * torch.remainder(row, 2)
    mortar = torch.maximum(p.lines(along, u.piece_m, 0.018), p.lines(*v, 0.018))
    tone = 0.5 + (_random_of(torch.floor(along) + 57 * row) - 0.5) * p.fade(0.105 * m.scale)
    return _mix(m, mortar) * (0.84 + 0.3 * tone * (1 - mortar) + 0.07 * p.noise(12, 12, 12))


def _concrete(p: Patch, m: Material) -> Tensor:
    u, v = p.laid(1.2 * m.scale, 0.9 * m.scale)  # one slab, or one panel of the formwork
    joint = torch.maximum(p.lines(*u, 0.022), p.lines(*v, 0.022))
    tone = _random_of(torch.floor(u.before) + 57 * torch.floor(v.before)) - 0.5
    stains = 0.40 * p.noise(2.2, 2.2, 2.2) + 0.28 * p.noise(7, 7, 7) + 0.12 * p.noise(25, 25, 25)
    return _mix(m, 0.45 + stains + 0.4 * tone * p.fade(0.9 * m.scale)) * (1 - 0.4 * joint)


def _speckle(p: Patch, m: Material) -> Tensor:
    return _mix(m, 0.4 + 0.35 * p.noise(18, 18, 18) + 0.3 * p.noise(3, 3, 3))


def _carpet(p: Patch, m: Material) -> Tensor:
    return _mix(m, 0.5 + 0.4 * p.noise(20, 20, 20) + 0.4 * p.noise(4, 4, 4))


def _stripes(p: Patch, m: Material) -> Tensor:
    u, _ = p.uv()
    return _mix(m, 0.5 + 0.5 * torch.tanh(4 * torch.sin(u * (math.pi / 0.17))) * p.fade(0.3))


def _checker(p: Patch, m: Material) -> Tensor:
    u, v = p.uv()
    wave = math.pi / (0.075 * m.scale)
    return _mix(m, 0.5 + 0.5 * torch.tanh(6 * torch.sin(u * wave) * torch.sin(v * wave)) * p.fade(0.12))


def _skin(p: Patch, m: Material) -> Tensor:
    return _mix(m, 0.30 + 0.30 * p.noise(8, 8, 8) + 0.10 * p.noise(34, 34, 34))


def _shell(p: Patch, m: Material) -> Tensor:
    return _lit(m, 1 + 0.02 * p.noise(20, 20, 20))


def _screen(p: Patch, m: Material) -> Tensor:
    """A sector scan on a dark display; the display's own frame has x across and z up."""
    x, z = p.q[0], p.q[2]
    radius = (x * x + (z - 0.17) ** 2).sqrt()
    angle = torch.atan2(x.abs(), 0.17 - z)
    sector = _smooth(0.62, 0.55, angle) * _smooth(0.045, 0.06, radius) * _smooth(0.33, 0.30, radius)
    echo = 0.40 + 0.5 * p.noise(16, 16, 16) + 0.25 * torch.sin(radius * 60) * p.fade(0.1)
    return _mix(m, sector * echo.clamp(0.1, 1))


def _window(p: Patch, m: Material) -> Tensor:
    return _mix(m, _smooth(0.12, -0.30, p.q[2] + 0.10 * p.noise(5, 5, 5)))


PATTERNS: dict[str, Callable[[Patch, Material], Tensor]] = {
    "flat": _flat,
    "plain": _plain,
    "paint": _paint,
    "wood": _wood,
    "planks": _planks,
    "panel": _panel,
    "steel": _steel,
    "laminate": _laminate,
    "fabric": _fabric,
    "canvas": _canvas,
    "marble": _marble,
    "granite": _granite,
    "tile": _tile,
    "brick": _brick,
    "concrete": _concrete,
    "speckle": _speckle,
    "carpet": _carpet,
    "stripes": _stripes,
    "checker": _checker,
    "skin": _skin,
    "shell": _shell,
    "screen": _screen,
    "window": _window,
}
"""Each returns sRGB reflectance [3, N] of a patch."""
