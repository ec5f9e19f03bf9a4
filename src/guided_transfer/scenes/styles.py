"""What a scene may look like: named factors, and the materials they stand for.

A style names one value per factor; `materials_of` turns it into one material per slot. Colours are sRGB, 0..1.
Plausible palettes come first: a theme (operating room, office, ...) weighs the values that fit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from random import Random

Colour = tuple[float, float, float]


class Slot(IntEnum):
    """Which part of the scene a solid belongs to; a style gives every slot its material."""

    WALL = 0
    FLOOR = 1
    CEILING = 2
    TABLE = 3
    FRAME = 4
    CABINET = 5
    COUNTER = 6
    ACCENT = 7
    PLASTIC = 8
    METAL = 9
    INSTRUMENT = 10
    DRAPE = 11
    DOOR = 12
    TRIM = 13
    CASE = 14
    CASE_LIGHT = 15
    SCREEN = 16
    WINDOW = 17
    BAG = 18
    PHANTOM = 19
    ARM = 20
    JOINT = 21
    PROBE = 22


@dataclass(frozen=True)
class Material:
    """How a surface scatters light.

    Attributes:
        pattern: name of a function in materials.py.
        colour, second: the two colours a pattern mixes.
        gloss: share of the mirrored surroundings, 0..1; roughness: 0 mirror .. 1 dull.
        scale: of the pattern, 1 = its usual size.
        glow: light given off, as a multiple of the colour.
    """

    pattern: str
    colour: Colour
    second: Colour = (0.5, 0.5, 0.5)
    gloss: float = 0.04
    roughness: float = 0.6
    scale: float = 1.0
    glow: float = 0.0


@dataclass(frozen=True)
class Light:
    """One soft lamp and its surroundings.

    Attributes:
        colour, strength: of the lamp; sky, ground: ambient light from above and below, strength included.
        softness: width of the penumbra, radius of the lamp over its distance.
        height: 0 grazing .. 1 overhead; spot: share of the light that falls only near the table's middle.
    """

    colour: Colour
    strength: float
    sky: Colour
    ground: Colour
    softness: float
    height: float
    spot: float = 0.0


@dataclass(frozen=True)
class Look:
    """Colours of an arm (shell, joints, probe) or a phantom (skin, blush); reserved for evaluation if held out."""

    colours: tuple[Colour, ...]
    gloss: float = 0.06
    heldout: bool = False


WALLS: Mapping[str, Material] = {
    "white paint": Material("paint", (0.88, 0.87, 0.84)),
    "light grey paint": Material("paint", (0.61, 0.63, 0.65)),
    "pale blue paint": Material("paint", (0.56, 0.71, 0.83)),
    "mint green paint": Material("paint", (0.66, 0.82, 0.71)),
    "warm beige paint": Material("paint", (0.80, 0.70, 0.55)),
    "dark navy paint": Material("paint", (0.13, 0.18, 0.29)),
    "white tile": Material("tile", (0.86, 0.88, 0.88), (0.42, 0.45, 0.47), 0.16, 0.25, 1.0),
    "green tile": Material("tile", (0.36, 0.57, 0.48), (0.80, 0.84, 0.81), 0.16, 0.25, 1.0),
    "red brick": Material("brick", (0.58, 0.28, 0.20), (0.70, 0.65, 0.60), 0.02, 0.9),
    "wood panelling": Material("panel", (0.60, 0.41, 0.24), (0.42, 0.26, 0.14), 0.07, 0.4),
    "concrete": Material("concrete", (0.59, 0.575, 0.55), (0.45, 0.44, 0.42), 0.02, 0.9),
    "olive canvas": Material("canvas", (0.42, 0.42, 0.27), (0.33, 0.33, 0.20), 0.01, 0.95),
    "orange stripes": Material("stripes", (0.90, 0.55, 0.15), (0.95, 0.88, 0.72)),
}

TABLES: Mapping[str, Material] = {
    "oak wood": Material("wood", (0.76, 0.57, 0.36), (0.58, 0.39, 0.21), 0.06, 0.4),
    "walnut wood": Material("wood", (0.37, 0.22, 0.13), (0.21, 0.115, 0.065), 0.07, 0.35),
    "brushed steel": Material("steel", (0.60, 0.62, 0.65), (0.47, 0.49, 0.52), 0.42, 0.35),
    "white laminate": Material("laminate", (0.89, 0.88, 0.86), (0.83, 0.82, 0.80), 0.10, 0.25),
    "blue fabric drape": Material("fabric", (0.27, 0.43, 0.63), (0.18, 0.31, 0.51), 0.01, 0.95),
    "green surgical drape": Material("fabric", (0.24, 0.47, 0.40), (0.15, 0.35, 0.30), 0.01, 0.95),
    "white marble": Material("marble", (0.87, 0.86, 0.85), (0.42, 0.42, 0.46), 0.15, 0.15),
    "dark granite": Material("granite", (0.115, 0.12, 0.135), (0.40, 0.39, 0.38), 0.15, 0.15),
    "checkered cloth": Material("checker", (0.78, 0.16, 0.15), (0.92, 0.90, 0.86), 0.01, 0.95),
}

FLOORS: Mapping[str, Material] = {
    "grey vinyl": Material("speckle", (0.56, 0.57, 0.58), (0.48, 0.49, 0.51), 0.08, 0.3),
    "blue vinyl": Material("speckle", (0.36, 0.48, 0.58), (0.30, 0.42, 0.53), 0.08, 0.3),
    "white tile": Material("tile", (0.78, 0.78, 0.76), (0.50, 0.50, 0.49), 0.12, 0.2),
    "wooden parquet": Material("planks", (0.64, 0.45, 0.27), (0.47, 0.31, 0.17), 0.08, 0.3),
    "polished concrete": Material("concrete", (0.50, 0.49, 0.47), (0.40, 0.39, 0.38), 0.10, 0.25),
    "dark carpet": Material("carpet", (0.22, 0.24, 0.28), (0.16, 0.17, 0.21), 0.0, 1.0),
    "sand": Material("carpet", (0.66, 0.56, 0.41), (0.54, 0.45, 0.32), 0.0, 1.0),
}

FURNITURE: Mapping[str, tuple[Colour, Colour, Colour]] = {
    "white": ((0.86, 0.86, 0.85), (0.62, 0.63, 0.65), (0.32, 0.50, 0.68)),
    "light wood": ((0.74, 0.58, 0.40), (0.85, 0.84, 0.80), (0.40, 0.52, 0.46)),
    "dark wood": ((0.34, 0.21, 0.13), (0.22, 0.14, 0.09), (0.62, 0.50, 0.34)),
    "blue-grey": ((0.45, 0.54, 0.62), (0.74, 0.77, 0.79), (0.82, 0.78, 0.66)),
    "teal": ((0.26, 0.52, 0.52), (0.80, 0.82, 0.80), (0.86, 0.74, 0.48)),
    "charcoal": ((0.21, 0.22, 0.24), (0.46, 0.47, 0.49), (0.58, 0.32, 0.26)),
    "stainless steel": ((0.60, 0.62, 0.65), (0.50, 0.52, 0.55), (0.30, 0.46, 0.60)),
    "red": ((0.66, 0.14, 0.13), (0.92, 0.78, 0.20), (0.16, 0.32, 0.66)),
}
"""Fronts, tops and accents. Wood and steel palettes take the wood and steel patterns."""

LIGHTS: Mapping[str, Light] = {
    "bright daylight": Light((1.0, 0.97, 0.92), 0.75, (0.46, 0.48, 0.52), (0.26, 0.25, 0.23), 0.10, 0.55),
    "neutral LED panels": Light((1.0, 0.99, 0.96), 0.55, (0.52, 0.52, 0.52), (0.28, 0.28, 0.28), 0.22, 0.9),
    "cool fluorescent light": Light((0.86, 0.96, 1.0), 0.52, (0.44, 0.51, 0.57), (0.22, 0.26, 0.29), 0.22, 0.9),
    "warm lamp light": Light((1.0, 0.77, 0.50), 0.78, (0.33, 0.26, 0.19), (0.19, 0.14, 0.10), 0.08, 0.6),
    "surgical spotlight": Light((1.0, 0.98, 0.94), 1.05, (0.23, 0.25, 0.28), (0.12, 0.13, 0.15), 0.05, 0.92, 0.75),
    "soft overcast light": Light((0.92, 0.96, 1.0), 0.30, (0.53, 0.56, 0.60), (0.34, 0.35, 0.36), 0.30, 0.7),
    "golden evening sun": Light((1.0, 0.66, 0.34), 1.05, (0.29, 0.26, 0.29), (0.17, 0.14, 0.13), 0.05, 0.3),
    "dim night light": Light((0.62, 0.74, 1.0), 0.42, (0.15, 0.18, 0.25), (0.08, 0.09, 0.12), 0.12, 0.75),
}

ARMS: Mapping[str, Look] = {
    "white": Look(((0.88, 0.88, 0.87), (0.30, 0.31, 0.33), (0.20, 0.21, 0.23))),
    "silver": Look(((0.62, 0.64, 0.67), (0.34, 0.35, 0.38), (0.82, 0.82, 0.80)), 0.3),
    "black": Look(((0.12, 0.125, 0.135), (0.34, 0.35, 0.36), (0.75, 0.75, 0.74)), 0.1),
    "white and blue": Look(((0.86, 0.87, 0.88), (0.15, 0.36, 0.64), (0.24, 0.25, 0.27))),
    "grey and orange": Look(((0.52, 0.53, 0.55), (0.78, 0.45, 0.20), (0.18, 0.18, 0.20))),
    "blue": Look(((0.18, 0.34, 0.62), (0.78, 0.79, 0.80), (0.86, 0.86, 0.85))),
    "industrial yellow": Look(((0.88, 0.68, 0.14), (0.18, 0.18, 0.19), (0.24, 0.24, 0.25)), 0.08, True),
    "olive green": Look(((0.36, 0.41, 0.25), (0.22, 0.23, 0.22), (0.70, 0.69, 0.62)), 0.04, True),
}

PHANTOMS: Mapping[str, Look] = {
    "light skin": Look(((0.86, 0.70, 0.61), (0.79, 0.57, 0.49))),
    "tan skin": Look(((0.70, 0.545, 0.435), (0.60, 0.42, 0.33))),
    "brown skin": Look(((0.44, 0.31, 0.24), (0.34, 0.215, 0.16))),
    "beige silicone": Look(((0.82, 0.73, 0.60), (0.74, 0.64, 0.50)), 0.12),
    "grey silicone": Look(((0.60, 0.61, 0.62), (0.50, 0.51, 0.53)), 0.12),
    "pink silicone": Look(((0.82, 0.62, 0.60), (0.73, 0.50, 0.49)), 0.12),
    "pale blue silicone": Look(((0.56, 0.68, 0.78), (0.45, 0.57, 0.69)), 0.12, True),
    "amber gel": Look(((0.80, 0.55, 0.20), (0.68, 0.40, 0.12)), 0.18, True),
}

SIM_ARMS: Mapping[str, Look] = {name: ARMS[name] for name in ARMS if name != "silver"}
SIM_PHANTOMS: Mapping[str, Look] = PHANTOMS
SIM_ROOMS: Mapping[str, tuple[Colour, Colour, Colour, Colour]] = {
    "grey": ((0.70, 0.71, 0.72), (0.46, 0.47, 0.48), (0.56, 0.56, 0.57), (0.62, 0.63, 0.65)),
    "warm grey": ((0.74, 0.72, 0.69), (0.44, 0.42, 0.40), (0.62, 0.58, 0.53), (0.58, 0.56, 0.54)),
    "blue grey": ((0.66, 0.69, 0.73), (0.38, 0.42, 0.47), (0.52, 0.56, 0.60), (0.56, 0.60, 0.66)),
    "dark": ((0.42, 0.43, 0.45), (0.28, 0.29, 0.30), (0.36, 0.37, 0.38), (0.48, 0.49, 0.50)),
}
"""Walls, floor, table and furniture of the simulated look."""

GARISH = {"orange stripes", "checkered cloth", "red"}
"""Values that no theme suggests; together in under 5 % of the styles."""


@dataclass(frozen=True)
class Theme:
    """Values that fit a kind of room; anything else comes from the whole list."""

    walls: tuple[str, ...]
    tables: tuple[str, ...]
    floors: tuple[str, ...]
    furniture: tuple[str, ...]
    lights: tuple[str, ...]


_DRAPES = ("blue fabric drape", "green surgical drape")
_CLEAN = ("brushed steel", "white laminate")
THEMES: Mapping[str, Theme] = {
    "operating room": Theme(
        ("green tile", "white tile", "mint green paint", "pale blue paint"),
        (*_DRAPES, "brushed steel"),
        ("grey vinyl", "blue vinyl", "white tile"),
        ("stainless steel", "white", "blue-grey"),
        ("surgical spotlight", "neutral LED panels", "cool fluorescent light"),
    ),
    "hospital ward": Theme(
        ("white paint", "pale blue paint", "mint green paint", "warm beige paint"),
        ("white laminate", "blue fabric drape", "oak wood"),
        ("blue vinyl", "grey vinyl", "wooden parquet"),
        ("white", "light wood", "teal", "blue-grey"),
        ("bright daylight", "neutral LED panels", "soft overcast light"),
    ),
    "examination room": Theme(
        ("white paint", "light grey paint", "white tile", "mint green paint"),
        ("white laminate", *_DRAPES, "oak wood", "white marble"),
        ("grey vinyl", "white tile", "wooden parquet"),
        ("white", "light wood", "teal"),
        ("neutral LED panels", "cool fluorescent light", "bright daylight"),
    ),
    "research laboratory": Theme(
        ("white paint", "light grey paint", "concrete", "white tile"),
        (*_CLEAN, "dark granite"),
        ("grey vinyl", "polished concrete", "white tile"),
        ("white", "charcoal", "stainless steel", "blue-grey"),
        ("cool fluorescent light", "neutral LED panels", "bright daylight"),
    ),
    "office": Theme(
        ("white paint", "warm beige paint", "wood panelling", "red brick", "dark navy paint"),
        ("oak wood", "walnut wood", "white laminate", "white marble"),
        ("wooden parquet", "dark carpet", "grey vinyl"),
        ("light wood", "dark wood", "charcoal", "white"),
        ("warm lamp light", "bright daylight", "golden evening sun", "soft overcast light"),
    ),
    "workshop": Theme(
        ("concrete", "red brick", "light grey paint", "dark navy paint"),
        ("oak wood", "brushed steel", "dark granite", "walnut wood"),
        ("polished concrete", "wooden parquet", "grey vinyl"),
        ("charcoal", "dark wood", "blue-grey", "stainless steel"),
        ("cool fluorescent light", "warm lamp light", "golden evening sun", "dim night light"),
    ),
    "field tent": Theme(
        ("olive canvas",),
        ("green surgical drape", "brushed steel", "walnut wood", "oak wood"),
        ("sand", "polished concrete", "dark carpet"),
        ("dark wood", "charcoal", "stainless steel"),
        ("golden evening sun", "soft overcast light", "warm lamp light", "bright daylight"),
    ),
    "studio": Theme(
        ("dark navy paint", "concrete", "wood panelling", "white paint"),
        ("white marble", "dark granite", "walnut wood"),
        ("dark carpet", "polished concrete", "wooden parquet"),
        ("charcoal", "dark wood", "white"),
        ("dim night light", "warm lamp light", "surgical spotlight", "golden evening sun"),
    ),
}


@dataclass(frozen=True)
class Style:
    """One value per factor, by name; `seed` varies shades, the lamp's place and texture phases."""

    seed: int
    theme: str
    wall: str
    table: str
    floor: str
    furniture: str
    light: str
    arm: str
    phantom: str


def sample_style(seed: int, *, heldout: bool = False) -> Style:
    """Draw a style.

    Args:
        seed: any; the same seed gives the same style.
        heldout: take the arm's and phantom's looks from the reserved ones; other factors are shared.
    """
    rng = Random(f"style {seed}")
    theme = rng.choice(sorted(THEMES))
    fits = THEMES[theme]

    def pick(all_values: Mapping[str, object], fitting: tuple[str, ...], stray: float) -> str:
        plain = sorted(set(all_values) - GARISH)
        if rng.random() < 0.012 and GARISH & set(all_values):
            return rng.choice(sorted(GARISH & set(all_values)))
        return rng.choice(plain) if rng.random() < stray else rng.choice(fitting)

    return Style(
        seed,
        theme,
        pick(WALLS, fits.walls, 0.3),
        pick(TABLES, fits.tables, 0.5),
        pick(FLOORS, fits.floors, 0.15),
        pick(FURNITURE, fits.furniture, 0.15),
        pick(LIGHTS, fits.lights, 0.25),
        rng.choice(sorted(n for n, look in ARMS.items() if look.heldout == heldout)),
        rng.choice(sorted(n for n, look in PHANTOMS.items() if look.heldout == heldout)),
    )


def materials_of(style: Style) -> dict[Slot, Material]:
    """The material of every slot, shades varied a little by the style's seed."""
    rng = Random(f"materials {style.seed}")
    front, top, accent = (_shade(rng, c) for c in FURNITURE[style.furniture])
    arm, phantom = ARMS[style.arm], PHANTOMS[style.phantom]
    pattern = {"light wood": "wood", "dark wood": "wood", "stainless steel": "steel"}.get(
        style.furniture, "laminate"
    )
    gloss = 0.35 if pattern == "steel" else 0.07
    darker: Colour = tuple(0.75 * c for c in front)  # type: ignore[assignment]
    wall = _varied(rng, WALLS[style.wall])
    metal = _shade(rng, (0.62, 0.64, 0.67))
    drape = _shade(rng, rng.choice([(0.22, 0.44, 0.62), (0.20, 0.50, 0.44), (0.80, 0.80, 0.77), accent]))
    window = rng.choice([(0.80, 0.90, 1.0), (0.95, 0.95, 0.92), (0.68, 0.80, 0.90)])
    glow = {"dim night light": 0.08, "golden evening sun": 0.6, "bright daylight": 0.9}.get(style.light, 0.45)
    return {
        Slot.WALL: wall,
        Slot.FLOOR: _varied(rng, FLOORS[style.floor]),
        Slot.CEILING: Material("paint", wall.colour if style.theme == "field tent" else (0.86, 0.86, 0.84)),
        Slot.TABLE: _varied(rng, TABLES[style.table]),
        Slot.FRAME: Material("plain", rng.choice([metal, (0.16, 0.16, 0.17), front]), gloss=0.15, roughness=0.4),
        Slot.CABINET: Material(pattern, front, darker, gloss, 0.4),
        Slot.COUNTER: Material("laminate", top, top, 0.1, 0.3),
        Slot.ACCENT: Material("plain", accent, gloss=0.08, roughness=0.4),
        Slot.PLASTIC: Material("plain", _shade(rng, (0.84, 0.84, 0.82)), gloss=0.08, roughness=0.4),
        Slot.METAL: Material("steel", metal, darker_of(metal), 0.45, 0.25),
        Slot.INSTRUMENT: Material("plain", (0.70, 0.72, 0.75), gloss=0.5, roughness=0.2),
        Slot.DRAPE: Material("fabric", drape, darker_of(drape), 0.01, 0.95),
        Slot.DOOR: Material(
            "wood" if pattern == "wood" else "laminate", _shade(rng, top), darker_of(top), 0.06, 0.4
        ),
        Slot.TRIM: Material("plain", rng.choice([(0.84, 0.84, 0.83), (0.30, 0.30, 0.32)]), gloss=0.06),
        Slot.CASE: Material("plain", (0.13, 0.135, 0.145), gloss=0.10, roughness=0.3),
        Slot.CASE_LIGHT: Material("plain", _shade(rng, (0.78, 0.79, 0.80)), gloss=0.08, roughness=0.4),
        Slot.SCREEN: Material("screen", (0.10, 0.16, 0.22), (0.45, 0.62, 0.72), 0.08, 0.1, glow=0.8),
        Slot.WINDOW: Material("window", window, (0.62, 0.70, 0.66), 0.05, 0.1, glow=glow),
        Slot.BAG: Material("plain", (0.80, 0.83, 0.84), gloss=0.25, roughness=0.2),
        Slot.PHANTOM: Material("skin", _shade(rng, phantom.colours[0]), phantom.colours[1], phantom.gloss, 0.4),
        Slot.ARM: Material("shell", _shade(rng, arm.colours[0]), gloss=arm.gloss, roughness=0.3),
        Slot.JOINT: Material("shell", _shade(rng, arm.colours[1]), gloss=0.08, roughness=0.35),
        Slot.PROBE: Material("shell", arm.colours[2], gloss=0.08, roughness=0.35),
    }


def simulated_materials(arm: str, phantom: str, room: str) -> dict[Slot, Material]:
    """Flat colours, as a simulator's untextured assets have."""
    wall, floor, table, furniture = SIM_ROOMS[room]
    shell, joint, probe = SIM_ARMS[arm].colours
    special = {
        Slot.WALL: wall,
        Slot.FLOOR: floor,
        Slot.CEILING: wall,
        Slot.TABLE: table,
        Slot.FRAME: darker_of(table),
        Slot.ACCENT: darker_of(furniture),
        Slot.CASE: (0.22, 0.22, 0.23),
        Slot.SCREEN: (0.12, 0.12, 0.13),
        Slot.PHANTOM: SIM_PHANTOMS[phantom].colours[0],
        Slot.ARM: shell,
        Slot.JOINT: joint,
        Slot.PROBE: probe,
    }
    return {slot: Material("flat", special.get(slot, furniture), gloss=0.0) for slot in Slot}


def darker_of(colour: Colour) -> Colour:
    """The same hue, a fifth darker."""
    r, g, b = colour
    return (0.78 * r, 0.78 * g, 0.78 * b)


def _shade(rng: Random, colour: Colour) -> Colour:
    level = rng.uniform(0.93, 1.07)
    r, g, b = (min(0.95, c * level * rng.uniform(0.97, 1.03)) for c in colour)
    return (r, g, b)


def _varied(rng: Random, material: Material) -> Material:
    return Material(
        material.pattern,
        _shade(rng, material.colour),
        _shade(rng, material.second),
        material.gloss,
        material.roughness,
        material.scale * rng.uniform(0.9, 1.12),
        material.glow,
    )
