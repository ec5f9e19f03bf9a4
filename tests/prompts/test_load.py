import json

import pytest

from guided_transfer.errors import UsageError
from guided_transfer.prompts.load import EXAMPLE_PROMPTS, TwoViewPrompt, load_prompts


def test_a_text_serves_both_views():
    assert load_prompts("a clinic") == (TwoViewPrompt("", "a clinic", "a clinic"),)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": {"top_view_prompt": "t", "bottom_view_prompt": "b"}}, TwoViewPrompt("a", "t", "b")),
        ({"a": "both"}, TwoViewPrompt("a", "both", "both")),
        (["both"], TwoViewPrompt("0", "both", "both")),
    ],
)
def test_shapes_of_a_file(tmp_path, content, expected):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(content))
    assert load_prompts(str(file)) == (expected,)


def test_the_packaged_examples_are_found_by_name():
    prompts = load_prompts(EXAMPLE_PROMPTS)
    assert len(prompts) >= 10
    assert len({prompt.room for prompt in prompts}) == len(prompts)
    assert all(len(text.split()) > 20 for prompt in prompts for text in (prompt.room, prompt.wrist))


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_text(prompt):
    with pytest.raises(UsageError, match="empty"):
        load_prompts(prompt)


@pytest.mark.parametrize("prompt", ['["a clinic", "an office"]', '{"clinic": "a clinic"}'])
def test_json_for_a_text_is_no_prompt(prompt):
    with pytest.raises(UsageError, match=r"JSON belongs in a file; --prompt FILE\.json names it"):
        load_prompts(prompt)


def test_a_text_may_begin_with_a_bracket():
    assert load_prompts("[wide shot] a clinic")[0].room == "[wide shot] a clinic"
