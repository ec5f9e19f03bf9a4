"""From argv to settings: command line, then specs JSON, then the checkpoint's own defaults, then the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import tyro
from pydantic import ValidationError

from guided_transfer.cli.settings import TransferSettings
from guided_transfer.errors import UsageError

GROUP_OF = {
    name: group
    for group, field in TransferSettings.model_fields.items()
    for name in field.annotation.model_fields  # type: ignore[union-attr]
}
"""The group that holds each argument."""

ALIASES = {"json": "json_lines"}

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


@dataclass(frozen=True)
class CommandLine:
    """What was typed.

    Attributes:
        settings: typed values over the table's defaults.
        given: the names that were really typed; no other source may change these.
    """

    settings: TransferSettings
    given: frozenset[str]

    def over(self, *layers: tuple[str, Mapping[str, Any]]) -> TransferSettings:
        """The settings with `layers` below the command line, the strongest layer first.

        Args:
            layers: where the values come from (a file name, for errors), and values by argument name.

        Raises:
            UsageError: a name that is no argument, or a value it does not take.
        """
        typed = {name: value for name, value in flattened(self.settings).items() if name in self.given}
        settings = TransferSettings()
        for origin, values in reversed([("command line", typed), *layers]):
            settings = _updated(settings, origin, values)
        return settings


def parse(
    argv: Sequence[str], command: Callable[..., Any] = TransferSettings, *, prog: str, about: str
) -> tuple[Any, frozenset[str]]:
    """Read `argv` into `command`, a class whose fields are settings or groups of settings.

    Takes what argparse users of the integration type: underscores or hyphens, `--flag`, `--flag False`,
    `--flag=False`, `--no_flag`.

    Returns:
        The settings, and the names that were really typed.
    """
    flags = _boolean_names(command)
    words, given = _spelled(argv, flags)
    settings = tyro.cli(
        command, args=words, prog=prog, description=about, use_underscores=True, config=(tyro.conf.OmitArgPrefixes,)
    )
    return settings, frozenset(given)


def parse_transfer(argv: Sequence[str], *, prog: str, about: str) -> CommandLine:
    """The command line of `transfer`."""
    return CommandLine(*parse(argv, prog=prog, about=about))


def flattened(settings: TransferSettings) -> dict[str, Any]:
    """Every value by argument name, without the groups."""
    return {name: value for group in settings.model_dump().values() for name, value in group.items()}


def _updated(settings: TransferSettings, origin: str, values: Mapping[str, Any]) -> TransferSettings:
    grouped = settings.model_dump()
    for name, value in values.items():
        if name not in GROUP_OF:
            close = get_close_matches(name, GROUP_OF, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{origin}: {name!r} is no argument{hint}")
        grouped[GROUP_OF[name]][name] = value
    try:
        return TransferSettings.model_validate(grouped)
    except ValidationError as error:
        fault = error.errors()[0]
        reason = fault["msg"].removeprefix("Value error, ")
        raise UsageError(f"{origin}: {fault['loc'][-1]} is {fault['input']!r}: {reason}") from None


def _boolean_names(command: Any) -> set[str]:
    names: set[str] = set()
    for name, field in command.model_fields.items():
        if field.annotation is bool:
            names.add(name)
        elif hasattr(field.annotation, "model_fields"):
            names |= _boolean_names(field.annotation)
    return names


def _spelled(argv: Sequence[str], flags: set[str]) -> tuple[list[str], set[str]]:
    """`argv` with every boolean as --flag or --no_flag, and the names in it."""
    words: list[str] = []
    given: set[str] = set()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            words.append(word)
            continue
        key, has_value, value = word[2:].partition("=")
        name = ALIASES.get(key, key.replace("-", "_"))
        base = name.removeprefix("no_") if name.removeprefix("no_") in flags else name
        given.add(base)
        if base not in flags:
            words.append(f"--{name}{has_value}{value}")
            continue
        if not has_value and rest and rest[0].lower() in TRUE_WORDS + FALSE_WORDS:
            has_value, value = "=", rest.pop(0)
        wanted = _truth(base, value) if has_value else True
        words.append(f"--{base}" if wanted == (base == name) else f"--no_{base}")
    return words, given


def _truth(name: str, value: str) -> bool:
    if value.lower() in TRUE_WORDS:
        return True
    if value.lower() in FALSE_WORDS:
        return False
    raise UsageError(f"--{name} is {value!r}, accepted are True and False")
