"""`guided-transfer prompts generate --count 100 --out prompts.json`: prompts for both views, all different."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.errors import UsageError

if TYPE_CHECKING:
    from guided_transfer.prompts.endpoint import Endpoint

DEFAULT_MODEL = "google/gemma-3-27b-it"


class GenerateSettings(BaseModel):
    """How many, and by whom."""

    count: int = Field(default=100, ge=1, description="how many pairs of prompts")
    out: Path = Field(default=Path("prompts.json"), description="the file, for `transfer --prompt`")
    seed: int = Field(default=0, description="of the built-in grammar")
    theme_file: str = Field(
        default="", description="text file with one kind of room per line; unset = the own ones"
    )
    llm_base_url: str = Field(
        default="", description="OpenAI-compatible endpoint; unset = the built-in grammar, which needs none"
    )
    llm_model: str = Field(default=DEFAULT_MODEL, description="model of the endpoint; the key is in LLM_API_KEY")
    requests_per_minute: float = Field(default=0.0, ge=0, description="at most so many questions; 0 = no limit")
    timeout_s: float = Field(default=120.0, gt=0, description="for one answer [s]")
    usd_per_million_in: float = Field(
        default=0.0, ge=0, description="price of a million tokens in, to show the cost"
    )
    usd_per_million_out: float = Field(default=0.0, ge=0, description="price of a million tokens out")
    overwrite: bool = Field(default=False, description="replace --out where it exists")


def main(argv: Sequence[str]) -> int:
    """Run the action and return its exit code."""
    if not argv or argv[0] != "generate":
        if argv and argv[0] in ("-h", "--help"):
            print(__doc__)
            return 0
        raise UsageError(f"prompts {argv[0] if argv else ''!r}: say what to do, one of generate")
    settings, _ = parse(argv[1:], GenerateSettings, prog="guided-transfer prompts generate", about=__doc__)
    if settings.out.suffix != ".json":
        raise UsageError(
            f"out is {str(settings.out)!r}; its name must end in .json, so that --prompt knows it as a file"
        )
    if settings.out.exists() and not settings.overwrite:
        raise UsageError(f"{settings.out} exists; choose another --out, or give --overwrite")
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    return by_language_model(settings) if settings.llm_base_url else by_grammar(settings)


def by_grammar(settings: GenerateSettings) -> int:
    """Write prompts from the built-in vocabulary."""
    from guided_transfer.prompts.grammar import write_prompts
    from guided_transfer.prompts.two_stage import as_json

    publish(settings.out, as_json(write_prompts(settings.count, settings.seed, themes_of(settings))))
    print(f"{settings.count} prompts in {settings.out}")
    return 0


def by_language_model(settings: GenerateSettings) -> int:
    """Have a language model write them; a run that was stopped goes on where it was."""
    from rich.console import Console

    from guided_transfer.prompts.endpoint import Endpoint
    from guided_transfer.prompts.two_stage import THEMES, Journal, as_json, generate

    endpoint = Endpoint(
        settings.llm_base_url,
        settings.llm_model,
        timeout_s=settings.timeout_s,
        requests_per_minute=settings.requests_per_minute,
    )
    themes = themes_of(settings) or THEMES
    journal = Journal.open(
        settings.out.with_suffix(".journal.jsonl"), {"model": settings.llm_model, "themes": list(themes)}
    )
    start_s, before = time.monotonic(), len(journal.distinct)

    def told(done: int) -> str:
        seconds = time.monotonic() - start_s
        left = f", {seconds / (done - before) * (settings.count - done):.0f} s left" if done > before else ""
        return f"{done}/{settings.count} prompts, {seconds:.0f} s{left}, {cost(settings, endpoint)}"

    with Console(stderr=True).status("") as status:
        prompts = generate(
            endpoint, settings.count, journal, themes=themes, on_pair=lambda done: status.update(told(done))
        )
    publish(settings.out, as_json(prompts))
    journal.file.unlink()
    print(f"{len(prompts)} prompts in {settings.out}, {cost(settings, endpoint)}")
    return 0


def cost(settings: GenerateSettings, endpoint: Endpoint) -> str:
    """Tokens used by this command, and their price where it is known."""
    tokens_in, tokens_out = endpoint.tokens_in, endpoint.tokens_out
    usd = (tokens_in * settings.usd_per_million_in + tokens_out * settings.usd_per_million_out) / 1e6
    return f"{tokens_in} tokens in, {tokens_out} out" + (f", {usd:.2f} USD" if usd else "")


def themes_of(settings: GenerateSettings) -> tuple[str, ...]:
    """The lines of --theme_file.

    Raises:
        UsageError: there is no such file, or nothing in it.
    """
    if not settings.theme_file:
        return ()
    try:
        text = Path(settings.theme_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"theme_file {settings.theme_file!r} cannot be read: {error}") from None
    themes = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not themes:
        raise UsageError(f"theme_file {settings.theme_file!r} is empty; give one kind of room per line")
    return themes


def publish(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
