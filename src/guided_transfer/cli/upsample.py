"""`transfer --upsample_prompt`: a model that sees the controls writes every prompt out before others are loaded.

What it wrote is kept with the ledger, one file per demo, named after what was asked: a run that is started again,
and every worker of a run, takes the same words.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from guided_transfer.cli.progress import Quiet
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.episodes.read import EpisodeFile
from guided_transfer.errors import EpisodeError, EpisodeInconsistent
from guided_transfer.generation import RgbControl
from guided_transfer.prompts.endpoint import AnswerError, Endpoint, EndpointError
from guided_transfer.prompts.load import TwoViewPrompt
from guided_transfer.prompts.upsampler import (
    ASKED_AT_ONCE,
    FOLDER,
    NUM_FRAMES,
    SERVE_OPTIONS,
    Question,
    question,
    served_upsampler,
    shown_control,
    write_out,
)
from guided_transfer.prompts.vllm import VllmServer
from guided_transfer.runner.files import sha256_json, write_json
from guided_transfer.runner.plan import EpisodeTask
from guided_transfer.runner.seeds import view_seed
from guided_transfer.two_view import controls_of, view_names
from guided_transfer.types import ControlVideo, View

TRIES = 3
"""Of one question."""
TOLD_EVERY_S = 15.0
STARTED_AT = time.time()
"""Of this process; of what is older, it knows nothing."""
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class WrittenOut:
    """The prompts of one demo, as the model wrote them out.

    Attributes:
        prompt: what the views are told.
        record: JSON-able: by view the short prompt, what became of it, and which control the model saw.
    """

    prompt: TwoViewPrompt
    record: Mapping[str, Any]


@dataclass(frozen=True)
class WrittenPrompts:
    """What is kept of a run's written-out prompts.

    Attributes:
        run: the run.
        folder: holds one file per demo.
    """

    run: ResolvedRun
    folder: Path
    _known: dict[tuple[str, str], WrittenOut] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, run: ResolvedRun, output_dir: Path) -> WrittenPrompts:
        """Those of an output folder."""
        return cls(run, output_dir / "ledger" / "prompts")

    def write_out(self, tasks: Sequence[EpisodeTask], report: Quiet) -> None:
        """Have the prompts of these tasks written out, where they are not yet; of several ranks the first does it.

        A demo whose prompts the model does not write out gets its short ones with --keep_short_prompt; else it is
        left to fail by itself.

        Raises:
            UsageError, EndpointError: there is no model to ask, or it is gone; what it wrote is kept.
        """
        if _rank():
            return
        waiting = [
            (task, demo) for task in tasks for demo in _demos(self.run, task) if self._is_waiting(task, demo)
        ]
        if not waiting:
            return
        try:
            with endpoint_of(self.run, self.folder, report) as endpoint:
                self._ask_for(waiting, endpoint, report)
        except EndpointError as error:
            if not self.run.settings.prompts.keep_short_prompt:
                raise
            for task, demo in waiting:
                if self._load(task, demo) is None:
                    self._save(task, demo, self._questions(task, demo), {}, str(error))

    def read(self, task: EpisodeTask, demo: str) -> WrittenOut:
        """The prompts of a demo; waits while another rank still has them written.

        Raises:
            EndpointError: the model did not write them out.
        """
        known = (task.output, demo)
        while known not in self._known:
            if found := self._load(task, demo):
                self._known[known] = found
            elif fault := self._fault(task, demo):
                raise EndpointError(fault)
            elif _rank():
                time.sleep(LOOK_EVERY_S)
            else:
                raise EndpointError(f"the prompts of {task.output} {demo} are not in {self.folder}")
        return self._known[known]

    def _ask_for(self, waiting: Sequence[tuple[EpisodeTask, str]], endpoint: Endpoint, report: Quiet) -> None:
        pool = ThreadPoolExecutor(ASKED_AT_ONCE, "upsample")
        told = Now(report)
        try:
            asked: list[Future[None]] = [pool.submit(self._ask, task, demo, endpoint) for task, demo in waiting]
            for count, future in enumerate(as_completed(asked), start=1):
                future.result()
                told.now(f"prompts written out: {count} of {len(waiting)}", last=count == len(waiting))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, task: EpisodeTask, demo: str, endpoint: Endpoint) -> None:
        asked = self._questions(task, demo)
        try:
            self._save(task, demo, asked, {view: write_out(endpoint, one) for view, one in asked.items()})
        except AnswerError as error:
            self._save(task, demo, asked, {}, str(error))

    def _is_waiting(self, task: EpisodeTask, demo: str) -> bool:
        try:
            return self._load(task, demo) is None
        except EpisodeError:
            return False  # the run itself will say so

    def _save(
        self,
        task: EpisodeTask,
        demo: str,
        asked: Mapping[str, Question],
        texts: Mapping[str, str],
        fault: str = "",
    ) -> None:
        short = {view: one.prompt for view, one in asked.items()}
        record = {"upsampled": not fault, "short": short, "shown": shown_control(self.run.two_view.control_weights)}
        content: dict[str, Any] = {"prompts": texts, "record": record}
        if fault and self.run.settings.prompts.keep_short_prompt:
            content = {"prompts": short, "record": {**record, "fault": fault}}
        elif fault:
            content = {"fault": fault}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._file(task, demo, asked), content)

    def _load(self, task: EpisodeTask, demo: str) -> WrittenOut | None:
        asked = self._questions(task, demo)
        content = _content(self._file(task, demo, asked))
        if "prompts" not in content:
            return None
        room, *others = [content["prompts"][view] for view in asked]
        name = self._short(task, demo).name
        return WrittenOut(TwoViewPrompt(name, room, others[0] if others else room), content["record"])

    def _fault(self, task: EpisodeTask, demo: str) -> str:
        """Why this run has no prompts for a demo; what an earlier run met, the first rank is about to ask again."""
        file = self._file(task, demo, self._questions(task, demo))
        is_old = _rank() and file.exists() and file.stat().st_mtime < STARTED_AT
        return "" if is_old else _content(file).get("fault", "")

    def _file(self, task: EpisodeTask, demo: str, asked: Mapping[str, Question]) -> Path:
        key = sha256_json([one.key for one in asked.values()])[:16]
        return self.folder / f"{task.output}.{demo}.{key}.json"

    def _short(self, task: EpisodeTask, demo: str) -> TwoViewPrompt:
        return self.run.prompts[task.prompt_index(demo, len(self.run.prompts))]

    def _questions(self, task: EpisodeTask, demo: str) -> dict[str, Question]:
        """By view, room first."""
        with self.run.open_source(task.source) as file:
            views = _first_frames(file, demo)
        short = self._short(task, demo)
        texts = dict(zip(views, (short.room, short.wrist), strict=False))
        episode = f"{task.source.stem}/{demo}"
        return {
            name: question(
                texts[name],
                shown_frames(self.run, view),
                view_seed(task.run_seed, episode, task.variant, 0, f"{name} prompt"),
            )
            for name, view in views.items()
        }


def write_out_for_video(
    run: ResolvedRun,
    short: Sequence[str],
    controls: Sequence[ControlVideo | RgbControl],
    rgb: Tensor,
    report: Quiet,
) -> tuple[list[str], list[dict[str, Any]]]:
    """The prompts of every variant of one video, and what a record says of each.

    Raises:
        UsageError, EndpointError: there is no model to ask, or it does not answer, and --keep_short_prompt is not
            given.
    """
    kind = shown_control(control.kind for control in controls)
    frames = frames_of(next(control for control in controls if control.kind == kind), rgb)
    texts, fault = [], ""
    video, seed = Path(run.settings.inputs.input_video_path).stem, run.settings.sampling.seed
    try:
        with endpoint_of(run, Path(run.settings.outputs.video_save_folder), report) as endpoint:
            for variant, prompt in enumerate(short):
                asked = question(prompt, frames, view_seed(seed, video, variant, 0, "prompt"))
                texts.append(write_out(endpoint, asked))
    except EndpointError as error:
        if not run.settings.prompts.keep_short_prompt:
            raise
        fault = str(error)
    records = [
        {"upsampled": variant < len(texts), "short": prompt, "shown": kind} for variant, prompt in enumerate(short)
    ]
    records = [record if record["upsampled"] else {**record, "fault": fault} for record in records]
    return [*texts, *short[len(texts) :]], records


@contextmanager
def endpoint_of(run: ResolvedRun, log_folder: Path, report: Quiet) -> Iterator[Endpoint]:
    """The upsampler: at --upsampler_base_url, or served from the checkpoint folder for as long as it is needed.

    Raises:
        UsageError, EndpointError: there is none, or it cannot start.
    """
    prompts = run.settings.prompts
    if prompts.upsampler_base_url:
        yield Endpoint(prompts.upsampler_base_url, served_upsampler(prompts.upsampler_base_url), tries=TRIES)
        return
    # runs side by side may share the folder: each reads the end of its own log
    log, told = log_folder / f"vllm.{socket.gethostname()}-{os.getpid()}.log", Now(report)
    report.note(f"prompt upsampler: {prompts.upsampler_command} loads {FOLDER}, see {log}")
    with VllmServer(
        prompts.upsampler_command,
        run.tree.root / FOLDER,
        SERVE_OPTIONS,
        log=log,
        device_index=int(run.device.partition(":")[2]) if ":" in run.device else None,
        on_wait=lambda seconds, line: told.now(f"prompt upsampler: loading for {seconds:.0f} s: {line}"),
    ) as server:
        yield Endpoint(server.base_url, served_upsampler(server.base_url), tries=TRIES)
    report.note("prompt upsampler: ended, its memory is free")


class Now:
    """Says where something long stands, not too often."""

    def __init__(self, report: Quiet) -> None:
        self.report = report
        self._last_s = time.monotonic()

    def now(self, text: str, *, last: bool = False) -> None:
        """Say it, if it is time or the last thing to say."""
        if last or time.monotonic() - self._last_s >= TOLD_EVERY_S:
            self._last_s = time.monotonic()
            self.report.note(text)


def shown_frames(run: ResolvedRun, view: View) -> list[np.ndarray]:
    """The first frames of the control that the model is shown, uint8 [H,W,3] RGB each.

    Raises:
        EpisodeInconsistent: the view lacks what the control is made of.
    """
    kind = shown_control(run.two_view.control_weights)
    controls = controls_of(view, replace(run.two_view, control_weights={kind: 1.0}))
    if not controls:
        raise EpisodeInconsistent(
            f"view {view.name!r} has nothing to make the {kind} control of, which the prompt upsampler is shown"
        )
    return frames_of(controls[0], view.rgb)


def frames_of(control: ControlVideo | RgbControl, rgb: Tensor) -> list[np.ndarray]:
    """The first frames of a control's picture, uint8 [H,W,3] RGB each."""
    rgb = rgb[:NUM_FRAMES]
    frames = control.compute(rgb) if isinstance(control, RgbControl) else control.frames[: len(rgb)]
    return list(frames.cpu().numpy())


def _rank() -> int:
    """Of this process in a launch by torchrun; 0 elsewhere."""
    return int(os.environ.get("RANK", 0))


def _content(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}


def _demos(run: ResolvedRun, task: EpisodeTask) -> list[str]:
    try:
        with run.open_source(task.source) as file:
            return list(file.demos)
    except EpisodeError:
        return []  # the run itself will say so


def _first_frames(file: EpisodeFile, demo: str) -> dict[str, View]:
    episode = file.read(demo, slice(0, NUM_FRAMES))
    return {name: episode.views[name] for name in view_names(episode)}
