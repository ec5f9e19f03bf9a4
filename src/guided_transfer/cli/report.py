"""`guided-transfer report OUT`: build the pages of an output folder again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.runner.files import write_json

if TYPE_CHECKING:
    from guided_transfer.episodes.read import EpisodeFile
    from guided_transfer.metrics.suite import EpisodeMetrics
    from guided_transfer.two_view import TwoViewSettings

BASELINE_EPISODES = 3
"""So few tell what changing nothing gets; they cost about as much as measuring twice as many episodes."""


class ReportSettings(BaseModel):
    """Of which run."""

    folder: tyro.conf.Positional[Path] = Field(description="the run's --output_data_dir")
    media: bool = Field(default=False, description="make all videos of the report anew, not only missing ones")
    rerun: bool = Field(default=False, description="also write a rerun recording of each finished episode")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings, _ = parse(argv, ReportSettings, prog="guided-transfer report", about=__doc__)
    from guided_transfer.report.data import read_records
    from guided_transfer.report.recording import require_rerun

    if settings.rerun:
        require_rerun()
    for record in read_records(settings.folder):
        for key, demo in demos_of(record).items():
            if settings.media or not has_media(settings.folder, key):
                remake_media(settings.folder, record, key, demo)
            if settings.rerun and record["state"] == "done":
                record_episode(settings.folder, record, key, demo)
    print(finish_report(settings.folder))
    return 0


def finish_report(output_dir: Path) -> Path:
    """Write the pages of a run whose videos are made, and return the first one."""
    from guided_transfer.report.page import write_pages

    write_baselines(output_dir)
    return write_pages(output_dir)


def write_baselines(output_dir: Path) -> None:
    """Measure what no change and a colour jitter would get on a few of the sources, unless that is known."""
    from guided_transfer.report.data import mean_figures, read_json, read_records
    from guided_transfer.report.figures import figures_of

    path = output_dir / "report" / "baselines.json"
    done = [record for record in read_records(output_dir) if record["state"] == "done"][:BASELINE_EPISODES]
    if (read_json(path) or {}).get("episodes", 0) >= len(done):
        return
    measured = [found for record in done if (found := baselines_of(record, output_dir))]
    if measured:
        rows = {name: mean_figures(figures_of(found[name].as_dict()) for found in measured) for name in measured[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"episodes": len(measured), "rows": rows})


def baselines_of(record: Mapping[str, Any], output_dir: Path) -> dict[str, EpisodeMetrics]:
    """The rows that keep a table honest for a record's first demo; none where the source is gone."""
    from guided_transfer.errors import EpisodeError
    from guided_transfer.metrics.suite import baseline_rows

    demo, facts = next(iter(record["result"].items()))
    try:
        with open_recorded(output_dir, record["source"]["file"]) as file:
            episode = file.read(demo)
    except EpisodeError:
        return {}
    views = {name: episode.views[name] for name in facts["views"]}
    labels = settings_of(output_dir).foreground_labels
    return baseline_rows(replace(episode, views=views), foreground_labels=labels)


def demos_of(record: dict[str, Any]) -> dict[str, str]:
    """The demos that a record has something to show of, by key."""
    from guided_transfer.report.data import media_key

    demos = record.get("result") or {}
    return {media_key(record["episode"], demo, len(demos)): demo for demo, facts in demos.items() if facts["views"]}


def has_media(output_dir: Path, key: str) -> bool:
    """Whether the episode's videos were made."""
    from guided_transfer.report.data import media_folder

    return (media_folder(output_dir / "report", key) / "clip.json").is_file()


def remake_media(output_dir: Path, record: dict[str, Any], key: str, demo: str) -> None:
    """Make an episode's videos from its source and its published videos; says so where that cannot be."""
    from guided_transfer.cli.media import write_media
    from guided_transfer.episodes.video import read_video
    from guided_transfer.errors import EpisodeError
    from guided_transfer.types import TransferResult

    try:
        generated = {
            view: read_video(output_dir / f"{key}_{view}_view.mp4")[0] for view in record["result"][demo]["views"]
        }
        with open_recorded(output_dir, record["source"]["file"]) as file:
            result = TransferResult(key, generated, {})
            write_media(output_dir, key, file.read(demo), result, settings_of(output_dir))
    except EpisodeError as error:
        print(f"{key}: the report goes without videos: {error}")


def record_episode(output_dir: Path, record: dict[str, Any], key: str, demo: str) -> None:
    """Write an episode's rerun recording from its source and its published file; says so where that cannot be."""
    from guided_transfer.errors import EpisodeError
    from guided_transfer.report.data import recording_file
    from guided_transfer.report.recording import write_recording

    facts = record["result"][demo]
    try:
        with open_recorded(output_dir, record["source"]["file"]) as file:
            source = file.read(demo)
        with open_recorded(output_dir, output_dir / f"{record['episode']}.hdf5") as file:
            result = file.read(demo)
    except EpisodeError as error:
        print(f"{key}: no recording: {error}")
        return
    generated = {view: result.views[view].rgb for view in facts["views"]}
    path = output_dir / "report" / recording_file(key)
    print(write_recording(path, source, generated, facts.get("metrics")))


def settings_of(output_dir: Path) -> TwoViewSettings:
    """What a finished run held as foreground and was steered by, from its run.json."""
    from guided_transfer.two_view import TwoViewSettings

    settings = recorded_settings(output_dir)
    return TwoViewSettings(
        control_weights=dict.fromkeys(settings["controlnet_specs"], 0.0),
        foreground_labels=tuple(int(label) for label in settings["foreground_label"].split(",") if label),
        canny_threshold=settings["canny_threshold"],
        blur_strength=settings["blur_strength"],
    )


def open_recorded(output_dir: Path, file: Path | str) -> EpisodeFile:
    """A source or a result of a finished run, read by the schema that the run was told."""
    from guided_transfer.episodes.read import open_episodes

    return open_episodes(file, schema=recorded_settings(output_dir).get("schema_name"))


def recorded_settings(output_dir: Path) -> Mapping[str, Any]:
    """The settings that decided what a finished run made, from its run.json."""
    return json.loads((output_dir / "run.json").read_bytes())["settings"]
