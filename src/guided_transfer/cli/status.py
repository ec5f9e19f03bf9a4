"""`guided-transfer status OUT`: how far the run of an output folder is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import BaseModel, Field
from rich.console import Console

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import JsonFlag


class StatusSettings(BaseModel):
    """Which run, shown how."""

    folder: tyro.conf.Positional[Path] = Field(description="the run's --output_data_dir")
    follow: bool = Field(default=False, description="go on showing it until nothing runs any more")
    json_lines: JsonFlag = Field(default=False, description="print one JSON object")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings, _ = parse(argv, StatusSettings, prog="guided-transfer status", about=__doc__)
    from guided_transfer.runner.status import follow_status, read_status, status_table

    if settings.follow:
        follow_status(settings.folder)
        return 0
    status = read_status(settings.folder)
    if settings.json_lines:
        print(json.dumps(status.as_json()))
    else:
        Console().print(status_table(status))
    return 0
