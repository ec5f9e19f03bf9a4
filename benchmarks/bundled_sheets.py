"""Contact sheets of a measured run: look at them before believing a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PICTURE_PX = 168
GAP_PX, TEXT_PX, LINE_PX = 6, 12, 15
INK, WRONG, QUIET, PAPER = (32, 32, 36), (190, 30, 30), (110, 110, 116), (250, 250, 248)
ROWS = 8
Row = Mapping[str, Any]
Named = Mapping[tuple[int, int, str, str], Mapping[str, Row]]


@dataclass(frozen=True)
class Cell:
    """A picture (or two, room above wrist) with lines of text below it; a line that starts with "!" is wrong."""

    pictures: tuple[np.ndarray, ...]
    text: tuple[str, ...] = ()


class Frames:
    """The middle frame of every video of an episode."""

    def __init__(self, record: Row, file: Path) -> None:
        self.record = record
        with np.load(file) as arrays:
            self._frames = {key: arrays[key][1] for key in arrays.files if not key.endswith("|labels")}

    def cell(self, key: str, *text: str) -> Cell:
        """One video; an empty cell where there is none."""
        return Cell((self._frames[key],), text) if key in self._frames else Cell(())

    def both(self, setting: str, look: str, *text: str) -> Cell:
        """Room above wrist."""
        keys = [f"{view}|{setting}|{look}" for view in ("room", "wrist")]
        return Cell(tuple(self._frames[k] for k in keys if k in self._frames), text)


def write_sheets(folder: Path, records: Sequence[Row], files: Sequence[Path], found: Row) -> list[Path]:
    """Write every sheet as PNG into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shots = {r["seed"]: Frames(r, f) for r, f in zip(records, files, strict=True)}
    named: dict[tuple[int, int, str, str], dict[str, Row]] = {}
    for row in found["named"]:
        named.setdefault((row["seed"], row["caption"], row["view"], row["setting"]), {})[row["what"]] = row
    sheets = {
        "captions": captions_sheet(shots, named, found["guided"]),
        "walls": materials_sheet(shots, named, found["guided"], "wall"),
        "tables": materials_sheet(shots, named, found["guided"], "table"),
        "thresholds": thresholds_sheet(shots),
        "two_views": two_views_sheet(shots, found["guided"]),
        "worst_captions": worst_captions_sheet(shots, named, found),
        "worst_tokenizer": worst_tokenizer_sheet(shots),
    }
    paths = []
    for name, (columns, rows) in sheets.items():
        if rows:
            paths.append(folder / f"{name}.png")
            draw(columns, rows).save(paths[-1])
    return paths


def _asked(shot: Frames, look: int) -> tuple[str, ...]:
    caption = shot.record["captions"][look]
    return (caption["table"], caption["wall"], caption["light"])


def _called(
    named: Mapping[Any, Mapping[str, Row]], seed: int, look: int, view: str, setting: str
) -> tuple[str, ...]:
    """What the classifier sees; "!" where it is not what was asked."""
    rows = named.get((seed, look, view, setting), {})
    return tuple(
        ("" if rows[what]["named"] == rows[what]["asked"] else "!") + rows[what]["named"]
        for what in ("table", "wall")
        if what in rows
    )


def _triple(shots: Mapping[int, Frames], named: Named, guided: str, seed: int, look: int) -> list[Cell]:
    shot = shots[seed]
    return [
        shot.cell(f"room|target|{look}", *_asked(shot, look)),
        *(
            shot.cell(f"room|{setting}|{look}", *_called(named, seed, look, "room", setting))
            for setting in ("direct", guided)
        ),
    ]


def captions_sheet(shots: Mapping[int, Frames], named: Named, guided: str) -> tuple[list[str], list[list[Cell]]]:
    """The same scenes under several captions."""
    looks = range(max(len(shot.record["captions"]) for shot in shots.values()))
    columns = ["simulated", *(word for _ in looks for word in ("rendered as asked", "direct", "guided"))]
    rows = []
    for seed in _spread(list(shots)):
        cells = [shots[seed].cell("room|target|simulated", f"scene {seed}")]
        for look in looks:
            cells += _triple(shots, named, guided, seed, look)
        rows.append(cells)
    return columns, rows


def materials_sheet(
    shots: Mapping[int, Frames], named: Named, guided: str, what: str, cases: int = 3
) -> tuple[list[str], list[list[Cell]]]:
    """Every material by itself, in up to three scenes."""
    found: dict[str, list[tuple[int, int]]] = {}
    for seed, shot in shots.items():
        for look, caption in enumerate(shot.record["captions"]):
            if f"room|{guided}|{look}" in shot._frames:
                found.setdefault(caption[what], []).append((seed, look))
    rows = [
        [cell for seed, look in places[:cases] for cell in _triple(shots, named, guided, seed, look)]
        for _, places in sorted(found.items())
    ]
    return ["rendered as asked", "direct", "guided"] * cases, rows


def thresholds_sheet(shots: Mapping[int, Frames]) -> tuple[list[str], list[list[Cell]]]:
    """The foreground from direct to most held, room above wrist, and what the tokenizer lets through."""
    record = next(iter(shots.values())).record
    settings = {row["setting"] for row in record["generation"]}
    numbers = sorted((s for s in settings if s.replace(".", "", 1).isdigit()), key=float, reverse=True)
    columns = ["simulated", "direct", *numbers, "tokenizer alone", "rendered as asked"]
    rows = []
    for seed in _spread(list(shots)):
        shot = shots[seed]
        psnr = {(r["view"], r["setting"], r["caption"]): r["foreground_psnr_db"] for r in shot.record["generation"]}
        ceiling = {r["view"]: r["kept_psnr_db"] for r in shot.record["tokenizer"] if r["look"] == "simulated"}
        cells = [shot.both("target", "simulated", f"scene {seed}")]
        for setting in ("direct", *numbers):
            kept = [psnr.get((view, setting, 0)) for view in ("room", "wrist")]
            cells.append(shot.both(setting, "0", "foreground " + _decibels(kept)))
        cells.append(shot.both("round trip", "simulated", "ceiling " + _decibels([*ceiling.values()])))
        cells.append(shot.both("target", "0", *_asked(shot, 0)))
        rows.append(cells)
    return columns, rows


def _decibels(values: Sequence[float | None]) -> str:
    return " / ".join(f"{v:.1f}" for v in values if v is not None) + " dB"


def two_views_sheet(shots: Mapping[int, Frames], guided: str) -> tuple[list[str], list[list[Cell]]]:
    """The wrist view with and without the warped guide, below the room view that it should agree with."""
    settings = (guided, "guided, plain", "alone", "alone, plain", "nothing held, plain")
    columns = ["simulated", "rendered as asked", *("guided" if s == guided else s for s in settings)]
    rows = []
    for seed in _spread(sorted(shots, key=lambda s: _cross(shots[s], guided))):
        shot = shots[seed]
        room = shot._frames[f"room|{guided}|0"]
        cells = [shot.both("target", "simulated", f"scene {seed}"), shot.both("target", "0", *_asked(shot, 0))]
        for setting in settings:
            if f"wrist|{setting}|0" in shot._frames:
                cells.append(Cell((room, shot._frames[f"wrist|{setting}|0"]), (f"{_cross(shot, setting):.1f} dB",)))
            else:
                cells.append(Cell(()))
        rows.append(cells)
    return columns, rows


def _cross(shot: Frames, setting: str) -> float:
    return next((row["psnr_db"] or 0.0 for row in shot.record["cross_view"] if row["pair"] == setting), 0.0)


def worst_captions_sheet(
    shots: Mapping[int, Frames], named: Named, found: Row
) -> tuple[list[str], list[list[Cell]]]:
    """Guided room views whose table or wall looks least as asked."""
    guided = found["guided"]
    wrong = sorted(
        (r for r in found["named"] if r["view"] == "room" and r["setting"] == guided),
        key=lambda r: r["probability"],
    )
    places = list(dict.fromkeys((r["seed"], r["caption"]) for r in wrong))[: 3 * ROWS]
    rows = [
        [cell for place in places[i : i + 3] for cell in _triple(shots, named, guided, *place)]
        for i in range(0, len(places), 3)
    ]
    return ["rendered as asked", "direct", "guided"] * 3, rows


def worst_tokenizer_sheet(shots: Mapping[int, Frames]) -> tuple[list[str], list[list[Cell]]]:
    """Round trips with the lowest PSNR, real looks left, the simulated look right."""
    halves = []
    for simulated in (False, True):
        rows = sorted(
            (
                (row["psnr_db"], seed, row)
                for seed, shot in shots.items()
                for row in shot.record["tokenizer"]
                if (row["look"] == "simulated") == simulated
            ),
            key=lambda found: found[:2],
        )[: 2 * ROWS]
        halves.append(
            [
                (
                    shots[seed].cell(f"{row['view']}|target|{row['look']}", f"scene {seed}"),
                    shots[seed].cell(f"{row['view']}|round trip|{row['look']}", f"{psnr:.1f} dB"),
                )
                for psnr, seed, row in rows
            ]
        )
    real, plain = halves
    rows = [
        [cell for pair in (*real[2 * i : 2 * i + 2], *plain[2 * i : 2 * i + 2]) for cell in pair]
        for i in range((len(real) + 1) // 2)
    ]
    return ["real", "round trip"] * 2 + ["simulated", "round trip"] * 2, rows


def _spread(items: Sequence[Any], count: int = ROWS) -> list[Any]:
    """So many items, evenly over the list, first and last among them."""
    count = min(count, len(items))
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]


def draw(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Any:
    """A page (PIL image): headings, then rows of pictures with their text."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT_PX)
    heights = [
        max(len(c.pictures) for c in row) * (PICTURE_PX + 2) + max(len(c.text) for c in row) * LINE_PX + 2 * GAP_PX
        for row in rows
    ]
    width = max(len(row) for row in rows) * (PICTURE_PX + GAP_PX) + GAP_PX
    page = Image.new("RGB", (width, sum(heights) + LINE_PX + 2 * GAP_PX), PAPER)
    pen = ImageDraw.Draw(page)
    for i, word in enumerate(columns[: max(len(row) for row in rows)]):
        pen.text((GAP_PX + i * (PICTURE_PX + GAP_PX), GAP_PX), word, INK, font)
    top = LINE_PX + 2 * GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for i, cell in enumerate(row):
            x, y = GAP_PX + i * (PICTURE_PX + GAP_PX), top
            for picture in cell.pictures:
                page.paste(
                    Image.fromarray(picture).resize((PICTURE_PX, PICTURE_PX), Image.Resampling.LANCZOS), (x, y)
                )
                y += PICTURE_PX + 2
            for line in cell.text:
                wrong = line.startswith("!")
                pen.text((x, y), line.removeprefix("!"), WRONG if wrong else QUIET, font)
                y += LINE_PX
        top += height
    return page
