"""Summaries of all records, so that `status` need not read every one; a cache, to be thrown away at any time.

    ledger/index/records.json      what somebody who looked has put together
    ledger/index/<worker>.new      what its worker has recorded since then, a line each

A summary is believed only for the very file it was made from. What is missing here is read from the records.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from guided_transfer.runner.claims import content_of
from guided_transfer.runner.files import write_whole
from guided_transfer.runner.ledger import Record, read_record, record_entries

LAYOUT = 1
NEWS_SUFFIX = ".new"

READERS = 16
"""Records read at once: on a network file system each waits for the server."""


class Entry(NamedTuple):
    """What the index keeps of a record; `key` (inode, size, time) changes whenever the record is replaced."""

    key: list[int]
    state: str
    reason: str
    busy_s: float


class Index:
    """The summaries of one ledger folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "index" / "records.json"
        self.entries: dict[str, Entry] = self._load()

    def _load(self) -> dict[str, Entry]:
        try:
            stored = json.loads(self._path.read_bytes())
            if stored["layout"] != LAYOUT:
                return {}
            return {stem: Entry(*row) for stem, row in stored["entries"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def refresh(self) -> list[str]:
        """Bring the index up to date; returns the stems of new or replaced records."""
        news_files = list(self._path.parent.glob(f"*{NEWS_SUFFIX}"))
        news = _read_news(news_files)
        entries: dict[str, Entry] = {}
        unread: list[tuple[str, str, list[int]]] = []
        for found in record_entries(self._folder):
            stem, key = found.name[: -len(".json")], _key(found.stat())
            entry = self.entries.get(stem)
            if entry is None or entry.key != key:
                entry = news.get((stem, *key))
            if entry:
                entries[stem] = entry
            else:
                unread.append((stem, found.path, key))
        entries.update(_read_records(unread))
        changed = [stem for stem, entry in entries.items() if entry is not self.entries.get(stem)]
        gone = self.entries.keys() - entries.keys()
        self.entries = entries
        if changed or gone or news_files:
            self._save(news_files)
        return changed

    def _save(self, merged: Sequence[Path]) -> None:
        """Write the index, and remove the news that are in it; a line that comes in between is read again."""
        text = json.dumps({"layout": LAYOUT, "entries": self.entries}, separators=(",", ":")).encode()
        try:
            self._path.parent.mkdir(exist_ok=True)
            write_whole(self._path, lambda file: file.write(text))
            for path in merged:
                path.unlink(missing_ok=True)
        except OSError:  # looking at a folder one may not write to is fine; it only takes longer
            return


def tell_news(path: Path, record: Record, worker: str) -> None:
    """Note a record that its worker has just written to `path`; where that fails, the record is read in time."""
    folder = path.parent / "index"
    try:
        row = [path.name[: -len(".json")], *_summary(_key(path.stat()), record)]
        folder.mkdir(exist_ok=True)
        with (folder / f"{worker}{NEWS_SUFFIX}").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError:
        return


def _read_news(files: Sequence[Path]) -> dict[tuple[object, ...], Entry]:
    """Entries by stem and key, of every line that is whole."""
    news: dict[tuple[object, ...], Entry] = {}
    for path in files:
        for line in content_of(path).splitlines():  # none where somebody else has just merged it
            try:
                stem, key, state, reason, busy_s = json.loads(line)
                news[stem, *key] = Entry(key, state, reason, busy_s)
            except (ValueError, TypeError):
                continue
    return news


def _read_records(unread: Sequence[tuple[str, str, list[int]]]) -> dict[str, Entry]:
    """Summaries of records nobody has told about; those that are none of ours are left out."""

    def read(part: Sequence[tuple[str, str, list[int]]]) -> dict[str, Entry]:
        records = ((stem, key, read_record(path)) for stem, path, key in part)
        return {stem: _summary(key, record) for stem, key, record in records if record}

    parts = [part for k in range(READERS) if (part := unread[k::READERS])]
    if not parts:
        return {}
    with ThreadPoolExecutor(len(parts)) as pool:
        return {stem: entry for found in pool.map(read, parts) for stem, entry in found.items()}


def _key(stat: os.stat_result) -> list[int]:
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _summary(key: list[int], record: Record) -> Entry:
    return Entry(key, record["state"], record["reason"], max(record["seconds"].values(), default=0.0))
