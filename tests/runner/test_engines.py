"""The same bytes from every engine, whatever the number of workers and the order."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from folders import Folder, published


def torchrun(ranks: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")


def summaries(stdout: str) -> list[dict[str, Any]]:
    """What `batch.py` printed, among what the launchers print."""
    return [json.loads(line) for line in stdout.splitlines() if line.startswith('{"done"')]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    folder = Folder(tmp_path_factory.mktemp("expected"), episodes=6)
    assert folder.finish()[0] == 0
    return dict(published(folder.out))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_torchrun_ranks_share_the_episodes(folder, expected, ranks):
    code, _, stderr = folder.finish("--engine", "torchrun", "--lease_s", 3, launcher=torchrun(ranks))
    assert code == 0, stderr
    assert published(folder.out) == expected
    assert stderr.count("started") == 6


def test_groups_of_ranks_share_a_video(folder, expected):
    """Four ranks in two groups; an error on the way is one bad episode here as well."""
    (folder.orders / "fail-data_2").touch()
    _, stdout, stderr = folder.finish("--engine", "torchrun", "--num_gpus", 2, "--lease_s", 3, launcher=torchrun(4))
    assert published(folder.out) == {name: content for name, content in expected.items() if "data_2" not in name}
    assert stderr.count("started") == 6
    for line in summaries(stdout):
        assert line["problems"] == [["data_2", "failed", "ValueError: told to fail at data_2"]]


def test_ranks_that_make_no_groups_are_refused(folder, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    code, _, stderr = folder.finish("--engine", "torchrun", "--num_gpus", 2)
    assert code == 1
    assert "--num_gpus 2: 3 ranks cannot be grouped" in stderr


def test_torchrun_outside_of_torchrun_is_refused(folder):
    code, _, stderr = folder.finish("--engine", "torchrun")
    assert code == 1
    assert "start with torchrun" in stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_workers_share_the_episodes(folder, expected, ray_cluster, workers):
    code, _, stderr = run_on(ray_cluster, folder, workers)
    assert code == 0, stderr
    assert published(folder.out) == expected


def test_a_killed_actor_is_replaced_and_an_episode_that_kills_three_is_given_up(folder, expected, ray_cluster):
    (folder.orders / "kill-once-data_1").touch()
    (folder.orders / "kill-data_3").touch()
    code, stdout, _ = run_on(ray_cluster, folder, 2)
    [summary] = summaries(stdout)
    assert (code, summary["done"], summary["left"]) == (2, 5, 0)
    assert "3 workers of this run died" in summary["problems"][0][2]
    assert not (folder.orders / "kill-once-data_1").exists()
    assert published(folder.out) == {name: content for name, content in expected.items() if "data_3" not in name}


@pytest.mark.parametrize("seeds", [(1, 2), (3, 4)])
def test_runs_started_side_by_side_share_a_folder_in_any_order(folder, expected, seeds):
    """Also with wall clocks that jump by up to a year."""
    runs = [folder.start("--shuffle", seed, "--jump_clock", seed, "--compute_s", 0.05) for seed in seeds]
    errors = [process.communicate(timeout=60)[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], errors
    assert sum(error.count("started") for error in errors) == 6
    assert published(folder.out) == expected


def test_shards_make_up_the_whole(folder, expected):
    for k in range(3):
        assert folder.finish("--shard", f"{k}/3")[0] == 0
    assert published(folder.out) == expected


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'guided-transfer[ray]'")
    context = ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()


def run_on(address: str, folder: Folder, workers: int) -> tuple[int, str, str]:
    options = ("--engine", "ray", "--ray_address", address, "--workers", workers, "--lease_s", 5)
    return folder.finish(*options, "--compute_s", 0.05)
