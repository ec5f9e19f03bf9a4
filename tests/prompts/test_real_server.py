"""Prompts by a language model of a real server: `transformers serve`, with tiny models of the real class."""

import logging
import re
import socket
import time
from urllib.request import urlopen

import pytest
import torch
from tiny_llms import write_llm_that_answers, write_random_llm

from guided_transfer.cli.main import main
from guided_transfer.errors import UsageError
from guided_transfer.prompts.endpoint import AnswerError, Endpoint
from guided_transfer.prompts.load import load_prompts
from guided_transfer.prompts.two_stage import Journal, generate, read_ideas


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server's address; it loads the model that a request names by its folder."""
    from transformers.cli.serve import Serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    levels = {name: logging.getLogger(name).level for name in ("transformers", "uvicorn")}
    torch.set_num_threads(1)
    serve = Serve(host="127.0.0.1", port=port, device="cpu", default_seed=0, non_blocking=True)
    until = time.monotonic() + 30
    while not serve.server.started and time.monotonic() < until:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    serve.kill_server()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    write_llm_that_answers(folder)
    return str(folder)


def test_the_server_is_there(server):
    with urlopen(server.replace("/v1", "/health")) as response:
        assert response.status == 200


def test_the_whole_command(server, llm, tmp_path, capsys):
    out = tmp_path / "prompts.json"
    words = ["--count", "8", "--out", str(out), "--llm_base_url", server, "--llm_model", llm]
    assert main(["prompts", "generate", *words]) == 0
    prompts = load_prompts(str(out))
    assert len({(prompt.room, prompt.wrist) for prompt in prompts}) == 8
    assert all(prompt.room.startswith("A realistic ") for prompt in prompts)
    tokens_in, tokens_out = map(int, re.findall(r"(\d+) tokens in, (\d+) out", capsys.readouterr().out)[0])
    assert tokens_in > 8 * 50
    assert tokens_out > 8 * 10


def test_both_stages_are_the_models_own_words(server, llm, tmp_path):
    endpoint = Endpoint(server, llm, tries=1)
    journal = Journal.open(tmp_path / "journal", {})
    prompts = generate(endpoint, 3, journal)
    assert len(prompts) == 3
    assert all(idea.startswith("a small ") and idea.endswith(" light") for idea in journal.ideas)
    assert endpoint.tokens_in > 100
    assert endpoint.tokens_out > 3 * 10


def test_a_model_of_random_weights_gives_nothing_usable_and_costs_no_more_than_allowed(server, tmp_path):
    write_random_llm(tmp_path / "random")
    endpoint = Endpoint(server, str(tmp_path / "random"), tries=2, first_pause_s=0.01)
    with pytest.raises(AnswerError, match="no usable answer in 2 tries"):
        endpoint.ask("Give 20 short ideas", read_ideas, max_tokens=40)
    assert 0 < endpoint.tokens_out <= 80


def test_a_model_that_is_not_there(server, tmp_path):
    with pytest.raises(Exception, match=r"no usable answer|does not take|refuses") as caught:
        Endpoint(server, str(tmp_path / "none"), tries=1).ask("a", str)
    assert isinstance(caught.value, UsageError) or "no usable answer" in str(caught.value)
