"""`guided-transfer report OUT`: build the pages of an output folder again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse


class ReportSettings(BaseModel):
    """Of which run."""

    folder: tyro.conf.Positional[Path] = Field(description="the run's --output_data_dir")
    media: bool = Field(default=False, description="make all videos of the report anew, not only missing ones")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings, _ = parse(argv, ReportSettings, prog="guided-transfer report", about=__doc__)
    from guided_transfer.report.data import read_records
    from guided_transfer.report.page import write_pages

    for record in read_records(settings.folder):
        for key, demo in demos_of(record).items():
            if settings.media or not has_media(settings.folder, key):
                remake_media(settings.folder, record, key, demo)
    print(write_pages(settings.folder))
    return 0


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
    from guided_transfer.episodes.read import open_episodes
    from guided_transfer.episodes.video import read_video
    from guided_transfer.errors import EpisodeError

    try:
        generated = {
            view: read_video(output_dir / f"{key}_{view}_view.mp4")[0] for view in record["result"][demo]["views"]
        }
        with open_episodes(record["source"]["file"]) as file:
            write_media(output_dir, key, file.read(demo), generated, settings_of(output_dir), {})
    except EpisodeError as error:
        print(f"{key}: the report goes without videos: {error}")


def settings_of(output_dir: Path) -> Any:
    """What a finished run held as foreground and was steered by, from its run.json."""
    from guided_transfer.two_view import TwoViewSettings

    settings = json.loads((output_dir / "run.json").read_bytes())["settings"]
    return TwoViewSettings(
        control_weights=dict.fromkeys(settings["controlnet_specs"], 0.0),
        foreground_labels=tuple(int(label) for label in settings["foreground_label"].split(",") if label),
        canny_threshold=settings["canny_threshold"],
        blur_strength=settings["blur_strength"],
    )
