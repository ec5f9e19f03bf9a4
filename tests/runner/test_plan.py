from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_transfer.errors import UsageError
from guided_transfer.runner import EpisodeTask, Shard, build_plan
from guided_transfer.runner.seeds import prompt_choice, view_seed


def outputs(*names: str, **options) -> list[str]:
    return [task.output for task in build_plan([Path("in") / name for name in names], seed=1, **options).tasks]


def test_outputs_are_named_by_offset_and_number():
    assert outputs("data_2.hdf5", "take_007.h5", "bench.hdf5", save_name_offset=100) == [
        "data_102",
        "data_107",
        "bench",
    ]


def test_variants_follow_their_episode_and_the_first_has_no_suffix():
    assert outputs("data_0.hdf5", "data_1.hdf5", variants=2) == ["data_0", "data_0_v1", "data_1", "data_1_v1"]


def test_limit_counts_episodes_with_all_their_variants():
    assert outputs("data_0.hdf5", "data_1.hdf5", variants=2, limit=1) == ["data_0", "data_0_v1"]


def test_only_takes_names_and_patterns():
    names = [f"data_{k}.hdf5" for k in range(12)]
    assert outputs(*names, only=["data_3", "data_1?"]) == ["data_3", "data_10", "data_11"]


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(UsageError, match=r"data_30.*near: data_3"):
        outputs("data_3.hdf5", only=["data_30"])


@pytest.mark.parametrize(
    "names", [("data_1.hdf5", "robot_1.hdf5"), ("data_1.hdf5", "data_01.hdf5"), ("a.h5", "a.hdf5")]
)
def test_two_sources_for_one_output_are_found_before_work(names):
    with pytest.raises(UsageError, match="would both become"):
        outputs(*names)


def test_a_variant_may_not_take_another_episodes_name():
    with pytest.raises(UsageError, match=r"bench_v1\.hdf5"):
        outputs("bench.hdf5", "bench_v1.hdf5", variants=2)


@pytest.mark.parametrize(("argument", "options"), [("--variants", {"variants": 0}), ("--limit", {"limit": 0})])
def test_counts_below_one_are_refused(argument, options):
    with pytest.raises(UsageError, match=argument):
        outputs("data_0.hdf5", **options)


@given(st.integers(1, 40), st.integers(1, 9))
def test_shards_are_a_partition(episodes, count):
    names = [f"data_{k}.hdf5" for k in range(episodes)]
    parts = [outputs(*names, shard=Shard(k, count)) for k in range(count)]
    assert sorted(output for part in parts for output in part) == sorted(outputs(*names))


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "-1/4", "1/0"])
def test_shards_are_counted_from_zero(text):
    assert Shard.parse("7/8") == Shard(7, 8)
    with pytest.raises(UsageError, match="0 <= i < N"):
        Shard.parse(text)


def test_the_source_folder_is_no_place_for_outputs(tmp_path):
    (tmp_path / "data_0.hdf5").touch()
    plan = build_plan([tmp_path / "data_0.hdf5"], seed=1, save_name_offset=1000)
    with pytest.raises(UsageError, match="folder of the source episodes"):
        plan.check_output(tmp_path / ".")
    plan.check_output(tmp_path / "out")


def test_seeds_are_the_ones_published_runs_used():
    """Written down once: a change here changes every result ever made."""
    assert view_seed(1, "data_0/demo_0", 0, 0, "room") == 8731161895927361154
    assert prompt_choice(1, "data_0/demo_0", 0, 40) == 25


@given(st.integers(0, 2**40), st.integers(0, 99), st.integers(1, 9))
def test_variants_of_an_episode_take_prompts_of_their_own(run_seed, number, num_prompts):
    chosen = [prompt_choice(run_seed, f"data_{number}/demo_0", v, num_prompts) for v in range(num_prompts)]
    assert sorted(chosen) == list(range(num_prompts))


@given(st.integers(0, 2**40), st.integers(0, 99), st.integers(0, 9), st.integers(0, 9))
def test_every_part_of_a_seed_counts(run_seed, number, variant, attempt):
    def seed(run_seed=run_seed, number=number, variant=variant, attempt=attempt, view="room", demo="demo_0"):
        return EpisodeTask(Path(f"a/data_{number}.hdf5"), "x", run_seed, variant, attempt).seed(demo, view)

    others = [
        seed(run_seed=run_seed + 1),
        seed(number=number + 1),
        seed(variant=variant + 1),
        seed(attempt=attempt + 1),
        seed(view="wrist"),
        seed(demo="demo_1"),
    ]
    assert 0 <= seed() < 2**63
    assert len({seed(), *others}) == 7


def test_folder_and_output_name_do_not_touch_the_seed():
    one = EpisodeTask(Path("a/data_3.hdf5"), "data_3", 1)
    other = EpisodeTask(Path("b/data_3.hdf5"), "data_1003", 1)
    assert one.seed("demo_0", "room") == other.seed("demo_0", "room")


def test_a_prompt_belongs_to_all_views_and_attempts_of_a_variant():
    task = EpisodeTask(Path("data_3.hdf5"), "data_3", 1)
    assert task.prompt_index("demo_0", 40) == task.next_attempt().prompt_index("demo_0", 40)
    chosen = {
        EpisodeTask(Path("data_3.hdf5"), "x", 1, variant).prompt_index("demo_0", 1000) for variant in range(20)
    }
    assert len(chosen) > 15
