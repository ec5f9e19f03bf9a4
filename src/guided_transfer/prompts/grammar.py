"""Prompts without a language model: sentences put together from a vocabulary of rooms, tables and lights.

Both prompts of a pair speak of the same table, wall and light. The k-th pair of a seed never depends on how many
are asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from guided_transfer.prompts.load import TwoViewPrompt


@dataclass(frozen=True)
class Surroundings:
    """Rooms of one kind, and what may stand in them; every list is free to combine with the others."""

    places: tuple[str, ...]
    walls: tuple[str, ...]
    floors: tuple[str, ...]
    things: tuple[str, ...]


CLINICAL = Surroundings(
    places=(
        "a bright hospital examination room",
        "a modern operating room",
        "a hospital ward in the early morning",
        "an outpatient ultrasound clinic",
        "an emergency room during a quiet shift",
        "a recovery room next to an operating theatre",
        "a small rural hospital",
        "an intensive care unit with an empty bay",
        "a children's hospital",
        "a doctor's practice",
        "a renovated treatment room in an old hospital",
        "a hybrid operating room for image-guided procedures",
    ),
    walls=(
        "pale mint",
        "cream",
        "light grey",
        "plain white",
        "soft yellow",
        "pale blue",
        "green-tiled",
        "white-tiled",
        "sage green",
        "beige",
        "sand-coloured",
        "birch-panelled",
    ),
    floors=(
        "grey linoleum with a dull shine",
        "speckled vinyl",
        "polished light concrete",
        "pale green rubber",
        "beige stone tiles",
        "worn blue linoleum",
    ),
    things=(
        "a wall-mounted monitor",
        "a stainless steel sink",
        "glass-fronted cabinets",
        "a drawn curtain in pale blue",
        "a rolling stool",
        "a supply cart with coloured drawers",
        "an infusion stand",
        "a bedside monitor",
        "an ultrasound machine with a folded screen",
        "a pair of round surgical lamps on the ceiling",
        "a swivelling boom with two screens",
        "a row of gas outlets",
        "a radiator below a wide window",
        "a box of gloves on a shelf",
        "a folded privacy screen",
        "a whiteboard with a few notes",
    ),
)
LABORATORY = Surroundings(
    places=(
        "a university teaching laboratory",
        "a research centre for medical robotics",
        "a simulation centre for nurses",
        "an engineering workshop beside a clinic",
        "a prototype laboratory of a medical device maker",
        "a spacious robotics hall",
        "a basement laboratory",
    ),
    walls=(
        "light concrete",
        "exposed brick",
        "plain white",
        "perforated metal",
        "pale grey",
        "dark blue",
        "acoustic foam",
        "glass and aluminium",
    ),
    floors=(
        "grey epoxy with yellow markings",
        "bare concrete",
        "dark rubber matting",
        "light industrial vinyl",
        "anti-static tiles",
    ),
    things=(
        "shelves with labelled boxes",
        "a whiteboard with traces of writing",
        "a row of stools",
        "a server rack with small green lights",
        "cable trays along the ceiling",
        "a glass partition",
        "a second robotic arm under a dust cover",
        "a workbench with hand tools",
        "an oscilloscope on a trolley",
        "a tripod with a camera",
        "a monitor that shows a plain desktop",
        "stacked transport cases",
        "a pegboard with neatly hung cables",
        "an anatomical poster in a frame",
    ),
)
FIELD = Surroundings(
    places=(
        "a field hospital tent",
        "a mobile clinic inside a container",
        "an inflatable emergency shelter",
        "a relief station in a school gymnasium",
        "a temporary ward in an exhibition hall",
        "the treatment cabin of a hospital ship",
    ),
    walls=(
        "olive canvas",
        "white tarpaulin",
        "sand-coloured canvas",
        "corrugated metal",
        "white sandwich panel",
        "plywood",
    ),
    floors=(
        "dark rubber matting",
        "raw wooden planks",
        "ribbed plastic tiles",
        "a grey groundsheet",
        "scratched steel plates",
    ),
    things=(
        "stacked equipment cases",
        "a coiled cable",
        "folding chairs",
        "a battery lamp on a pole",
        "a water canister",
        "a crate of bandages",
        "a portable generator",
        "a stretcher leaning upright",
        "a fan on a stand",
        "a first-aid cabinet",
        "a rolled blanket",
        "a folding screen of white fabric",
    ),
)
HOME = Surroundings(
    places=(
        "a private clinic in an old villa",
        "a quiet living room during a home visit",
        "a modern apartment with an open kitchen",
        "a nursing home",
        "a sunlit conservatory beside a practice",
        "a converted barn used as a health centre",
    ),
    walls=(
        "cream",
        "walnut-panelled",
        "pale terracotta",
        "whitewashed brick",
        "dove grey",
        "dusty pink",
        "oak-panelled",
        "dark green",
    ),
    floors=(
        "oiled oak boards",
        "a woven grey carpet",
        "herringbone parquet",
        "terracotta tiles",
        "pale stone tiles",
    ),
    things=(
        "a bookshelf",
        "a potted plant",
        "a framed print",
        "a floor lamp",
        "a narrow sideboard",
        "an armchair with a folded blanket",
        "a window with half-open blinds",
        "a wall clock",
        "a low wooden bench",
        "linen curtains",
        "a round mirror",
        "a vase of dried flowers",
    ),
)
SURROUNDINGS = (CLINICAL, LABORATORY, FIELD, HOME)

TABLES = (
    ("a table covered with white laminate", "the surface shows faint reflections of the lights"),
    ("an oak-veneer table", "the fine grain of the wood runs across the picture"),
    ("a grey epoxy-resin bench", "the surface carries small scratches"),
    ("a brushed steel table", "the steel shows fine parallel lines and soft bright streaks"),
    ("a light birch table", "the pale wood has a silky shine"),
    ("a folding table with an olive plastic top", "the moulded rim casts a thin shadow"),
    ("a table covered with dark blue vinyl", "the stitched edges of the vinyl are visible"),
    ("a black glass table", "the glass mirrors a line of light"),
    ("a table with a light grey rubber mat", "the mat is matt and slightly ribbed"),
    ("a table under a green surgical drape", "the fabric lies in shallow folds"),
    ("a table under a pale blue sheet", "the cotton is creased along old folds"),
    ("a walnut table", "dark veins run through the wood"),
    ("a white marble table", "grey veins cross the polished stone"),
    ("a padded examination table in brown leather", "the leather shows fine wrinkles"),
    ("a table topped with perforated aluminium", "the rows of small holes fade into the distance"),
    ("a terrazzo table", "coloured chips are scattered through the stone"),
)
LIGHTS = (
    ("Even daylight falls through frosted windows and leaves soft shadows under the table", "Soft, even daylight"),
    ("Warm lamps light the scene and leave the corners in shadow", "Warm lamplight from one side"),
    ("Fluorescent tubes give a cool, even light", "Cool, even light from above"),
    ("The light is bright above the table and dim elsewhere", "Strong light from straight above"),
    (
        "Stripes of sunlight from half-open blinds cross the floor and the table",
        "Stripes of sunlight with clear edges",
    ),
    ("The light is cold and comes from one side, and colours are muted", "Cold light from the left"),
    ("Warm indirect light runs along the ceiling and reflects in the table", "A warm glow with gentle reflections"),
    ("Panel lights give a neutral, bright light", "Neutral, bright light without hard shadows"),
    (
        "A single lamp on a flexible arm lights the table, and screens give a faint blue glow",
        "A small circle of lamplight",
    ),
    ("Low evening sun paints long shadows across the room", "Golden light that comes in low"),
    ("The overcast sky outside gives a soft and almost shadowless light", "Diffuse light without a direction"),
    ("A skylight lets clear midday light fall onto the table", "Clear light from a skylight"),
    ("Spotlights on a rail draw several overlapping shadows", "Several soft shadows that overlap"),
    ("The first grey light of dawn mixes with a warm desk lamp", "Grey morning light with a warm edge"),
)
MEDIA = ("photograph", "video", "recording", "documentary shot")
ACTIONS = (
    "holds an ultrasound probe above a torso phantom",
    "moves an ultrasound probe over a torso phantom",
    "guides an ultrasound probe across a torso phantom",
    "lowers an ultrasound probe to a torso phantom",
    "presses an ultrasound probe gently against a torso phantom",
)
VIEWS = (
    "A close view of",
    "A view from the probe's side onto",
    "A near, slightly tilted view of",
    "A detailed view of",
)
SHARPNESS = ("out of focus", "softly blurred", "only vaguely visible")


def write_prompts(count: int, seed: int, places: Sequence[str] = ()) -> tuple[TwoViewPrompt, ...]:
    """Write distinct pairs.

    Args:
        count: how many.
        seed: of the choice; the first n pairs of a seed are the same for every count.
        places: descriptions of rooms to use instead of the own ones, such as "a dental clinic".
    """
    return tuple(islice(_pairs(seed, tuple(places)), count))


def _pairs(seed: int, places: tuple[str, ...]) -> Iterator[TwoViewPrompt]:
    choice, seen = random.Random(f"prompts {seed}"), set()
    while True:
        room, wrist = _pair(choice, places)
        if (room, wrist) not in seen:
            seen.add((room, wrist))
            yield TwoViewPrompt(f"scene_{len(seen) - 1:05d}", room, wrist)


def _pair(choice: random.Random, places: tuple[str, ...]) -> tuple[str, str]:
    around = choice.choice(SURROUNDINGS)
    place, wall, floor = (
        choice.choice(places or around.places),
        choice.choice(around.walls),
        choice.choice(around.floors),
    )
    things = choice.sample(around.things, 3)
    table, detail = choice.choice(TABLES)
    light, light_near = choice.choice(LIGHTS)
    lying = choice.choice((f"that lies on {table}", f"on {table}"))
    arm = f"A robotic arm {choice.choice(ACTIONS)} {lying}."
    behind = f"{_capital(wall)} walls, {things[0]}, {things[1]} and {things[2]} form the background."
    ground = f"The floor is {floor}." if floor.startswith("a ") else f"The floor is made of {floor}."
    middle = choice.choice(([behind, ground], [ground, behind]))
    room = " ".join([f"A realistic {choice.choice(MEDIA)} of {place}.", arm, *middle, f"{light}."])
    wrist = (
        f"{choice.choice(VIEWS)} {table}. The torso phantom lies on it, {detail}, and {_article(wall)} wall with "
        f"{things[0]} is {choice.choice(SHARPNESS)} behind it. {light_near}."
    )
    return room, wrist


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
