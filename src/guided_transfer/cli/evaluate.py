"""`guided-transfer evaluate OUT`: measure the episodes of an output folder again, from their HDF5 files.

With --extras also by trained networks, as far as their files are there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import JsonFlag

if TYPE_CHECKING:
    from torch import Tensor

    from guided_transfer.cli.evaluate_extras import Extras
    from guided_transfer.report.figures import Figures

CEILING = "ceiling_psnr_db"
"""Needs the tokenizer, so it is taken over from the record."""


class EvaluateSettings(BaseModel):
    """Which run, measured how, shown how."""

    folder: tyro.conf.Positional[Path] = Field(description="the run's --output_data_dir")
    extras: str = Field(
        default="",
        description="also by trained networks, comma-separated: lpips, diversity, dover, depth, masks, fvd, or all",
    )
    real_video_dir: str = Field(default="", description="folder of real videos to compare with (fvd)")
    checkpoint_dir: Path = Field(default=Path("checkpoints"), description="folder with the files of these networks")
    device: str = Field(default="", description="cpu, cuda or cuda:<n>; unset = cuda where there is one")
    json_lines: JsonFlag = Field(default=False, description="print one JSON object per row")


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit code is 0 if every finished episode could be measured, 2 if some, 3 if none."""
    settings, _ = parse(argv, EvaluateSettings, prog="guided-transfer evaluate", about=__doc__)
    from guided_transfer.errors import EpisodeError
    from guided_transfer.report.data import mean_figures

    extras = load_extras(settings)
    episodes: dict[str, Figures] = {}
    baselines: dict[str, list[Figures]] = {}
    faults = []
    for record, key, demo in finished_demos(settings.folder):
        try:
            episodes[key], honest = evaluate(settings.folder, record, key, demo, extras)
        except EpisodeError as error:
            faults.append(f"{key}: {error}")
            continue
        for name, figures in honest.items():
            baselines.setdefault(name, []).append(figures)
    # Those of several episodes at once: of variants they belong to the episodes, of a set to the mean.
    of_rows = list(extras.of_rows()) if extras else []
    for row, figures in of_rows:
        episodes.get(row, {}).update(figures)
    means = {"mean": mean_figures(episodes.values())} if episodes else {}
    rows = {**episodes, **means, **{name: mean_figures(found) for name, found in baselines.items()}}
    for row, figures in of_rows:
        rows[row].update(figures)
    missing = extras.missing if extras else {}
    show(rows, missing, as_json=settings.json_lines)
    print(*faults, sep="\n", end="\n" if faults else "")
    write_tables(settings.folder, rows, missing)
    return 0 if not faults else 2 if episodes else 3


def load_extras(settings: EvaluateSettings) -> Extras | None:
    """The networks that are asked for; None where none is.

    Raises:
        UsageError: an unknown extra, or no real videos where they should be.
        DeviceError: there is no such device.
    """
    if not (settings.extras or settings.real_video_dir):
        return None
    from guided_transfer.cli.evaluate_extras import Extras, chosen_extras
    from guided_transfer.cli.resolve import choose_device

    asked = chosen_extras(settings.extras, settings.real_video_dir)
    return Extras.load(asked, settings.checkpoint_dir, choose_device(settings.device), settings.real_video_dir)


def finished_demos(output_dir: Path) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Record, key and name of every demo whose file was published.

    Raises:
        UsageError: the folder holds no run.
    """
    from guided_transfer.cli.report import demos_of
    from guided_transfer.report.data import read_records, read_run

    read_run(output_dir)
    for record in read_records(output_dir):
        if record["state"] == "done":
            for key, demo in demos_of(record).items():
                yield record, key, demo


def evaluate(
    output_dir: Path, record: Mapping[str, Any], key: str, demo: str, extras: Extras | None
) -> tuple[Figures, dict[str, Figures]]:
    """Figures of one demo, and of what changes nothing or only colours.

    Raises:
        EpisodeError: source or result cannot be read.
    """
    from guided_transfer.cli.report import open_recorded, settings_of
    from guided_transfer.metrics.suite import baseline_videos, episode_metrics
    from guided_transfer.report.figures import figures_of

    facts = record["result"][demo]
    labels = settings_of(output_dir).foreground_labels
    with open_recorded(output_dir, record["source"]["file"]) as file:
        source = file.read(demo)
    with open_recorded(output_dir, output_dir / f"{record['episode']}.hdf5") as file:
        result = file.read(demo)
    source = replace(source, views={name: source.views[name] for name in facts["views"]})
    generated = {name: result.views[name].rgb for name in source.views}
    borders = next(iter(facts["views"].values()))["clip_borders"]

    def figures(row: str, method: str, videos: Mapping[str, Tensor]) -> Figures:
        metrics = episode_metrics(source, videos, clip_borders=borders, foreground_labels=labels)
        asked = extras.measure(row, method, source, videos, labels) if extras else {}
        return figures_of(metrics.as_dict()) | asked

    ours = figures(key, "mean", generated)
    ours[CEILING] = figures_of(facts["metrics"])[CEILING]
    return ours, {name: figures(name, name, videos) for name, videos in baseline_videos(source).items()}


def show(rows: Mapping[str, Figures], missing: Mapping[str, str], *, as_json: bool) -> None:
    """Print the table, and below it what was asked for and could not be measured."""
    from rich.console import Console
    from rich.table import Table

    from guided_transfer.report.figures import EXTRA_FIGURES, FIGURES, OVERVIEW, shown

    if as_json:
        lines = [{"row": name, **figures} for name, figures in rows.items()]
        lines += [{"not_measured": name, "reason": reason} for name, reason in missing.items()]
        print(*map(json.dumps, lines), sep="\n")
        return
    asked = [name for name in EXTRA_FIGURES if any(name in figures for figures in rows.values())]
    for columns in (OVERVIEW, asked):
        if not columns:
            continue
        table = Table(box=None, pad_edge=False)
        table.add_column("episode", no_wrap=True)
        for name in columns:
            figure = (FIGURES | EXTRA_FIGURES)[name]
            table.add_column(f"{figure.title} {figure.unit}".strip(), justify="right")
        for name, figures in rows.items():
            table.add_row(name, *(shown(figure, figures.get(figure)) for figure in columns))
        Console().print(table)
    for name, reason in missing.items():
        print(f"{name} not measured: {reason}")


def write_tables(output_dir: Path, rows: Mapping[str, Figures], missing: Mapping[str, str]) -> None:
    """Keep the table as evaluation.json and evaluation.csv."""
    from guided_transfer.report.figures import EXTRA_FIGURES, FIGURES
    from guided_transfer.runner.files import write_json

    write_json(output_dir / "evaluation.json", {"rows": rows, "not_measured": missing})
    columns = [*FIGURES, *(name for name in EXTRA_FIGURES if any(name in figures for figures in rows.values()))]
    with (output_dir / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", *columns])
        writer.writerows([name, *(figures.get(figure) for figure in columns)] for name, figures in rows.items())
