"""Words that no prompt may hold.

Follows what the reference's blocklist decides: entries of `custom` match whole words, also with letters written as
signs (`4` for a), in the prompt as it is and with plurals made singular, unless the word is on the whitelist;
entries of `exact_match` match whole words, and nearly equal ones from six letters on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

from guided_transfer.errors import Blocked, CheckpointError

NAME = "blocklist"
WRITTEN_AS = {
    "a": "a@*4",
    "e": "e*3",
    "i": "i*l1",
    "l": "l1",
    "o": "o*0@",
    "s": "s$5",
    "t": "t7",
    "u": "u*v",
    "v": "v*u",
}
"""Signs that stand for a letter."""
FUZZY_FROM_LETTERS = 6
FUZZY_LETTERS_OFF = 0.4
"""An entry of n letters matches what is at least (n - 0.4) / n similar to it."""
IRREGULAR = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth"}
INVISIBLE = ("Cf", "Mn")
"""Unicode categories of signs that are not seen: zero-width spaces, soft hyphens, accents on their own."""


class Blocklist:
    """Word lists that are ready to be matched.

    Args:
        custom: words and phrases that match in any spelling.
        exact: words and phrases that match as they are, or nearly.
        whitelist: words that are let pass though they are in `custom` or are spelled like it.

    Raises:
        CheckpointError: there is nothing to match.
    """

    def __init__(self, custom: Iterable[str], exact: Iterable[str], whitelist: Iterable[str]) -> None:
        self.whitelist = frozenset(plain(word) for word in whitelist)
        words = {plain(word) for word in custom} - self.whitelist - {""}
        self.exact = sorted({plain(word) for word in exact} - {""})
        if not words or not self.exact:
            raise CheckpointError(f"{NAME}: a word list is empty, so it would let everything pass")
        spelled = (r"\s+".join(_any_spelling(part) for part in word.split()) for word in sorted(words))
        self.custom = re.compile(rf"(?<![^\W_])(?:{'|'.join(spelled)})(?![^\W_])")

    @classmethod
    def from_folder(cls, folder: Path) -> Blocklist:
        """Read the lists `custom`, `exact_match` and `whitelist`, one entry per line of every file in them.

        Raises:
            CheckpointError: a list is missing, empty or no text.
        """
        return cls(*(_entries(folder / name) for name in ("custom", "exact_match", "whitelist")))

    def check(self, text: str) -> None:
        """Let a prompt pass.

        Raises:
            Blocked: it is empty, or holds an entry.
        """
        prompt = plain(text)
        if not prompt:
            raise Blocked(NAME, "the prompt is empty")
        for version in (prompt, " ".join(singular(word) for word in prompt.split())):
            if found := self._spelled(version):
                raise Blocked(NAME, f"the prompt holds {found!r}")
        for entry in self.exact:
            if re.search(rf"\b{re.escape(entry)}\b", prompt):
                raise Blocked(NAME, f"the prompt holds {entry!r}")
        for entry in self.exact:
            if len(entry) >= FUZZY_FROM_LETTERS and (found := _nearly(prompt, entry)):
                raise Blocked(NAME, f"the prompt holds {found!r}, nearly {entry!r}")

    def _spelled(self, prompt: str) -> str | None:
        matches = (match.group() for match in self.custom.finditer(prompt))
        return next((match for match in matches if match not in self.whitelist), None)


def plain(text: str) -> str:
    """Lower case, compatible letters made plain, without invisible signs, single spaces."""
    letters = unicodedata.normalize("NFKD", text)
    seen = "".join(letter for letter in letters if unicodedata.category(letter) not in INVISIBLE)
    return " ".join(seen.lower().split())


def singular(word: str) -> str:
    """A noun without its plural ending; other words may lose an s, which does no harm here."""
    stem = word.strip(".,;:!?\"'()")
    if stem in IRREGULAR:
        return IRREGULAR[stem]
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("s", "")):
        if stem.endswith(ending) and not stem.endswith(("ss", "us", "is")) and len(stem) > len(ending) + 1:
            return stem.removesuffix(ending) + instead
    return stem


def _any_spelling(word: str) -> str:
    return "".join(
        f"[{re.escape(WRITTEN_AS[letter])}]" if letter in WRITTEN_AS else re.escape(letter) for letter in word
    )


def _nearly(prompt: str, entry: str) -> str | None:
    """The stretch of as many words as the entry has that is similar enough to it."""
    least = (len(entry) - FUZZY_LETTERS_OFF) / len(entry)
    matcher = SequenceMatcher(None, b=entry)
    for stretch in _stretches(prompt.split(), len(entry.split())):
        matcher.set_seq1(stretch)
        if matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least and matcher.ratio() >= least:
            return stretch
    return None


def _stretches(words: list[str], length: int) -> Iterator[str]:
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def _entries(folder: Path) -> list[str]:
    files = sorted(file for file in folder.glob("*") if file.is_file())
    if not files:
        raise CheckpointError(f"{folder}: no word list")
    try:
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from None
