"""Does guidance keep the promise? Guided, direct, composite and independent views on held-out episodes.

    python benchmarks/quality.py --work runs/quality                               # 16 procedural episodes
    python benchmarks/quality.py --work runs/quality --episodes 4 --episode FILE   # and a recorded one, kept apart
    python benchmarks/quality.py --work runs/quality --only_table                  # from what is measured already

Other arguments go to `guided-transfer transfer` (--device cuda, --checkpoint_dir DIR). Writes
benchmarks/results/quality.json and quality.md, the table of the README. What is finished stays in --work under the
hash of weights and settings: a run that was killed goes on, and retrained weights begin anew.

"Independent views" makes the wrist view by itself, guided by its own simulated picture and told its own prompt,
beside the room view of the guided row: what one gets without the warp. The cross-view error is 0 for the simulated
pair and 1 for a wrist view beside the guided room view of another prompt, whose foreground is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from guided_transfer.cli.arguments import parse_transfer
from guided_transfer.cli.process import EpisodeTransfer, measured
from guided_transfer.cli.resolve import resolve
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.cli.sweep import Trial, few_episodes, generated, trials
from guided_transfer.cli.transfer import identity
from guided_transfer.metrics.suite import baseline_rows
from guided_transfer.report.data import mean_figures
from guided_transfer.report.figures import FIGURES, Figures, figures_of, shown
from guided_transfer.runner.files import write_json
from guided_transfer.runner.process import Place
from guided_transfer.scenes import simulate
from guided_transfer.two_view import transfer_episode, view_names
from guided_transfer.types import Episode, TransferResult

THRESHOLDS = (1.2866, 0.3, 0.05)
INDEPENDENT = "independent views"
CHANGE = "background_delta_e of "
"""A figure by view, beside those of the worse view."""
COLUMNS = (
    *("foreground_psnr_db", "ceiling_psnr_db", "foreground_delta_e", "background_delta_e"),
    *("cross_view_error", "flicker"),
)
Rows = dict[str, dict[str, Any]]


def guided_at(threshold: Any) -> str:
    return f"guided, σ {threshold:g}"


FAITHFUL = guided_at(min(THRESHOLDS))


def main() -> None:
    args, others = parse_arguments()
    started = time.monotonic()
    groups = {"held-out procedural": episodes_of(args)}
    groups |= {Path(file).stem: Path(file) for file in args.episode}
    found, about, promises = {}, {}, {}
    for group, source in groups.items():
        run = resolved(args.work, source, others)
        found[group] = measure(run, args.work / key_of(run) / group, args.num_frames, only_table=args.only_table)
        promises[group] = claims(found[group], guided_at(run.settings.guidance.sigma_threshold))
        known = identity(run)
        settings = ("sigma_threshold", "num_steps", "guidance", "seed")
        about = {name: value for name, value in known.about.items() if name != "settings"}
        about |= {"weights": known.weights, "settings": {name: known.settings[name] for name in settings}}
    report = {
        "machine": about,
        "num_frames": args.num_frames,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "groups": {group: {"episodes": list(rows), "means": means(rows)} for group, rows in found.items()},
        "claims": promises,
    }
    text = markdown(report)
    results = Path(__file__).parent / "results"
    write_json(results / "quality.json", report)
    (results / "quality.md").write_text(text, encoding="utf-8")
    print(text)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=16, help="procedural ones")
    parser.add_argument("--episode", action="append", default=[], help="a recorded HDF5 file; may be repeated")
    parser.add_argument("--num_frames", type=int, default=33, help="of each, from its middle; 33 are one clip")
    parser.add_argument("--only_table", action="store_true", help="generate nothing")
    return parser.parse_known_args()


def episodes_of(args: argparse.Namespace) -> Path:
    """The folder of procedural episodes; scenes, arms and phantoms that nothing was trained on."""
    folder = args.work / f"episodes_{args.episodes}x{args.num_frames}"
    if len(list(folder.glob("data_*.hdf5"))) < args.episodes:
        for path in folder.glob("data_*.hdf5"):
            path.unlink()
        simulate(folder, episodes=args.episodes, num_frames=args.num_frames, heldout=True)
    return folder


def resolved(work: Path, source: Path, others: Sequence[str]) -> ResolvedRun:
    words = ["--source_data_dir", str(source), "--output_data_dir", str(work / "out"), "--limit", "100000"]
    chosen = [] if any(word.startswith("--checkpoint_dir") for word in others) else ["--checkpoint_dir", "bundled"]
    return resolve(parse_transfer([*words, *chosen, *others], prog="quality", about=""))


def key_of(run: ResolvedRun) -> str:
    """Names weights and settings."""
    known = identity(run)
    content = [known.weights, known.settings, THRESHOLDS, "1 is another prompt"]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def measure(run: ResolvedRun, folder: Path, num_frames: int, *, only_table: bool) -> dict[str, Rows]:
    """Figures by episode and method; what `folder` holds is taken from there."""
    folder.mkdir(parents=True, exist_ok=True)
    ways = Ways.of(run)
    found = {}
    for task, whole in few_episodes(run, ways.process):
        path = folder / f"{task.output}.json"
        if not path.exists() and not only_table:
            start = max(0, (whole.num_frames - num_frames) // 2)
            began = time.monotonic()
            write_json(path, ways.rows(task, whole[start : start + num_frames]))
            print(f"{whole.id}: {time.monotonic() - began:.0f} s", flush=True)
        if path.exists():
            found[task.output] = json.loads(path.read_text())
    return found


@dataclass(frozen=True)
class Ways:
    """All ways of making an episode, the models loaded once."""

    process: EpisodeTransfer
    alone: EpisodeTransfer
    tried: Sequence[Trial]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, run: ResolvedRun) -> Ways:
        listed = ",".join(map(str, THRESHOLDS))
        tried = trials(run, [f"sigma_threshold={listed}"])
        # Its prompts go without the words on the picture above.
        guidance = run.settings.guidance.model_copy(update={"concat_video_second_view": False})
        alone = replace(run, settings=run.settings.model_copy(update={"guidance": guidance}))
        no_ceiling = replace(run.generation, with_ceiling=False)
        return cls(
            process=EpisodeTransfer(run, Place()),
            alone=EpisodeTransfer(alone, Place(), generation=no_ceiling),
            tried=tried,
            labels=run.two_view.foreground_labels,
        )

    def rows(self, task: Any, episode: Episode) -> Rows:
        rows: Rows = {}
        chosen = next(trial for trial in self.tried if trial.chosen)
        unrelated = self._room_of_another_prompt(task, episode, chosen)
        for trial in self.tried:
            result = generated(self.process, task, episode, trial)
            name = guided_at(trial.value) if trial.method == "guided" else trial.method
            rows[name] = self._figures(episode, result, unrelated)
            if trial is chosen:
                apart = self._figures(episode, self._independent(episode, result, trial), unrelated)
        rows[INDEPENDENT] = apart
        for name, metrics in baseline_rows(episode, foreground_labels=self.labels).items():
            rows[name] = figures_of(metrics.as_dict())
        return rows

    def _figures(self, episode: Episode, result: TransferResult, unrelated: Tensor | None) -> Figures:
        metrics = measured(episode, result, self.labels, unrelated)
        change = {CHANGE + name: v.background.delta_e for name, v in metrics.views.items() if v.background}
        return figures_of(metrics.as_dict()) | change

    def _room_of_another_prompt(self, task: Any, episode: Episode, trial: Trial) -> Tensor | None:
        room, demo, prompts = view_names(episode)[0], episode.id.rpartition("/")[2], self.process.run.prompts
        if len(prompts) < 2:
            return None
        other = prompts[(task.prompt_index(demo, len(prompts)) + len(prompts) // 2) % len(prompts)]
        self.process.pipeline.settings = trial.generation
        made = transfer_episode(
            replace(episode, views={room: episode.views[room]}),
            self.process.pipeline,
            trial.two_view,
            prompts={room: other.room},
            seeds={room: task.seed(demo, room)},
        )
        return made.rgb[room]

    def _independent(self, episode: Episode, guided: TransferResult, trial: Trial) -> TransferResult:
        """The guided room view, and a wrist view that knows nothing of it."""
        wrist = view_names(episode)[1]
        made = transfer_episode(
            replace(episode, views={wrist: episode.views[wrist]}),
            self.alone.pipeline,
            trial.two_view,
            prompts={wrist: guided.prompts[wrist]},
            seeds={wrist: guided.record["views"][wrist]["seed"]},
        )
        return replace(guided, rgb={**guided.rgb, wrist: made.rgb[wrist]})


def means(episodes: Mapping[str, Rows]) -> Rows:
    """Means over the episodes, by method."""
    methods = next(iter(episodes.values()), {})
    return {method: mean_figures(rows[method] for rows in episodes.values()) for method in methods}


def claims(episodes: Mapping[str, Rows], own: str) -> dict[str, dict[str, Any]]:
    """What is promised, what was found on average, and in how many episodes it holds; `own` is the run's row."""

    def difference(rows: Rows, figure: str, more: str, less: str) -> float | None:
        pair = rows[more].get(figure), rows[less].get(figure)
        return None if pair[0] is None or pair[1] is None else pair[0] - pair[1]

    def share(rows: Rows) -> float | None:
        names = [name for name in rows["direct"] if name.startswith(CHANGE)]
        shares = [rows[FAITHFUL][name] / rows["direct"][name] for name in names]
        return sum(shares) / len(shares) if shares else None

    asked = {
        f"foreground PSNR of {FAITHFUL} above direct [dB]": (
            8.0,
            lambda rows: difference(rows, "foreground_psnr_db", FAITHFUL, "direct"),
        ),
        f"background change of {FAITHFUL} as a share of direct's, mean of the views": (0.85, share),
        f"cross-view error of {INDEPENDENT} above {own}": (
            0.5,
            lambda rows: difference(rows, "cross_view_error", INDEPENDENT, own),
        ),
    }
    found = {}
    for name, (least, of) in asked.items():
        values = [value for rows in episodes.values() if (value := of(rows)) is not None]
        mean = sum(values) / len(values) if values else None
        found[name] = {
            "at_least": least,
            "mean": mean,
            "holds": mean is not None and mean >= least,
            "episodes": len(values),
            "of_these": sum(value >= least for value in values),
        }
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The table, and below it what was promised."""
    lines = []
    for group, part in report["groups"].items():
        count = len(part["episodes"])
        if not count:
            continue
        lines += ["", f"**{group}**, {count} episode{'s' if count > 1 else ''}, means of the worse view", ""]
        titles = [f"{FIGURES[name].title} {FIGURES[name].unit}".strip() for name in COLUMNS]
        lines += [f"| {' | '.join(['method', *titles])} |", f"| --- {'| ---: ' * len(COLUMNS)}|"]
        for method, figures in part["means"].items():
            lines.append(f"| {' | '.join([method, *(shown(name, figures.get(name)) for name in COLUMNS)])} |")
        lines += ["", "| promised | at least | found | episodes | |", "| --- | ---: | ---: | ---: | --- |"]
        for name, claim in report["claims"][group].items():
            mean = "–" if claim["mean"] is None else f"{claim['mean']:.2f}"
            verdict = "holds" if claim["holds"] else "**does not hold**"
            held = f"{claim['of_these']} of {claim['episodes']}"
            lines.append(f"| {name} | {claim['at_least']:g} | {mean} | {held} | {verdict} |")
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    main()
