"""Prompts that are longer than the text encoder reads."""

import json
import shutil

import pytest

from guided_transfer.two_view import JOINT_SUFFIX

LONG = "a clinic with a green wall and a wooden floor " * 5


@pytest.fixture
def longer_text(tiny_tree, tmp_path):
    """Arguments that let the tiny model read 128 letters, the suffix and some of a prompt."""
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text((tiny_tree / "tiny.yaml").read_text().replace("text_tokens: 16", "text_tokens: 128"))
    return ("--model_config_file", sizes)


@pytest.fixture
def two_episodes(episodes, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for stem in ("data_0", "data_1"):
        shutil.copy(episodes / "data_0.hdf5", folder / f"{stem}.hdf5")
    return folder


def test_a_long_prompt_leaves_the_joint_pass_its_suffix(transfer, longer_text):
    run = transfer(*longer_text, "--prompt", LONG)
    told = run.view("wrist")["told"]
    assert told.endswith(JOINT_SUFFIX)
    assert len(told) + 1 == 128  # a token a letter, and one for the end
    assert LONG.startswith(told.removesuffix(JOINT_SUFFIX))
    assert (run.folder / "data_0_wrist_view.txt").read_text() == LONG + "\n"


def test_many_prompts_that_are_cut_are_told_of_once(transfer, longer_text, two_episodes, tmp_path, capsys):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([f"{index} {LONG}" for index in range(70)]))
    run = transfer(*longer_text, "--prompt", prompts, "--no_quiet", "--json", source=two_episodes)
    said = [line for line in capsys.readouterr().out.splitlines() if "prompts are longer" in line]
    assert len(said) == 1
    assert "140 of 140 prompts are longer than the 128 tokens" in said[0]
    assert run.view("wrist", "data_1")["told"].endswith(JOINT_SUFFIX)
