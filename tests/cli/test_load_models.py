"""What the arguments make of the models: where they wait, and whether they are compiled."""

import pytest
import torch

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.load import load_pipeline, load_vision, wants_compiled
from guided_transfer.cli.progress import reporter
from guided_transfer.cli.resolve import resolve


@pytest.fixture
def run_of(episodes, tiny):
    def run_of(*words):
        words = ["--source_data_dir", str(episodes), *(word for word in tiny if word != "--quiet"), *words]
        return resolve(parse_transfer(words, prog="transfer", about=""))

    return run_of


def test_each_model_is_offloaded_by_its_own_flag(run_of):
    """What an offloaded model does around its work is in `test_pipeline`."""
    waits = {
        flags: (pipeline.offload_network, pipeline.offload_text_encoder)
        for flags in ("", "--offload_diffusion_transformer", "--offload_text_encoder_model")
        for pipeline in [load_pipeline(run_of(*flags.split()))]
    }
    assert list(waits.values()) == [(False, False), (True, False), (False, True)]


def test_vision_models_wait_where_the_flag_of_the_guardrails_says(run_of):
    """What an offloaded one does around its work is in `test_pipeline`; the guardrails' own flag in their room."""
    quiet = reporter(True, False)
    flags = {"": True, "--no_offload_guardrail_models": False, "--offload_guardrail_models": True}
    assert {flag: load_vision(run_of(*flag.split()), quiet).offload for flag in flags} == flags


def test_small_networks_are_compiled_on_request_alone(run_of):
    pipeline = load_pipeline(run_of())
    assert not pipeline.network.compiled
    wanted = {asked: wants_compiled(run_of("--compile", asked), pipeline) for asked in ("auto", "off", "on")}
    assert wanted == {"auto": False, "off": False, "on": True}


def test_without_a_compiler_one_line_says_so(run_of, monkeypatch, capsys):
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(config, "force_disable_caches", True)
    monkeypatch.setattr(config.cpp, "cxx", (None, "/nowhere/c++"))
    assert not load_pipeline(run_of("--compile", "on")).network.compiled
    said = capsys.readouterr().err
    assert "the network is not compiled, since torch.compile does not work here" in " ".join(said.split())
