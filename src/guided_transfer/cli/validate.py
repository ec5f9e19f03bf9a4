"""`guided-transfer validate data/hdf5/run`: every fault of every episode file of a folder, in one pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import JsonFlag, Labels, SchemaName


class ValidateSettings(BaseModel):
    """Which files, held against what."""

    folder: tyro.conf.Positional[Path] = Field(description="folder of HDF5 files, or one file")
    schema_name: SchemaName = Field(default="", description="layout of the files; unset = detect")
    foreground_label: Labels = Field(default="3,4", description="labels whose pixels need a depth")
    json_lines: JsonFlag = Field(default=False, description="print one JSON object per file")


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit code is 0 without a fault, 2 with some good files, 3 with none."""
    settings, _ = parse(argv, ValidateSettings, prog="guided-transfer validate", about=__doc__)
    from guided_transfer.episodes.check import validate_file
    from guided_transfer.episodes.read import episode_files

    labels = tuple(int(label) for label in settings.foreground_label.split(",") if label)
    files = episode_files(settings.folder)
    faulty = 0
    for file in files:
        faults = [str(f) for f in validate_file(file, schema=settings.schema_name or None, foreground=labels)]
        faulty += bool(faults)
        if settings.json_lines:
            print(json.dumps({"file": str(file), "faults": faults}), flush=True)
        else:
            print("\n".join(faults or [f"{file}: ok"]), flush=True)
    return 0 if not faulty else 2 if faulty < len(files) else 3
