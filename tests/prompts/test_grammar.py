"""Prompts from the built-in vocabulary."""

import re
from pathlib import Path
from statistics import mean

import pytest

from guided_transfer.cli.main import main
from guided_transfer.prompts.grammar import HOME, LIGHTS, SURROUNDINGS, TABLES, write_prompts
from guided_transfer.prompts.load import EXAMPLE_PROMPTS, load_prompts

WORDS = Path(__file__).parents[1] / "data/prompts/words.txt"
"""Every word of the vocabulary, each once looked up in American and British English word lists."""


@pytest.fixture(scope="module")
def prompts():
    return write_prompts(12_000, seed=3)


def test_ten_thousand_pairs_differ(prompts):
    assert len({(p.room, p.wrist) for p in prompts}) == len(prompts)
    assert len({p.room for p in prompts}) > 0.99 * len(prompts)
    assert len({p.wrist for p in prompts}) > 0.9 * len(prompts)
    assert len({p.name for p in prompts}) == len(prompts)


def test_a_seed_gives_the_same_pairs_for_every_count(prompts):
    assert write_prompts(50, seed=3) == prompts[:50]
    assert write_prompts(50, seed=4) != prompts[:50]


def test_detail_is_like_that_of_the_packaged_prompts(prompts):
    packaged = load_prompts(EXAMPLE_PROMPTS)
    for view in ("room", "wrist"):
        own, theirs = ([len(getattr(p, view).split()) for p in some] for some in (prompts, packaged))
        assert 0.8 < mean(own) / mean(theirs) < 1.3
        assert min(own) > 0.8 * min(theirs)
        assert max(own) < 1.6 * max(theirs)


def test_both_views_show_the_same_table_wall_and_light(prompts):
    walls = {wall for around in SURROUNDINGS for wall in around.walls}
    for prompt in prompts[:500]:
        table = next(name for name, _ in TABLES if f"{name}." in prompt.room)
        assert table in prompt.wrist
        wall = max((wall for wall in walls if f"{wall} walls" in prompt.room.lower()), key=len)
        assert f"{wall} wall " in prompt.wrist
        light, near = next(pair for pair in LIGHTS if f"{pair[0]}." in prompt.room)
        assert prompt.wrist.endswith(f"{near}."), light


def test_everything_of_the_vocabulary_is_used(prompts):
    text = " ".join(p.room for p in prompts)
    for around in SURROUNDINGS:
        for phrase in (*around.places, *around.floors, *around.things):
            assert phrase in text


def test_spelling_and_signs(prompts):
    known = set(WORDS.read_text().split())
    for prompt in prompts:
        text = f"{prompt.room} {prompt.wrist}"
        unknown = set(re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())) - known
        assert not unknown
        assert re.fullmatch(r"[A-Za-z',. -]+", text)
        assert not re.search(r"\s\s|\ba [aeio]|\ban [^aeiou]|[,.]{2}|\s[,.]|\b(\w+) \1\b", text), text
        assert all(sentence[0].isupper() for sentence in text.rstrip(".").split(". "))


def test_own_places(tmp_path):
    prompts = write_prompts(100, seed=0, places=("a dental clinic", "a blood bank"))
    assert {p.room.split(" of ")[1].split(".")[0] for p in prompts} == {"a dental clinic", "a blood bank"}
    assert not any(place in p.room for p in prompts for place in HOME.places)


def test_the_command_writes_what_transfer_reads(tmp_path, capsys):
    out = tmp_path / "new" / "prompts.json"
    assert main(["prompts", "generate", "--count", "25", "--seed", "3", "--out", str(out)]) == 0
    assert load_prompts(str(out)) == write_prompts(25, seed=3)
    assert main(["prompts", "generate", "--count", "25", "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["prompts", "generate", "--count", "2", "--out", str(out), "--overwrite"]) == 0
    assert len(load_prompts(str(out))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--out", "prompts.txt"], "must end in .json"),
        (["generate", "--theme_file", "nowhere.txt"], "theme_file 'nowhere.txt' cannot be read"),
        (["write"], "one of generate"),
        ([], "one of generate"),
    ],
)
def test_wrong_usage(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prompts", *words]) == 1
    assert message in capsys.readouterr().err
