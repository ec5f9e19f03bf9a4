from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import Folder, published
from stand_in import StandIn, StandInFactory

from guided_transfer.errors import RunConflict, UsageError
from guided_transfer.runner import EpisodeOutcome, Ledger, RunIdentity, RunSummary, Workspace, build_plan, run

IDENTITY = RunIdentity({"seed": 1, "sampler": {"num_steps": 2}}, "1.0", {"base_model.pt": "ab12"})


def transfer(folder: Folder, identity: RunIdentity = IDENTITY, **options) -> tuple[RunSummary, list[str]]:
    """One run; returns its summary and the episodes it worked on."""
    events = []
    plan = build_plan(sorted(folder.sources.iterdir()), seed=1)
    summary = run(
        plan,
        StandInFactory(folder.out, orders=folder.orders),
        Ledger(folder.out, identity, **options),
        on_event=events.append,
    )
    return summary, [event.stem for event in events if event.kind == "started"]


def test_a_finished_run_has_nothing_left_to_do(folder):
    summary, started = transfer(folder)
    assert (summary.done, summary.exit_code, len(started)) == (6, 0, 6)
    before = {path: path.stat().st_mtime_ns for path in folder.out.iterdir() if path.is_file()}
    summary, started = transfer(folder)
    assert (summary.done, summary.exit_code, started) == (6, 0, [])
    assert before == {path: path.stat().st_mtime_ns for path in folder.out.iterdir() if path.is_file()}


def test_a_record_carries_what_is_needed_to_do_it_again(folder):
    transfer(folder)
    record = json.loads((folder.out / "ledger" / "data_3.json").read_text())
    assert record["source"]["file"] == str(folder.sources / "data_3.hdf5")
    assert set(record["result"]["seeds"]) == {"room", "wrist"}
    assert record["weights"] == {"base_model.pt": "ab12"}
    assert record["settings"] == IDENTITY.settings
    assert {output["file"] for output in record["outputs"]} == {
        "data_3.hdf5",
        "data_3_room_view.mp4",
        "data_3_wrist_view.mp4",
    }


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (
            RunIdentity({"seed": 2, "sampler": {"num_steps": 2}}, "1.0", IDENTITY.weights),
            "settings.seed: .* 1, .* 2",
        ),
        (RunIdentity({"seed": 1, "sampler": {"num_steps": 3}}, "1.0", IDENTITY.weights), r"sampler\.num_steps"),
        (RunIdentity({"seed": 1, "sampler": {}}, "1.0", IDENTITY.weights), r"num_steps: .* 2, .* null"),
        (RunIdentity(IDENTITY.settings, "1.1", IDENTITY.weights), "code: .*1.0.*1.1"),
        (RunIdentity(IDENTITY.settings, "1.0", {"base_model.pt": "cd34"}), "base_model.pt: .*ab12.*cd34"),
    ],
)
def test_other_settings_are_refused_by_name(folder, other, named):
    transfer(folder)
    before = published(folder.out)
    with pytest.raises(RunConflict, match=named):
        transfer(folder, other)
    assert published(folder.out) == before


def test_a_changed_list_of_prompts_is_told_in_a_few_lines():
    prompts = [[f"p{k}", f"a room {k}, " + "and so on " * 50, "seen from the wrist"] for k in range(40)]
    once = RunIdentity({"prompt": prompts, "seed": 1}, "1.0", {f"file_{k}": "ab" for k in range(90)})
    name, room, wrist = prompts[7]
    edited = [*prompts[:7], [name, f"{room[:200]}the one word that differs{room[200:]}", wrist], *prompts[8:]]
    [line] = RunIdentity({"prompt": edited, "seed": 1}, "1.0", once.weights).differences(once.facts)
    assert line.startswith("settings.prompt[7][1]: the folder has ... ")
    assert "the one word that differs" in line
    assert len(line) < 300


def test_many_differences_are_told_in_a_few_lines_and_no_setting_is_hidden_by_another():
    prompts = [[f"p{k}", "a room " * 50, "seen from the wrist"] for k in range(40)]
    once = RunIdentity({"prompt": prompts, "seed": 1}, "1.0", {f"file_{k}": "ab" for k in range(90)})
    lines = RunIdentity({"prompt": prompts[1:], "seed": 2}, "1.0").differences(once.facts)
    assert "settings.prompt: 39 further entries differ" in lines
    assert "settings.seed: the folder has 1, this run 2" in lines
    assert (len(lines), lines[-1]) == (13, "and 83 more")
    assert max(map(len, lines)) < 300


def test_overwrite_replaces_what_other_settings_made(folder):
    transfer(folder)
    other = RunIdentity({"seed": 1, "num_steps": 3}, "1.0")
    summary, started = transfer(folder, other, overwrite=True)
    assert (summary.done, len(started)) == (6, 6)
    assert transfer(folder, other)[1] == []


def test_overwrite_leaves_nothing_of_an_episode_that_is_now_rejected(folder):
    """But what was edited since is not the run's to remove, and without --overwrite nothing is."""

    class Strict(StandIn):
        def write(self, task, computed):
            return EpisodeOutcome(state="rejected", reason="not good enough")

    transfer(folder)
    (folder.out / "data_1.hdf5").write_bytes(b"edited by hand")
    other = RunIdentity({"seed": 1, "num_steps": 3}, "1.0")
    plan = build_plan(sorted(folder.sources.iterdir()), seed=1)
    run(plan, lambda place: Strict(folder.out), Ledger(folder.out, other, overwrite=True))
    assert published(folder.out) == {"data_1.hdf5": b"edited by hand"}


def test_facts_that_decide_nothing_are_no_conflict(folder):
    transfer(folder)
    assert transfer(folder, RunIdentity(IDENTITY.settings, "1.0", IDENTITY.weights, {"gpu": "another"}))[1] == []


def test_a_changed_source_is_done_again(folder):
    transfer(folder)
    (folder.sources / "data_2.hdf5").write_bytes(b"another recording")
    assert transfer(folder)[1] == ["data_2"]


def test_a_touched_source_is_not(folder):
    transfer(folder)
    os.utime(folder.sources / "data_2.hdf5")
    assert transfer(folder)[1] == []


def test_a_copied_folder_is_believed_by_its_content(folder, tmp_path):
    transfer(folder)
    shutil.copytree(folder.out, tmp_path / "copy", copy_function=shutil.copyfile)
    folder.out = tmp_path / "copy"
    assert transfer(folder)[1] == []


def test_a_missing_output_is_made_again(folder):
    transfer(folder)
    before = published(folder.out)
    (folder.out / "data_4_room_view.mp4").unlink()
    assert transfer(folder)[1] == ["data_4"]
    assert published(folder.out) == before


def test_a_file_nobody_recorded_is_left_alone(folder):
    folder.out.mkdir()
    (folder.out / "data_1.hdf5").write_bytes(b"from somewhere else")
    summary, _ = transfer(folder)
    assert (summary.done, summary.exit_code) == (5, 2)
    [(stem, state, reason)] = summary.problems
    assert (stem, state) == ("data_1", "failed")
    assert "no record knows it; move it away, or give --overwrite" in reason
    assert (folder.out / "data_1.hdf5").read_bytes() == b"from somewhere else"


def test_an_edited_output_is_left_alone(folder):
    transfer(folder)
    (folder.out / "data_1.hdf5").write_bytes(b"edited by hand")
    summary, _ = transfer(folder)
    assert "not what this run wrote" in summary.problems[0][2]
    assert f"`guided-transfer validate {folder.out / 'data_1.hdf5'}` tells whether it is damaged" in str(
        summary.problems
    )
    assert (folder.out / "data_1.hdf5").read_bytes() == b"edited by hand"
    assert transfer(folder, overwrite=True)[0].exit_code == 0


@pytest.mark.parametrize("damage", [b"", b"{", b'{"state": "done"}', b"[1]", b"\xff\xfe"])
def test_a_damaged_record_is_no_record(folder, damage):
    transfer(folder)
    (folder.out / "ledger" / "data_1.json").write_bytes(damage)
    assert "no record knows it" in transfer(folder)[0].problems[0][2]


def test_failed_episodes_are_tried_once_by_every_run(folder):
    (folder.orders / "fail-data_1").touch()
    assert transfer(folder)[0].problems == (("data_1", "failed", "ValueError: told to fail at data_1"),)
    (folder.orders / "fail-data_1").unlink()
    summary, started = transfer(folder)
    assert (started, summary.exit_code) == (["data_1"], 0)


def test_the_source_folder_is_refused_before_anything_is_written(folder):
    folder.out = folder.sources
    with pytest.raises(UsageError, match="folder of the source episodes"):
        transfer(folder)
    assert not (folder.sources / "ledger").exists()


def test_stages_are_believed_only_whole_and_under_their_fingerprint(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    workspace = Workspace(tmp_path / "stage", "one")
    assert workspace.load("demo_0.room") is None
    workspace.save("demo_0.room", frames, {"prompt": "a ward"})
    kept, facts = workspace.load("demo_0.room")
    np.testing.assert_array_equal(kept, frames)
    assert facts == {"prompt": "a ward"}
    assert Workspace(tmp_path / "stage", "two").load("demo_0.room") is None
    path = Path(tmp_path / "stage" / "demo_0.room.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert frames.flat[-1] != 0
    assert workspace.load("demo_0.room") is None
    workspace.clear()
    assert not (tmp_path / "stage").exists()
