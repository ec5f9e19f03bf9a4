"""What dead workers leave behind, and how the last one alive removes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from glob import escape
from pathlib import Path

from guided_transfer.runner.claims import Watch, content_of, signs
from guided_transfer.runner.ledger import FINAL_STATES, Ledger
from guided_transfer.whole import PARTIAL


def tidy(ledger: Ledger, watch: Watch) -> None:
    """Remove claims of finished episodes and folders of ended runs; where nobody works, also stages and half-files.

    Unfinished files are listed before the workers are looked at, so that one that a live worker has begun is
    never taken for a dead one's.
    """
    unfinished = [path for folder in (ledger.output_dir, ledger.folder) for path in unfinished_files(folder)]
    remove_finished_claims(ledger)
    held = [content_of(path).decode() for path in ledger.folder.glob("claims/*")]
    alive = False
    for folder, left in signs(ledger.folder).items():
        beats = [path for path in left if path.suffix == ".beat"]
        if not all(watch.is_dead(beat) for beat in beats):
            alive = True
        elif not any(beat.stem in holder for beat in beats for holder in held):
            remove(left)  # and not what a worker that starts just now adds
            with suppress(OSError):
                folder.rmdir()
    if not alive:
        remove(unfinished)
        remove_finished_stages(ledger)


def remove(paths: Iterable[Path]) -> None:
    """Remove files, gone or not."""
    for path in paths:
        path.unlink(missing_ok=True)


def remove_finished_stages(ledger: Ledger) -> None:
    """Remove the stages of episodes whose worker wrote the record and died before it could."""
    for stages in ledger.folder.glob("stages/*"):
        record = ledger.read(stages.name)
        if record and record["state"] in FINAL_STATES:
            shutil.rmtree(stages, ignore_errors=True)


def unfinished_files(folder: Path) -> list[Path]:
    """Files that were being written."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    return [folder / name for name in names if name.endswith(PARTIAL)]


def remove_finished_claims(ledger: Ledger) -> None:
    """Remove the claims of episodes whose holder wrote the record and died in the moment before the release."""
    for stem in {path.name.rpartition(".")[0] for path in ledger.folder.glob("claims/*")}:
        line = list(ledger.folder.glob(f"claims/{escape(stem)}.*"))
        record = ledger.read(stem)
        if record and any(f'"{record["worker"]}"'.encode() in content_of(path) for path in line):
            remove(line)
