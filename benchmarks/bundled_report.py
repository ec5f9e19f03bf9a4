"""Records of single episodes to the tables and bars of benchmarks/results/bundled.json."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundled_classifier import NAMES, MaterialNet

MATERIALS = ("wall", "table")
Row = Mapping[str, Any]


def summarise(records: Sequence[Row], frames: Sequence[Path], classifier: MaterialNet) -> dict[str, Any]:
    """Everything the report says about the episodes."""
    named = [
        row for record, file in zip(records, frames, strict=True) for row in name_all(record, file, classifier)
    ]
    guided = records[0]["guided"]
    return {
        "guided": guided,
        "coverage": coverage(records),
        "tokenizer": tokenizer_table(records),
        "captions": captions_table(named),
        "guidance": guidance_table(records),
        "cross_view": cross_view_table(records),
        "followed": followed_table(records),
        "table_detail": detail_table(records),
        "named": named,
    }


def figures(values: Iterable[float | None], worst: Callable[[Iterable[float]], float] = min) -> dict[str, Any]:
    """Mean, worst and number of what is known."""
    known = [v for v in values if v is not None]
    return {"mean": statistics.fmean(known), "worst": worst(known), "n": len(known)} if known else {"n": 0}


def by_material(
    rows: Iterable[tuple[Row, float | None]], materials: Sequence[str] = MATERIALS
) -> dict[str, dict[str, Any]]:
    """`figures` per material of (caption, value) pairs: {"wall": {name: figures}, ...}."""
    groups: dict[str, dict[str, list[float | None]]] = {what: defaultdict(list) for what in materials}
    for caption, value in rows:
        for what in materials:
            groups[what][caption[what]].append(value)
    return {what: {name: figures(v) for name, v in sorted(group.items())} for what, group in groups.items()}


def coverage(records: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How often each material was asked for."""
    return {
        what: dict(sorted(Counter(c[what] for r in records for c in r["captions"]).items())) for what in MATERIALS
    }


def tokenizer_table(records: Sequence[Row]) -> dict[str, Any]:
    """Reconstruction PSNR by look and view, and of the real look by material; walls count in the room view only."""
    table: dict[str, Any] = {}
    for view in ("room", "wrist"):
        rows = [(r, row) for r in records for row in r["tokenizer"] if row["view"] == view]
        simulated = [row for _, row in rows if row["look"] == "simulated"]
        real = [(r["captions"][int(row["look"])], row) for r, row in rows if row["look"] != "simulated"]
        seen = MATERIALS if view == "room" else ("table",)
        table[f"simulated {view}"] = figures(row["psnr_db"] for row in simulated)
        table[f"simulated {view}, foreground"] = figures(row["kept_psnr_db"] for row in simulated)
        table[f"real {view}"] = figures(row["psnr_db"] for _, row in real) | {
            "by_material": by_material(((c, row["psnr_db"]) for c, row in real), seen)
        }
        table[f"real {view}, table alone"] = by_material(((c, row["table_psnr_db"]) for c, row in real), ("table",))
    return table


def name_all(record: Row, file: Path, classifier: MaterialNet) -> list[dict[str, Any]]:
    """What the classifier calls wall (room view) and table of every video of an episode, beside what was asked."""
    rows = []
    with np.load(file) as arrays:
        labels = {view: torch.from_numpy(arrays[f"{view}|labels"]) for view in ("room", "wrist")}
        for key in arrays.files:
            view, setting, *look = key.split("|")
            if not look or look[0] == "simulated":
                continue
            found = classifier.name(torch.from_numpy(arrays[key]), labels[view])
            asked = record["captions"][int(look[0])]
            for what in MATERIALS if view == "room" else ("table",):
                best = int(np.argmax(found[what]))
                rows.append(
                    {
                        "seed": record["seed"],
                        "caption": int(look[0]),
                        "view": view,
                        "setting": setting,
                        "what": what,
                        "asked": asked[what],
                        "named": NAMES[what][best],
                        "probability": found[what][NAMES[what].index(asked[what])],
                    }
                )
    return rows


def captions_table(named: Sequence[Row]) -> dict[str, Any]:
    """Share that is named as asked, by view, material and setting; per material, and what it was taken for."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in named:
        groups[f"{row['view']} {row['what']}, {row['setting']}"].append(row)
    return {name: _agreement(rows) for name, rows in sorted(groups.items())}


def _agreement(rows: Sequence[Row]) -> dict[str, Any]:
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row["asked"]].append(row)
    return {
        "agreement": statistics.fmean(row["asked"] == row["named"] for row in rows),
        "n": len(rows),
        "by_material": {
            name: {
                "agreement": statistics.fmean(row["asked"] == row["named"] for row in own),
                "n": len(own),
                "taken_for": dict(Counter(row["named"] for row in own if row["named"] != name).most_common(3)),
            }
            for name, own in sorted(by_name.items())
        },
    }


def guidance_table(records: Sequence[Row]) -> dict[str, Any]:
    """Foreground and background by threshold for every episode's first caption, with the tokenizer's ceiling.

    By material of the caption: means of the same figures.
    """
    table: dict[str, Any] = {}
    for view in ("room", "wrist"):
        ceiling = {
            r["seed"]: row["kept_psnr_db"]
            for r in records
            for row in r["tokenizer"]
            if row["view"] == view and row["look"] == "simulated"
        }
        settings: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
        for record in records:
            for row in record["generation"]:
                if row["view"] == view and row["caption"] == 0:
                    settings[row["setting"]].append((record, row))
        direct = {record["seed"]: row["background_change"] for record, row in settings.get("direct", ())}
        table[view] = {"ceiling": figures(ceiling.values())}
        for name, rows in settings.items():
            of_caption = {
                "foreground_psnr_db": [row["foreground_psnr_db"] for _, row in rows],
                "below_ceiling_db": [ceiling[r["seed"]] - row["foreground_psnr_db"] for r, row in rows],
                "background_change": [row["background_change"] for _, row in rows],
                "background_share_of_direct": [
                    row["background_change"] / direct[r["seed"]] if direct.get(r["seed"]) else None
                    for r, row in rows
                ],
            }
            captions = [r["captions"][0] for r, _ in rows]
            table[view][name] = {
                what: figures(values) | {"by_material": by_material(zip(captions, values, strict=True))}
                for what, values in of_caption.items()
            }
    return table


def cross_view_table(records: Sequence[Row]) -> dict[str, Any]:
    """PSNR between the views over the pixels both see, by pair, and by material of the caption."""
    pairs: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for record in records:
        for row in record["cross_view"]:
            pairs[row["pair"]].append((record["captions"][0], row))
    return {
        name: figures(row["psnr_db"] for _, row in rows)
        | {
            "background": figures(row["background_psnr_db"] for _, row in rows),
            "coverage": figures(row["coverage"] for _, row in rows),
            "by_material": by_material((c, row["psnr_db"]) for c, row in rows),
        }
        for name, rows in pairs.items()
    }


def followed_table(records: Sequence[Row]) -> dict[str, Any]:
    """Change of the wrist's background as a share of the direct room view's, seen from there, by material."""
    rows = [(record["captions"][row["caption"]], row["share"]) for record in records for row in record["followed"]]
    return figures(share for _, share in rows) | {"by_material": by_material(rows)}


def detail_table(records: Sequence[Row]) -> dict[str, Any]:
    """Fine structure of the table as a share of the rendered target's, by view, setting and table material."""
    groups: dict[str, list[tuple[Row, float | None]]] = defaultdict(list)
    for record in records:
        for key, value in record["detail"].items():
            view, setting, look = key.split("|")
            target = record["detail"].get(f"{view}|target|{look}")
            if look != "simulated" and setting != "target" and value is not None and target:
                groups[f"{view}, {setting}"].append((record["captions"][int(look)], value / target))
    return {
        name: figures(v for _, v in rows) | {"by_material": by_material(rows, ("table",))["table"]}
        for name, rows in sorted(groups.items())
    }


def bars(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was promised, what is measured, and the worst material by itself."""
    found: list[dict[str, Any]] = []

    def hold(
        what: str, bar: float, value: float | None, materials: Mapping[str, float | None] | None = None
    ) -> None:
        lower_is_better = what.startswith("seconds") or "gap" in what
        meets = (lambda v: v <= bar) if lower_is_better else (lambda v: v >= bar)
        known = {name: v for name, v in (materials or {}).items() if v is not None}
        row: dict[str, Any] = {
            "what": what,
            "bar": bar,
            "measured": value,
            "met": value is not None and meets(value),
        }
        if known:
            worst = min(known, key=lambda name: known[name] * (-1 if lower_is_better else 1))
            row |= {"worst_material": [worst, known[worst]], "short": [n for n, v in known.items() if not meets(v)]}
        found.append(row)

    if episodes := report.get("episodes"):
        _hold_tokenizer(hold, episodes["tokenizer"])
        _hold_captions(hold, episodes["captions"], episodes["guided"])
        _hold_guidance(hold, episodes["guidance"], episodes["guided"])
        _hold_cross_view(hold, episodes["cross_view"], episodes["followed"], episodes["guided"])
    if seconds := report.get("seconds"):
        hold("seconds of a view on a CPU", 15, seconds["median_s"]["view"])
        hold("seconds of the stacked pass on a CPU", 35, seconds["median_s"]["stacked pass"])
    return found


def _means(groups: Mapping[str, Mapping[str, Any]], field: str = "mean") -> dict[str, float | None]:
    return {f"{what}: {name}": v.get(field) for what, group in groups.items() for name, v in group.items()}


def _hold_tokenizer(hold: Callable[..., None], table: Mapping[str, Any]) -> None:
    for look, bar in (("real", 32), ("simulated", 34)):
        for view in ("room", "wrist"):
            row = table[f"{look} {view}"]
            hold(f"tokenizer, {look} {view} [dB]", bar, row["mean"], _means(row.get("by_material", {})))


def _hold_captions(hold: Callable[..., None], table: Mapping[str, Any], guided: str) -> None:
    for view, what in (("room", "wall"), ("room", "table"), ("wrist", "table")):
        for setting in ("target", "round trip", "direct", guided):
            if row := table.get(f"{view} {what}, {setting}"):
                kind = "classifier" if setting in ("target", "round trip") else "captions"
                agreement = {name: v["agreement"] for name, v in row["by_material"].items()}
                hold(f"{kind}, {view} {what}, {setting}", 0.85, row["agreement"], agreement)


def _hold_guidance(hold: Callable[..., None], table: Mapping[str, Any], guided: str) -> None:
    for view, rows in table.items():
        names = ["direct", *sorted((n for n in rows if _is_number(n)), key=float, reverse=True)]
        kept = [(n, rows[n]["foreground_psnr_db"]) for n in names if n in rows]
        for (_, before), (name, after) in itertools.pairwise(kept):
            hold(f"foreground, {view}, rise to {name} [dB]", 0, *_above(after, before))
        if kept:
            name = kept[-1][0]
            gap = rows[name]["below_ceiling_db"]
            hold(f"foreground, {view}, gap to ceiling at {name} [dB]", 3, gap["mean"], _means(gap["by_material"]))
        if "direct" in rows:
            for name in names[1:]:
                share = rows[name]["background_share_of_direct"]
                what = f"background, {view}, {name}, share of direct's change"
                hold(what, 0.85, share["mean"], _means(share["by_material"]))


def _above(higher: Mapping[str, Any], lower: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """How far one figure is above another, in the mean and by material."""
    first, second = (_means(figure["by_material"]) for figure in (higher, lower))
    return higher["mean"] - lower["mean"], {name: first[name] - second[name] for name in first}


def _is_number(name: str) -> bool:
    return name.replace(".", "", 1).isdigit()


def _hold_cross_view(
    hold: Callable[..., None], table: Mapping[str, Any], followed: Mapping[str, Any], guided: str
) -> None:
    hold("background, wrist, share of the direct room's", 0.85, followed["mean"], _means(followed["by_material"]))
    materials = _means(table[guided]["by_material"])
    hold("cross-view, guided [dB]", 22, table[guided]["mean"], materials)
    for name in ("alone", "alone, plain", "nothing held, plain", "direct"):
        if name in table:
            hold(f"cross-view, guided above {name} [dB]", 10, *_above(table[guided], table[name]))


def print_bars(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        value = f"{row['measured']:.3g}"
        worst = "{}: {:.3g}".format(*row["worst_material"]) if "worst_material" in row else ""
        short = f" ({len(row['short'])} short)" if row.get("short") else ""
        print(f"{'yes' if row['met'] else 'NO ':3} {row['what']:55} {value:>6} bar {row['bar']:<5g} {worst}{short}")
