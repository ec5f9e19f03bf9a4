"""From argv to settings: command line, then specs JSON, then the checkpoint's own defaults, then the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from guided_transfer.cli.settings import TransferSettings
from guided_transfer.errors import UsageError

GROUP_OF = {
    name: group
    for group, field in TransferSettings.model_fields.items()
    for name in field.annotation.model_fields  # type: ignore[union-attr]
}
"""The group that holds each argument."""

ALIASES = {"json": "json_lines"}

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
"""What a user calls a type."""

BOUNDS = {"ge": "of at least", "gt": "above"}
"""Limits that settings have, by pydantic's name of each."""

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

    Raises:
        UsageError: a value that its argument does not take.
    """
    words, given = _spelled(argv, fields_of(command))
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


def fields_of(command: Any) -> dict[str, FieldInfo]:
    """The settings of a class by argument name, those of its groups among them."""
    found: dict[str, FieldInfo] = {}
    for name, field in command.model_fields.items():
        is_group = hasattr(field.annotation, "model_fields")
        found |= fields_of(field.annotation) if is_group else {name: field}
    return found


def value_fault(field: FieldInfo, value: Any) -> str:
    """Why a setting does not take a value, in words that say what it takes; "" where it takes it."""
    try:
        TypeAdapter(Annotated[field.annotation, field]).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        own = error.errors()[0].get("ctx", {}).get("error")  # of a check of ours, which says it better
        return str(own or f"accepted is {_accepted(field)}")
    return ""


def _accepted(field: FieldInfo) -> str:
    kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    kind: Any = next(kind for kind in kinds if kind is not type(None))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    limits = [
        f" {words} {getattr(limit, bound):g}"
        for limit in field.metadata
        for bound, words in BOUNDS.items()
        if hasattr(limit, bound)
    ]
    return KINDS.get(kind, str(kind)) + "".join(limits)


def argument_fault(name: str, value: Any) -> str:
    """As `value_fault`, for an argument of `transfer` by its name."""
    return value_fault(FIELDS[name], value)


def _updated(settings: TransferSettings, origin: str, values: Mapping[str, Any]) -> TransferSettings:
    grouped = settings.model_dump()
    for name, value in values.items():
        if name not in GROUP_OF:
            close = get_close_matches(name, GROUP_OF, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{origin}: {name!r} is no argument{hint}")
        if fault := argument_fault(name, value):
            raise UsageError(f"{origin}: {name} is {value!r}; {fault}")
        grouped[GROUP_OF[name]][name] = value
    return TransferSettings.model_validate(grouped)


def _spelled(argv: Sequence[str], fields: Mapping[str, FieldInfo]) -> tuple[list[str], set[str]]:
    """`argv` with every boolean as --flag or --no_flag, and the names in it."""
    flags = {name for name, field in fields.items() if field.annotation is bool}
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
            if has_value or (rest and not rest[0].startswith("--")):
                _refuse_bad_value(fields, name, value if has_value else rest[0])
            continue
        if not has_value and rest and rest[0].lower() in TRUE_WORDS + FALSE_WORDS:
            has_value, value = "=", rest.pop(0)
        wanted = _truth(base, value) if has_value else True
        words.append(f"--{base}" if wanted == (base == name) else f"--no_{base}")
    return words, given


def _refuse_bad_value(fields: Mapping[str, FieldInfo], name: str, value: str) -> None:
    """Before tyro sees a number or a text, whose words for it would be pydantic's; of choices it speaks well."""
    field = fields.get(name)
    if field is None or value == "None" or get_origin(field.annotation) in (Literal, tuple):
        return
    if fault := value_fault(field, value):
        raise UsageError(f"--{name} is {value!r}; {fault}")


def _truth(name: str, value: str) -> bool:
    if value.lower() in TRUE_WORDS:
        return True
    if value.lower() in FALSE_WORDS:
        return False
    raise UsageError(f"--{name} is {value!r}, accepted are True and False")


FIELDS = fields_of(TransferSettings)
"""The settings of `transfer` by argument name."""
