"""What the runner does with one episode: read it, transfer it, write it."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_transfer import __version__
from guided_transfer.cli.gate import faults, has_limits
from guided_transfer.cli.load import load_pipeline, load_run_guardrails, load_vision
from guided_transfer.cli.media import write_media
from guided_transfer.cli.progress import reporter
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.cli.upsample import WrittenPrompts
from guided_transfer.cli.vision import Vision, check_masks
from guided_transfer.clips import resize_frames
from guided_transfer.episodes.check import require_sound
from guided_transfer.episodes.video import write_mp4
from guided_transfer.episodes.write import write_transferred
from guided_transfer.errors import EpisodeError
from guided_transfer.generation import Generated, GenerationSettings
from guided_transfer.metrics.suite import EpisodeMetrics, episode_metrics
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.prompts.load import TwoViewPrompt
from guided_transfer.runner.plan import EpisodeTask
from guided_transfer.runner.process import EpisodeOutcome, Place, Process
from guided_transfer.runner.workspace import Workspace
from guided_transfer.safety import Guardrails
from guided_transfer.two_view import TwoViewSettings, check_episode, told_prompts, transfer_episode, view_names
from guided_transfer.types import FOREGROUND_LABELS, Episode, TransferResult

FEW_PROMPTS = 64
"""So many prompts are encoded before the first episode, so that the text encoder can leave the GPU for good."""


@dataclass(frozen=True)
class EpisodeTransferFactory:
    """Makes the process of a worker; picklable."""

    run: ResolvedRun
    output_dir: Path

    def __call__(self, place: Place) -> EpisodeTransfer:
        """Load the models where the worker stands."""
        return EpisodeTransfer(self.run, place, output_dir=self.output_dir)


class EpisodeTransfer(Process):
    """Transfers episodes with models that stay loaded."""

    def __init__(
        self,
        run: ResolvedRun,
        place: Place,
        *,
        output_dir: Path = Path(),
        generation: GenerationSettings | None = None,
    ) -> None:
        self.run = run
        self.output_dir = output_dir
        self.reporter = reporter(run.settings.run.quiet, run.settings.run.json_lines)
        self.place = place
        self.generation = generation
        self.written = WrittenPrompts.of(run, output_dir) if run.settings.prompts.upsample_prompt else None
        self._knows_all_prompts = len(run.prompts) <= FEW_PROMPTS and self.written is None
        self._says_what_is_cut = place.worker == place.group_rank == 0  # one of all that would say the same

    @cached_property
    def pipeline(self) -> TransferPipeline:
        """The models, loaded for the first episode: a run that finds everything done loads none."""
        pipeline = load_pipeline(self.run, self.place, self.generation)
        if self.written is None:
            self._note_cut(pipeline, self.run.prompts)
        if self._knows_all_prompts:
            self._remember(pipeline, self.run.prompts)
            pipeline.free_text_encoder()
        return pipeline

    @cached_property
    def guardrails(self) -> Guardrails:
        """What checks prompts and results, loaded when the first prompt is to be checked."""
        return load_run_guardrails(self.run, self.place)

    @cached_property
    def vision(self) -> Vision:
        """What looks at footage that lacks a control or labels; its models are loaded when they are needed."""
        return load_vision(self.run, self.reporter, self.place)

    def look(self, task: EpisodeTask, episode: Episode) -> tuple[Episode, dict[str, Any]]:
        """An episode with what vision models have to add to it, and what they saw."""
        prompts = by_view(view_names(episode), self._prompt(task, episode.id.rpartition("/")[2]))
        return self.vision.look_at_episode(episode, prompts, task.output)

    def _remember(self, pipeline: TransferPipeline, prompts: Sequence[TwoViewPrompt]) -> None:
        told = [text for prompt in prompts for text in self._told(pipeline, prompt)]
        pipeline.remember([*negative_prompts(self.run), *told])

    def _note_cut(self, pipeline: TransferPipeline, prompts: Sequence[TwoViewPrompt]) -> None:
        """Say once a run that the model will not read prompts to their ends."""
        if not self._says_what_is_cut:
            return
        encoder = pipeline.text_encoder
        pairs = [
            (text, told)
            for prompt in prompts
            for text, told in zip((prompt.room, prompt.wrist), self._told(pipeline, prompt), strict=True)
        ]
        if cut := [text for text, told in pairs if not told.startswith(text) or encoder.too_long([told])]:
            self._says_what_is_cut = False
            self.reporter.note(
                f"{len(cut)} of {len(pairs)} prompts are longer than the {encoder.prompt_tokens} tokens that this "
                f"model reads; their ends do not count: {cut[0][:60]!r} ..."
            )

    def _told(self, pipeline: TransferPipeline, prompt: TwoViewPrompt) -> list[str]:
        return told_prompts({"room": prompt.room, "wrist": prompt.wrist}, self.run.two_view, pipeline)

    def read(self, task: EpisodeTask) -> list[Episode]:
        """Every demo of the file, checked against what the settings need, and for what `validate` would find."""
        try:
            with self.run.open_source(task.source) as file:
                episodes = [self._as_asked(file.read(demo)) for demo in file.demos]
                for episode in episodes:
                    require_sound(file, episode, view_names(episode), kept_labels(self.run))
        except EpisodeError as error:
            error.reason += f"; `{validate_command(self.run, task.source)}` lists every fault of the file"
            raise
        for episode in episodes:
            check_episode(episode, self.run.two_view)
            check_masks(self.run, episode)
        return episodes

    def compute(
        self, task: EpisodeTask, source: list[Episode], workspace: Workspace, *, low_memory: bool
    ) -> dict[str, TransferResult]:
        """Transfer every demo; what is finished before one fails is kept for the next try."""
        if low_memory:
            self.pipeline.stream_network()
        results, first_error = {}, None
        for episode in source:
            demo = episode.id.rpartition("/")[2]
            try:
                results[demo] = self._transfer(task, demo, episode, workspace)
            except Exception as error:
                first_error = first_error or error
        if first_error:
            raise first_error
        return results

    def write(self, task: EpisodeTask, computed: Mapping[str, TransferResult]) -> EpisodeOutcome:
        """Measure and publish the episode, its videos and its prompts; of a rejected one what the report shows."""
        computed = {demo: self._measured(result) for demo, result in computed.items()}
        records = {demo: dict(result.record) for demo, result in computed.items()}
        reason = "; ".join(record["rejected"] for record in records.values() if record["rejected"])
        outputs = []
        with self.run.open_source(task.source) as file:
            for demo, result in computed.items():
                stem = task.output if len(computed) == 1 else f"{task.output}_{demo}"
                videos = self.run.settings.outputs.videos and not reason
                if videos:
                    outputs += self._write_videos(stem, result, self.run.settings.outputs.fps or file.fps(demo))
                if self.run.settings.outputs.report:
                    assert result.seen is not None
                    write_media(self.output_dir, stem, result.seen, result, self.run.two_view, published=videos)
            if reason:
                return EpisodeOutcome(record=records, state="rejected", reason=reason)
            frames = {demo: result.rgb for demo, result in computed.items()}
            facts = {demo: provenance(task, result) for demo, result in computed.items()}
            outputs.append(write_transferred(file, task.target(self.output_dir), frames, facts, replace=True))
        return EpisodeOutcome(tuple(outputs), records)

    def _as_asked(self, episode: Episode) -> Episode:
        fps = self.run.settings.outputs.fps
        return replace(episode, fps=fps) if fps else episode

    def _transfer(self, task: EpisodeTask, demo: str, episode: Episode, workspace: Workspace) -> TransferResult:
        """One demo, made again with other noise until it is good enough or the attempts are used up."""
        failed_attempts: list[dict[str, Any]] = []
        episode, seen = self.look(task, episode)
        while True:
            result, fault = self._attempt(task, demo, episode, workspace), ""
            if has_limits(self.run.settings.quality):
                metrics = measured(episode, result, self.run.two_view.foreground_labels)
                result = with_metrics(result, metrics)
                fault = faults(self.run.settings.quality, metrics)
            if not fault or task.attempt + 1 == self.run.settings.quality.max_attempts:
                break
            failed_attempts.append({"attempt": task.attempt, "reason": fault})
            task = task.next_attempt()
        facts = {"attempt": task.attempt, "failed_attempts": failed_attempts, "rejected": fault}
        facts |= {"seen": seen} if seen else {}
        return replace(result, record={**result.record, **facts})

    def _attempt(self, task: EpisodeTask, demo: str, episode: Episode, workspace: Workspace) -> TransferResult:
        stage = f"{demo}.{view_names(episode)[0]}.{task.attempt}"
        result = self.generate(
            task,
            episode,
            self.run.two_view,
            room=load_stage(workspace, stage),
            on_room=lambda finished: save_stage(workspace, stage, finished),
        )
        facts = {
            "prompt_name": self._prompt(task, demo).name,
            **({"upsampler": self.written.read(task, demo).record} if self.written else {}),
            "guardrail": guardrail_state(self.run),
        }
        return replace(result, record={**result.record, **facts}, seen=episode)

    def _measured(self, result: TransferResult) -> TransferResult:
        """A result with its metrics; for the writing thread, so that the GPU does not wait for them."""
        if "metrics" in result.record:
            return result
        assert result.seen is not None
        return with_metrics(result, measured(result.seen, result, self.run.two_view.foreground_labels))

    def generate(
        self, task: EpisodeTask, episode: Episode, settings: TwoViewSettings, **stages: Any
    ) -> TransferResult:
        """One demo with the task's prompt and seeds; `stages` are room and on_room of `transfer_episode`."""
        names, demo = view_names(episode), episode.id.rpartition("/")[2]
        prompt = self._prompt(task, demo)
        short = self.written.read(task, demo).record["short"].values() if self.written else ()
        for text in (*short, prompt.room, prompt.wrist):
            self.guardrails.check_prompt(text)
        if self.written:
            self._note_cut(self.pipeline, [prompt])
        if not self._knows_all_prompts:
            self._remember(self.pipeline, [prompt])
        result = transfer_episode(
            episode,
            self.pipeline,
            settings,
            prompts=by_view(names, prompt),
            seeds={name: task.seed(demo, name) for name in names},
            on_progress=lambda view, progress: self.reporter.progress(task.output, demo, view, progress),
            **stages,
        )
        return replace(result, rgb={name: self.guardrails.check_video(rgb) for name, rgb in result.rgb.items()})

    def _prompt(self, task: EpisodeTask, demo: str) -> TwoViewPrompt:
        if self.written:
            return self.written.read(task, demo).prompt
        return self.run.prompts[task.prompt_index(demo, len(self.run.prompts))]

    def _write_videos(self, stem: str, result: TransferResult, fps: float) -> list[Path]:
        written = []
        for name, rgb in result.rgb.items():
            path = self.output_dir / f"{stem}_{name}_view.mp4"
            written.append(write_mp4(path, video_frames(self.run, rgb), fps, replace=True))
            text = path.with_suffix(".txt")
            text.write_text(result.prompts[name] + "\n", encoding="utf-8")
            written.append(text)
        return written


def kept_labels(run: ResolvedRun) -> tuple[int, ...]:
    """Labels of a file whose pixels need a depth; none where the user says otherwise what is kept."""
    return () if run.names_foreground else run.settings.inputs.foreground_labels


def validate_command(run: ResolvedRun, file: Path) -> str:
    """The command that looks at a file as this run does."""
    words = ["guided-transfer", "validate", str(file)]
    if run.settings.inputs.schema_name:
        words += ["--schema_name", run.settings.inputs.schema_name]
    if kept_labels(run) != FOREGROUND_LABELS:
        words += ["--foreground_label", ",".join(map(str, kept_labels(run)))]
    return shlex.join(words)


def video_frames(run: ResolvedRun, rgb: torch.Tensor) -> torch.Tensor:
    """Frames for an mp4, at the size of --height and --width."""
    outputs = run.settings.outputs
    return resize_frames(rgb, (outputs.height or rgb.shape[1], outputs.width or rgb.shape[2]), "area")


def guardrail_state(run: ResolvedRun) -> str:
    """What a record says of the guardrails."""
    return "none needed" if run.bundled else run.settings.run.guardrail


def negative_prompts(run: ResolvedRun) -> list[str]:
    """The negative prompt, where it is used."""
    return [run.settings.prompts.negative_prompt] if run.settings.sampling.guidance else []


def save_stage(workspace: Workspace, stage: str, view: Generated) -> None:
    """Keep a finished view for a run that continues this one."""
    if view.ceiling is not None:
        workspace.save(f"{stage}.ceiling", view.ceiling.numpy())
    workspace.save(stage, view.rgb.numpy(), view.record)


def load_stage(workspace: Workspace, stage: str) -> Generated | None:
    """The view that an earlier run finished, or None."""
    kept, ceiling = workspace.load(stage), workspace.load(f"{stage}.ceiling")
    if kept is None:
        return None
    return Generated(torch.from_numpy(kept[0]), kept[1], torch.from_numpy(ceiling[0]) if ceiling else None)


def measured(
    episode: Episode,
    result: TransferResult,
    foreground_labels: tuple[int, ...],
    unrelated_room: Tensor | None = None,
) -> EpisodeMetrics:
    """The cheap metrics of an episode; `unrelated_room` as in `metrics.cross_view`."""
    facts = next(iter(result.record["views"].values()))
    return episode_metrics(
        episode,
        result.rgb,
        ceiling=result.ceilings,
        ceiling_frames=facts.get("ceiling_frames"),
        clip_borders=facts["clip_borders"],
        foreground_labels=foreground_labels,
        unrelated_room=unrelated_room,
    )


def with_metrics(result: TransferResult, metrics: EpisodeMetrics) -> TransferResult:
    """A result whose record has its metrics."""
    return replace(result, record={**result.record, "metrics": metrics.as_dict()})


def by_view(names: tuple[str, ...], prompt: TwoViewPrompt) -> dict[str, str]:
    """The prompt of each view, room first."""
    return dict(zip(names, (prompt.room, prompt.wrist), strict=False))


def provenance(task: EpisodeTask, result: TransferResult) -> dict[str, Any]:
    """What is written beside the pictures."""
    return {
        "version": __version__,
        "source": task.source.name,
        "run_seed": task.run_seed,
        "variant": task.variant,
        "attempt": result.record["attempt"],
        "seeds": {name: view["seed"] for name, view in result.record["views"].items()},
        "prompts": dict(result.prompts),
        "metrics": without_time_lines(result.record["metrics"]),
    }


def without_time_lines(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as they fit into an HDF5 attribute, which holds 64 KiB; the ledger has them whole."""
    return {
        name: without_time_lines(value) if isinstance(value, Mapping) else value
        for name, value in metrics.items()
        if name not in ("time_lines", "time_line")
    }


def machine(run: ResolvedRun) -> dict[str, Any]:
    """Hardware and versions, for run.json."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": run.device,
        "cpu_threads": run.cpu_threads,
    }
    if run.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
