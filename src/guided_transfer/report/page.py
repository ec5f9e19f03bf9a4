"""From data to pages: one folder that opens from disk and asks nothing of anybody."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from guided_transfer.report.data import KINDS, ZONE_COLOURS, RunReport, read_run
from guided_transfer.report.figures import EXTRA_FIGURES, FIGURES, OVERVIEW, shown
from guided_transfer.whole import whole_file

STATIC = ("report.css", "overview.js", "player.js")


def write_pages(output_dir: Path) -> Path:
    """Write `<output>/report/`: index.html, a page per episode, and report.json with the same data.

    Args:
        output_dir: of a run; media are shown as they lie in its `report/media`.

    Returns:
        The index page.

    Raises:
        UsageError: the folder holds no run.
    """
    run = read_run(output_dir)
    static = files("guided_transfer.report") / "static"
    texts = {
        **{f"static/{name}": (static / name).read_text(encoding="utf-8") for name in STATIC},
        **pages_of(run),
        "report.json": json.dumps(strict(asdict(run)), indent=1, allow_nan=False),
    }
    if run.sweep:
        texts["sweep.svg"] = (output_dir / "sweep" / "sweep.svg").read_text(encoding="utf-8")
    for name, text in texts.items():
        _publish(output_dir / "report" / name, text)
    return output_dir / "report" / "index.html"


def pages_of(run: RunReport) -> dict[str, str]:
    """HTML by path below the report's folder."""
    environment = Environment(
        loader=PackageLoader("guided_transfer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals = {
        "run": run,
        "FIGURES": FIGURES,
        "EXTRA_FIGURES": EXTRA_FIGURES,
        "columns": OVERVIEW,
        "shown": shown,
        "TITLES": KINDS,
        "ZONES": ZONE_COLOURS,
    }
    pages = {"index.html": environment.get_template("index.html").render(root="")}
    episode_page, episodes = environment.get_template("episode.html"), list(run.episodes)
    for episode, before, after in zip(episodes, [None, *episodes], [*episodes[1:], None], strict=False):
        pages[f"episodes/{episode.key}.html"] = episode_page.render(
            root="../", episode=episode, before=before, after=after
        )
    return pages


def strict(value: Any) -> Any:
    """A value as strict JSON holds it: "inf" as text."""
    if isinstance(value, dict):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def _publish(path: Path, text: str) -> None:
    """A reader meets the old text or the new one; several machines may write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=False) as partial:
        partial.write_text(text, encoding="utf-8")
