"""Two processes that share a clip's tokens compute what one computes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_transfer.errors import UsageError
from guided_transfer.models.share import ALONE, TokenShare


def test_two_processes_compute_what_one_computes(tmp_path):
    """With two controls, a weight map, a condition mask and a second text."""
    script = Path(__file__).parent / "two_ranks.py"
    ranks = [subprocess.Popen([sys.executable, script, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    alone = torch.load(tmp_path / "alone.pt")
    shared = [torch.load(tmp_path / f"shared_{rank}.pt") for rank in range(2)]
    for one, first, second in zip(alone, *shared, strict=True):
        assert torch.equal(first, second)
        assert (first - one).abs().max() < 1e-5 * one.std()


def test_tokens_that_cannot_be_shared_are_refused_with_what_would_do():
    with pytest.raises(
        UsageError, match=r"num_gpus is 3, but .* 980 tokens.*--num_gpus 1, 2, 4, 5, 7, 10, 14 would do"
    ):
        TokenShare(size=3).check(980)


def test_one_process_has_all_tokens():
    tokens = torch.rand(1, 5, 2)
    assert ALONE.own(tokens, dim=1) is tokens is ALONE.whole(tokens, dim=1)
