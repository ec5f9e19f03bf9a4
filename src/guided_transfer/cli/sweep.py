"""`guided-transfer sweep`: a few episodes made in several ways, as a curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from guided_transfer.cli.arguments import CommandLine, flattened, parse
from guided_transfer.cli.settings import Group, TransferSettings
from guided_transfer.errors import UsageError

if TYPE_CHECKING:
    from guided_transfer.cli.process import EpisodeTransfer
    from guided_transfer.cli.resolved import ResolvedRun
    from guided_transfer.generation import GenerationSettings
    from guided_transfer.report.curve import Point
    from guided_transfer.runner.plan import EpisodeTask
    from guided_transfer.two_view import TwoViewSettings
    from guided_transfer.types import Episode, TransferResult

ABOUT = (
    "How faithful, how free: transfers a few episodes with several values of one setting after the other, directly "
    "and with the foreground pasted, and draws foreground fidelity against background change into "
    "<output_data_dir>/sweep. Takes every argument of transfer."
)
FEW_EPISODES = 3
NATIVE = "native"
SQUARE = (224, 224)


class SweepSettings(Group):
    """What is tried."""

    sweep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE,...")] = Field(
        default=("sigma_threshold=0.1,0.3,1,3,10",),
        description="settings to try one after the other, each with several values and always the run's own: "
        "sigma_threshold, num_steps, resolution, or a control (edge, depth, ...) for its weight",
    )


class SweepCommand(TransferSettings):
    """The arguments of transfer, and what is tried."""

    tried: SweepSettings = SweepSettings()


@dataclass(frozen=True)
class Trial:
    """One way of making the episodes: a point of the curve, and the settings that give it.

    Attributes:
        method: "guided", "direct" or "composite".
        setting, value: what is tried, as in `Point`.
        two_view, generation: the settings in full.
        chosen: whether they are the run's own.
    """

    method: str
    setting: str
    value: float | str | None
    two_view: TwoViewSettings
    generation: GenerationSettings
    chosen: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command, given = parse(argv, SweepCommand, prog="guided-transfer sweep", about=ABOUT)
    from guided_transfer.cli.plan import output_folder
    from guided_transfer.cli.report import finish_report
    from guided_transfer.cli.resolve import resolve
    from guided_transfer.report.curve import Sweep, write_sweep

    asked = TransferSettings.model_validate(command.model_dump(exclude={"tried"}))
    for name in ("dry_run", "preview"):
        if getattr(asked.run, name):
            raise UsageError(f"sweep has no --{name}; `guided-transfer transfer --{name}` shows one of its runs")
    run = resolve(CommandLine(asked, given - SweepSettings.model_fields.keys()))
    tried = trials(run, command.tried.sweep)
    names, points = measure(run, tried)
    folder = output_folder(run)
    for path in write_sweep(folder / "sweep", Sweep(names, points, flattened(run.settings))):
        print(path)
    if (folder / "run.json").exists():
        print(finish_report(folder))
    return 0


def trials(run: ResolvedRun, tried: Sequence[str]) -> list[Trial]:
    """Guided with every value of every setting, then direct, then composite; the last two with the run's own.

    Args:
        run: whose settings are varied.
        tried: "name=value,value,..." each.

    Raises:
        UsageError: a name or a value that cannot be tried.
    """
    own = replace(run.two_view, composite_foreground=False, resolution=run.two_view.resolution or NATIVE)
    generation = run.generation
    found = []
    for words in tried:
        setting, values = _read(words, own, generation)
        for value in values:
            two_view, generated_by = _with(setting, value, own, generation)
            chosen = (two_view, generated_by) == (own, generation)
            found.append(Trial("guided", setting, value, two_view, generated_by, chosen))
    # Nothing is held above the noise level that sampling starts from.
    direct = replace(own, sigma_threshold=generation.sigma_max)
    pasted = replace(own, composite_foreground=True)
    return [
        *found,
        Trial("direct", "", None, direct, generation),
        Trial("composite", "", None, pasted, generation),
    ]


def _read(words: str, own: TwoViewSettings, generation: GenerationSettings) -> tuple[str, list[float | str]]:
    """Name and values in order, the run's own among them."""
    setting, equals, listed = words.partition("=")
    mine: dict[str, float | str | object] = {
        "sigma_threshold": own.sigma_threshold,
        "num_steps": generation.num_steps,
        "resolution": own.resolution,
        **own.control_weights,
    }
    if not equals or setting not in mine:
        raise UsageError(
            f"sweep is {words!r}; accepted is NAME=VALUE,VALUE,... with one of {', '.join(mine)}, "
            "for example sigma_threshold=0.1,0.3,1"
        )
    values = [value.strip() for value in listed.split(",")]
    try:
        if setting == "resolution":
            for value in values:
                replace(own, resolution=value).model_sizes(SQUARE, SQUARE)  # refuses what is none
            return setting, list(dict.fromkeys([own.resolution, *values]))
        convert = int if setting == "num_steps" else float
        numbers: list[float] = [convert(value) for value in values]
        if min(numbers) < (1 if setting == "num_steps" else 0):
            raise ValueError
    except ValueError:
        accepted = "whole numbers of at least 1" if setting == "num_steps" else "numbers of at least 0"
        raise UsageError(
            f"sweep is {words!r}: {listed!r} are no values for {setting}; accepted are {accepted}"
        ) from None
    given = mine[setting]
    if not isinstance(given, int | float):
        raise UsageError(f"sweep is {words!r}: the run's own weight of {setting} is a map, {given}")
    return setting, [*sorted({*numbers, given})]


def _with(
    setting: str, value: float | str, own: TwoViewSettings, generation: GenerationSettings
) -> tuple[TwoViewSettings, GenerationSettings]:
    """The run's settings with one of them changed."""
    if setting == "num_steps":
        return own, replace(generation, num_steps=int(value))
    if setting in own.control_weights:
        return replace(own, control_weights={**own.control_weights, setting: float(value)}), generation
    if setting == "resolution":
        return replace(own, resolution=str(value)), generation
    return replace(own, sigma_threshold=float(value)), generation


def measure(run: ResolvedRun, tried: Sequence[Trial]) -> tuple[list[str], list[Point]]:
    """Names of the episodes, and a point per trial and per row that fools nobody."""
    from guided_transfer.cli.plan import output_folder
    from guided_transfer.cli.process import EpisodeTransfer, measured
    from guided_transfer.metrics.suite import baseline_rows
    from guided_transfer.report.curve import Point
    from guided_transfer.report.data import mean_figures
    from guided_transfer.report.figures import Figures, figures_of
    from guided_transfer.runner.process import Place

    labels = run.two_view.foreground_labels
    process, names = EpisodeTransfer(run, Place(), output_dir=output_folder(run)), []
    found: list[list[Figures]] = [[] for _ in tried]
    baselines: dict[str, list[Figures]] = {}
    for task, episode in few_episodes(run, process):
        names.append(episode.id)
        known: list[tuple[Trial, Figures]] = []
        for trial, figures in zip(tried, found, strict=True):
            # The run's own settings are on every curve, and made once.
            same = next((figures for other, figures in known if other.chosen and trial.chosen), None)
            if same is None:
                same = figures_of(measured(episode, generated(process, task, episode, trial), labels).as_dict())
                process.reporter.note(f"{episode.id}: {trial.method} {trial.setting} {trial.value or ''}".rstrip())
            known.append((trial, same))
            figures.append(same)
        for name, metrics in baseline_rows(episode, foreground_labels=labels).items():
            baselines.setdefault(name, []).append(figures_of(metrics.as_dict()))
    points = [
        Point(trial.method, trial.setting, trial.value, mean_figures(figures), trial.chosen)
        for trial, figures in zip(tried, found, strict=True)
    ]
    return names, [*points, *(Point(name, "", None, mean_figures(rows)) for name, rows in baselines.items())]


def generated(process: EpisodeTransfer, task: EpisodeTask, episode: Episode, trial: Trial) -> TransferResult:
    """One episode, made this way."""
    process.pipeline.settings = trial.generation
    return process.generate(task, episode, trial.two_view)


def few_episodes(run: ResolvedRun, process: EpisodeTransfer) -> Iterator[tuple[EpisodeTask, Episode]]:
    """The first demo of each of the episodes chosen by --only and --limit; FEW_EPISODES where neither says."""
    from guided_transfer.cli.plan import plan_episodes

    inputs = run.settings.inputs
    tasks = [task for task in plan_episodes(run).tasks if task.variant == 0]
    tasks = tasks if inputs.limit or inputs.wanted else tasks[:FEW_EPISODES]
    if process.written:
        process.written.write_out(tasks, process.reporter)
    for task in tasks:
        yield task, process.look(task, process.read(task)[0])[0]
