"""The figures people compare, taken from the metrics of a record, and their course over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from guided_transfer.metrics.similarity import IDENTICAL_DB

Metrics: TypeAlias = Mapping[str, Any]
"""`metrics.suite.EpisodeMetrics.as_dict()`, as JSON gives it back."""

Figures: TypeAlias = dict[str, float | None]


@dataclass(frozen=True)
class Figure:
    """How a figure is called and read.

    Attributes:
        title, unit: for people.
        digits: after the point.
        better: "higher" or "lower".
        means: what it says, in one sentence.
    """

    title: str
    unit: str
    digits: int
    better: str
    means: str


FIGURES: dict[str, Figure] = {
    "foreground_psnr_db": Figure(
        "foreground PSNR", "dB", 1, "higher", "How closely arm and phantom are those of the simulation."
    ),
    "ceiling_psnr_db": Figure(
        "its ceiling", "dB", 1, "higher", "The same of the tokenizer alone: more is not possible without a paste."
    ),
    "foreground_ssim": Figure("foreground SSIM", "", 3, "higher", "The same, by structure."),
    "foreground_delta_e": Figure("foreground ΔE", "", 1, "lower", "Colour drift of arm and phantom (CIEDE2000)."),
    "background_delta_e": Figure(
        "background ΔE", "", 1, "higher", "How much the rest changed; near 0 nothing was transferred."
    ),
    "cross_view_error": Figure(
        "cross-view error", "", 2, "lower", "0: views agree as in the simulation; 1: as strangers."
    ),
    "flicker": Figure("flicker", "%", 2, "lower", "Step of what stands still from frame to frame."),
    "seam_z": Figure("seam", "σ", 1, "lower", "How much the oddest join of two clips stands out."),
    "edge_f1": Figure("edge F1", "", 2, "higher", "Edges in their old places; rewards changing nothing."),
    "blur_ssim": Figure("blur SSIM", "", 2, "higher", "Layout after blurring; rewards changing nothing."),
    "depth_edge_recall": Figure("depth edges", "%", 0, "higher", "Outlines of the geometry that can be seen."),
}
"""By name; of several views the worse one counts."""

EXTRA_FIGURES: dict[str, Figure] = {
    "foreground_lpips": Figure("foreground LPIPS", "", 3, "lower", "Perceptual distance of arm and phantom."),
    "background_lpips": Figure("background LPIPS", "", 3, "higher", "Perceptual change of the rest."),
    "diversity_lpips": Figure("diversity", "", 3, "higher", "Perceptual distance between an episode's variants."),
    "dover_technical": Figure("DOVER technical", "", 3, "higher", "Video quality by eye: noise, blur, artefacts."),
    "dover_aesthetic": Figure("DOVER aesthetic", "", 3, "higher", "Video quality by eye: content, composition."),
    "depth_si_rmse_m": Figure(
        "depth si-RMSE", "m", 3, "lower", "Depth as Depth Anything V2 sees it, against the simulator's."
    ),
    "depth_abs_rel": Figure("depth error", "", 3, "lower", "The same, as a share of the depth."),
    "mask_miou": Figure(
        "mask mIoU", "", 3, "higher", "Outlines as SAM 2 sees them, against the simulator's labels."
    ),
    "fvd": Figure("Fréchet distance", "", 1, "lower", "Distance to real videos as a set, by V-JEPA 2's features."),
}
"""Those that need a trained network and are taken on request; the distances to sets hold for a whole row."""

OVERVIEW = (
    "foreground_psnr_db",
    "ceiling_psnr_db",
    "background_delta_e",
    "cross_view_error",
    "flicker",
    "seam_z",
)
"""The figures of an episode's row where there is no room for all."""


@dataclass(frozen=True)
class Line:
    """One curve: a value per frame, None where there is none.

    Attributes:
        name: of the view.
        values: per frame.
        level: a constant to hold it against, or None.
    """

    name: str
    values: Sequence[float | None]
    level: float | None = None


@dataclass(frozen=True)
class Chart:
    """A figure over the frames of an episode.

    Attributes:
        title, unit: for people.
        level_name: what the lines' levels are.
        lines: one per view.
        marks: frames at which clips begin.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    marks: Sequence[int] = ()
    level_name: str = ""

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest value shown, with some air."""
        shown = [value for line in self.lines for value in (*line.values, line.level) if value is not None]
        low, high = min(shown, default=0.0), max(shown, default=1.0)
        air = (high - low) * 0.08 or 0.5
        return (max(low - air, 0.0) if low >= 0 else low - air), high + air

    @property
    def num_frames(self) -> int:
        """Frames of the longest line."""
        return max((len(line.values) for line in self.lines), default=0)

    def path(self, line: Line) -> str:
        """SVG path of a line, frames 0..1000 across (frame centres), values 100..0 down; broken where unknown."""
        low, high = self.span
        parts, pen = [], "M"
        for frame, value in enumerate(line.values):
            if value is None:
                pen = "M"
                continue
            x = 1000 * (frame + 0.5) / self.num_frames
            parts.append(f"{pen}{x:.1f} {100 * (high - value) / (high - low):.1f}")
            pen = "L"
        return "".join(parts)

    def height_of(self, value: float) -> float:
        """Where a value lies, 100..0 down."""
        low, high = self.span
        return round(100 * (high - value) / (high - low), 1)


def figures_of(metrics: Metrics) -> Figures:
    """Figures by name, of the worse view; None where a figure cannot be measured."""
    views = list(metrics["views"].values())

    def worse(pick: Callable[..., float | None], *path: str, scale: float = 1.0) -> float | None:
        known = [value for view in views if (value := number(_at(view, *path))) is not None]
        worst = pick(known, default=None)
        return None if worst is None else worst * scale

    return {
        "foreground_psnr_db": worse(min, "foreground", "psnr_db"),
        "ceiling_psnr_db": worse(min, "ceiling", "psnr_db"),
        "foreground_ssim": worse(min, "foreground", "ssim"),
        "foreground_delta_e": worse(max, "foreground", "delta_e"),
        "background_delta_e": worse(min, "background", "delta_e"),
        "cross_view_error": number(_at(metrics, "cross_view", "normalised")),
        "flicker": worse(max, "flicker", scale=100),
        "seam_z": worse(max, "seam_z"),
        "edge_f1": worse(min, "edge_f1"),
        "blur_ssim": worse(min, "blur_ssim"),
        "depth_edge_recall": worse(min, "depth_edge_recall", scale=100),
    }


def worse_view(views: Iterable[Mapping[str, float | None]]) -> Figures:
    """Of figures taken view by view the worse one each; None where no view has it."""
    views = list(views)
    worst: Figures = {}
    for name in dict.fromkeys(name for view in views for name in view):
        known = [value for view in views if (value := view.get(name)) is not None]
        pick = min if EXTRA_FIGURES[name].better == "higher" else max
        worst[name] = pick(known, default=None)
    return worst


def charts_of(metrics: Metrics, clip_borders: Sequence[int]) -> tuple[Chart, ...]:
    """Foreground PSNR, cross-view error and flicker over time, as far as they were measured."""
    views = metrics["views"]
    psnr = [
        Line(name, _finite(_at(view, "time_lines", "foreground_psnr_db")), number(_at(view, "ceiling", "psnr_db")))
        for name, view in views.items()
    ]
    flicker = [
        # A step belongs to the frame it leads to; the first frame has none.
        Line(name, [None, *_finite(steps, scale=100)])
        for name, view in views.items()
        if (steps := _at(view, "time_lines", "flicker"))
    ]
    cross = [Line("wrist against room", _finite(_at(metrics, "cross_view", "time_line"), scale=100))]
    charts = (
        Chart("Foreground PSNR", "dB", psnr, clip_borders, "tokenizer's ceiling"),
        Chart("Disagreement of the views", "%", cross, clip_borders),
        Chart("Flicker of what stands still", "%", flicker, clip_borders),
    )
    return tuple(chart for chart in charts if any(value is not None for ln in chart.lines for value in ln.values))


def number(value: Any) -> float | None:
    """A figure as records hold it, where "inf" and "nan" are text; None for what is no number."""
    if value is None or isinstance(value, bool):
        return None
    found = float(value)
    return None if math.isnan(found) else found


def shown(name: str, value: float | None) -> str:
    """A figure as people read it."""
    if value is None:
        return "–"
    if name.endswith("psnr_db") and value >= IDENTICAL_DB:
        return "exact"
    return f"{value:.{(FIGURES | EXTRA_FIGURES)[name].digits}f}"


def _finite(values: Sequence[Any] | None, scale: float = 1.0) -> list[float | None]:
    numbers = [number(value) for value in values or ()]
    return [None if value is None or math.isinf(value) else value * scale for value in numbers]


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
