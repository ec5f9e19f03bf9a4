from __future__ import annotations

import errno
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from folders import Folder, published
from stand_in import StandIn

from guided_transfer.errors import Blocked, CheckpointError, OutputError
from guided_transfer.runner import EpisodeOutcome, Ledger, RunIdentity, RunSummary, build_plan, run

IDENTITY = RunIdentity({"seed": 1}, "1.0")


def transfer(folder: Folder, process: StandIn | None = None, **options) -> tuple[RunSummary, list[tuple[str, str]]]:
    events = []
    summary = run(
        build_plan(sorted(folder.sources.iterdir()), seed=1),
        lambda place: process or StandIn(folder.out, orders=folder.orders),
        Ledger(folder.out, IDENTITY),
        on_event=lambda event: events.append((event.kind, event.stem)),
        **options,
    )
    return summary, events


def test_one_bad_episode_is_one_bad_episode(folder):
    (folder.orders / "fail-data_2").touch()
    summary, _ = transfer(folder)
    assert (summary.done, summary.left, summary.exit_code) == (5, 0, 2)
    assert summary.problems == (("data_2", "failed", "ValueError: told to fail at data_2"),)
    [log] = (folder.out / "logs").iterdir()
    assert "Traceback" in log.read_text()


def test_none_done_is_exit_code_3(folder):
    for k in range(6):
        (folder.orders / f"fail-data_{k}").touch()
    assert transfer(folder)[0].exit_code == 3


def test_max_failures_stops_the_run(folder):
    for k in (0, 1):
        (folder.orders / f"fail-data_{k}").touch()
    summary, _ = transfer(folder, max_failures=2)
    assert len(summary.problems) == 2
    assert summary.left >= 2
    assert "--max_failures 2 reached" in str(summary)
    assert "same command again to resume" in str(summary)


def test_out_of_memory_is_tried_once_more_with_smaller_settings(folder):
    (folder.orders / "oom-data_3").touch()
    assert transfer(folder)[0].exit_code == 0
    ledger = Ledger(folder.out, IDENTITY)
    assert [ledger.read(f"data_{k}")["low_memory"] for k in (2, 3)] == [False, True]


def test_out_of_memory_twice_is_a_failure(folder):
    class OutOfMemoryError(RuntimeError):
        """Named as torch names it."""

    class Hungry(StandIn):
        def compute(self, task, source, workspace, *, low_memory):
            raise OutOfMemoryError("CUDA out of memory")

    assert {problem[2] for problem in transfer(folder, Hungry(folder.out))[0].problems} == {
        "OutOfMemoryError: CUDA out of memory"
    }


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_a_blocked_episode_is_final_and_keeps_its_reason(folder, step):
    def refuse(*args: Any, **keywords: Any) -> None:
        raise Blocked("blocklist", "the prompt names a person")

    process = StandIn(folder.out)
    setattr(process, step, refuse)
    summary, _ = transfer(folder, process)
    assert summary.problems[0] == (
        "data_0",
        "blocked",
        "Blocked: blocked by blocklist: the prompt names a person",
    )
    assert transfer(folder)[1] == [("kept", f"data_{k}") for k in range(6)]


def test_a_blocked_episode_leaves_the_others_alone(folder):
    class Strict(StandIn):
        def compute(self, task, source, workspace, *, low_memory):
            if task.output == "data_2":
                raise Blocked("blocklist", "the prompt names a person")
            return super().compute(task, source, workspace, low_memory=low_memory)

    summary, _ = transfer(folder, Strict(folder.out))
    assert (summary.done, summary.left, summary.exit_code) == (5, 0, 2)
    assert [problem[:2] for problem in summary.problems] == [("data_2", "blocked")]


def test_rejected_episodes_are_final_and_publish_what_the_process_says(folder):
    class Strict(StandIn):
        def write(self, task, computed):
            return EpisodeOutcome(state="rejected", reason="foreground PSNR 21.0 dB, at least 30 is asked for")

    summary, _ = transfer(folder, Strict(folder.out))
    assert {state for _, state, _ in summary.problems} == {"rejected"}
    assert summary.exit_code == 3
    assert list(published(folder.out)) == []
    assert transfer(folder)[1] == [("kept", f"data_{k}") for k in range(6)]


def test_missing_weights_end_the_run(folder):
    class NoWeights(StandIn):
        def compute(self, task, source, workspace, *, low_memory):
            raise CheckpointError("base_model.pt: missing")

    with pytest.raises(CheckpointError):
        transfer(folder, NoWeights(folder.out))
    assert transfer(folder)[0].exit_code == 0


def test_a_vanished_source_is_named(folder):
    class Vanishing(StandIn):
        def compute(self, task, source, workspace, *, low_memory):
            (folder.sources / "data_4.hdf5").unlink(missing_ok=True)
            return super().compute(task, source, workspace, low_memory=low_memory)

    summary, _ = transfer(folder, Vanishing(folder.out))
    assert (summary.done, len(summary.problems)) == (5, 1)
    assert "data_4.hdf5: cannot be read: No such file" in summary.problems[0][2]


def test_a_source_that_changes_while_it_is_read_is_not_believed(folder):
    class Unlucky(StandIn):
        def read(self, task):
            content = super().read(task)
            if task.output == "data_1":
                task.source.write_bytes(b"somebody records over it")
            return content

    assert "changed while it was read" in transfer(folder, Unlucky(folder.out))[0].problems[0][2]


def test_a_full_disk_stops_the_run_and_resumes_to_the_same_bytes(folder, tmp_path):
    expected = reference(folder, tmp_path)

    class Full(StandIn):
        def write(self, task, computed):
            if task.output == "data_2":
                (folder.out / f"{task.output}_room_view.mp4").write_bytes(b"published before the disk was full")
                with Path("/dev/full").open("wb", buffering=0) as file:
                    file.write(b"x")
            return super().write(task, computed)

    with pytest.raises(OutputError, match=r"ENOSPC.*resume"):
        transfer(folder, Full(folder.out))
    assert not (folder.out / "ledger" / "data_2.json").exists()
    assert transfer(folder)[0].exit_code == 0
    assert published(folder.out) == expected


def test_a_limit_on_file_size_damages_nothing(folder, tmp_path):
    """A real refusal by the kernel in the middle of a file (EFBIG), while small records still fit."""
    expected = reference(folder, tmp_path)
    code, stdout, _ = folder.finish(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)))
    assert code == 3
    assert json.loads(stdout)["problems"][5][2] == "OSError: [Errno 27] File too large"
    assert not list(folder.out.glob("*.hdf5"))
    assert not list(folder.out.rglob("*.partial"))
    assert folder.finish()[0] == 0
    assert published(folder.out) == expected


NOBODY = 65534


@pytest.fixture
def nobodys_folder() -> Iterator[Folder]:
    """A folder of, and a test run as, a user whom file modes bind: root may read and write anything."""
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root), episodes=6)
        folder.out.mkdir()
        if os.geteuid() != 0:
            yield folder
            return
        for path in (folder.root, folder.sources, folder.orders, folder.out, *folder.sources.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
            os.setegid(0)


def test_an_unreadable_file_is_named_and_the_run_goes_on(nobodys_folder):
    (nobodys_folder.sources / "data_3.hdf5").chmod(0)
    summary, _ = transfer(nobodys_folder)
    assert summary.done == 5
    assert "data_3.hdf5: cannot be read: Permission denied" in summary.problems[0][2]


def test_an_output_folder_that_turns_read_only_stops_the_run(nobodys_folder):
    folder = nobodys_folder
    expected = reference(folder, folder.root)

    def allow(mode: int) -> None:
        for path in (folder.out, folder.out / "ledger"):
            path.chmod(mode)

    class Locked(StandIn):
        def write(self, task, computed):
            if task.output == "data_2":
                allow(0o555)
            return super().write(task, computed)

    with pytest.raises(OutputError, match="cannot be written"):
        transfer(folder, Locked(folder.out))
    allow(0o755)
    assert transfer(folder)[0].exit_code == 0
    assert published(folder.out) == expected


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_taken_for_dead_records_nothing(folder, fails):
    """Another worker's claim appears while this one computes: whatever comes of it, the episode is the other's."""

    class Frozen(StandIn):
        def compute(self, task, source, workspace, *, low_memory):
            if task.output == "data_2":
                (folder.out / "ledger" / "claims" / "data_2.1").write_text('{"run": "other", "worker": "other"}')
                if fails:
                    raise ValueError("of no interest any more")
            return super().compute(task, source, workspace, low_memory=low_memory)

    summary, events = transfer(folder, Frozen(folder.out), max_failures=1)
    assert (summary.done, summary.problems, summary.left) == (5, (), 1)
    assert [event for event in events if event[1] == "data_2"] == [("started", "data_2"), ("lost", "data_2")]
    assert not (folder.out / "ledger" / "data_2.json").exists()
    assert not (folder.out / "data_2.hdf5").exists()


def test_reading_computing_and_writing_overlap(folder):
    """Three steps of 0.1 s each, six episodes: in line they would take 1.8 s."""

    class Slow(StandIn):
        at_work: ClassVar[set[str]] = set()
        together: ClassVar[set[frozenset[str]]] = set()

        def step(self, name: str) -> None:
            self.at_work.add(name)
            time.sleep(0.05)
            self.together.add(frozenset(self.at_work))
            time.sleep(0.05)
            self.at_work.discard(name)

        def read(self, task):
            self.step("read")
            return super().read(task)

        def compute(self, task, source, workspace, *, low_memory):
            assert threading.current_thread() is threading.main_thread()
            self.step("compute")
            return super().compute(task, source, workspace, low_memory=low_memory)

        def write(self, task, computed):
            self.step("write")
            return super().write(task, computed)

    process = Slow(folder.out)
    assert transfer(folder, process)[0].exit_code == 0
    assert frozenset({"read", "compute", "write"}) in process.together


def reference(folder: Folder, tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run publishes."""
    out = tmp_path / "undisturbed"
    run(build_plan(sorted(folder.sources.iterdir()), seed=1), lambda place: StandIn(out), Ledger(out, IDENTITY))
    return dict(published(out))


def test_errno_names_are_the_ones_that_stop_a_run():
    from guided_transfer.runner.worker import storage_error

    full = OutputError("not written")
    full.__cause__ = OSError(errno.ENOSPC, "full")
    assert storage_error(full) == errno.ENOSPC
    assert storage_error(OSError(errno.EACCES, "no")) is None
