"""What a report says, read from an output folder's run.json and ledger: plain data, no page in sight.

Files that the page shows lie in `<output>/report/media/<episode>/`: `<view>.<kind>.mp4` and `thumb.jpg`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_transfer.errors import UsageError
from guided_transfer.report.figures import EXTRA_FIGURES, FIGURES, Chart, Figures, charts_of, figures_of

KINDS = {
    "simulated": "simulated",
    "generated": "generated",
    "foreground": "foreground mask",
    "zones": "warp zones",
    "edge": "edge control",
    "vis": "blur control",
    "depth": "depth control",
    "seg": "seg control",
}
"""Videos of a view, in the order they are shown, with what they are called."""

ZONE_COLOURS = {
    "out of sight": "#3b3f46",
    "hole": "#c0392b",
    "filled": "#e2a93b",
    "covered": "#2f86c5",
    "foreground": "#e8ebee",
}
"""What is known of a pixel of a warped view, by the warp's codes 0, 1, 2, ..., and how it is painted."""

STATES = ("done", "rejected", "blocked", "failed")


@dataclass(frozen=True)
class Video:
    """A video of one view; `file` is relative to the report's folder."""

    kind: str
    title: str
    file: str


@dataclass(frozen=True)
class ViewReport:
    """One camera of an episode.

    Attributes:
        name: of the camera.
        prompt, seed: what it was generated from.
        facts: model size, clips, seconds by stage, zones: what the record knows of it.
        videos: in the order of KINDS.
    """

    name: str
    prompt: str
    seed: int
    facts: Mapping[str, Any]
    videos: Sequence[Video]


@dataclass(frozen=True)
class EpisodeReport:
    """One demo of one transferred file, or a file of which nothing came.

    Attributes:
        key: names its page and its media.
        stem, demo: of the output file; demo is empty where nothing came.
        state, reason: as in the ledger.
        views: empty where nothing came.
        figures: by name, of the worse view; see FIGURES.
        charts: figures over time.
        thumb: picture for the overview, relative to the report's folder, or empty.
        recording: rerun recording, likewise.
        fps, num_frames: of its videos; 0 where there are none.
        record: the ledger's record without what is shown elsewhere.
    """

    key: str
    stem: str
    demo: str
    state: str
    reason: str
    source: str
    variant: int
    attempts: int
    seconds: float
    prompt_name: str
    views: Sequence[ViewReport] = ()
    figures: Figures = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    thumb: str = ""
    recording: str = ""
    fps: float = 0.0
    num_frames: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunReport:
    """A run.

    Attributes:
        name: of the output folder.
        code: version that made it.
        about: machine and versions.
        settings: effective settings by name.
        weights: SHA-256 by file.
        episodes: in natural order.
        baselines: figures by name of "identity" and "colour jitter" on this run's sources.
        baseline_episodes: how many episodes those were measured on.
        sweep: what `guided-transfer sweep` found for this folder, as `curve.Sweep`; empty where it was not run.
        evaluation: what `guided-transfer evaluate` found: "rows", and "not_measured" with reasons; empty where it
            was not run.
    """

    name: str
    code: str
    about: Mapping[str, Any]
    settings: Mapping[str, Any]
    weights: Mapping[str, str]
    episodes: Sequence[EpisodeReport]
    baselines: Mapping[str, Figures] = field(default_factory=dict)
    baseline_episodes: int = 0
    sweep: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Episodes by state, zeros included."""
        found = Counter(episode.state for episode in self.episodes)
        return {state: found[state] for state in STATES}

    @property
    def rows(self) -> dict[str, Figures]:
        """Mean figures of this run, and what changing nothing or only colours would have got."""
        done = [episode.figures for episode in self.episodes if episode.state == "done"]
        return {"this run": mean_figures(done), **self.baselines} if done else {}

    @property
    def extra_rows(self) -> dict[str, Figures]:
        """The same rows in the figures that were taken on request, without columns that nobody has."""
        rows = {"this run": self.evaluation.get("rows", {}).get("mean", {})}
        rows |= {name: self.evaluation.get("rows", {}).get(name, {}) for name in self.baselines}
        asked = [name for name in EXTRA_FIGURES if any(row.get(name) is not None for row in rows.values())]
        return {row: {name: figures.get(name) for name in asked} for row, figures in rows.items()} if asked else {}


def mean_figures(rows: Iterable[Figures]) -> Figures:
    """Mean of each figure over the episodes that have it; those on request only where some episode has them."""
    rows = list(rows)
    asked = [name for name in EXTRA_FIGURES if any(name in row for row in rows)]
    means: Figures = {}
    for name in [*FIGURES, *asked]:
        known = [value for row in rows if (value := row.get(name)) is not None]
        means[name] = sum(known) / len(known) if known else None
    return means


def read_run(output_dir: Path) -> RunReport:
    """Everything a report says about an output folder.

    Raises:
        UsageError: the folder holds no run.
    """
    run = read_json(output_dir / "run.json")
    if run is None:
        raise UsageError(f"{output_dir} holds no run.json; give the --output_data_dir of a transfer")
    report_dir = output_dir / "report"
    baselines = read_json(report_dir / "baselines.json") or {}
    return RunReport(
        name=output_dir.resolve().name,
        code=run["code"],
        about={name: value for name, value in run["about"].items() if name != "settings"},
        settings=run["about"].get("settings", {}),
        weights=run["weights"],
        episodes=tuple(
            episode for record in read_records(output_dir) for episode in episodes_of(record, report_dir)
        ),
        baselines=baselines.get("rows", {}),
        baseline_episodes=baselines.get("episodes", 0),
        sweep=read_json(output_dir / "sweep" / "sweep.json") or {},
        evaluation=read_json(output_dir / "evaluation.json") or {},
    )


def read_records(output_dir: Path) -> list[dict[str, Any]]:
    """The ledger's records in natural order of their names."""
    paths = sorted((output_dir / "ledger").glob("[!.]*.json"), key=lambda path: natural(path.stem))
    records = (read_json(path) for path in paths)
    return [record for record in records if record and "state" in record and "episode" in record]


def natural(name: str) -> list[str | int]:
    """Sorts data_10 after data_9."""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", name)]


def episodes_of(record: Mapping[str, Any], report_dir: Path) -> list[EpisodeReport]:
    """One entry per demo of a record; one for a record without any."""
    demos = record.get("result") or {}
    if not demos:
        return [_episode(record, "", {}, record["episode"], report_dir)]
    return [
        _episode(record, demo, facts, media_key(record["episode"], demo, len(demos)), report_dir)
        for demo, facts in demos.items()
    ]


def media_key(stem: str, demo: str, num_demos: int) -> str:
    """Names an episode's page and media as its videos are named."""
    return stem if num_demos == 1 else f"{stem}_{demo}"


def recording_file(key: str) -> str:
    """An episode's rerun recording, relative to the report's folder."""
    return f"media/{key}/{key}.rrd"


def media_folder(report_dir: Path, key: str) -> Path:
    """Where an episode's videos lie."""
    return report_dir / "media" / key


def _episode(
    record: Mapping[str, Any], demo: str, facts: Mapping[str, Any], key: str, report_dir: Path
) -> EpisodeReport:
    metrics = facts.get("metrics")
    thumb, recording = f"media/{key}/thumb.jpg", recording_file(key)
    clip = read_json(media_folder(report_dir, key) / "clip.json") or {}
    views = facts.get("views", {})
    borders = [border for view in views.values() for border in view["clip_borders"]]
    return EpisodeReport(
        key=key,
        stem=record["episode"],
        demo=demo,
        state=record["state"],
        reason=record["reason"],
        source=record["source"]["file"],
        variant=record["variant"],
        attempts=len(facts.get("failed_attempts", ())) + 1,
        seconds=sum(record["seconds"].values()),
        prompt_name=facts.get("prompt_name", ""),
        views=tuple(_view(name, view, key, report_dir) for name, view in views.items()),
        figures=figures_of(metrics) if metrics else {},
        charts=charts_of(metrics, sorted(set(borders))) if metrics else (),
        thumb=thumb if (report_dir / thumb).is_file() else "",
        recording=recording if (report_dir / recording).is_file() else "",
        fps=clip.get("fps", 0.0),
        num_frames=clip.get("num_frames", 0),
        record={
            name: record.get(name) for name in ("fingerprint", "finished_at", "worker", "low_memory", "outputs")
        }
        | {"guardrail": facts.get("guardrail"), "failed_attempts": facts.get("failed_attempts", [])},
    )


def _view(name: str, facts: Mapping[str, Any], key: str, report_dir: Path) -> ViewReport:
    files = {kind: f"media/{key}/{name}.{kind}.mp4" for kind in KINDS}
    videos = [Video(kind, KINDS[kind], file) for kind, file in files.items() if (report_dir / file).is_file()]
    shown = ("model_size", "num_clips", "told", "seconds", "warp")
    return ViewReport(
        name, facts["prompt"], facts["seed"], {key: facts[key] for key in shown if key in facts}, tuple(videos)
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
