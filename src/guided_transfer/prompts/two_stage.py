"""Prompts by a language model in two stages, as LucidSim does: many short ideas, then each written out in detail.

Yu et al., Learning Visual Parkour from Generated Images, CoRL 2024.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_transfer.errors import RunConflict
from guided_transfer.prompts.endpoint import AnswerError, Endpoint, EndpointError
from guided_transfer.prompts.load import TwoViewPrompt

IDEAS_AT_ONCE = 20
IDEAS_SHOWN = 40
"""So many known ideas are shown to the model, to be avoided."""
WORDS = {"top_view_prompt": (25, 200), "bottom_view_prompt": (15, 150)}
"""Fewest and most words of each prompt."""
ANSWER_TOKENS = 2048
"""More than twenty ideas or two prompts take; a model that does not find an end is cut off there."""
FRUITLESS_IN_A_ROW = 5
"""After so many rounds without anything new, or ideas that cannot be written out, the model is given up."""
THEMES = (
    "operating rooms, wards, examination rooms and doctors' practices",
    "teaching and research laboratories for medical robotics",
    "field hospitals, mobile clinics and other temporary places",
    "homes, nursing homes and small private clinics",
)
IDEAS = """\
A robot arm holds an ultrasound probe over a torso phantom on a table. We need different rooms for this scene.
Theme: {theme}.
Give {count} short ideas, each of 5 to 15 words, that name the room, the table's material and the light.
No people. Different from these: {known}.
Answer with a JSON array of {count} strings and nothing else."""
WRITTEN_OUT = """\
Write two prompts for a photorealistic video of this scene: {idea}.
A robot arm holds an ultrasound probe over a torso phantom that lies on a table.
top_view_prompt: the whole room from a camera on the wall. Name the table's material, walls, floor, furniture and \
light. 50 to 80 words, beginning with "A realistic".
bottom_view_prompt: the same table from near, with its surface, the same wall behind it out of focus and the same \
light. 30 to 50 words.
No people, no text in the picture.
Answer with one JSON object with the keys top_view_prompt and bottom_view_prompt and nothing else."""


@dataclass
class Journal:
    """What an unfinished generation has so far, one JSON line at a time, beside the file it will become."""

    file: Path
    ideas: list[str] = field(default_factory=list)
    pairs: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    """By idea; None for one that could not be written out."""
    distinct: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """Pairs that are not the same by their letters, in the order in which they came."""

    @classmethod
    def open(cls, file: Path, settings: dict[str, Any]) -> Journal:
        """Continue the journal of an earlier try, or begin one.

        Raises:
            RunConflict: the earlier try had other settings.
        """
        journal = cls(file)
        lines = list(_whole_lines(file)) if file.exists() else []
        if not lines:
            file.write_text("", encoding="utf-8")
            journal._append(settings)
            return journal
        if lines[0] != settings:
            raise RunConflict(f"{file} was begun with {lines[0]}, now {settings}; delete it to begin anew")
        for line in lines[1:]:
            journal._take(line)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        file.write_text(text, encoding="utf-8")  # without the line that a kill cut short
        return journal

    def add_ideas(self, ideas: Sequence[str]) -> None:
        """Keep new ideas."""
        self._add({"ideas": list(ideas)})

    def add_pair(self, idea: str, pair: tuple[str, str] | None) -> None:
        """Keep what became of an idea."""
        self._add({"idea": idea, "pair": pair})

    def _add(self, line: dict[str, Any]) -> None:
        self._append(line)
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        self.ideas += line.get("ideas", [])
        if "idea" in line:
            self.pairs[line["idea"]] = pair = tuple(line["pair"]) if line["pair"] else None
            if pair:
                self.distinct.setdefault((_same(pair[0]), _same(pair[1])), pair)

    def _append(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def generate(
    endpoint: Endpoint,
    count: int,
    journal: Journal,
    *,
    themes: Sequence[str] = THEMES,
    on_pair: Callable[[int], None] = lambda done: None,
) -> tuple[TwoViewPrompt, ...]:
    """Have the model write distinct pairs; what the journal holds already is not asked for again.

    Args:
        endpoint: the model.
        count: how many pairs.
        journal: keeps every answer that was usable.
        themes: one per batch of ideas, in turn.
        on_pair: told how many pairs there are.

    Raises:
        EndpointError, UsageError: the model gives nothing usable; the journal keeps what there is.
    """
    fruitless = 0
    while (done := len(journal.distinct)) < count:
        if fruitless >= FRUITLESS_IN_A_ROW:
            raise EndpointError(
                f"{endpoint.model} gave nothing new {fruitless} times in a row; {done} of {count} prompts are "
                f"kept in {journal.file}, the same command goes on from there"
            )
        on_pair(done)
        waiting = [idea for idea in journal.ideas if idea not in journal.pairs]
        if waiting:
            _write_out(endpoint, waiting[0], journal)
            fruitless = 0 if len(journal.distinct) > done else fruitless + 1
        elif not _find_ideas(endpoint, journal, themes):
            fruitless += 1
    on_pair(count)
    return tuple(
        TwoViewPrompt(f"scene_{i:05d}", *pair) for i, pair in enumerate([*journal.distinct.values()][:count])
    )


def as_json(prompts: Sequence[TwoViewPrompt]) -> str:
    """The integration's file of prompts."""
    entries = {p.name: {"top_view_prompt": p.room, "bottom_view_prompt": p.wrist} for p in prompts}
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def read_ideas(answer: str) -> list[str]:
    """The strings of the model's JSON array.

    Raises:
        ValueError: it is none.
    """
    ideas = _json_part(answer, "[", "]")
    if not isinstance(ideas, list) or not all(isinstance(idea, str) for idea in ideas):
        raise ValueError(f"not an array of strings: {answer[:80]!r}")
    if not (ideas := [" ".join(idea.split()) for idea in ideas if 3 <= len(idea.split()) <= 40]):
        raise ValueError("no idea of a usable length")
    return ideas


def read_pair(answer: str) -> tuple[str, str]:
    """Both prompts of the model's JSON object.

    Raises:
        ValueError: it is none, lacks one, or one is too short or too long.
    """
    content = _json_part(answer, "{", "}")
    texts = []
    for name, (fewest, most) in WORDS.items():
        text = content.get(name) if isinstance(content, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"{name} is missing: {answer[:80]!r}")
        if not fewest <= len(text.split()) <= most:
            raise ValueError(f"{name} has {len(text.split())} words, wanted are {fewest} to {most}")
        texts.append(" ".join(text.split()))
    return texts[0], texts[1]


def _find_ideas(endpoint: Endpoint, journal: Journal, themes: Sequence[str]) -> bool:
    """Ask for ideas on the next theme; whether there was a new one."""
    theme = themes[len(journal.ideas) // IDEAS_AT_ONCE % len(themes)]
    known = "; ".join(journal.ideas[-IDEAS_SHOWN:]) or "nothing yet"
    asked = IDEAS.format(theme=theme, count=IDEAS_AT_ONCE, known=known)
    found = endpoint.ask(asked, read_ideas, max_tokens=ANSWER_TOKENS)
    seen = {_same(idea) for idea in journal.ideas}
    new = {_same(idea): idea for idea in found if _same(idea) not in seen}
    if new:
        journal.add_ideas(list(new.values()))
    return bool(new)


def _write_out(endpoint: Endpoint, idea: str, journal: Journal) -> None:
    try:
        pair = endpoint.ask(WRITTEN_OUT.format(idea=idea), read_pair, temperature=0.7, max_tokens=ANSWER_TOKENS)
    except AnswerError:
        journal.add_pair(idea, None)
    else:
        journal.add_pair(idea, pair)


def _same(text: str) -> str:
    """What two texts share that differ in case, signs or spaces alone."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def _json_part(answer: str, first: str, last: str) -> Any:
    """The JSON in an answer that may be wrapped in a code fence or in words."""
    start, end = answer.find(first), answer.rfind(last)
    if start < 0 or end < start:
        raise ValueError(f"no JSON: {answer[:80]!r}")
    return json.loads(answer[start : end + 1])


def _whole_lines(file: Path) -> Iterator[Any]:
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # cut short by a kill; nothing follows it
            return
