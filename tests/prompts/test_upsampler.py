"""The upsampler's server as a process, and what it is asked."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import all_end, is_running

from guided_transfer.errors import UsageError
from guided_transfer.prompts.endpoint import AnswerError, Endpoint, EndpointError
from guided_transfer.prompts.upsampler import SERVE_OPTIONS, question, served_upsampler, write_out
from guided_transfer.prompts.vllm import VllmServer, environment

SMALL_VLLM = Path(__file__).with_name("small_vllm.py")
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)


def command(way="well"):
    return shlex.join([sys.executable, str(SMALL_VLLM), way])


def server(tmp_path, way="well", **options):
    return VllmServer(command(way), tmp_path, SERVE_OPTIONS, log=tmp_path / "vllm.log", **options)


def started(folder):
    return json.loads((folder / "started.json").read_text())


def test_a_server_is_started_asked_and_gone(tmp_path):
    waited = []
    with server(tmp_path, on_wait=lambda seconds, line: waited.append(line)) as running:
        model = served_upsampler(running.base_url)
        asked = question("a ward", FRAMES, 7)
        said = write_out(Endpoint(running.base_url, model), asked)
        pids = started(tmp_path)["pids"]
        assert len(pids) == 2
        assert all(is_running(pid) for pid in pids)
    assert not any(is_running(pid) for pid in pids)
    assert said == "a ward, in rich detail, seen in [[60, 40], [60, 40]], seed 7"
    assert "loading weights 1/2" in waited


def test_what_is_asked(tmp_path):
    with server(tmp_path) as running:
        endpoint = Endpoint(running.base_url, str(tmp_path))
        write_out(endpoint, question("a ward", FRAMES[:1], 2**40 + 5))
        write_out(endpoint, question("", np.zeros((2, 1000, 2000, 3), np.uint8), 1))
    first, second = map(json.loads, (tmp_path / "asked.jsonl").read_text().splitlines())
    assert (first["temperature"], first["max_tokens"], first["seed"]) == (0.6, 300, 5)
    (message,) = first["messages"]
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][-1]["text"] == "a ward"
    *pictures, text = second["messages"][0]["content"]
    assert text["text"] == "describe the following images"
    assert len(pictures) == 2


def test_pictures_arrive_as_they_are_unless_they_are_large(tmp_path):
    import cv2

    frame = cv2.imdecode(np.frombuffer(question("", FRAMES, 0).frames[1], np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(frame[..., ::-1], FRAMES[1])
    large = question("", np.zeros((1, 400, 1024, 3), np.uint8), 0).frames[0]
    assert cv2.imdecode(np.frombuffer(large, np.uint8), cv2.IMREAD_COLOR).shape == (200, 512, 3)


def test_a_key_tells_questions_apart():
    keys = {question(p, f, s).key for p in ("a", "b") for f in (FRAMES, FRAMES[1:]) for s in (1, 2)}
    assert len(keys) == 8
    assert question("a", FRAMES, 1).key == question("a", FRAMES.copy(), 1).key


def test_words_of_the_command(tmp_path):
    with server(tmp_path):
        words = started(tmp_path)["words"]
    assert words[:2] == ["serve", str(tmp_path)]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--limit-mm-per-prompt") + 1] == '{"image": 2}'
    assert words[words.index("--tokenizer-mode") + 1] == "mistral"
    assert words[words.index("--max-model-len") + 1] == "4096"


def test_its_surroundings():
    ours = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "PATH": "/bin"}
    assert environment(ours, None).keys() == {"PATH", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"}
    assert environment(ours, 1)["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment({**ours, "CUDA_VISIBLE_DEVICES": "4,6"}, 1)["CUDA_VISIBLE_DEVICES"] == "6"


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"upsampler_command '/nowhere/vllm': no such program.*upsampler_base_url"):
        VllmServer("/nowhere/vllm", tmp_path, log=tmp_path / "log")


def test_a_server_that_cannot_start_shows_what_it_said(tmp_path):
    with (
        pytest.raises(EndpointError, match=r"(?s)25 GiB wanted.*ended with exit code 1"),
        server(tmp_path, "broken"),
    ):
        pass
    assert all_end(started(tmp_path)["pids"])


def test_a_server_that_never_gets_ready(tmp_path):
    with pytest.raises(EndpointError, match="not ready after 2 s"), server(tmp_path, "never", start_limit_s=2):
        pass
    assert not any(is_running(pid) for pid in started(tmp_path)["pids"])


def test_a_server_that_does_not_listen_to_reason(tmp_path):
    with server(tmp_path, "stubborn", grace_s=0.5):
        pids = started(tmp_path)["pids"]
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_orphan_is_left_however_we_end(tmp_path, number):
    program = f"""
import signal, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started us in the background ignores it
from guided_transfer.prompts.vllm import VllmServer
with VllmServer({command()!r}, Path({str(tmp_path)!r}), log=Path({str(tmp_path / "log")!r})):
    print("ready", flush=True)
    time.sleep(600)
"""
    ours = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert ours.stdout.readline() == b"ready\n"
    ours.send_signal(number)
    ours.wait(30)
    assert all_end(started(tmp_path)["pids"])


def test_no_orphan_is_left_by_an_end_while_it_starts(tmp_path):
    def interrupted(seconds, line):
        if (tmp_path / "started.json").exists() and line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), server(tmp_path, "never", on_wait=interrupted):
        pass
    assert not any(is_running(pid) for pid in started(tmp_path)["pids"])


def test_an_empty_answer_is_an_error(tmp_path):
    with server(tmp_path, "mute") as running:
        endpoint = Endpoint(running.base_url, "x", tries=2, first_pause_s=0.01)
        with pytest.raises(AnswerError, match="an empty answer"):
            write_out(endpoint, question("a", FRAMES, 1))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["anything"], "anything"),
        (["gemma", "Cosmos-UpsamplePrompt1"], "Cosmos-UpsamplePrompt1"),
        ([], None),
        (["gemma", "qwen"], None),
        (["upsampler-a", "upsampler-b"], None),
    ],
)
def test_which_model_is_the_upsampler(monkeypatch, names, found):
    monkeypatch.setattr("guided_transfer.prompts.upsampler.served_models", lambda url: names)
    if found:
        assert served_upsampler("http://x/v1") == found
    else:
        with pytest.raises(UsageError, match="must serve the upsampler alone"):
            served_upsampler("http://x/v1")
