"""Words for looks, in the manner of the prompts a user writes: several sentences, synonyms, gaps.

A caption never says what the style does not show. Factors are left out at random so that the model learns to fill
in; the arm and the phantom, which guided generation keeps anyway, are described about half of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from guided_transfer.errors import UsageError
from guided_transfer.scenes.styles import Style

NEGATIVE_CAPTION = (
    "The video shows a game being played, with poor, cheap computer graphics. It looks like an old video game or a "
    "plain simulator: flat colours without texture, hard untextured surfaces, no real light, no shadows, "
    "an artificial and unrealistic rendering of low quality."
)
"""Describes the simulated look; also the caption of simulated clips in training."""

Words = Mapping[str, tuple[str, ...]]

THEME_WORDS: Words = {
    "operating room": ("operating room", "operating theatre", "surgical suite", "sterile operating room"),
    "hospital ward": ("hospital ward", "hospital room", "patient room", "clinic ward", "recovery room"),
    "examination room": ("examination room", "doctor's office", "clinic", "ultrasound examination room"),
    "research laboratory": ("research laboratory", "robotics lab", "university laboratory", "modern lab"),
    "office": ("office", "study", "home office", "meeting room", "consulting room"),
    "workshop": ("workshop", "garage", "machine shop", "engineering workshop", "warehouse"),
    "field tent": ("field tent", "field hospital", "medical tent", "disaster relief tent", "outdoor camp"),
    "studio": ("studio", "loft", "showroom", "exhibition space", "modern apartment"),
}

WALL_WORDS: Words = {
    "white paint": ("plain white walls", "white painted walls", "clean white walls", "smooth white plaster walls"),
    "light grey paint": (
        "light grey walls",
        "pale gray painted walls",
        "walls painted light gray",
        "grey plaster walls",
    ),
    "pale blue paint": ("pale blue walls", "light blue painted walls", "soft blue walls", "sky blue walls"),
    "mint green paint": ("mint green walls", "pale green painted walls", "light green walls", "soft green walls"),
    "warm beige paint": (
        "warm beige walls",
        "cream coloured plaster walls",
        "cream colored walls",
        "beige painted walls",
        "sand coloured walls",
    ),
    "dark navy paint": ("dark navy walls", "deep blue walls", "dark blue painted walls", "midnight blue walls"),
    "white tile": (
        "white tiled walls",
        "walls of white ceramic tile",
        "glossy white wall tiles",
        "a white tile wall",
    ),
    "green tile": ("green tiled walls", "walls of green ceramic tile", "sea green wall tiles", "a green tile wall"),
    "red brick": ("red brick walls", "exposed brick walls", "a brick wall", "rustic red brickwork"),
    "wood panelling": ("wood panelled walls", "wooden wall panels", "walls of warm wood panelling", "timber walls"),
    "concrete": ("bare concrete walls", "grey concrete walls", "raw concrete", "industrial concrete walls"),
    "olive canvas": (
        "olive canvas walls",
        "olive green tent fabric",
        "khaki canvas walls",
        "military green canvas",
    ),
    "orange stripes": ("orange striped wallpaper", "walls with orange stripes", "bold orange and cream stripes"),
}

TABLE_WORDS: Words = {
    "oak wood": ("an oak table", "a light oak wood table", "a wooden table of pale oak", "an oak wood tabletop"),
    "walnut wood": ("a walnut table", "a dark walnut wood table", "a dark brown wooden table", "a walnut tabletop"),
    "brushed steel": (
        "a brushed steel table",
        "a stainless steel table",
        "a metal table of brushed aluminium",
        "a brushed aluminum table",
        "a table with a brushed metal surface",
    ),
    "white laminate": (
        "a white laminate table",
        "a smooth white table",
        "a plain white tabletop",
        "a table with a white plastic laminate surface",
    ),
    "blue fabric drape": (
        "a table covered with a blue drape",
        "a blue cloth covered table",
        "a table under blue fabric",
        "a bed with a wrinkled blue sheet",
        "a blue surgical drape",
        "a table covered with a sterile blue drape",
    ),
    "green surgical drape": (
        "a table covered with a green surgical drape",
        "a green cloth covered table",
        "a table under sterile green fabric",
        "a table with a wrinkled green drape",
        "a green drape",
        "a table with a wrinkled green sheet",
    ),
    "white marble": (
        "a white marble table",
        "a table of polished marble with grey veins",
        "a marble tabletop",
        "a pale marble slab",
    ),
    "dark granite": (
        "a dark granite table",
        "a black granite countertop",
        "a speckled dark stone table",
        "a table of polished black granite",
    ),
    "checkered cloth": (
        "a checkered tablecloth",
        "a red and white checkered cloth",
        "a table with a checked cloth",
    ),
}

FLOOR_WORDS: Words = {
    "grey vinyl": ("grey vinyl flooring", "a gray linoleum floor", "a grey hospital floor"),
    "blue vinyl": ("blue vinyl flooring", "a blue linoleum floor", "a blue hospital floor"),
    "white tile": ("white floor tiles", "a white tiled floor", "a floor of pale ceramic tiles"),
    "wooden parquet": ("a wooden parquet floor", "hardwood flooring", "wood plank flooring"),
    "polished concrete": ("a polished concrete floor", "a grey concrete floor", "a cement floor"),
    "dark carpet": ("a dark carpet", "a charcoal carpeted floor", "dark grey carpet tiles"),
    "sand": ("sandy ground", "a floor of packed sand", "dusty sand"),
}

FURNITURE_WORDS: Words = {
    "white": ("white cabinets", "white furniture", "clean white cupboards"),
    "light wood": ("light wood cabinets", "birch furniture", "pale wooden cupboards", "maple cabinets"),
    "dark wood": ("dark wood cabinets", "mahogany furniture", "dark brown wooden cupboards"),
    "blue-grey": ("blue-grey cabinets", "grey blue furniture", "slate coloured cupboards"),
    "teal": ("teal cabinets", "turquoise furniture", "blue green cupboards"),
    "charcoal": ("charcoal cabinets", "dark grey furniture", "black cupboards"),
    "stainless steel": ("stainless steel cabinets", "metal furniture", "steel cupboards"),
    "red": ("bright red cabinets", "vivid red furniture", "red cupboards"),
}

LIGHT_WORDS: Words = {
    "bright daylight": ("bright daylight", "natural daylight from a window", "clear morning light", "sunny light"),
    "neutral LED panels": (
        "neutral LED light",
        "even ceiling light",
        "bright white ceiling panels",
        "clean white light",
    ),
    "cool fluorescent light": (
        "cool fluorescent light",
        "cold white light",
        "fluorescent tubes",
        "bluish office light",
    ),
    "warm lamp light": ("warm lamp light", "warm yellow light", "cosy incandescent light", "tungsten light"),
    "surgical spotlight": (
        "a surgical spotlight",
        "a focused surgical lamp",
        "a bright spotlight",
        "a surgical light",
    ),
    "soft overcast light": ("soft overcast light", "soft diffuse light", "cloudy daylight", "gentle ambient light"),
    "golden evening sun": ("golden evening sun", "a low sunset glow", "golden hour sunlight", "late afternoon sun"),
    "dim night light": ("dim night light", "dim blue light", "low light at night", "dark moody light"),
}

ARM_WORDS: Words = {
    "white": ("white robotic arm", "white robot arm with dark joints"),
    "silver": ("silver robotic arm", "metallic aluminium robot arm"),
    "black": ("black robotic arm", "matte black robot arm"),
    "white and blue": ("white and blue robotic arm", "white robot arm with blue joints"),
    "grey and orange": ("grey and orange robotic arm", "gray robot arm with orange joints"),
    "blue": ("blue robotic arm", "blue robot arm with light joints"),
    "industrial yellow": ("yellow industrial robotic arm", "yellow robot arm with black joints"),
    "olive green": ("olive green robotic arm", "dark green robot arm"),
}

PHANTOM_WORDS: Words = {
    "light skin": ("torso phantom with light skin", "mannequin torso with fair skin"),
    "tan skin": ("torso phantom with tan skin", "mannequin torso with tanned skin"),
    "brown skin": ("torso phantom with brown skin", "mannequin torso with dark skin"),
    "beige silicone": ("beige silicone torso phantom", "beige rubber torso"),
    "grey silicone": ("grey silicone torso phantom", "gray rubber torso"),
    "pink silicone": ("pink silicone torso phantom", "pink rubber torso"),
    "pale blue silicone": ("pale blue silicone torso phantom", "light blue rubber torso"),
    "amber gel": ("amber gel torso phantom", "translucent amber torso"),
}

OPENINGS = (
    "The video shows",
    "The video captures",
    "A realistic video of",
    "This photorealistic clip shows",
    "We see",
    "The camera shows",
    "High quality footage of",
    "A real photo of",
)
ACTIONS = (
    "scanning {phantom} on {table}",
    "moving an ultrasound probe over {phantom} lying on {table}",
    "performing an ultrasound examination of {phantom} on {table}",
    "holding a probe above {phantom} that rests on {table}",
)
WRIST_OPENINGS = (
    "The video shows a close view from the wrist of",
    "A close-up seen from above of",
    "The wrist camera looks down at",
    "A top down close view of",
    "The camera on the gripper shows",
)
SURFACES = (
    "Around it the surface of {table} is visible.",
    "The background is {table}.",
    "It lies on {table}.",
    "Below is {table}.",
)
DETAILS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "wall",
        ("The room has {}.", "In the background are {}.", "Behind it one sees {}.", "The scene is set against {}."),
    ),
    ("floor", ("The floor is {}.", "Below there is {}.", "It stands on {}.")),
    ("furniture", ("Along the walls stand {}.", "The room is furnished with {}.", "There are {} in the back.")),
    ("light", ("The scene is lit by {}.", "The lighting is {}.", "There is {}.", "Illuminated by {}.")),
)
ENDINGS = (
    "The picture is sharp and realistic.",
    "Soft shadows fall on the surface.",
    "The atmosphere is calm and professional.",
    "Everything looks clean and natural.",
    "The materials look real, with natural texture and reflections.",
)
KEEP = {
    "room": {"wall": 0.95, "floor": 0.4, "furniture": 0.5, "light": 0.8},
    "wrist": {"wall": 0.95, "floor": 0.28, "light": 0.56},
}
"""How often a detail is mentioned; walls and tables, which users name most, nearly always."""
KEEP_TABLE = 0.98


def caption(style: Style, view: str, rng: Random) -> str:
    """Describe a real look.

    Args:
        style: what the clip shows.
        view: "room" (or "top"), "wrist" (or "bottom"), or "both" for the room above the wrist view.
        rng: of Python or NumPy; chooses synonyms and what is left out.

    Raises:
        UsageError: another view.
    """
    if view in ("room", "top"):
        return _room_caption(style, rng)
    if view in ("wrist", "bottom"):
        return _wrist_caption(style, rng)
    if view == "both":
        return (
            f"The top video shows the room, the bottom video the same table from the robot's wrist. "
            f"{_room_caption(style, rng)}"
        )
    raise UsageError(f'view "{view}": captions are written for "room", "wrist" or "both"')


def _room_caption(style: Style, rng: Random) -> str:
    arm, phantom = _foreground(style, rng)
    table = rng.choice(TABLE_WORDS[style.table]) if rng.random() < KEEP_TABLE else "a table"
    place = rng.choice(THEME_WORDS[style.theme])
    article = "an" if place[0] in "aeio" else "a"
    where = f" in {article} {place}" if rng.random() < 0.75 else ""
    action = rng.choice(ACTIONS).format(phantom=phantom, table=table)
    sentences = [f"{rng.choice(OPENINGS)} {arm} {action}{where}."]
    return " ".join(sentences + _details(style, rng, KEEP["room"]))


def _wrist_caption(style: Style, rng: Random) -> str:
    _, phantom = _foreground(style, rng)
    table = rng.choice(TABLE_WORDS[style.table]) if rng.random() < KEEP_TABLE else "a table"
    sentences = [f"{rng.choice(WRIST_OPENINGS)} {phantom} under an ultrasound probe."]
    sentences.append(rng.choice(SURFACES).format(table=table))
    return " ".join(sentences + _details(style, rng, KEEP["wrist"]))


def _details(style: Style, rng: Random, keep: Mapping[str, float]) -> list[str]:
    words = {"wall": WALL_WORDS, "floor": FLOOR_WORDS, "furniture": FURNITURE_WORDS, "light": LIGHT_WORDS}
    templates = dict(DETAILS)
    kept = [name for name, share in keep.items() if rng.random() < share]
    rng.shuffle(kept)
    lines = [rng.choice(templates[n]).format(rng.choice(words[n][getattr(style, n)])) for n in kept]
    return [*lines, rng.choice(ENDINGS)] if rng.random() < 0.4 else lines


def _foreground(style: Style, rng: Random) -> tuple[str, str]:
    """Arm and phantom with their colours in about half of the captions, each on its own."""
    arm = rng.choice(ARM_WORDS[style.arm]) if rng.random() < 0.5 else rng.choice(["robotic arm", "robot arm"])
    plain = ["torso phantom", "medical phantom", "human mannequin", "body phantom"]
    phantom = rng.choice(PHANTOM_WORDS[style.phantom]) if rng.random() < 0.5 else rng.choice(plain)
    return tuple(f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for words in (arm, phantom))  # type: ignore[return-value]
