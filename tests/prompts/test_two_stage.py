"""Prompts by a language model, against a real server that misbehaves."""

import json

import pytest
from llm_server import LlmServer

from guided_transfer.cli.main import main
from guided_transfer.errors import RunConflict, UsageError
from guided_transfer.prompts.endpoint import Endpoint, EndpointError, served_models
from guided_transfer.prompts.load import load_prompts
from guided_transfer.prompts.two_stage import Journal, generate, read_ideas, read_pair

KEY = "sk-very-secret"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", KEY)
    server = LlmServer()
    yield server
    server.close()


@pytest.fixture
def journal(tmp_path):
    return Journal.open(tmp_path / "prompts.journal.jsonl", {"model": "tiny"})


def endpoint(server, **options):
    return Endpoint(server.url, "tiny", **{"timeout_s": 10, "first_pause_s": 0.01, **options})


def test_two_stages(server, journal):
    asked = endpoint(server)
    prompts = generate(asked, 25, journal)
    assert len({(p.room, p.wrist) for p in prompts}) == 25
    assert [p.name for p in prompts][:2] == ["scene_00000", "scene_00001"]
    assert len(server.requests) == 25 + 2  # two batches of ideas
    assert (asked.tokens_in, asked.tokens_out) == (10 * 27, 20 * 27)
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "fault",
    [429, 500, 503, "slow", "cut", "not json", "no choices", "null", "prose", "half", "other fields", "short"],
)
def test_every_way_to_misbehave_costs_a_try_and_no_prompt(server, journal, fault):
    server.faults = [fault, "ok", fault, fault]  # in both stages
    prompts = generate(endpoint(server, timeout_s=0.7), 3, journal)
    assert len(prompts) == 3
    assert len(server.requests) == 3 + 1 + 3


def test_an_answer_in_a_code_fence_is_taken(server, journal):
    server.always = "fenced"
    generate(endpoint(server), 2, journal)
    assert len(server.requests) == 3


def test_what_the_server_asks_to_wait_is_waited(server, journal):
    server.faults = [429]
    generate(endpoint(server), 1, journal)
    (first, *_), (second, *_) = server.requests[:2]
    assert second - first >= 0.2


def test_no_more_questions_per_minute_than_asked(server, journal):
    generate(endpoint(server, requests_per_minute=600), 4, journal)
    starts = [start for start, *_ in server.requests]
    assert len(starts) >= 4
    assert starts[-1] - starts[0] > 0.09 * (len(starts) - 1)  # one alone may arrive late, and the next seem early


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_no_repetition_can_help_stops_at_once(server, journal, status):
    server.always = status
    with pytest.raises(UsageError, match=r"llm_model|request") as caught:
        generate(endpoint(server), 1, journal)
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)


def test_an_endpoint_that_stays_down(server, journal):
    server.always = 500
    with pytest.raises(EndpointError, match="in 3 tries") as caught:
        generate(endpoint(server, tries=3), 1, journal)
    assert len(server.requests) == 3
    assert KEY not in str(caught.value)


def test_nobody_at_the_port(journal):
    with pytest.raises(EndpointError, match="no usable answer"):
        generate(Endpoint("http://127.0.0.1:9/v1", "tiny", tries=2, first_pause_s=0.01), 1, journal)


def test_an_idea_that_cannot_be_written_out_is_left_and_another_taken(server, journal):
    server.faults = ["ok", "prose", "prose"]
    prompts = generate(endpoint(server, tries=2), 2, journal)
    assert len(prompts) == 2
    assert next(iter(journal.pairs.values())) is None


def test_a_model_that_never_says_anything_usable_is_given_up(server, journal):
    generate(endpoint(server), 1, journal)
    server.always = "prose"
    with pytest.raises(EndpointError, match=r"nothing new 5 times in a row; 1 of 9 prompts are kept"):
        generate(endpoint(server, tries=1), 9, journal)


def test_repeated_answers_do_not_count_twice(server, journal, monkeypatch):
    pair = json.dumps({"top_view_prompt": "A realistic room " * 10, "bottom_view_prompt": "A near table. " * 8})
    ideas = json.dumps(["the same small ward", "The same,  small ward!", "another big ward"])
    monkeypatch.setattr(server, "content", lambda question: ideas if "short ideas" in question else pair)
    with pytest.raises(EndpointError, match="1 of 3 prompts"):
        generate(endpoint(server), 3, journal)
    assert len(journal.ideas) == 2
    assert len(journal.distinct) == 1


def test_a_stopped_generation_goes_on_where_it_was(server, tmp_path):
    file = tmp_path / "a.journal.jsonl"
    server.faults = ["ok"] * 6 + [500]
    with pytest.raises(EndpointError):
        generate(endpoint(server, tries=1), 10, Journal.open(file, {"model": "tiny"}))
    before = len(server.requests)
    with file.open("a") as stream:
        stream.write('{"idea": "cut sho')  # a kill in the middle of a line
    journal = Journal.open(file, {"model": "tiny"})
    assert len(journal.distinct) == 5
    kept = list(journal.distinct.values())
    prompts = generate(endpoint(server), 10, journal)
    assert [(p.room, p.wrist) for p in prompts][:5] == kept
    assert len(server.requests) - before == 5
    assert len(Journal.open(file, {"model": "tiny"}).distinct) == 10
    with pytest.raises(RunConflict, match="delete it"):
        Journal.open(file, {"model": "other"})


def test_the_command(server, tmp_path, capsys):
    out = tmp_path / "prompts.json"
    words = ["prompts", "generate", "--count", "3", "--out", str(out), "--llm_base_url", server.url]
    server.faults = ["ok", "ok", 401]
    assert main([*words, "--usd_per_million_in", "1000"]) == 1
    assert not out.exists()
    assert main([*words, "--usd_per_million_in", "1000"]) == 0
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    assert "20 tokens in, 40 out, 0.02 USD" in said.out  # what this second command used
    assert len(load_prompts(str(out))) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.json"]
    assert server.requests[-1][2]["model"] == "google/gemma-3-27b-it"


def test_themes_come_from_a_file(server, tmp_path):
    (tmp_path / "themes.txt").write_text("veterinary clinics\n\n")
    out = str(tmp_path / "prompts.json")
    words = ["--count", "1", "--out", out, "--llm_base_url", server.url]
    assert main(["prompts", "generate", *words, "--theme_file", str(tmp_path / "themes.txt")]) == 0
    assert "veterinary clinics" in server.requests[0][2]["messages"][0]["content"]


def test_served_models(server):
    assert served_models(server.url) == ["tiny"]
    with pytest.raises(EndpointError, match="no OpenAI-compatible endpoint"):
        served_models("http://127.0.0.1:9/v1")


def test_reading_answers():
    assert read_ideas('["a  small ward", "x"]') == ["a small ward"]
    for answer in ("", "[]", "[1]", '{"a": 1}', "[", '["x"]'):
        with pytest.raises(ValueError, match=r"."):
            read_ideas(answer)
    good = {"top_view_prompt": "word " * 30, "bottom_view_prompt": "word " * 20}
    assert read_pair(json.dumps(good))[1] == ("word " * 20).strip()
    for change in ({"top_view_prompt": None}, {"top_view_prompt": "few"}, {"bottom_view_prompt": "word " * 999}):
        with pytest.raises(ValueError, match=r"view_prompt"):
            read_pair(json.dumps({**good, **change}))
