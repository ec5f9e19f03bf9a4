"""What stands in a room and lies on a table, piece by piece, and the stage that collects it."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from guided_transfer.scenes.solids import Kind, Solids, Torso
from guided_transfer.scenes.styles import Slot

UNLABELLED = 0


def rotation_z(angle: float) -> Tensor:
    """Turn by `angle` radians about z: [3, 3]."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


class Stage:
    """Collects solids, each given in the frame the stage currently works in."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.rows: list[tuple[Kind, Slot, int, float, list[float], Tensor, Tensor, bool]] = []
        self.origin = torch.zeros(3)
        self.turn = torch.eye(3)

    def at(self, origin: Tensor, angle: float) -> Stage:
        """Work in a frame with this origin, turned about z by this angle, from here on."""
        self.origin, self.turn = origin, rotation_z(angle)
        return self

    def add(
        self,
        kind: Kind,
        slot: Slot,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        *,
        label: int = UNLABELLED,
        angle: float = 0.0,
        along: tuple[float, float, float] | None = None,
        casts: bool = False,
        even: bool = False,
    ) -> None:
        """Place a solid; `along` points a capsule's or cylinder's axis, `even` leaves out the tint."""
        local = rotation_z(angle) if along is None else frame_along(torch.tensor(along, dtype=torch.float32))
        tint = 1.0 if even else 1 + self.rng.uniform(-0.07, 0.07)
        where = self.origin + self.turn @ torch.tensor(centre, dtype=torch.float32)
        self.rows.append((kind, slot, label, tint, list(size), where, self.turn @ local, casts))

    def solids(self, torso: Torso) -> Solids:
        kind, slot, label, tint, size, centre, rotation, casts = zip(*self.rows, strict=True)
        return Solids(
            kind,
            slot,
            label,
            torch.tensor(tint),
            torch.tensor(size),
            torch.stack(centre)[None],
            torch.stack(rotation)[None],
            casts,
            torso,
            tuple(s.index(max(s)) if k not in ROUND else 2 for k, s in zip(kind, size, strict=True)),
        )


ROUND = (Kind.CAPSULE, Kind.CYLINDER)


def frame_along(axis: Tensor) -> Tensor:
    """A rotation whose third column is the direction of `axis` [3]."""
    z = axis / axis.norm()
    helper = torch.tensor([1.0, 0.0, 0.0]) if abs(float(z[0])) < 0.8 else torch.tensor([0.0, 1.0, 0.0])
    x = torch.linalg.cross(helper, z)
    x = x / x.norm()
    return torch.stack([x, torch.linalg.cross(z, x), z], 1)


def _cabinet(stage: Stage, x: float) -> None:
    height = stage.rng.uniform(0.40, 0.46)
    stage.add(Kind.BOX, Slot.CABINET, (x, 0.22, height), (0.38, 0.21, height))
    stage.add(Kind.BOX, Slot.COUNTER, (x, 0.22, 2 * height + 0.015), (0.40, 0.23, 0.018))
    for side in (-1, 1):
        stage.add(Kind.BOX, Slot.CABINET, (x + side * 0.185, 0.435, height), (0.172, 0.008, height - 0.05))
    if stage.rng.random() < 0.6:
        _counter_items(stage, x, 2 * height + 0.033)


def _counter_items(stage: Stage, x: float, z: float) -> None:
    rng = stage.rng
    bottle = rng.uniform(0.07, 0.11)
    stage.add(Kind.CYLINDER, Slot.ACCENT, (x - 0.18, 0.22, z + bottle), (0.045, 0.045, bottle))
    stage.add(Kind.BOX, Slot.PLASTIC, (x + 0.1, 0.2, z + 0.07), (0.13, 0.09, 0.07), angle=rng.uniform(-0.4, 0.4))


def _tall_cabinet(stage: Stage, x: float) -> None:
    height = stage.rng.uniform(0.82, 0.95)
    stage.add(Kind.BOX, Slot.CABINET, (x, 0.21, height), (0.34, 0.20, height))
    for side in (-1, 1):
        stage.add(Kind.BOX, Slot.CABINET, (x + side * 0.165, 0.415, height), (0.153, 0.008, height - 0.06))
        stage.add(Kind.CAPSULE, Slot.METAL, (x + side * 0.035, 0.44, height), (0.010, 0.010, 0.10))


def _shelf(stage: Stage, x: float) -> None:
    z = stage.rng.uniform(1.05, 1.35)
    stage.add(Kind.BOX, Slot.COUNTER, (x, 0.15, z), (0.42, 0.15, 0.018))
    for k, slot in enumerate((Slot.PLASTIC, Slot.ACCENT, Slot.PLASTIC)):
        height = stage.rng.uniform(0.07, 0.14)
        stage.add(Kind.BOX, slot, (x - 0.26 + 0.26 * k, 0.15, z + 0.018 + height), (0.09, 0.1, height))


def _monitor(stage: Stage, x: float) -> None:
    z = stage.rng.uniform(1.2, 1.45)
    stage.add(Kind.BOX, Slot.CASE, (x, 0.08, z), (0.36, 0.03, 0.22))
    stage.add(Kind.BOX, Slot.SCREEN, (x, 0.111, z), (0.335, 0.004, 0.195), even=True)


def _window(stage: Stage, x: float) -> None:
    z = stage.rng.uniform(1.25, 1.4)
    stage.add(Kind.BOX, Slot.TRIM, (x, 0.01, z), (0.44, 0.035, 0.50))
    for side in (-1, 1):
        stage.add(Kind.BOX, Slot.WINDOW, (x + side * 0.205, 0.045, z), (0.185, 0.006, 0.45), even=True)


def _curtain(stage: Stage, x: float) -> None:
    stage.add(Kind.BOX, Slot.DRAPE, (x, 0.12, 0.98), (0.36, 0.03, 0.92), even=True)
    stage.add(Kind.CAPSULE, Slot.METAL, (x, 0.12, 1.93), (0.016, 0.016, 0.46), along=(1, 0, 0))


def _door(stage: Stage, x: float) -> None:
    stage.add(Kind.BOX, Slot.TRIM, (x, 0.0, 1.02), (0.46, 0.03, 1.04))
    stage.add(Kind.BOX, Slot.DOOR, (x, 0.02, 1.0), (0.40, 0.03, 0.99), even=True)
    stage.add(Kind.CAPSULE, Slot.METAL, (x + 0.3, 0.09, 0.98), (0.013, 0.013, 0.06), along=(1, 0, 0))


def _stand(stage: Stage, x: float) -> None:
    """An infusion stand with its bag."""
    stage.add(Kind.CAPSULE, Slot.METAL, (x, 0.45, 0.9), (0.016, 0.016, 0.85))
    stage.add(Kind.CYLINDER, Slot.METAL, (x, 0.45, 0.04), (0.2, 0.2, 0.02))
    stage.add(Kind.CAPSULE, Slot.METAL, (x, 0.45, 1.74), (0.010, 0.010, 0.14), along=(1, 0, 0))
    stage.add(Kind.ELLIPSOID, Slot.BAG, (x + 0.13, 0.45, 1.56), (0.07, 0.035, 0.13))


def _trolley(stage: Stage, x: float) -> None:
    y = 0.42
    for z in (0.28, 0.82):
        stage.add(Kind.BOX, Slot.METAL, (x, y, z), (0.30, 0.20, 0.014))
    for dx in (-1, 1):
        for dy in (-1, 1):
            stage.add(Kind.CAPSULE, Slot.METAL, (x + dx * 0.28, y + dy * 0.18, 0.46), (0.014, 0.014, 0.42))
    stage.add(Kind.BOX, Slot.PLASTIC, (x - 0.1, y, 0.90), (0.12, 0.1, 0.065))
    stage.add(Kind.CYLINDER, Slot.ACCENT, (x + 0.16, y, 0.91), (0.05, 0.05, 0.08))


def _ultrasound_cart(stage: Stage, x: float) -> None:
    y = 0.48
    stage.add(Kind.BOX, Slot.CASE_LIGHT, (x, y, 0.42), (0.20, 0.24, 0.36))
    stage.add(Kind.BOX, Slot.CASE, (x, y + 0.1, 0.84), (0.22, 0.22, 0.03))
    stage.add(Kind.CAPSULE, Slot.CASE, (x, y - 0.1, 0.98), (0.03, 0.03, 0.12))
    stage.add(Kind.BOX, Slot.CASE, (x, y - 0.08, 1.26), (0.25, 0.025, 0.18))
    stage.add(Kind.BOX, Slot.SCREEN, (x, y - 0.053, 1.26), (0.228, 0.004, 0.158), even=True)


PIECES: tuple[tuple[Callable[[Stage, float], None], float], ...] = (
    (_cabinet, 0.84),
    (_cabinet, 0.84),
    (_tall_cabinet, 0.72),
    (_shelf, 0.90),
    (_monitor, 0.80),
    (_window, 0.95),
    (_curtain, 0.80),
    (_door, 0.95),
    (_stand, 0.45),
    (_trolley, 0.66),
    (_ultrasound_cart, 0.56),
)
"""What may stand along a wall, with the width it takes in metres."""


def _tray(stage: Stage, x: float, y: float, angle: float) -> None:
    stage.add(Kind.BOX, Slot.METAL, (x, y, 0.008), (0.10, 0.07, 0.008), angle=angle, casts=True)
    for k in (-1, 0, 1):
        dx, dy = math.cos(angle), math.sin(angle)
        tool = (x - dy * 0.032 * k, y + dx * 0.032 * k, 0.022)
        stage.add(Kind.CAPSULE, Slot.INSTRUMENT, tool, (0.0065, 0.0065, 0.065), along=(dx, dy, 0.0))


def _bottle(stage: Stage, x: float, y: float, angle: float) -> None:
    stage.add(Kind.CYLINDER, Slot.PLASTIC, (x, y, 0.055), (0.027, 0.027, 0.055), casts=True)
    stage.add(Kind.CAPSULE, Slot.ACCENT, (x, y, 0.115), (0.010, 0.010, 0.012))


def _box(stage: Stage, x: float, y: float, angle: float) -> None:
    stage.add(Kind.BOX, Slot.ACCENT, (x, y, 0.035), (0.065, 0.045, 0.035), angle=angle, casts=True)


def _towel(stage: Stage, x: float, y: float, angle: float) -> None:
    stage.add(Kind.BOX, Slot.DRAPE, (x, y, 0.016), (0.10, 0.075, 0.016), angle=angle, casts=True, even=True)


def _bowl(stage: Stage, x: float, y: float, angle: float) -> None:
    stage.add(Kind.ELLIPSOID, Slot.METAL, (x, y, 0.012), (0.07, 0.05, 0.03), angle=angle, casts=True)


def lay_out_clutter(stage: Stage, torso_yaw: float) -> None:
    """Two to four things beside the phantom's head and feet, out of the way of the arm."""
    rng = stage.rng
    stage.at(torch.zeros(3), torso_yaw)
    places = [(0.43, 0.10), (0.45, -0.12), (-0.43, 0.10), (-0.44, -0.12)]
    rng.shuffle(places)
    for x, y in places[: rng.choice([2, 3, 3, 4])]:
        thing = rng.choice([_tray, _bottle, _box, _towel, _bowl])
        thing(stage, x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03), rng.uniform(-0.6, 0.6))
