"""Which words stop a prompt, and which only look as if."""

import json

import pytest

from guided_transfer.errors import Blocked, CheckpointError
from guided_transfer.prompts.load import PACKAGED
from guided_transfer.safety.blocklist import Blocklist, plain, singular

CUSTOM = ["ass", "kill", "bloodbath", "evil  Plan", "tit", "cum", "anal", "arse", "rap", "torso", "organ"]
EXACT = ["villain", "torture chamber", "gun"]
WHITELIST = ["torso", "organ"]


@pytest.fixture(scope="module")
def blocklist():
    return Blocklist(CUSTOM, EXACT, WHITELIST)


@pytest.mark.parametrize(
    "prompt",
    [
        "a bloodbath",
        "A BLOODBATH!",
        "a bl00db4th in the ward",
        "bloodbaths everywhere",
        "an evil plan",
        "an evil\n plan.",
        "an evil plans",
        "they k1ll",
        "k\u200bill the light",  # an invisible space
        "ｋｉｌｌ the light",  # full-width letters
        "k\u00ed\u006cl it",  # an accent
        "_kill_",
        "(kill)",
        "the villain",
        "The Villain.",
        "a torture  chamber",
        "a gun, on a table",
    ],
)
def test_what_stops_a_prompt(blocklist, prompt):
    with pytest.raises(Blocked) as caught:
        blocklist.check(prompt)
    assert caught.value.guardrail == "blocklist"


@pytest.mark.parametrize(
    "prompt",
    [
        "glass, brass and a mass of grass",
        "a title, a titanium tray and the document",
        "an analysis of the canal",
        "skill and killer whales",  # only whole words
        "parse the rapid therapist",
        "a torso phantom, two organs and an organ",
        "begun, gunmetal",
        "an evil and a plan",
    ],
)
def test_words_that_only_contain_an_entry_pass(blocklist, prompt):
    blocklist.check(prompt)


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\u200b"])
def test_an_empty_prompt_is_stopped(blocklist, prompt):
    with pytest.raises(Blocked, match="empty"):
        blocklist.check(prompt)


def test_nearly_equal_words_follow_the_stated_ratio():
    """An entry of n letters matches from a similarity of (n - 0.4) / n on, as difflib counts it."""
    from difflib import SequenceMatcher

    entry = "villain"
    blocklist = Blocklist(["xyz"], [entry], [])
    for word in ("villains", "villan", "vilain", "villa", "villein", "villainy", entry):
        alike = SequenceMatcher(None, word, entry).ratio() >= (len(entry) - 0.4) / len(entry)
        if alike:
            with pytest.raises(Blocked):
                blocklist.check(f"the {word} here")
        else:
            blocklist.check(f"the {word} here")


def test_near_matches_are_looked_for_in_stretches_of_as_many_words(monkeypatch):
    monkeypatch.setattr("guided_transfer.safety.blocklist.FUZZY_LETTERS_OFF", 1.0)
    blocklist = Blocklist(["xyz"], ["torture chamber", "guns"], [])
    with pytest.raises(Blocked, match="'tortur chamber', nearly 'torture chamber'"):
        blocklist.check("in a tortur chamber")
    blocklist.check("gunz")  # too short for near matches


@pytest.mark.parametrize("lists", [([], EXACT), (CUSTOM, []), (["torso"], EXACT), (["", " "], EXACT)])
def test_an_empty_list_is_no_list(lists):
    with pytest.raises(CheckpointError, match="empty"):
        Blocklist(*lists, WHITELIST)


def test_lists_come_from_every_file_of_their_folders(tmp_path):
    for name, files in {"custom": ["one", "two"], "exact_match": ["three"], "whitelist": ["four"]}.items():
        (tmp_path / name).mkdir()
        for word in files:
            (tmp_path / name / word).write_text(f"{word}\n\n")
    blocklist = Blocklist.from_folder(tmp_path)
    for word in ("one", "two", "three"):
        with pytest.raises(Blocked):
            blocklist.check(word)
    (tmp_path / "custom" / "two").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CheckpointError, match="custom"):
        Blocklist.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["custom", "exact_match", "whitelist"])
def test_a_missing_list_is_an_error(tree, name):
    import shutil

    from guided_transfer.safety.guardrails import BLOCKLIST

    shutil.rmtree(tree / BLOCKLIST / name)
    with pytest.raises(CheckpointError, match=name):
        Blocklist.from_folder(tree / BLOCKLIST)


def test_singular_and_plain():
    words = {"bodies": "body", "glasses": "glass", "boxes": "box", "tools.": "tool", "glass": "glass", "is": "is"}
    assert {word: singular(word) for word in words} == words
    assert singular("women") == "woman"
    assert plain("  A\u00adB  c\n") == "ab c"


def test_the_packaged_prompts_pass_a_list_of_fragments_of_their_own_words():
    """Clinical words hold many short ones; only whole words may match."""
    texts = [
        text
        for file in PACKAGED.glob("*.json")
        for entry in json.loads(file.read_text()).values()
        for text in (entry.values() if isinstance(entry, dict) else [entry])
    ]
    words = {word.strip(".,;:'\"-()").lower() for text in texts for word in text.split()}
    whole = words | {singular(word) for word in words}
    fragments = {word[:length] for word in words for length in (3, 4) if len(word) > length + 1} - whole
    fragments = {fragment for fragment in fragments if fragment.isalpha()}
    assert len(fragments) > 100
    blocklist = Blocklist(fragments, fragments, [])
    for text in texts:
        blocklist.check(text)
