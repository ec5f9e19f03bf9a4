"""Faithfulness against change: what a sweep over sigma_threshold found, as data and as a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guided_transfer.report.figures import FIGURES, Figures

COLOURS = {"guided": "#0b5cad", "direct": "#a32222", "composite": "#1b6b3a", "baseline": "#55606c"}


@dataclass(frozen=True)
class Point:
    """One way of making the episodes.

    Attributes:
        method: "guided", "direct" (nothing held), "composite" (foreground pasted), "identity" or "colour jitter".
        sigma_threshold: of guided and composite.
        figures: means over the episodes.
        chosen: whether these are the run's own settings.
    """

    method: str
    sigma_threshold: float | None
    figures: Figures
    chosen: bool = False


@dataclass(frozen=True)
class Sweep:
    """A curve.

    Attributes:
        episodes: that every point was measured on.
        points: in order of sigma_threshold, then the others.
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
        writer.writerow(["method", "sigma_threshold", "chosen", *FIGURES])
        for point in sweep.points:
            figures = (point.figures.get(name) for name in FIGURES)
            writer.writerow([point.method, point.sigma_threshold, point.chosen, *figures])
    draw(picture, sweep)
    return [data, table, picture]


def draw(path: Path, sweep: Sweep) -> None:
    """Foreground PSNR over background change; the guided points are one curve, the ceiling a level."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    def place(point: Point) -> tuple[float, float] | None:
        x, y = point.figures.get("background_delta_e"), point.figures.get("foreground_psnr_db")
        return None if x is None or y is None else (x, y)

    # Text stays text, and the same data gives the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "guided-transfer"}):
        figure = Figure(figsize=(7.2, 4.5), layout="constrained")
        axes = figure.subplots()
        guided = [(point, at) for point in sweep.points if point.method == "guided" and (at := place(point))]
        axes.plot(*zip(*(at for _, at in guided), strict=True), "o-", color=COLOURS["guided"], label="guided")
        for point, at in guided:
            note = f"σ {point.sigma_threshold:g}" + (" (chosen)" if point.chosen else "")
            axes.annotate(note, at, xytext=(6, 6), textcoords="offset points", fontsize=9)
            if point.chosen:
                axes.plot(*at, "o", markersize=13, fillstyle="none", color=COLOURS["guided"])
        for point in sweep.points:
            at = place(point)
            # Equal pictures have no place on the scale, and would press all others together.
            if at and point.method in ("direct", "composite", "colour jitter"):
                axes.plot(*at, "s", color=COLOURS.get(point.method, COLOURS["baseline"]), label=point.method)
        levels = [point.figures.get("ceiling_psnr_db") for point, _ in guided]
        ceilings = [level for level in levels if level is not None]
        if ceilings:
            axes.axhline(max(ceilings), linestyle="--", color=COLOURS["baseline"], label="tokenizer's ceiling")
        axes.set_xlabel("background change (mean CIEDE2000)  →  freer")
        axes.set_ylabel("foreground PSNR [dB]  →  more faithful")
        axes.set_xlim(left=0)  # no change at all
        axes.set_title(f"Faithfulness against change (episodes: {len(sweep.episodes)})", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None})
