"""Faithfulness against change: what a sweep over settings found, as data and as a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from guided_transfer.report.figures import FIGURES, Figures

CURVE_COLOURS = ("#0b5cad", "#8a5a00", "#6b3fa0", "#00707a", "#9c2f6f")
"""One per setting that is tried, again from the first when they run out."""

COLOURS = {"direct": "#a32222", "composite": "#1b6b3a", "baseline": "#55606c"}
SHORT = {"sigma_threshold": "σ", "num_steps": "steps", "resolution": ""}
"""How a setting is called at a point."""


@dataclass(frozen=True)
class Point:
    """One way of making the episodes.

    Attributes:
        method: "guided", "direct" (nothing held), "composite" (foreground pasted), "identity" or "colour jitter".
        setting, value: what was tried: "sigma_threshold", "num_steps", "resolution", or a control for its weight;
            empty and None of other methods than guided.
        figures: means over the episodes.
        chosen: whether these are the run's own settings.
    """

    method: str
    setting: str
    value: float | str | None
    figures: Figures
    chosen: bool = False


@dataclass(frozen=True)
class Sweep:
    """A curve.

    Attributes:
        episodes: that every point was measured on.
        points: setting by setting in order of its values, then the others.
        settings: effective settings by name.
    """

    episodes: Sequence[str]
    points: Sequence[Point]
    settings: Mapping[str, object]


def write_sweep(folder: Path, sweep: Sweep) -> list[Path]:
    """Write sweep.json, sweep.csv and sweep.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    data, table, picture = (folder / f"sweep.{suffix}" for suffix in ("json", "csv", "svg"))
    data.write_text(json.dumps(asdict(sweep), indent=1), encoding="utf-8")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "setting", "value", "chosen", *FIGURES])
        for point in sweep.points:
            figures = (point.figures.get(name) for name in FIGURES)
            writer.writerow([point.method, point.setting, point.value, point.chosen, *figures])
    draw(picture, sweep)
    return [data, table, picture]


def draw(path: Path, sweep: Sweep) -> None:
    """Foreground PSNR over background change; a curve for each setting that was tried, the ceiling a level."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and the same data gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "guided-transfer"}):
        figure = Figure(figsize=(7.2, 4.5), layout="constrained")
        axes = figure.subplots()
        guided = [point for point in sweep.points if point.method == "guided"]
        for setting, colour in zip(dict.fromkeys(point.setting for point in guided), cycle(CURVE_COLOURS)):
            _draw_curve(axes, [point for point in guided if point.setting == setting], colour)
        if own := next((at for point in guided if point.chosen and (at := _place(point))), None):
            values = ", ".join(_named(point) for point in guided if point.chosen)
            axes.plot(*own, "o", markersize=13, fillstyle="none", color="black", label=f"chosen: {values}")
        for point in sweep.points:
            at = _place(point)
            # Equal pictures have no place on the scale, and would press all others together.
            if at and point.method in ("direct", "composite", "colour jitter"):
                axes.plot(*at, "s", color=COLOURS.get(point.method, COLOURS["baseline"]), label=point.method)
        levels = [point.figures.get("ceiling_psnr_db") for point in guided]
        ceilings = [level for level in levels if level is not None]
        if ceilings:
            axes.axhline(max(ceilings), linestyle="--", color=COLOURS["baseline"], label="tokenizer's ceiling")
        axes.set_xlabel("background change (mean CIEDE2000)  →  freer")
        axes.set_ylabel("foreground PSNR [dB]  →  more faithful")
        axes.set_xlim(0, 1.08 * axes.get_xlim()[1])  # from no change at all, with room for the last name
        axes.set_title(f"Faithfulness against change (episodes: {len(sweep.episodes)})", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_curve(axes: Any, points: Sequence[Point], colour: str) -> None:
    placed = [(point, at) for point in points if (at := _place(point))]
    if not placed:
        return
    axes.plot(
        *zip(*(at for _, at in placed), strict=True), "o-", color=colour, label=f"guided, {points[0].setting}"
    )
    for point, at in placed:
        if not point.chosen:  # that one lies on every curve
            axes.annotate(_named(point), at, xytext=(6, 6), textcoords="offset points", fontsize=9, color=colour)


def _named(point: Point) -> str:
    value = f"{point.value:g}" if isinstance(point.value, int | float) else point.value
    return f"{SHORT.get(point.setting, point.setting)} {value}".strip()


def _place(point: Point) -> tuple[float, float] | None:
    x, y = point.figures.get("background_delta_e"), point.figures.get("foreground_psnr_db")
    return None if x is None or y is None else (x, y)
