"""Processes that train together: one set of weights, averaged gradients, one clock."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from guided_transfer.models.tree import CheckpointTree
from guided_transfer.training import latents, vocabulary

TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_share_weights_gradients_and_the_clock(tmp_path: Path) -> None:
    job = Path(__file__).with_name("ranks_job.py")
    subprocess.run([*TOGETHER, str(job), str(tmp_path)], check=True, capture_output=True)
    first, second = (json.loads((tmp_path / f"rank_{i}.json").read_text()) for i in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["gradient"] == second["gradient"] == [[1.5] * 3] * 2  # of 1 and 2
    assert [rank["untouched"] for rank in (first, second)] == [True, True]
    assert first["agreed"] == second["agreed"] == 10.0
    assert (first["first"], second["first"]) == (True, False)


def test_a_transformer_trains_in_two_processes(tmp_path: Path) -> None:
    tree = CheckpointTree.open("bundled").root
    vocabulary.train(vocabulary.VocabularyTraining(tmp_path / "words", size=300, captions=50))
    sizes = {"scenes": 2, "looks": 1, "size_px": 64, "processes": 0}
    latents.run(latents.LatentEncoding(tree, tmp_path / "latents", device="cpu", **sizes))
    settings = {
        "latents": tmp_path / "latents",
        "vocabulary": tmp_path / "words",
        "out": tmp_path / "together",
        "steps": 50,
        "batch_single": 2,
        "batch_stacked": 1,
        "device": "cpu",
        "channels": 24,
        "heads": 1,
        "blocks": 1,
        "control_blocks": 1,
        "text_channels": 32,
        "text_layers": 1,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [*TOGETHER, "-m", "guided_transfer.training", "transformer", *words, "--no-compile"]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((tmp_path / "together" / "transformer_log.json").read_text())["steps"] == 50
    saved = torch.load(tmp_path / "together" / "transformer.pt", weights_only=True)
    assert torch.equal(saved["mean"], load_file(tree / "tokenizer" / "mean_std.safetensors")["mean"])
