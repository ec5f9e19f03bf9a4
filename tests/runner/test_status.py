from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from folders import Folder
from rich.console import Console
from stand_in import StandIn

from guided_transfer.errors import UsageError
from guided_transfer.runner import (
    Ledger,
    RunIdentity,
    build_plan,
    follow_status,
    index,
    read_status,
    run,
    status_table,
)
from guided_transfer.runner.index import Index


def transfer(folder: Folder, **plan) -> None:
    tasks = build_plan(sorted(folder.sources.iterdir()), seed=1, **plan)
    run(tasks, lambda place: StandIn(folder.out, orders=folder.orders), Ledger(folder.out, RunIdentity({}, "1")))


def test_what_is_done_failed_and_left(folder):
    (folder.orders / "fail-data_1").touch()
    transfer(folder, limit=3)
    transfer(folder, only=["data_5"])
    status = read_status(folder.out)
    assert (status.planned, status.done, status.failed, status.running, status.left) == (4, 3, 1, 0, 0)
    assert status.problems == [("data_1", "failed", "ValueError: told to fail at data_1")]
    assert json.loads(json.dumps(status.as_json()))["failed"] == 1


def test_a_run_that_works_shows_its_pace(folder):
    process = folder.start("--compute_s", 0.4)
    while not (folder.out / "ledger" / "data_1.json").exists():
        time.sleep(0.02)
    status = read_status(folder.out)
    assert status.workers == 1
    assert 1 <= status.running <= 3
    assert 3600 / status.episodes_per_hour == pytest.approx(0.4, abs=0.3)
    assert status.left_s == pytest.approx((status.left + status.running) * status.busy_s)
    process.kill()
    process.communicate()
    status = read_status(folder.out)
    assert (status.workers, status.running, status.episodes_per_hour) == (0, 0, None)


@pytest.mark.parametrize("damage", [None, b"", b"[]", b'{"layout": 1, "entries": {"x": [1]}}'])
def test_the_index_can_be_thrown_away_at_any_time(folder, damage):
    transfer(folder)
    path = folder.out / "ledger" / "index" / "records.json"
    path.unlink() if damage is None else path.write_bytes(damage)
    assert read_status(folder.out).done == 6


def test_workers_tell_their_news_so_that_records_need_not_be_read(folder, monkeypatch):
    """Also without the merged index, of a folder in the middle of a run; a torn line costs reading one record."""
    process = folder.start("--compute_s", 0.3)
    told = folder.out / "ledger" / "index"
    while not any("data_3" in path.read_text() for path in told.glob("*.new")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    [news] = told.glob("*.new")
    lines = news.read_text().splitlines(keepends=True)
    news.write_text("".join(lines[:-1]) + lines[-1][:20])
    read, read_record = [], index.read_record
    monkeypatch.setattr(index, "read_record", lambda path: read.append(Path(path).stem) or read_record(path))
    assert read_status(folder.out).done == len(lines)
    assert read == [json.loads(lines[-1])[0]]
    assert not news.exists()
    assert read_status(folder.out).done == len(lines)
    assert len(read) == 1


def test_news_of_a_replaced_record_are_not_believed(folder):
    transfer(folder)
    (folder.orders / "fail-data_1").touch()
    (folder.sources / "data_1.hdf5").write_bytes(b"another recording")
    transfer(folder)
    assert read_status(folder.out).failed == 1


def test_a_record_that_is_none_is_not_counted(folder):
    transfer(folder)
    (folder.out / "ledger" / "data_1.json").write_bytes(b"{")
    assert "data_1" not in Index(folder.out / "ledger").refresh()
    assert (read_status(folder.out).done, read_status(folder.out).left) == (5, 1)


def test_the_index_reads_only_what_is_new(folder):
    transfer(folder, limit=4)
    index = Index(folder.out / "ledger")
    assert index.refresh() == []
    transfer(folder)
    assert sorted(index.refresh()) == ["data_4", "data_5"]
    (folder.out / "ledger" / "data_0.json").unlink()
    index.refresh()
    assert len(index.entries) == 5


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        read_status(tmp_path)


def test_the_table_names_reasons(folder):
    (folder.orders / "fail-data_1").touch()
    transfer(folder)
    console = Console(record=True, width=100)
    console.print(status_table(read_status(folder.out)))
    assert "told to fail at data_1" in console.export_text()


def test_following_ends_when_nothing_runs(folder):
    process = folder.start("--compute_s", 0.1)
    while not (folder.out / "ledger" / "data_0.json").exists():
        time.sleep(0.02)
    follow_status(folder.out, interval_s=0.1, console=Console(record=True))
    process.communicate(timeout=30)
    assert read_status(folder.out).left == 0
