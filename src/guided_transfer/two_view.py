"""One episode: the room view, what the wrist camera would see of it, and a wrist view of the same room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.clips import ASPECT_SIZES, Size, model_size
from guided_transfer.controls.blur import vis_control
from guided_transfer.controls.depth import depth_control
from guided_transfer.controls.edge import edge_control
from guided_transfer.controls.seg import seg_control
from guided_transfer.controls.weights import check_weight_map, load_weight_map
from guided_transfer.cost import Stopwatch, peak_memory_gb
from guided_transfer.errors import EpisodeInconsistent, UsageError
from guided_transfer.generation import Generated, Progress, RgbControl
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.types import FOREGROUND_LABELS, ControlVideo, Episode, SpatialGuidance, TransferResult, View
from guided_transfer.warp import WristGuide, guidance_masks, guide_for_wrist, stack_views, unstack_views

JOINT_SUFFIX = " The bottom video is facing the same table in the top video without reflection."
"""Ends the wrist prompt of a joint pass; part of the recipe, word for word."""

FEATHER_PX = 3
"""Over so many pixels inside its edge a pasted foreground fades into the generated picture."""

EPISODE_CONTROLS = ("edge", "vis", "depth", "seg")
"""Controls that an episode has everything for."""

OnProgress = Callable[[str, Progress], None]
"""on_progress(view, where its generation stands)"""


@dataclass(frozen=True)
class TwoViewSettings:
    """How an episode becomes two pictures of one place.

    Attributes:
        control_weights: by kind of control, a number or the file of a weight map.
        foreground_labels: kept as simulated; none means that nothing is held in the room view.
        sigma_threshold: noise level down to which the foreground is held.
        match_rim: let the room's background that is held beside the foreground change as its surroundings do.
        concat_video_second_view: generate the wrist view in one picture with the finished room view above it.
        fill_missing_pixels: fill what the room camera could not see.
        composite_foreground: paste the simulated foreground over the result.
        canny_threshold, blur_strength: presets of the edge and blur controls.
        native_sizes, resolution, largest_size: see `clips.model_size`.
        seen: what vision models supply where an episode lacks it: kinds of control, and "labels".
    """

    control_weights: Mapping[str, float | Path] = field(
        default_factory=lambda: {"edge": 0.5, "depth": 0.75, "seg": 0.75}
    )
    foreground_labels: tuple[int, ...] = FOREGROUND_LABELS
    sigma_threshold: float = 1.2866
    match_rim: bool = False
    concat_video_second_view: bool = True
    fill_missing_pixels: bool = True
    composite_foreground: bool = False
    canny_threshold: str = "medium"
    blur_strength: str = "medium"
    native_sizes: Sequence[Size] = ASPECT_SIZES
    resolution: str = ""
    largest_size: Size | None = None
    seen: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if foreign := set(self.control_weights) - {*EPISODE_CONTROLS, *self.seen}:
            raise UsageError(
                f"controls {', '.join(sorted(foreign))} cannot be computed from an episode; "
                f"it has what {', '.join(EPISODE_CONTROLS)} need"
            )

    def model_size(self, source: Size) -> Size:
        """The size that the model works at for a picture of this size; raises as `clips.model_size`."""
        return model_size(source, self.native_sizes, self.resolution, self.largest_size)

    def model_sizes(self, room: Size, *wrist: Size) -> list[Size]:
        """Sizes that the model works at for a room view of this size, and for its wrist view where there is one."""
        sizes = [self.model_size(room)]
        if not self.concat_video_second_view:
            return [*sizes, *map(self.model_size, wrist)]
        try:
            return [*sizes, *(self.model_size((2 * room[0], room[1])) for _ in wrist)]
        except UsageError as error:
            raise UsageError(f"{error} (--no_concat_video_second_view takes two views one by one)") from None


def transfer_episode(
    episode: Episode,
    pipeline: TransferPipeline,
    settings: TwoViewSettings,
    *,
    prompts: Mapping[str, str],
    seeds: Mapping[str, int],
    room: Generated | None = None,
    on_room: Callable[[Generated], None] = lambda room: None,
    on_progress: OnProgress = lambda view, progress: None,
) -> TransferResult:
    """Generate both views of an episode; of one with a single camera, that one.

    Args:
        episode: as simulated.
        pipeline: the models.
        settings: how.
        prompts: by view name.
        seeds: by view name.
        room: the finished room view of an earlier run, to continue from.
        on_room: told about the room view as soon as it is finished.
        on_progress: told about every stage and step.

    Raises:
        EpisodeInconsistent: the episode lacks what the settings need.
    """
    check_episode(episode, settings)
    run = _EpisodeRun(episode, pipeline, settings, prompts, seeds, on_progress)
    names = view_names(episode)
    if room is None:
        room = run.room_view(names[0])
        on_room(room)
    finished, zones = {names[0]: room}, {}
    if len(names) > 1:
        finished[names[1]], zones[names[1]] = run.wrist_view(names[0], room.rgb, names[1])
    record = {
        "views": {name: {"prompt": prompts[name], "seed": seeds[name], **finished[name].record} for name in names},
        "peak_memory_gb": round(peak_memory_gb(pipeline.device), 3),
    }
    return TransferResult(
        episode.id,
        {name: view.rgb for name, view in finished.items()},
        {name: prompts[name] for name in names},
        record,
        {name: view.ceiling for name, view in finished.items() if view.ceiling is not None},
        zones,
    )


def view_names(episode: Episode) -> tuple[str, ...]:
    """The views that are transferred, room first: those called room and wrist, else the first two."""
    named = tuple(name for name in ("room", "wrist") if name in episode.views)
    return named if len(named) == 2 else tuple(episode.views)[:2]


def check_episode(episode: Episode, settings: TwoViewSettings) -> None:
    """Find out before any long work whether an episode has what the settings need.

    Raises:
        EpisodeInconsistent: naming the file, the view and what is missing.
    """
    for kind, weight in settings.control_weights.items():
        if isinstance(weight, Path):
            try:
                check_weight_map(weight, episode.num_frames)
            except UsageError as error:
                raise EpisodeInconsistent(
                    f"{kind}.control_weight does not fit: {error}", file=episode.source, dataset=episode.id
                ) from None
    names = view_names(episode)
    views = [episode.views[name] for name in names]
    two = len(views) > 1
    needs = {
        "depth_m": "the depth control and the warp to the wrist view" if two else "the depth control",
        "labels": "the foreground, the seg control and the warp",
        "camera": "the warp to the wrist view",
    }
    read_from_episode = set(settings.control_weights) - settings.seen
    wanted = {
        "depth_m": "depth" in read_from_episode or two,
        "labels": "seg" in read_from_episode
        or ((bool(settings.foreground_labels) or two) and "labels" not in settings.seen),
        "camera": two,
    }
    instead = {
        "depth_m": " (Depth Anything V2 in the checkpoint folder makes the control, not the warp)",
        "labels": " (--foreground_prompt or --foreground_mask gives the foreground instead, Grounding DINO and "
        "SAM 2 in the checkpoint folder make the seg control)",
    }
    for view in views:
        for name, reason in needs.items():
            if wanted[name] and getattr(view, name) is None:
                raise EpisodeInconsistent(
                    f"view {view.name!r} has no {name}; {reason} need it{instead.get(name, '')}",
                    file=episode.source,
                    dataset=episode.id,
                )
    if two and settings.concat_video_second_view and views[0].rgb.shape != views[1].rgb.shape:
        sizes = " and ".join(f"{view.rgb.shape[1]} x {view.rgb.shape[2]}" for view in views)
        raise EpisodeInconsistent(
            f"views {names[0]} and {names[1]} are {sizes} pixels; a joint pass needs one size "
            " (--no_concat_video_second_view takes them one by one)",
            file=episode.source,
            dataset=episode.id,
        )
    try:
        settings.model_sizes(*((view.rgb.shape[1], view.rgb.shape[2]) for view in views))
    except UsageError as error:  # another episode may be of a shape that fits
        raise EpisodeInconsistent(str(error), file=episode.source, dataset=episode.id) from None


@dataclass(frozen=True)
class _EpisodeRun:
    """The arguments of `transfer_episode`, and its two passes."""

    episode: Episode
    pipeline: TransferPipeline
    settings: TwoViewSettings
    prompts: Mapping[str, str]
    seeds: Mapping[str, int]
    on_progress: OnProgress

    def room_view(self, name: str) -> Generated:
        """The foreground held, everything else new."""
        view, settings = self.episode.views[name], self.settings
        guidance = None
        if settings.foreground_labels:
            foreground = _foreground(view, settings).float()
            guidance = SpatialGuidance(foreground, None, settings.sigma_threshold, settings.match_rim)
        generated = self._generate(name, self.prompts[name], view.rgb, controls_of(view, settings), guidance)
        return _composited(generated, view, settings)

    def wrist_view(self, room_name: str, room_rgb: Tensor, name: str) -> tuple[Generated, Tensor]:
        """The foreground held, and as long as the noise is high what the room view shows of the background.

        Returns:
            The view, and its warp zones [T, H, W] uint8.
        """
        room, wrist, settings = self.episode.views[room_name], self.episode.views[name], self.settings
        watch = Stopwatch(self.pipeline.device)
        with watch.stage("warp"):
            guide = _guide(replace(room, rgb=room_rgb), wrist, self.pipeline.device, settings)
        joint, prompt = settings.concat_video_second_view, self.prompts[name]
        rgb, controls = guide.picture, controls_of(wrist, settings)
        if joint:
            rgb = stack_views(room_rgb, rgb)
            controls = [_stacked(*pair) for pair in zip(controls_of(room, settings), controls, strict=True)]
            prompt = self.pipeline.text_encoder.joined(prompt, JOINT_SUFFIX)
        keep, background = guidance_masks(guide.zones, joint=joint)
        guidance = SpatialGuidance(keep, background, settings.sigma_threshold)
        generated = self._generate(name, prompt, rgb, controls, guidance)
        seconds = {**watch.seconds, **generated.record["seconds"]}
        record = {**generated.record, "seconds": seconds, "told": prompt, "warp": guide.record}
        if joint:
            generated = _lower_half(generated)
        return _composited(replace(generated, record=record), wrist, settings), guide.zones

    def _generate(
        self,
        name: str,
        prompt: str,
        rgb: Tensor,
        controls: Sequence[ControlVideo | RgbControl],
        guidance: SpatialGuidance | None,
    ) -> Generated:
        return self.pipeline.generate(
            rgb,
            controls,
            prompt,
            seed=self.seeds[name],
            size=self.settings.model_size((rgb.shape[1], rgb.shape[2])),
            fps=self.episode.fps,
            guidance=guidance,
            on_progress=partial(self.on_progress, name),
        )


def told_prompts(prompts: Mapping[str, str], settings: TwoViewSettings, pipeline: TransferPipeline) -> list[str]:
    """What the network will be told for these prompts by view name, room first; to be encoded ahead."""
    room, *others = prompts.values()
    if settings.concat_video_second_view:
        others = [pipeline.text_encoder.joined(other, JOINT_SUFFIX) for other in others]
    return [room, *others]


def controls_of(view: View, settings: TwoViewSettings) -> list[ControlVideo | RgbControl]:
    """The controls of one view, in the order of the settings; depth and labels come from the episode."""
    controls: list[ControlVideo | RgbControl] = []
    for kind, weight in settings.control_weights.items():
        factor = load_weight_map(weight, *view.rgb.shape[:3]) if isinstance(weight, Path) else weight
        if kind in view.control_weights:
            factor = factor * view.control_weights[kind]
        if kind in view.controls:
            controls.append(ControlVideo(kind, view.controls[kind], factor))
        elif kind == "edge":
            controls.append(RgbControl(kind, partial(edge_control, preset=settings.canny_threshold), factor))
        elif kind == "vis":
            controls.append(RgbControl(kind, partial(vis_control, preset=settings.blur_strength), factor))
        elif kind == "depth" and view.depth_m is not None:
            controls.append(ControlVideo(kind, depth_control(view.depth_m), factor))
        elif kind == "seg" and view.labels is not None:
            controls.append(ControlVideo(kind, seg_control(view.labels), factor))
    return controls


def _stacked(room: ControlVideo | RgbControl, wrist: ControlVideo | RgbControl) -> ControlVideo | RgbControl:
    """One control over both views; what is computed from the RGB is computed from the stacked RGB."""
    weight = room.weight
    if isinstance(room.weight, Tensor) and isinstance(wrist.weight, Tensor):
        weight = stack_views(room.weight, wrist.weight)
    if isinstance(room, ControlVideo) and isinstance(wrist, ControlVideo):
        return ControlVideo(room.kind, stack_views(room.frames, wrist.frames), weight)
    return replace(room, weight=weight)


def _lower_half(generated: Generated) -> Generated:
    def wrist_of(stacked: Tensor) -> Tensor:
        return unstack_views(stacked)[1].contiguous()

    ceiling = generated.ceiling
    return replace(generated, rgb=wrist_of(generated.rgb), ceiling=None if ceiling is None else wrist_of(ceiling))


def _guide(room: View, wrist: View, device: torch.device, settings: TwoViewSettings) -> WristGuide:
    guide = guide_for_wrist(
        _on(room, device),
        _on(wrist, device),
        foreground_labels=settings.foreground_labels,
        fill_missing_pixels=settings.fill_missing_pixels,
    )
    return WristGuide(guide.picture.cpu(), guide.zones.cpu(), guide.record)


def _on(view: View, device: torch.device) -> View:
    moved = {
        name: getattr(view, name).to(device)
        for name in ("rgb", "depth_m", "labels", "camera")
        if getattr(view, name) is not None
    }
    return replace(view, **moved)


def _foreground(view: View, settings: TwoViewSettings) -> Tensor:
    """[T, H, W] bool."""
    if view.labels is None:
        raise EpisodeInconsistent(f"view {view.name!r} has no labels to tell its foreground by")
    return torch.isin(view.labels, view.labels.new_tensor(settings.foreground_labels))


def _composited(generated: Generated, view: View, settings: TwoViewSettings) -> Generated:
    if not (settings.composite_foreground and settings.foreground_labels):
        return generated
    rgb = composite_foreground(generated.rgb, view.rgb, _foreground(view, settings))
    return replace(generated, rgb=rgb, record={**generated.record, "composite_foreground": True})


def composite_foreground(generated: Tensor, simulated: Tensor, foreground: Tensor) -> Tensor:
    """Paste the simulated foreground over generated frames.

    Exact from FEATHER_PX pixels inside its edge on, fading out towards the edge; outside nothing changes.

    Args:
        generated: [T, H, W, 3] uint8.
        simulated: likewise.
        foreground: [T, H, W] bool.
    """
    masks = foreground.cpu().numpy().astype(np.uint8)
    depth_px = np.stack([cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for mask in masks])
    share = torch.from_numpy(np.clip(depth_px / (FEATHER_PX + 1), 0, 1))[..., None]  # [T, H, W, 1]
    return (share * simulated + (1 - share) * generated).round().to(torch.uint8)
