"""What is in a file, and everything that is wrong with it, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from guided_transfer.episodes.guard import find_hazards
from guided_transfer.episodes.read import BLOCK_FRAMES, EpisodeFile, blame, blocks, episode_files, open_episodes
from guided_transfer.episodes.schema import CameraLayout, Schema, examine_layout
from guided_transfer.errors import EpisodeError, EpisodeInconsistent
from guided_transfer.types import FOREGROUND_LABELS, ROTATION_TOLERANCE, Episode


@dataclass(frozen=True)
class DatasetSummary:
    """One dataset: path in the file, shape, type, and how it is stored."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    stored: str


@dataclass(frozen=True)
class DemoSummary:
    """One demo: frames, rate, cameras by name, datasets."""

    name: str
    num_frames: int
    fps: float
    cameras: tuple[CameraLayout, ...]
    datasets: tuple[DatasetSummary, ...]


@dataclass(frozen=True)
class FileSummary:
    """What `guided-transfer inspect FILE` shows; `str()` of it is a page of text."""

    path: Path
    size_bytes: int
    schema: str
    demos: tuple[DemoSummary, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}  {self.size_bytes / 1e6:.1f} MB  schema {self.schema}"]
        for demo in self.demos:
            lines.append(f"  {demo.name}: {demo.num_frames} frames at {demo.fps:g} per second")
            lines += [f"    camera {_describe_camera(camera)}" for camera in demo.cameras]
            lines += [f"    {d.path}  {list(d.shape)} {d.dtype}  {d.stored}" for d in demo.datasets]
        return "\n".join(lines)


def inspect_file(path: Path | str, *, schema: str | Schema | None = None) -> FileSummary:
    """Schema, demos, cameras and datasets of a file; reads no pixels.

    Raises:
        EpisodeUnreadable, EpisodeInconsistent: the first thing wrong with it; `validate_file` lists all.
    """
    with open_episodes(path, schema=schema) as file:
        demos = tuple(_summarise(file, demo) for demo in file.demos)
        return FileSummary(file.path, file.path.stat().st_size, file.schema.name, demos)


def validate_folder(
    path: Path | str, *, schema: str | Schema | None = None, foreground: Collection[int] = FOREGROUND_LABELS
) -> dict[Path, list[EpisodeError]]:
    """Every fault of every file of a folder (or of one file), by file in natural order; no faults, empty list.

    Raises:
        UsageError: there is no such folder, or no file in it.
    """
    return {file: validate_file(file, schema=schema, foreground=foreground) for file in episode_files(path)}


def validate_file(
    path: Path | str, *, schema: str | Schema | None = None, foreground: Collection[int] = FOREGROUND_LABELS
) -> list[EpisodeError]:
    """Every fault of a file: structure, shapes, types, frame counts, poses, labels, depth; reads all of it once.

    Args:
        path: the HDF5 file.
        schema: a preset's name, a `Schema`, or None to detect it.
        foreground: labels that are kept: some pixel has one of them, and each of those has a depth.
    """
    path = Path(path)
    hazards = find_hazards(path)
    if hazards:
        return hazards
    try:
        with open_episodes(path, schema=schema, trusted=True) as file:
            faults = [fault for demo in file.demos for fault in _demo_faults(file, demo, foreground)]
            return [*_total_faults(file), *faults]
    except EpisodeError as error:
        return [error]


def require_sound(
    file: EpisodeFile, episode: Episode, views: Collection[str], foreground: Collection[int] = FOREGROUND_LABELS
) -> None:
    """Refuse for what `validate_file` finds and `EpisodeFile.read` lets through; no pixel is read again.

    Args:
        file: the open file that the episode was read from.
        episode: all frames of a demo.
        views: names of the cameras whose depth counts.
        foreground: labels that are kept: some pixel has one of them, and each of those has a depth.

    Raises:
        EpisodeInconsistent: the first fault.
    """
    for fault in _total_faults(file):
        raise fault
    demo = episode.id.rpartition("/")[2]
    cameras = file.layout(demo).cameras
    labels = [episode.views[name].labels for name in views]
    present = set().union(*(_present(found) for found in labels if found is not None))
    for fault in _foreground_faults(present, foreground, file, demo):
        raise fault
    for name in views:
        view = episode.views[name]
        if view.depth_m is not None:
            with blame(file.path, _depth_place(file, demo, cameras[name])):
                _check_depth(view.depth_m.split(BLOCK_FRAMES), view.labels, foreground)


def _total_faults(file: EpisodeFile) -> Iterator[EpisodeError]:
    """A demo that was lost shows in the count of all frames, where the file keeps one."""
    data = file.h5["data"]
    counts = [file.group(demo).attrs.get("num_samples") for demo in file.demos]
    total = data.attrs.get("total")
    if total is not None and None not in counts and total != sum(counts):
        yield EpisodeInconsistent(
            f"attribute total is {total}, the {len(counts)} demos have {sum(counts)} frames",
            file=file.path,
            dataset="/data",
        )


def _demo_faults(file: EpisodeFile, demo: str, foreground: Collection[int]) -> Iterator[EpisodeError]:
    try:
        with blame(file.path):
            layout, faults = examine_layout(file.group(demo), file.schema)
    except EpisodeError as error:
        yield error
        return
    for fault in faults:
        fault.file = file.path
        yield fault
    present: set[int] = set()
    for camera in layout.cameras.values() if layout else ():
        if foreground and camera.labels is None and not faults:
            yield EpisodeInconsistent(
                f"camera {camera.name} has no labels to tell the foreground by; --foreground_prompt or "
                "--foreground_mask of transfer names it instead, and here --foreground_label '' does without",
                file=file.path,
                dataset=demo,
            )
        yield from _pose_faults(file, demo, camera)
        yield from _picture_faults(file, demo, camera, foreground, present)
    yield from _foreground_faults(present, foreground, file, demo)


def _foreground_faults(
    present: Collection[int], foreground: Collection[int], file: EpisodeFile, demo: str
) -> Iterator[EpisodeError]:
    """Nothing would be kept where the labels are of another numbering, and the picture would not show that."""
    if present and foreground and not set(present) & set(foreground):
        yield EpisodeInconsistent(
            f"no pixel of any camera has a label that is kept, {_listed(foreground)}; the labels there are: "
            f"{_listed(present)}. --foreground_label names others, --foreground_label '' keeps nothing",
            file=file.path,
            dataset=demo,
        )


def _present(labels: Tensor) -> set[int]:
    return set(torch.bincount(labels.flatten()).nonzero()[:, 0].tolist())


def _listed(labels: Collection[int]) -> str:
    return ", ".join(map(str, sorted(labels)))


def _pose_faults(file: EpisodeFile, demo: str, camera: CameraLayout) -> Iterator[EpisodeError]:
    checks: tuple[tuple[str | None, Callable[[np.ndarray], tuple[np.ndarray, str]]], ...] = (
        (camera.position_m, lambda p: (np.isfinite(p).all(-1), "position that is not finite")),
        (camera.quat_wxyz, _is_rotation),
        (camera.intrinsics_px, _is_pinhole),
    )
    for path, check in checks:
        if path is not None:
            try:
                with blame(file.path, f"{file.group(demo).name}/{path}"):
                    _refuse_frames(*check(file.group(demo)[path][()].astype(np.float64)))
            except EpisodeError as error:
                yield error


def _is_rotation(quat_wxyz: np.ndarray) -> tuple[np.ndarray, str]:
    off = np.abs(np.linalg.norm(quat_wxyz, axis=-1) - 1)
    return off < ROTATION_TOLERANCE, f"quaternion that is no rotation (its length is off by up to {off.max():.2g})"


def _is_pinhole(intrinsics_px: np.ndarray) -> tuple[np.ndarray, str]:
    fx, fy = intrinsics_px[:, 0, 0], intrinsics_px[:, 1, 1]
    good = np.isfinite(intrinsics_px).all((-2, -1)) & (fx > 0) & (fy > 0)
    good &= (intrinsics_px[:, 2] == [0, 0, 1]).all(-1)
    return good, "matrix that is no pinhole camera's (finite, positive focal lengths, last row 0, 0, 1)"


def _refuse_frames(good: np.ndarray, what: str) -> None:
    if not good.all():
        raise EpisodeInconsistent(f"{(~good).sum()} of {len(good)} frames, first {good.argmin()}, have a {what}")


def _picture_faults(
    file: EpisodeFile, demo: str, camera: CameraLayout, foreground: Collection[int], present: set[int]
) -> Iterator[EpisodeError]:
    """Read everything block by block; a dataset that fails is told once and not read further.

    `present` gets the labels that there are.
    """
    rgb = file.group(demo)[camera.rgb]
    frames = range(len(rgb))
    try:
        for block in blocks(frames, rgb):
            file.read_rgb(demo, camera, block)
    except EpisodeError as error:
        yield error
    labels = None
    try:
        if (labels := file.read_labels(demo, camera, frames)) is not None:
            present |= _present(labels)
    except EpisodeError as error:
        yield error
    if camera.depth_m is None:
        return
    stored = (file.read_depth_m(demo, camera, block) for block in blocks(frames, file.group(demo)[camera.depth_m]))
    try:
        with blame(file.path, _depth_place(file, demo, camera)):
            _check_depth((depth_m for depth_m in stored if depth_m is not None), labels, foreground)
    except EpisodeError as error:
        yield error


def _depth_place(file: EpisodeFile, demo: str, camera: CameraLayout) -> str:
    return f"{file.group(demo).name}/{camera.depth_m}, camera {camera.name}"


def _check_depth(depth_m: Iterable[Tensor], labels: Tensor | None, foreground: Collection[int]) -> None:
    """Depth is a number everywhere, and a finite positive one where something is kept.

    Args:
        depth_m: all frames in order, as blocks [n, H, W].
        labels: [T, H, W], None where there are none.
        foreground: labels that are kept.
    """
    kept = torch.zeros(256, dtype=torch.bool)
    kept[list(foreground)] = True
    no_number: list[int] = []
    no_surface: list[int] = []
    for block in depth_m:
        if labels is not None:
            part = labels[len(no_number) : len(no_number) + len(block)]
            missing = kept[part.int()] & ~(block.isfinite() & (block > 0))
            no_surface += missing.sum((1, 2)).tolist()
        no_number += block.isnan().sum((1, 2)).tolist()
    for count, what in (
        (no_number, "not a number"),
        (no_surface, "infinite, 0 or negative where labels are foreground"),
    ):
        if any(count):
            first = next(frame for frame, pixels in enumerate(count) if pixels)
            raise EpisodeInconsistent(f"depth is {what} in {sum(count)} pixels, first in frame {first}")


def _summarise(file: EpisodeFile, demo: str) -> DemoSummary:
    layout, found = file.layout(demo), []

    def note(name: str, obj: h5py.HLObject) -> None:
        if isinstance(obj, h5py.Dataset):
            found.append(DatasetSummary(name, obj.shape or (), str(obj.dtype), _describe_storage(obj)))

    with blame(file.path):
        file.group(demo).visititems(note)
    return DemoSummary(demo, layout.num_frames, file.fps(demo), tuple(layout.cameras.values()), tuple(found))


def _describe_storage(dataset: h5py.Dataset) -> str:
    if dataset.chunks is None:
        return "contiguous"
    filters = [name for name in (dataset.compression, *(["shuffle"] if dataset.shuffle else [])) if name]
    filters += ["fletcher32"] if dataset.fletcher32 else []
    return " ".join([f"chunks {list(dataset.chunks)}", *filters])


def _describe_camera(camera: CameraLayout) -> str:
    has = {"depth": camera.depth_m, "labels": camera.labels, "pose": camera.has_pose}
    parts = [name if present else f"no {name}" for name, present in has.items()]
    return f"{camera.name}: {camera.width_px} x {camera.height_px} px, rgb, {', '.join(parts)}"
