"""Where every random choice comes from: SHA-256 of what the work is, never of who does it or when."""

from __future__ import annotations

import hashlib
import json


def _digest(*parts: int | str) -> int:
    """The 256-bit number of a list of parts; JSON keeps ("a", "bc") and ("ab", "c") apart."""
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def view_seed(run_seed: int, episode_id: str, variant: int, attempt: int, view: str) -> int:
    """Seed of one view's noise, 0 <= seed < 2**63.

    Args:
        run_seed: `--seed`.
        episode_id: "<file stem>/<demo>", for example "data_0/demo_0".
        variant: which transfer of the same episode, from 0.
        attempt: which try at it, from 0.
        view: "room", "wrist", or what the schema calls it.
    """
    return _digest("view", run_seed, episode_id, variant, attempt, view) >> (256 - 63)


def prompt_choice(run_seed: int, episode_id: str, variant: int, num_prompts: int) -> int:
    """Which of `num_prompts` prompts an episode takes; its variants take the next ones.

    So no two of them are alike while there are as many prompts.

    View and attempt are left out: both views show one room, and another attempt is another try at the
    same picture.
    """
    return (_digest("prompt", run_seed, episode_id, 0) + variant) % num_prompts
