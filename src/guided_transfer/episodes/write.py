"""Write a transferred file: the source with new pictures, everything else as it was stored, all or nothing."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from guided_transfer.episodes.atomic import published
from guided_transfer.episodes.hdf5_copy import OWN_PREFIX, Sink, address, copy_tree, file_like, verify_tree
from guided_transfer.episodes.read import EpisodeFile, blocks
from guided_transfer.episodes.schema import CameraLayout, DemoLayout
from guided_transfer.errors import OutputError, UsageError

Frames = Tensor | Iterable[Tensor]
"""uint8 [T, H, W, 3], or the T frames [H, W, 3] one after another."""


def write_transferred(
    source: EpisodeFile,
    target: Path | str,
    frames: Mapping[str, Mapping[str, Frames]],
    provenance: Mapping[str, Mapping[str, Any]],
    *,
    replace: bool = False,
) -> Path:
    """Publish `target`: `source` with the given views' pictures replaced.

    Everything but the picture datasets keeps its bytes, chunks, filters, attributes and links; the pictures keep
    dtype and shape, and alone carry new attributes, `guided_transfer.*`. Pictures of views that are not given stay
    the source's; the attribute `guided_transfer.views` names those that were generated. The file is synced,
    reopened and compared with the source and the frames before it appears under its name.

    Args:
        source: the open episode file.
        target: where the file shall appear.
        frames: by demo and view; every demo of the source, at least one view each, at the source's size and length.
        provenance: by demo; numbers and strings are stored as they are, anything else as JSON.
        replace: whether an existing target may be replaced.

    Raises:
        UsageError: the target is the source.
        OutputError: demos, views, sizes or lengths do not match the source; the target exists; the disk is full;
            or verification failed. Nothing was published then.
    """
    target = Path(target)
    if target.exists() and target.samefile(source.path):
        raise UsageError(f"{target} is the source itself; choose another output folder")
    layouts = {demo: source.layout(demo) for demo in source.demos}
    _refuse_mismatch(layouts, frames)
    renew = {
        address(source.group(demo)[path]): None for demo, layout in layouts.items() for path in layout.rgb_paths
    }
    with published(target, replace=replace) as partial, Sink(partial, "x+") as sink:
        checksums: dict[str, int] = {}
        with file_like(source.h5, sink) as out, ThreadPoolExecutor(1) as beside:
            copy_tree(source.h5, out, renew)
            for demo, layout in layouts.items():
                for path in layout.rgb_paths:
                    dataset = out["data"][demo][path]
                    written = _fill(dataset, source, layout, path, frames[demo], sink)
                    checksums[dataset.name] = _checksum(written, beside)
                    _sign(dataset, {"views": list(frames[demo]), **provenance.get(demo, {})})
        sink.require_sound()
        _verify(source, sink, renew, checksums)
    return target


def _refuse_mismatch(layouts: Mapping[str, DemoLayout], frames: Mapping[str, Mapping[str, Frames]]) -> None:
    """Find out before anything is written, as far as it can be told without running an iterator."""
    if set(frames) != set(layouts):
        raise OutputError(
            f"frames are given for {sorted(frames)}; the file's demos are {sorted(layouts)}, all needed"
        )
    for demo, views in frames.items():
        cameras = layouts[demo].cameras
        if not views or set(views) - set(cameras):
            raise OutputError(f"{demo}: views {sorted(views)} are given; the file has {sorted(cameras)}")
        for view, video in views.items():
            if isinstance(video, Tensor) and len(video) != layouts[demo].num_frames:
                raise _wrong_length(demo, view, len(video), layouts[demo].num_frames)


def _fill(
    dataset: h5py.Dataset,
    source: EpisodeFile,
    layout: DemoLayout,
    path: str,
    views: Mapping[str, Frames],
    sink: Sink,
) -> Iterator[np.ndarray]:
    """Write all frames of one picture dataset, block by block; yields what was written."""
    old = source.group(layout.name)[path]
    streams = {name: _frames_of(views[name], layout, name) for name in views if layout.cameras[name].rgb == path}
    partly = len(streams) < sum(camera.rgb == path for camera in layout.cameras.values())
    for rows, pictures in _blocks(dataset):
        if partly:
            old.read_direct(pictures, rows)
        for name, stream in streams.items():
            for out in _of_camera(pictures, layout.cameras[name]):
                out[...] = next(stream)
        dataset[rows] = pictures
        sink.require_sound()
        yield pictures
    for stream in streams.values():
        next(stream, None)


def _blocks(dataset: h5py.Dataset) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows of a picture dataset in portions, and memory for each, which the next but one gets again."""
    portions = list(blocks(range(len(dataset)), dataset))
    memory = [np.empty((len(rows), *dataset.shape[1:]), np.uint8) for rows in portions[:2]]
    for rows, room in zip(portions, cycle(memory), strict=False):
        yield slice(rows.start, rows.stop), room[: len(rows)]


def _checksum(pictures: Iterable[np.ndarray], beside: Executor) -> int:
    """CRC-32 of all blocks; each is summed while the next one is made."""
    summed: Future[int] = beside.submit(int)
    for block in pictures:
        summed = beside.submit(zlib.crc32, block.data, summed.result())
    return summed.result()


def _of_camera(block: np.ndarray, camera: CameraLayout) -> np.ndarray:
    return block if camera.stack_index is None else block[:, camera.stack_index]


def _frames_of(video: Frames, layout: DemoLayout, view: str) -> Iterator[np.ndarray]:
    """The T frames as arrays; raises where one is missing, too many, or of another size or type."""
    camera, given = layout.cameras[view], 0
    for frame in video:
        given += 1
        if given > layout.num_frames:
            raise _wrong_length(layout.name, view, f"more than {layout.num_frames}", layout.num_frames)
        array = frame.cpu().numpy()
        if array.shape != (camera.height_px, camera.width_px, 3) or array.dtype != np.uint8:
            raise OutputError(
                f"{layout.name}, view {view}: a frame is {list(array.shape)} {array.dtype}; "
                f"the source's are [{camera.height_px}, {camera.width_px}, 3] uint8"
            )
        yield array
    if given < layout.num_frames:
        raise _wrong_length(layout.name, view, given, layout.num_frames)


def _wrong_length(demo: str, view: str, given: int | str, wanted: int) -> OutputError:
    return OutputError(f"{demo}, view {view}: {given} frames for a source of {wanted}; nothing is padded or cut")


def _sign(dataset: h5py.Dataset, facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        plain = isinstance(value, bool | int | float | str)
        dataset.attrs[OWN_PREFIX + key] = value if plain else json.dumps(value, sort_keys=True)


def _verify(source: EpisodeFile, sink: Sink, renewed: Mapping[int, None], checksums: Mapping[str, int]) -> None:
    """Sync the file, and meanwhile compare all of it with the source and the pictures; raises what failed."""
    with h5py.File(sink.name, "r") as written, ThreadPoolExecutor(3) as beside:
        synced = beside.submit(os.fsync, sink.fileno())
        copied = beside.submit(verify_tree, source.h5, written, renewed)
        for name, checksum in checksums.items():
            if _checksum(_read_back(written[name]), beside) != checksum:
                raise OutputError(f"{name} reads back other pictures than were written; nothing was published")
        copied.result()
        synced.result()


def _read_back(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    for rows, pictures in _blocks(dataset):
        dataset.read_direct(pictures, rows)
        yield pictures
