"""What is to be done: episodes x variants, in natural order, the same on every rank."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from guided_transfer.errors import UsageError
from guided_transfer.runner.seeds import prompt_choice, view_seed


@dataclass(frozen=True, slots=True)
class EpisodeTask:
    """One episode file to be transferred once; what all seeds and names are derived from.

    Attributes:
        source: the HDF5 file.
        output: stem of everything written for it, for example "data_3" or "data_3_v1".
        run_seed: `--seed`.
        variant: which of several transfers of the same episode, from 0.
        attempt: which try at this variant, from 0; a rejected picture is tried again with other noise.
    """

    source: Path
    output: str
    run_seed: int
    variant: int = 0
    attempt: int = 0

    def target(self, output_dir: Path) -> Path:
        """The transferred episode's file."""
        return output_dir / f"{self.output}.hdf5"

    def seed(self, demo: str, view: str) -> int:
        """Seed of the noise of one view of one demo ("demo_0")."""
        return view_seed(self.run_seed, f"{self.source.stem}/{demo}", self.variant, self.attempt, view)

    def prompt_index(self, demo: str, num_prompts: int) -> int:
        """Which of `num_prompts` prompts this demo takes; the same for all views and attempts."""
        return prompt_choice(self.run_seed, f"{self.source.stem}/{demo}", self.variant, num_prompts)

    def next_attempt(self) -> EpisodeTask:
        """The same work with other noise."""
        return replace(self, attempt=self.attempt + 1)


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; job arrays count from 0, and so does this."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8": the third of eight parts."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--shard {text!r}: expected i/N with 0 <= i < N, for example 0/8 ... 7/8")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Plan:
    """The tasks of one run, in order."""

    tasks: tuple[EpisodeTask, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    def lines(self) -> Iterable[str]:
        """One line per task, for `--dry_run`."""
        for task in self.tasks:
            yield f"{task.source} -> {task.output}.hdf5 (variant {task.variant})"

    def check_output(self, output_dir: Path) -> None:
        """Refuse an output folder that holds the sources: results would be planned as inputs next time.

        Raises:
            UsageError: names the folder.
        """
        folder = output_dir.resolve()
        if folder in {source.resolve() for source in {task.source.parent for task in self.tasks}}:
            raise UsageError(
                f"--output_data_dir {output_dir} is the folder of the source episodes; "
                "outputs go to a folder of their own, for example --output_data_dir outputs/run_1"
            )


def build_plan(
    sources: Sequence[Path],
    *,
    seed: int,
    variants: int = 1,
    save_name_offset: int = 0,
    only: Sequence[str] = (),
    limit: int | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Plan the transfer of `sources`.

    Outputs are named data_<offset + number> after the number that ends the source's name; a source whose
    name ends in none keeps its own name. Variant 0 has no suffix, so asking for more variants later adds to
    what is there.

    Args:
        sources: episode files, in natural order.
        seed: `--seed`.
        variants: transfers per episode.
        save_name_offset: added to the numbers of output names.
        only: stems or patterns ("data_3", "data_1*"); empty means all.
        limit: at most so many episodes, each with all its variants.
        shard: this job's part of the tasks.

    Raises:
        UsageError: nothing to do, an unknown name in `only`, or two sources that ask for one output name.
    """
    _at_least("--variants", variants, 1)
    if limit is not None:
        _at_least("--limit", limit, 1)
    chosen = _choose(sources, only)[:limit]
    tasks = [
        EpisodeTask(source, output_stem(source.stem, save_name_offset, variant), seed, variant)
        for source in chosen
        for variant in range(variants)
    ]
    _refuse_collisions(tasks)
    part = shard or Shard()
    return Plan(tuple(tasks[part.index :: part.count]))


def output_stem(stem: str, save_name_offset: int, variant: int = 0) -> str:
    """data_<offset + number> for names like data_7 or take_007, other names as they are; then _v<variant>."""
    _, underscore, tail = stem.rpartition("_")
    name = f"data_{save_name_offset + int(tail)}" if underscore and tail.isdecimal() else stem
    return f"{name}_v{variant}" if variant else name


def _at_least(argument: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{argument} {value}: must be {least} or more")


def _choose(sources: Sequence[Path], only: Sequence[str]) -> list[Path]:
    if not only:
        return list(sources)
    stems = [source.stem for source in sources]
    for pattern in only:
        if not any(fnmatchcase(stem, pattern) for stem in stems):
            near = ", ".join(get_close_matches(pattern, stems)) or ", ".join(stems[:3])
            raise UsageError(f"--only {pattern}: no such episode among {len(stems)}; near: {near}")
    return [source for source in sources if any(fnmatchcase(source.stem, pattern) for pattern in only)]


def _refuse_collisions(tasks: Iterable[EpisodeTask]) -> None:
    taken: dict[str, EpisodeTask] = {}
    for task in tasks:
        first = taken.setdefault(task.output, task)
        if first is not task:
            raise UsageError(
                f"{first.source} and {task.source} would both become {task.output}.hdf5; "
                "rename one, or take them in two runs with --only and another --save_name_offset"
            )
