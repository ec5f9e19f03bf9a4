from __future__ import annotations

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guided_transfer.runner import Ledger, RunIdentity, read_status
from guided_transfer.runner.claims import Claims, Heartbeat, Watch, beats
from guided_transfer.runner.tidy import tidy

LEASE_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(folder: Path, name: str, run: str = "run", clock: Clock | None = None) -> Claims:
    return Claims(folder, run, name, Watch(LEASE_S, clock or Clock()))


def beat_of(folder: Path, name: str, run: str = "run") -> Path:
    path = folder / "runs" / run / f"{name}.beat"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def beat_elsewhere(folder: Path, name: str, count: int) -> None:
    """What a worker on another machine leaves: no lock of it reaches us."""
    beat_of(folder, name).write_text(f"another-boot {count:020d}\n")


def test_one_of_many_gets_a_free_claim(tmp_path):
    barrier, won = threading.Barrier(16), []

    def race(name: str) -> None:
        claims = worker(tmp_path, name)
        barrier.wait()
        for k in range(50):
            if claims.take(f"data_{k}"):
                won.append(k)

    threads = [threading.Thread(target=race, args=(f"w{k}",)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(50))


def test_one_of_many_takes_over_from_the_dead(tmp_path):
    for k in range(30):
        worker(tmp_path, "dead").take(f"data_{k}")
    beat_elsewhere(tmp_path, "dead", 7)
    barrier, won = threading.Barrier(8), []

    def race(name: str) -> None:
        clock = Clock()
        claims = worker(tmp_path, name, clock=clock)
        claims.take_over("data_0")  # the first look only notes the counter
        clock.now = LEASE_S + 1
        with Heartbeat(beat_of(tmp_path, name), LEASE_S):
            barrier.wait()
            won.extend(k for k in range(30) if claims.take_over(f"data_{k}"))
            barrier.wait()

    threads = [threading.Thread(target=race, args=(f"w{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(30))


def test_a_moving_counter_on_another_machine_keeps_its_claim(tmp_path):
    clock = Clock()
    ours = worker(tmp_path, "ours", clock=clock)
    worker(tmp_path, "theirs").take("data_0")
    for count in range(5):
        beat_elsewhere(tmp_path, "theirs", count)
        assert ours.take_over("data_0") is None
        clock.now += LEASE_S - 1
    clock.now += LEASE_S
    assert ours.take_over("data_0").interrupted


def test_the_counter_is_judged_by_our_clock_alone(tmp_path):
    """A counter may run backwards and its file may be from the future: only whether it changes counts."""
    clock = Clock()
    ours = worker(tmp_path, "ours", clock=clock)
    worker(tmp_path, "theirs").take("data_0")
    for count in (10**9, 3, 2**60, 0):
        beat_elsewhere(tmp_path, "theirs", count)
        os.utime(beat_of(tmp_path, "theirs"), (2**33 - count % 2, count % 2**31))
        assert ours.take_over("data_0") is None
        clock.now += LEASE_S * 0.9


def test_a_worker_of_this_machine_is_known_dead_at_once(tmp_path):
    with Heartbeat(beat_of(tmp_path, "theirs"), LEASE_S):
        worker(tmp_path, "theirs").take("data_0")
        assert worker(tmp_path, "ours").take_over("data_0") is None
        content = beat_of(tmp_path, "theirs").read_bytes()
    beat_of(tmp_path, "theirs").write_bytes(content)  # as a killed process leaves it: the file, but no lock
    assert worker(tmp_path, "ours").take_over("data_0").losses == 1


def test_only_workers_of_the_same_run_count_as_losses(tmp_path):
    beat_elsewhere(tmp_path, "dead", 1)
    clock = Clock()
    worker(tmp_path, "dead", run="yesterday").take("data_0")
    ours = worker(tmp_path, "ours", clock=clock)
    ours.take_over("data_0")
    clock.now = LEASE_S + 1
    claim = ours.take_over("data_0")
    assert (claim.interrupted, claim.losses) == (True, 0)


def test_a_worker_taken_for_dead_knows_that_it_lost(tmp_path):
    clock = Clock()
    frozen = worker(tmp_path, "frozen").take("data_0")
    beat_elsewhere(tmp_path, "frozen", 1)
    ours = worker(tmp_path, "ours", clock=clock)
    ours.take_over("data_0")
    clock.now = LEASE_S + 1
    claim = ours.take_over("data_0")
    assert claim.is_held()
    assert not frozen.is_held()
    frozen.release()
    assert claim.is_held()
    claim.release()
    assert worker(tmp_path, "third").take("data_0")
    assert not frozen.is_held()


def test_an_old_view_of_the_line_gives_no_claim(tmp_path):
    """Between looking and claiming, the line may be released and begun anew by somebody alive."""
    clock = Clock()
    ours = worker(tmp_path, "ours", clock=clock)
    worker(tmp_path, "dead").take("data_0")
    beat_elsewhere(tmp_path, "dead", 1)
    ours.take_over("data_0")
    clock.now = LEASE_S + 1
    create = ours._create

    def create_late(stem: str, number: int, losses: int = 0):
        (tmp_path / "claims" / "data_0.0").write_text(json.dumps({"run": "run", "worker": "alive"}))
        return create(stem, number, losses)

    ours._create = create_late
    assert ours.take_over("data_0") is None
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["data_0.0"]


def test_a_claim_torn_at_birth_is_taken_over_after_a_lease(tmp_path):
    clock = Clock()
    ours = worker(tmp_path, "ours", clock=clock)
    (tmp_path / "claims" / "data_0.0").touch()
    assert ours.take_over("data_0") is None
    clock.now = LEASE_S + 1
    assert ours.take_over("data_0").number == 1


def test_claims_hold_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    claim = worker(tmp_path, "ours").take("data_0")
    assert claim.is_held()
    assert worker(tmp_path, "theirs").take("data_0") is None
    claim.release()
    assert worker(tmp_path, "theirs").take("data_0")


def test_a_claim_whose_answer_was_lost_is_ours(tmp_path):
    ours = worker(tmp_path, "ours")
    with Heartbeat(beat_of(tmp_path, "ours"), LEASE_S):
        assert ours.take("data_0")
        assert ours.take("data_0") is None
        assert ours.take_over("data_0").is_held()


def test_runs_begin_and_end_while_others_look_and_tidy_up(tmp_path):
    """Folders of runs come and go between any two steps of those who look at them."""
    ledger = Ledger(tmp_path, RunIdentity({}, "1.0"))
    ledger.open()
    ended = threading.Event()

    def look_and_tidy_up() -> None:
        while not ended.is_set():
            read_status(tmp_path)
            tidy(ledger, Watch(LEASE_S))

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(look_and_tidy_up) for _ in range(3)]
        try:
            for run in range(300):
                path = ledger.folder / "runs" / f"run-{run}" / "ours.beat"
                with Heartbeat(path, LEASE_S):
                    assert path in beats(ledger.folder)
        finally:
            ended.set()
        for other in others:
            other.result()


@pytest.mark.parametrize("stem", ["data_1", "data_1.0", "a.b.c"])
def test_names_with_dots_do_not_mix(tmp_path, stem):
    claims = worker(tmp_path, "ours")
    claim = claims.take(stem)
    assert claims.take("other")
    claim.release()
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["other.0"]
