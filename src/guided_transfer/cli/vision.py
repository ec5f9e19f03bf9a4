"""What vision models add to the videos of a run: controls that nobody gives, and masks from words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_transfer.cli.progress import Looking, Quiet
from guided_transfer.cli.resolved import ResolvedRun
from guided_transfer.controls.depth_anything import DepthAnything, depth_control_from_rgb
from guided_transfer.controls.grounding import GroundingDino
from guided_transfer.controls.keypoints import WholeBody, keypoint_control
from guided_transfer.controls.seg import seg_control
from guided_transfer.controls.segmentation import Segmenter, mask_from_text, seg_control_from_text
from guided_transfer.controls.specs import WEIGHT_MAP_SUFFIXES
from guided_transfer.controls.tracking import Sam2Tracker
from guided_transfer.controls.vision import OnFrames
from guided_transfer.controls.weights import load_mask
from guided_transfer.cost import resident
from guided_transfer.errors import EpisodeInconsistent, UsageError
from guided_transfer.two_view import view_names
from guided_transfer.types import Episode, View


class Vision:
    """The vision models of a run: each loaded when it is first needed, and kept.

    Args:
        run: says what is wanted, and where the models are.
        device: where they look; with --offload_guardrail_models they wait on the host in between.
        report: is told how far they are.
    """

    def __init__(self, run: ResolvedRun, device: torch.device, report: Quiet) -> None:
        self.run = run
        self.device = device
        self.report = report
        self.offload = run.settings.memory.offload_guardrail_models

    @cached_property
    def depth(self) -> DepthAnything:
        folder = self.run.vision_files.folder("depth_anything", "the depth control of a video without depth")
        return DepthAnything.from_folder(folder, self.device)

    @cached_property
    def segmenter(self) -> Segmenter:
        files = self.run.vision_files
        detector = files.folder("grounding_dino", "a mask from words")
        tracker = files.folder("sam2", "a mask from words")
        return Segmenter(
            GroundingDino.from_folder(detector, self.device), Sam2Tracker.from_folder(tracker, self.device)
        )

    @cached_property
    def keypoints(self) -> WholeBody:
        return WholeBody(*self.run.vision_files.onnx_files(), self.device)

    def look_at_episode(self, episode: Episode, prompts: Mapping[str, str], stem: str) -> tuple[Episode, Any]:
        """An episode with what the run wants beyond what its file holds, and what was found, by view.

        Args:
            episode: as read.
            prompts: by the names of the views that are transferred.
            stem: of its outputs, for the progress.

        Raises:
            EpisodeInconsistent: something that must be there is not seen, or a mask does not fit.
        """
        demo = episode.id.rpartition("/")[2]
        views, record = dict(episode.views), {}
        for name, prompt in prompts.items():
            try:
                views[name], found = self.look(
                    episode.views[name], prompt, self._mask_of(episode, name), self._told(stem, demo, name)
                )
            except (EpisodeInconsistent, UsageError) as error:
                raise EpisodeInconsistent(f"view {name!r}: {error}", file=episode.source, dataset=demo) from error
            if found:
                record[name] = found
        changed = any(views[name] is not episode.views[name] for name in views)
        return (replace(episode, views=views) if changed else episode), record

    def look(
        self,
        view: View,
        prompt: str,
        mask_file: Path | None,
        on_frames: OnFrames,
        given: frozenset[str] = frozenset(),
    ) -> tuple[View, dict[str, Any]]:
        """A view with its missing controls, weight masks and foreground; and what was found.

        Args:
            view: RGB, and what else is known.
            prompt: of the picture; its things are painted where the specs name none.
            mask_file: of the foreground, or None.
            on_frames: told how far it is.
            given: kinds of control that need no picture.
        """
        rgb, inputs = view.rgb, self.run.settings.inputs
        controls: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        record: dict[str, Any] = {}
        for kind, hint in self.run.specs.active.items():
            if kind not in given:
                picture = self._control(kind, view, hint.input_control_prompt or prompt, on_frames)
                controls |= {} if picture is None else {kind: picture}
            if hint.control_weight_prompt:
                what = f"{kind}.control_weight_prompt"
                mask, record[what] = self._mask(rgb, hint.control_weight_prompt, on_frames, what)
                weights[kind] = mask.float()
        foreground = None
        if mask_file:
            num_frames, height_px, width_px = rgb.shape[:3]
            foreground = load_mask(mask_file, num_frames, height_px, width_px, "foreground_mask")
        elif inputs.foreground_prompt:
            what = "foreground_prompt"
            foreground, record[what] = self._mask(rgb, inputs.foreground_prompt, on_frames, what)
        if not (controls or weights or foreground is not None):
            return view, record
        if foreground is None:
            return replace(view, controls=controls, control_weights=weights), record
        record["foreground_share"] = round(float(foreground.float().mean()), 5)
        if "seg" in self.run.specs.active and view.labels is not None:
            controls["seg"] = seg_control(view.labels)  # the simulator's labels still make the picture
        labels = foreground.to(torch.uint8) * inputs.foreground_labels[0]
        return replace(view, controls=controls, control_weights=weights, labels=labels), record

    def _control(self, kind: str, view: View, text: str, on_frames: OnFrames) -> Tensor | None:
        """The picture of a control that the view has nothing for."""
        if kind == "depth" and view.depth_m is None:
            with resident(self.depth, self.device, offload=self.offload):
                return depth_control_from_rgb(view.rgb, self.depth, on_frames)
        if kind == "seg" and view.labels is None:
            with resident(self.segmenter, self.device, offload=self.offload):
                return seg_control_from_text(view.rgb, self.segmenter, text, on_frames)
        if kind == "keypoint":
            return keypoint_control(view.rgb, self.keypoints, on_frames)
        return None

    def _mask(self, rgb: Tensor, text: str, on_frames: OnFrames, what: str) -> tuple[Tensor, dict[str, Any]]:
        with resident(self.segmenter, self.device, offload=self.offload):
            found = mask_from_text(rgb, self.segmenter, text, on_frames, what)
        return found.mask, found.record

    def _mask_of(self, episode: Episode, view: str) -> Path | None:
        folder = self.run.settings.inputs.foreground_mask
        return find_mask(Path(folder), episode, view) if folder else None

    def _told(self, stem: str, demo: str, view: str) -> OnFrames:
        def told(what: str, done: int, total: int) -> None:
            self.report.progress(stem, demo, view, Looking(what, done, total))

        return told


def check_masks(run: ResolvedRun, episode: Episode) -> None:
    """Find out before any long work whether --foreground_mask has a file for every view.

    Raises:
        EpisodeInconsistent: naming the first that is missing.
    """
    if folder := run.settings.inputs.foreground_mask:
        for name in view_names(episode):
            find_mask(Path(folder), episode, name)


def find_mask(folder: Path, episode: Episode, view: str) -> Path:
    """The file of --foreground_mask for one view of an episode: `<file>_<view>` or `<file>_<demo>_<view>`.

    Raises:
        EpisodeInconsistent: there is none.
    """
    stem, _, demo = episode.id.rpartition("/")
    names = [
        f"{name}{suffix}" for name in (f"{stem}_{demo}_{view}", f"{stem}_{view}") for suffix in WEIGHT_MAP_SUFFIXES
    ]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise EpisodeInconsistent(
            f"foreground_mask {folder} has no {stem}_{view} (or {stem}_{demo}_{view}) with one of the endings "
            f"{', '.join(WEIGHT_MAP_SUFFIXES)}",
            file=episode.source,
            dataset=demo,
        )
    return found
