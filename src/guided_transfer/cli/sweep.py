"""`guided-transfer sweep`: a few episodes at several sigma_thresholds, as a curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from guided_transfer.cli.arguments import CommandLine, flattened, parse
from guided_transfer.cli.settings import Group, TransferSettings

if TYPE_CHECKING:
    from guided_transfer.cli.process import EpisodeTransfer
    from guided_transfer.cli.resolve import ResolvedRun
    from guided_transfer.report.curve import Point
    from guided_transfer.runner.plan import EpisodeTask
    from guided_transfer.two_view import TwoViewSettings
    from guided_transfer.types import Episode

ABOUT = (
    "How faithful, how free: transfers a few episodes at several sigma_thresholds, directly and with the "
    "foreground pasted, and draws foreground fidelity against background change into <output_data_dir>/sweep. "
    "Takes every argument of transfer."
)
FEW_EPISODES = 3


def _as_thresholds(value: str) -> str:
    if not value or any(float(part) < 0 for part in value.split(",")):
        raise ValueError("noise levels of 0 or more separated by commas, for example 0.1,0.3,1,3")
    return value


class SweepSettings(Group):
    """What is tried."""

    sigma_thresholds: Annotated[str, AfterValidator(_as_thresholds)] = Field(
        default="0.1,0.3,1,3,10", description="noise levels, comma-separated; the run's own is always among them"
    )


class SweepCommand(TransferSettings):
    """The arguments of transfer, and what is tried."""

    sweep: SweepSettings = SweepSettings()


@dataclass(frozen=True)
class Trial:
    """One way of making the episodes: a point of the curve, and the settings that give it."""

    method: str
    sigma_threshold: float | None
    settings: TwoViewSettings
    chosen: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    command, given = parse(argv, SweepCommand, prog="guided-transfer sweep", about=ABOUT)
    from guided_transfer.cli.plan import output_folder
    from guided_transfer.cli.report import finish_report
    from guided_transfer.cli.resolve import resolve
    from guided_transfer.report.curve import Sweep, write_sweep

    asked = TransferSettings.model_validate(command.model_dump(exclude={"sweep"}))
    run = resolve(CommandLine(asked, given - SweepSettings.model_fields.keys()))
    tried = trials(run, [float(part) for part in command.sweep.sigma_thresholds.split(",")])
    names, points = measure(run, tried)
    folder = output_folder(run)
    for path in write_sweep(folder / "sweep", Sweep(names, points, flattened(run.settings))):
        print(path)
    if (folder / "run.json").exists():
        print(finish_report(folder))
    return 0


def trials(run: ResolvedRun, thresholds: Sequence[float]) -> list[Trial]:
    """Guided at every threshold, then direct, then composite at the run's own threshold."""
    chosen = run.settings.guidance.sigma_threshold
    plain = replace(run.two_view, composite_foreground=False)
    guided = [
        Trial("guided", sigma, replace(plain, sigma_threshold=sigma), chosen=sigma == chosen)
        for sigma in sorted({*thresholds, chosen})
    ]
    # Nothing is held above the noise level that sampling starts from.
    direct = Trial("direct", None, replace(plain, sigma_threshold=run.settings.sampling.sigma_max))
    composite = Trial("composite", chosen, replace(run.two_view, composite_foreground=True))
    return [*guided, direct, composite]


def measure(run: ResolvedRun, tried: Sequence[Trial]) -> tuple[list[str], list[Point]]:
    """Names of the episodes, and a point per trial and per row that fools nobody."""
    from guided_transfer.cli.process import EpisodeTransfer, measured
    from guided_transfer.metrics.suite import baseline_rows
    from guided_transfer.report.curve import Point
    from guided_transfer.report.data import mean_figures
    from guided_transfer.report.figures import Figures, figures_of
    from guided_transfer.runner.process import Place

    labels = run.two_view.foreground_labels
    process, names = EpisodeTransfer(run, Place()), []
    found: list[list[Figures]] = [[] for _ in tried]
    baselines: dict[str, list[Figures]] = {}
    for task, episode in few_episodes(run, process):
        names.append(episode.id)
        for trial, figures in zip(tried, found, strict=True):
            result = process.generate(task, episode, trial.settings)
            figures.append(figures_of(measured(episode, result, labels).as_dict()))
            process.reporter.note(f"{episode.id}: {trial.method} {trial.sigma_threshold or ''}")
        for name, metrics in baseline_rows(episode, foreground_labels=labels).items():
            baselines.setdefault(name, []).append(figures_of(metrics.as_dict()))
    points = [
        Point(trial.method, trial.sigma_threshold, mean_figures(figures), trial.chosen)
        for trial, figures in zip(tried, found, strict=True)
    ]
    return names, [*points, *(Point(name, None, mean_figures(rows)) for name, rows in baselines.items())]


def few_episodes(run: ResolvedRun, process: EpisodeTransfer) -> Iterator[tuple[EpisodeTask, Episode]]:
    """The first demo of each of the episodes chosen by --only and --limit; FEW_EPISODES where neither says."""
    from guided_transfer.cli.plan import plan_episodes

    inputs = run.settings.inputs
    tasks = [task for task in plan_episodes(run).tasks if task.variant == 0]
    for task in tasks if inputs.limit or inputs.wanted else tasks[:FEW_EPISODES]:
        yield task, process.read(task)[0]
