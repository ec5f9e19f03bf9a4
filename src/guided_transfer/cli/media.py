"""The pictures of a report: what one episode started from, beside what came out, as videos and a thumbnail."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.episodes.video import write_mp4
from guided_transfer.generation import RgbControl
from guided_transfer.report.data import ZONE_COLOURS, media_folder
from guided_transfer.two_view import TwoViewSettings, controls_of
from guided_transfer.types import Episode, TransferResult, View

THUMB_HEIGHT_PX = 128
DIMMED = 0.25
"""What is left of the brightness outside the foreground."""


def write_media(
    output_dir: Path,
    key: str,
    episode: Episode,
    result: TransferResult,
    settings: TwoViewSettings,
    *,
    published: bool = True,
) -> None:
    """Write what the report shows of one episode.

    Args:
        output_dir: of the run.
        key: of the episode; its published videos are `<key>_<view>_view.mp4`.
        episode: the source.
        result: what came out; a view without zones keeps the video of them that it has.
        settings: of the run; tell the foreground and the controls.
        published: whether the videos of the views exist beside the report; a rejected episode has none.
    """
    folder = media_folder(output_dir / "report", key)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rgb in result.rgb.items():
        view = episode.views[name]
        for kind, frames in source_videos(view, settings):
            write_mp4(folder / f"{name}.{kind}.mp4", frames, episode.fps, replace=True)
        if name in result.zones:
            write_mp4(folder / f"{name}.zones.mp4", zones_video(result.zones[name]), episode.fps, replace=True)
        if published:
            same_file(output_dir / f"{key}_{name}_view.mp4", folder / f"{name}.generated.mp4")
        else:
            write_mp4(folder / f"{name}.generated.mp4", rgb, episode.fps, replace=True)
    write_thumb(folder / "thumb.jpg", episode, result.rgb)
    facts = {"fps": episode.fps, "num_frames": episode.num_frames}
    (folder / "clip.json").write_text(json.dumps(facts), encoding="utf-8")


def source_videos(view: View, settings: TwoViewSettings) -> Iterator[tuple[str, Tensor]]:
    """The source's RGB, its foreground and its controls, by kind."""
    yield "simulated", view.rgb
    if view.labels is not None and settings.foreground_labels:
        foreground = torch.isin(view.labels, view.labels.new_tensor(settings.foreground_labels))
        yield "foreground", torch.where(foreground[..., None], view.rgb, (view.rgb * DIMMED).to(torch.uint8))
    unweighted = replace(settings, control_weights=dict.fromkeys(settings.control_weights, 0.0))
    for control in controls_of(view, unweighted):
        yield control.kind, control.compute(view.rgb) if isinstance(control, RgbControl) else control.frames


def zones_video(zones: Tensor) -> Tensor:
    """Zone codes [T, H, W] as colours [T, H, W, 3] uint8."""
    palette = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in ZONE_COLOURS.values()]
    return torch.tensor(palette, dtype=torch.uint8)[zones.long()]


def write_thumb(path: Path, episode: Episode, generated: Mapping[str, Tensor]) -> None:
    """The middle frame of the first view simulated, then of every view generated, side by side."""
    middle = episode.num_frames // 2
    first = next(iter(generated))
    pictures = [episode.views[first].rgb[middle], *(rgb[middle] for rgb in generated.values())]
    row = np.concatenate([_of_height(picture.numpy()) for picture in pictures], axis=1)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(row, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    path.write_bytes(jpeg.tobytes())  # which fails where the disk is full; imwrite would only say False


def _of_height(picture: np.ndarray) -> np.ndarray:
    width_px = round(picture.shape[1] * THUMB_HEIGHT_PX / picture.shape[0])
    return cv2.resize(picture, (width_px, THUMB_HEIGHT_PX), interpolation=cv2.INTER_AREA)


def same_file(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no links; so that the
    report's folder is whole without holding videos twice.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
