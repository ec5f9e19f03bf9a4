"""`guided-transfer inspect data_0.hdf5`: what an episode file holds, and what was detected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import tyro
from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import JsonFlag, SchemaName


class InspectSettings(BaseModel):
    """Which file, read how."""

    file: tyro.conf.Positional[Path] = Field(description="the HDF5 file")
    schema_name: SchemaName = Field(default="", description="layout of the file; unset = detect")
    json_lines: JsonFlag = Field(default=False, description="print JSON")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings, _ = parse(argv, InspectSettings, prog="guided-transfer inspect", about=__doc__)
    from guided_transfer.episodes.check import inspect_file

    summary = inspect_file(settings.file, schema=settings.schema_name or None)
    print(json.dumps(asdict(summary), default=str) if settings.json_lines else summary)
    return 0
