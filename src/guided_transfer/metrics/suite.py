"""All cheap metrics of one episode, and the rows that keep a table honest.

Cheap means without a network. PSNR, flicker and cross-view error use every frame; SSIM, edges and the bilateral
filter at most SAMPLED_FRAMES evenly spaced ones, always including the first and the last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.metrics.cross_view import CrossView, cross_view
from guided_transfer.metrics.fidelity import blur_ssim, canny, depth_edge_recall, depth_edges, edge_f1
from guided_transfer.metrics.foreground import (
    BackgroundChange,
    ForegroundFidelity,
    Regions,
    background_change,
    foreground_fidelity,
    regions,
)
from guided_transfer.metrics.geometry import has_geometry, look_up
from guided_transfer.metrics.similarity import psnr_per_frame_db
from guided_transfer.metrics.temporal import mean_known, seam_z, static_steps
from guided_transfer.types import FOREGROUND_LABELS, Episode, View

SAMPLED_FRAMES = 9


@dataclass(frozen=True)
class ViewMetrics:
    """One camera's figures; None is "cannot be measured here", never zero.

    Attributes:
        foreground: fidelity to the source; None without labels.
        ceiling: what the tokenizer alone keeps, measured the same way, on some frames; guidance cannot do better.
        background: how much changed where change is wanted; None without labels.
        flicker: mean step of the static background, 0..1; None without labels, depth or camera.
        source_flicker: the same of the source video: resampling and shading.
        seam_z: oddest clip border; None for one clip.
        edge_f1, blur_ssim: fidelity to the edge and blur controls.
        depth_edge_recall: share of the depth edges that can be seen; None without depth.
        source_depth_edge_recall: the same of the source video, the most one can expect.
        time_lines: "foreground_psnr_db" per frame, "flicker" per step.
    """

    foreground: ForegroundFidelity | None
    ceiling: ForegroundFidelity | None
    background: BackgroundChange | None
    flicker: float | None
    source_flicker: float | None
    seam_z: float | None
    edge_f1: float | None
    blur_ssim: float
    depth_edge_recall: float | None
    source_depth_edge_recall: float | None
    time_lines: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeMetrics:
    """Figures of one episode.

    Attributes:
        views: by camera name.
        cross_view: disagreement of the second view with the first; None without two views, depth or cameras.
    """

    views: Mapping[str, ViewMetrics]
    cross_view: CrossView | None

    @property
    def foreground_psnr_db(self) -> float | None:
        """Of the worst view: what a quality gate looks at."""
        kept = [view.foreground.psnr_db for view in self.views.values() if view.foreground]
        return min((value for value in kept if value is not None), default=None)

    @property
    def cross_view_error(self) -> float | None:
        """Normalised: 0 as the simulated pair, 1 as a shuffled one."""
        return self.cross_view.normalised if self.cross_view else None

    def as_dict(self) -> dict[str, Any]:
        """Nested, strict JSON: numbers, None, lists."""
        return asdict(self)


def episode_metrics(
    source: Episode,
    generated: Mapping[str, Tensor],
    *,
    ceiling: Mapping[str, Tensor] | None = None,
    ceiling_frames: Sequence[Sequence[int]] | None = None,
    clip_borders: Sequence[int] = (),
    foreground_labels: Collection[int] = FOREGROUND_LABELS,
    unrelated_room: Tensor | None = None,
) -> EpisodeMetrics:
    """Measure a transferred episode against its source.

    Args:
        source: the simulated episode; labels, depth and cameras are used where it has them.
        generated: [T, H, W, 3] uint8 by view name, at the source's size; views left out are not measured.
        ceiling: the tokenizer's reconstruction of the source, likewise, or of some of its frames.
        ceiling_frames: [first, last + 1] of the stretches of frames that `ceiling` holds; None for all.
        clip_borders: first frame of each clip but the first.
        foreground_labels: what was to be kept.
        unrelated_room: see `cross_view`.

    Raises:
        UsageError: a view the source lacks, or frames of another shape or type.
    """
    frames = torch.arange(source.num_frames)
    decoded = frames if ceiling_frames is None else torch.cat([frames[slice(*pair)] for pair in ceiling_frames])
    generated, ceiling = _checked(source, generated, frames), _checked(source, ceiling or {}, decoded)
    views = {}
    for name, rgb in generated.items():
        view = source.views[name]
        where = regions(view.labels, foreground_labels) if view.labels is not None else None
        best = _ceiling(view, ceiling.get(name), decoded, where)
        views[name] = _view_metrics(view, rgb, where, best, clip_borders)
    return EpisodeMetrics(views, _cross_view(source, generated, unrelated_room))


def baseline_rows(source: Episode, **options: Any) -> dict[str, EpisodeMetrics]:
    """The two rows every table needs, so that "change nothing" fools nobody; `options` as of episode_metrics.

    "identity" returns the source. "colour jitter" turns all hues by 40 degrees and takes a fifth of the
    brightness: the cheapest augmentation there is.
    """
    return {name: episode_metrics(source, videos, **options) for name, videos in baseline_videos(source).items()}


def baseline_videos(source: Episode) -> dict[str, dict[str, Tensor]]:
    """What the two rows measure: videos by view name, by the row's name."""
    views = source.views.items()
    return {
        "identity": {name: view.rgb for name, view in views},
        "colour jitter": {name: jittered(view.rgb) for name, view in views},
    }


def jittered(rgb: Tensor) -> Tensor:
    """Frames [T, H, W, 3] uint8 with hues turned by 40 degrees and four fifths of the brightness."""
    hsv = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2HSV) for frame in rgb.numpy()])
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + 20) % 180  # OpenCV counts hue in steps of two degrees
    hsv[..., 2] = (hsv[..., 2] * 0.8).astype(np.uint8)
    return torch.from_numpy(np.stack([cv2.cvtColor(frame, cv2.COLOR_HSV2RGB) for frame in hsv]))


def sampled_frames(num_frames: int) -> Tensor:
    """Indices of the frames that costly metrics look at: at most SAMPLED_FRAMES, evenly spaced, ends included."""
    return torch.linspace(0, num_frames - 1, min(num_frames, SAMPLED_FRAMES)).round().long()


def _checked(source: Episode, videos: Mapping[str, Tensor], frames: Tensor) -> dict[str, Tensor]:
    for name, rgb in videos.items():
        if name not in source.views:
            raise UsageError(f"{source.id} has no view {name!r}; it has {', '.join(source.views)}")
        wanted = (len(frames), *source.views[name].rgb.shape[1:])
        if rgb.shape != wanted or rgb.dtype != torch.uint8:
            raise UsageError(f"{source.id}: {name} is {rgb.dtype}{list(rgb.shape)}, its source uint8{list(wanted)}")
    return {name: rgb.cpu() for name, rgb in videos.items()}


def _view_metrics(
    view: View,
    rgb: Tensor,
    where: Regions | None,
    ceiling: ForegroundFidelity | None,
    clip_borders: Sequence[int],
) -> ViewMetrics:
    sampled = sampled_frames(view.num_frames)
    steps, source_steps = _static_steps(view, rgb, where)
    edges, source_edges = canny(rgb[sampled]), canny(view.rgb[sampled])
    jumps = depth_edges(view.depth_m[sampled]) if view.depth_m is not None else None
    kept = psnr_per_frame_db(view.rgb, rgb, where.kept) if where else []
    return ViewMetrics(
        foreground=foreground_fidelity(view.rgb, rgb, where, sampled) if where else None,
        ceiling=ceiling,
        background=background_change(view.rgb, rgb, where) if where else None,
        flicker=mean_known(steps),
        source_flicker=mean_known(source_steps),
        seam_z=seam_z(steps, clip_borders),
        edge_f1=edge_f1(source_edges, edges),
        blur_ssim=blur_ssim(view.rgb[sampled], rgb[sampled]),
        depth_edge_recall=depth_edge_recall(jumps, edges) if jumps is not None else None,
        source_depth_edge_recall=depth_edge_recall(jumps, source_edges) if jumps is not None else None,
        time_lines={"foreground_psnr_db": kept, "flicker": steps},
    )


def _ceiling(
    view: View, reconstructed: Tensor | None, frames: Tensor, where: Regions | None
) -> ForegroundFidelity | None:
    if where is None or reconstructed is None:
        return None
    return foreground_fidelity(view.rgb[frames], reconstructed, where[frames], sampled_frames(len(frames)))


def _static_steps(view: View, rgb: Tensor, where: Regions | None) -> tuple[list[float | None], list[float | None]]:
    if where is None or not has_geometry(view) or view.num_frames < 2:
        return [], []
    generated, source = static_steps(view, where.changed, [rgb, view.rgb])
    return generated, source


def _cross_view(
    source: Episode, generated: Mapping[str, Tensor], unrelated_room: Tensor | None
) -> CrossView | None:
    names = [name for name in source.views if name in generated][:2]
    views = [source.views[name] for name in names]
    if len(views) < 2 or not all(has_geometry(view) for view in views):
        return None
    room, wrist = views
    return cross_view(
        look_up(wrist, room),
        generated[wrist.name],
        generated[room.name],
        wrist.rgb,
        room.rgb,
        sampled_frames(wrist.num_frames),
        unrelated_room=unrelated_room,
    )
