"""One run in a process of its own, for tests that kill it: `python batch.py SOURCES OUT [options]`.

The process is the labelled stand-in; everything around it is the runner itself. Prints the summary as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

from stand_in import StandInFactory

from guided_transfer.errors import GuidedTransferError
from guided_transfer.runner import Ledger, LocalEngine, RunIdentity, Shard, build_plan, run

SETTINGS = {"seed": 1, "num_steps": 2}


def engine(name: str, workers: int, num_gpus: int, ray_address: str | None):
    if name == "torchrun":
        from guided_transfer.runner.torchrun import TorchrunEngine

        return TorchrunEngine(num_gpus)
    if name == "ray":
        from guided_transfer.runner.ray_engine import RayEngine

        return RayEngine(ray_address, num_workers=workers)
    return LocalEngine()


def jump_clock(seed: int) -> None:
    """Let the wall clock jump by up to a year, both ways, at every look."""
    rng = random.Random(seed)
    real = time.time
    time.time = lambda: max(1.0, real() + rng.uniform(-3e7, 3e7))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--num_gpus", type=int, default=1)
    parser.add_argument("--ray_address")
    parser.add_argument("--compute_s", type=float, default=0.0)
    parser.add_argument("--write_s", type=float, default=0.0)
    parser.add_argument("--lease_s", type=float, default=30.0)
    parser.add_argument("--orders", type=Path)
    parser.add_argument("--shard", type=Shard.parse)
    parser.add_argument("--shuffle", type=int)
    parser.add_argument("--jump_clock", type=int)
    parser.add_argument("--max_failures", type=int)
    args = parser.parse_args()
    if args.jump_clock is not None:
        jump_clock(args.jump_clock)
    sources = sorted(args.sources.iterdir())
    if args.shuffle is not None:
        random.Random(args.shuffle).shuffle(sources)
    try:
        summary = run(
            build_plan(sources, seed=SETTINGS["seed"], shard=args.shard),
            StandInFactory(args.out, args.compute_s, args.write_s, args.orders),
            Ledger(args.out, RunIdentity(SETTINGS, "test")),
            engine=engine(args.engine, args.workers, args.num_gpus, args.ray_address),
            max_failures=args.max_failures,
            on_event=lambda event: print(event.kind, event.stem, event.reason, file=sys.stderr, flush=True),
            lease_s=args.lease_s,
        )
    except GuidedTransferError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    facts = {"done": summary.done, "left": summary.left, "problems": summary.problems, "says": str(summary)}
    sys.stdout.write(json.dumps(facts) + "\n")  # in one piece: ranks share the pipe
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
