"""--num_gpus: ranks that share a video write what one process writes; what cannot be shared is refused at once."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_run import Outcome

from guided_transfer.cli.main import main

RANK = """
import sys

from guided_transfer.cli import process
from guided_transfer.cli.main import run_command

load_pipeline = process.load_pipeline

def telling(*args):
    pipeline = load_pipeline(*args)
    share = pipeline.network.base.share
    sys.stdout.write(f"part {share.rank} of {share.size}\\n")
    sys.stdout.flush()
    return pipeline

process.load_pipeline = telling
sys.exit(run_command("transfer", sys.argv[1:]))
"""
"""One rank: the command, and on the way what its share of the tokens is."""


def test_two_ranks_that_share_a_video_write_what_one_writes(tmp_path, episodes, tiny):
    """Each has a part of the tokens. The noise is the same to the bit; sums over tokens may round otherwise, by a
    grey level at most.
    """
    common = ["--source_data_dir", str(episodes), *tiny, "--no_report"]
    assert main(["transfer", *common, "--output_data_dir", str(tmp_path / "one")]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    (tmp_path / "rank.py").write_text(RANK)
    words = [*launcher, str(tmp_path / "rank.py"), *common, "--num_gpus", "2"]
    done = subprocess.run(
        [*words, "--output_data_dir", str(tmp_path / "two")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    parts = [line for line in done.stdout.splitlines() if line.startswith("part")]
    assert sorted(parts) == ["part 0 of 2", "part 1 of 2"]
    one, two = Outcome(0, tmp_path / "one"), Outcome(0, tmp_path / "two")
    assert [one.view(name)["seed"] for name in ("room", "wrist")] == [
        two.view(name)["seed"] for name in ("room", "wrist")
    ]
    assert np.abs(one.rgb().astype(int) - two.rgb().astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("ranks", "asked", "message"),
    [
        (None, "2", "start the processes that share a video with torchrun"),
        ("3", "2", "3 ranks cannot be grouped by it"),
        ("3", "3", "8 tokens, which 3 do not divide; --num_gpus 1, 2, 4, 8 would do"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_any_work(
    monkeypatch, capsys, tmp_path, episodes, tiny, ranks, asked, message
):
    if ranks:
        monkeypatch.setitem(os.environ, "RANK", "0")
        monkeypatch.setitem(os.environ, "WORLD_SIZE", ranks)
    out = tmp_path / "out"
    words = ["--source_data_dir", str(episodes), "--output_data_dir", str(out), *tiny, "--num_gpus", asked]
    assert main(["transfer", *words]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
