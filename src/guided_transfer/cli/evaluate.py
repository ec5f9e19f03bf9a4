"""`guided-transfer evaluate OUT`: measure the episodes of an output folder again, from their HDF5 files."""

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
    from guided_transfer.metrics.suite import EpisodeMetrics
    from guided_transfer.report.figures import Figures

CEILING = "ceiling_psnr_db"
"""Needs the tokenizer, so it is taken over from the record."""


class EvaluateSettings(BaseModel):
    """Which run, shown how."""

    folder: tyro.conf.Positional[Path] = Field(description="the run's --output_data_dir")
    json_lines: JsonFlag = Field(default=False, description="print one JSON object per row")


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit code is 0 if every finished episode could be measured, 2 if some, 3 if none."""
    settings, _ = parse(argv, EvaluateSettings, prog="guided-transfer evaluate", about=__doc__)
    from guided_transfer.errors import EpisodeError
    from guided_transfer.report.data import mean_figures

    episodes: dict[str, Figures] = {}
    baselines: dict[str, list[Figures]] = {}
    faults = []
    for record, key, demo in finished_demos(settings.folder):
        try:
            episodes[key], honest = evaluate(settings.folder, record, demo)
        except EpisodeError as error:
            faults.append(f"{key}: {error}")
            continue
        for name, figures in honest.items():
            baselines.setdefault(name, []).append(figures)
    means = {"mean": mean_figures(episodes.values())} if episodes else {}
    rows = {**episodes, **means, **{name: mean_figures(found) for name, found in baselines.items()}}
    show(rows, as_json=settings.json_lines)
    print(*faults, sep="\n", end="\n" if faults else "")
    write_tables(settings.folder, rows)
    return 0 if not faults else 2 if episodes else 3


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


def evaluate(output_dir: Path, record: Mapping[str, Any], demo: str) -> tuple[Figures, dict[str, Figures]]:
    """Figures of one demo, and of what changes nothing or only colours.

    Raises:
        EpisodeError: source or result cannot be read.
    """
    from guided_transfer.cli.report import settings_of
    from guided_transfer.episodes.read import open_episodes
    from guided_transfer.metrics.suite import baseline_rows, episode_metrics
    from guided_transfer.report.figures import figures_of

    facts = record["result"][demo]
    labels = settings_of(output_dir).foreground_labels
    with open_episodes(record["source"]["file"]) as file:
        source = file.read(demo)
    with open_episodes(output_dir / f"{record['episode']}.hdf5") as file:
        result = file.read(demo)
    source = replace(source, views={name: source.views[name] for name in facts["views"]})
    generated = {name: result.views[name].rgb for name in source.views}
    borders = next(iter(facts["views"].values()))["clip_borders"]

    def figures(metrics: EpisodeMetrics) -> Figures:
        return figures_of(metrics.as_dict())

    ours = figures(episode_metrics(source, generated, clip_borders=borders, foreground_labels=labels))
    ours[CEILING] = figures_of(facts["metrics"])[CEILING]
    honest = baseline_rows(source, clip_borders=borders, foreground_labels=labels)
    return ours, {name: figures(metrics) for name, metrics in honest.items()}


def show(rows: Mapping[str, Figures], *, as_json: bool) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from guided_transfer.report.figures import FIGURES, OVERVIEW, shown

    if as_json:
        for name, figures in rows.items():
            print(json.dumps({"row": name, **figures}))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("episode", no_wrap=True)
    for name in OVERVIEW:
        table.add_column(f"{FIGURES[name].title} {FIGURES[name].unit}".strip(), justify="right")
    for name, figures in rows.items():
        table.add_row(name, *(shown(figure, figures.get(figure)) for figure in OVERVIEW))
    Console().print(table)


def write_tables(output_dir: Path, rows: Mapping[str, Figures]) -> None:
    """Keep the table as evaluation.json and evaluation.csv."""
    from guided_transfer.report.figures import FIGURES
    from guided_transfer.runner.files import write_json

    write_json(output_dir / "evaluation.json", rows)
    with (output_dir / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", *FIGURES])
        writer.writerows([name, *(figures.get(figure) for figure in FIGURES)] for name, figures in rows.items())
