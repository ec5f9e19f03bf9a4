"""Prompts: one text, or a JSON file of which each episode takes one entry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_transfer.errors import UsageError

PACKAGED = Path(__file__).parent / "data"
EXAMPLE_PROMPTS = "generated_prompts_two_seperate_views.json"
"""Packaged example prompts, by the integration's own file name."""

REFERENCE_PROMPTS = f"environments/cosmos_transfer1/config/{EXAMPLE_PROMPTS}"
"""Where the integration's own specs look for them: below a folder that other users do not have."""

BUNDLED_PROMPTS = "bundled_model_prompts.json"
"""Packaged prompts in the words that the bundled model knows."""

SHAPES = (
    '{"<name>": {"top_view_prompt": "...", "bottom_view_prompt": "..."}, ...}, or '
    '{"<name>": "<for both views>", ...}, or ["<for both views>", ...]'
)


@dataclass(frozen=True)
class TwoViewPrompt:
    """What the two views should show.

    Attributes:
        name: of the entry in its file; "" for a text from the command line.
        room, wrist: the prompt of each view.
    """

    name: str
    room: str
    wrist: str


def load_prompts(prompt: str, *, packaged: Path = PACKAGED) -> tuple[TwoViewPrompt, ...]:
    """Read `--prompt`.

    Args:
        prompt: a text for both views, the path of a prompts JSON, or the bare name of one in `packaged`.
        packaged: folder of the prompts that come with the package.

    Raises:
        UsageError: an empty text, JSON instead of a text, a missing file, or a file of another shape.
    """
    if not prompt.strip():
        raise UsageError(f"prompt is empty; give a text or a prompts JSON such as {EXAMPLE_PROMPTS} (packaged)")
    if not prompt.lower().endswith(".json"):
        if _is_json(prompt):
            raise UsageError(f"prompt is {_shortened(prompt)}: JSON belongs in a file; --prompt FILE.json names it")
        return (TwoViewPrompt("", prompt, prompt),)
    name = EXAMPLE_PROMPTS if prompt == REFERENCE_PROMPTS else prompt
    file = next((path for path in (Path(prompt), packaged / name) if path.is_file()), None)
    if file is None:
        names = ", ".join(sorted(path.name for path in packaged.glob("*.json")))
        raise UsageError(f"prompt {prompt!r} is no file; packaged are: {names}")
    return _entries(file)


def _is_json(text: str) -> bool:
    """Whether somebody meant a list or a mapping of prompts, and not one prompt."""
    try:
        return isinstance(json.loads(text), list | dict)
    except json.JSONDecodeError:
        return False


def _entries(file: Path) -> tuple[TwoViewPrompt, ...]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{file}: no JSON file of prompts: {error}") from None
    if isinstance(content, list):
        content = {str(index): entry for index, entry in enumerate(content)}
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{file}: no prompts; the file holds {SHAPES}")
    return tuple(_entry(file, name, entry) for name, entry in content.items())


def _entry(file: Path, name: str, entry: Any) -> TwoViewPrompt:
    if isinstance(entry, str) and entry.strip():
        return TwoViewPrompt(name, entry, entry)
    if isinstance(entry, dict):
        room, wrist = entry.get("top_view_prompt"), entry.get("bottom_view_prompt")
        if isinstance(room, str) and isinstance(wrist, str) and room.strip() and wrist.strip():
            return TwoViewPrompt(name, room, wrist)
    raise UsageError(f"{file}: entry {name!r} is {_shortened(entry)}; the file holds {SHAPES}")


def _shortened(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) < 80 else text[:77] + "..."
