"""Episodes of an HDF5 file, read lazily and in slices into typed, checked nouns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import torch
from torch import Tensor

from guided_transfer.episodes.guard import require_safe
from guided_transfer.episodes.labels import Unknown, decode_into, refuse_unknown
from guided_transfer.episodes.schema import (
    CameraLayout,
    DemoLayout,
    Schema,
    find_schema,
    label_colours,
    natural_key,
    read_layout,
)
from guided_transfer.errors import EpisodeError, EpisodeInconsistent, EpisodeUnreadable, UsageError
from guided_transfer.types import Camera, Episode, View

DEFAULT_FPS = 30.0
MAX_FPS = 1000
BLOCK_FRAMES = 16
"""Frames that are decoded at once: enough to keep libhdf5 busy, little beside an episode."""

DEMO_NAME = r"demo_[0-9]{1,9}"
"""Becomes part of file names, so nothing else is let through."""

SUFFIXES = (".hdf5", ".h5")


def episode_files(folder: Path | str) -> list[Path]:
    """The HDF5 files of a folder in natural order; a file is a folder of one.

    Raises:
        UsageError: the folder does not exist or holds none.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist; expected a folder with data_<k>.hdf5 files")
    found = [path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise UsageError(f"{folder} holds no {' or '.join(SUFFIXES)} file")
    return sorted(found, key=lambda path: natural_key(path.name))


def open_episodes(path: Path | str, *, schema: str | Schema | None = None, trusted: bool = False) -> EpisodeFile:
    """Open a file of simulated episodes; use it in a `with`.

    Args:
        path: the HDF5 file.
        schema: a preset's name, a `Schema` of your own, or None to detect the preset.
        trusted: skip the check for hostile structure; for files this project has just written.

    Raises:
        EpisodeUnreadable: it cannot be opened, is not safe to open, or fits no schema.
        UsageError: no preset has that name.
    """
    return EpisodeFile(Path(path), schema, trusted)


class EpisodeFile:
    """An open file: names of its demos at once, pixels when asked for.

    Attributes:
        path: the file.
        schema: the layout it follows.
        demos: names of all demos in natural order.
    """

    def __init__(self, path: Path, schema: str | Schema | None = None, trusted: bool = False) -> None:
        self.path = path
        if not trusted:
            require_safe(path)
        with blame(path):
            self.h5 = h5py.File(path, "r")
        try:
            with blame(path):
                self.demos = _demo_names(self.h5)
                self.schema = self._find_schema(schema)
        except BaseException:
            self.close()
            raise

    def _find_schema(self, wanted: str | Schema | None) -> Schema:
        """From the first demo that fits one: a damaged demo must not take its siblings with it."""
        reasons: list[EpisodeError] = []
        for demo in self.demos:
            try:
                return find_schema(self.group(demo), wanted)
            except EpisodeError as error:
                reasons.append(error)
        raise reasons[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EpisodeFile({str(self.path)!r}, schema={self.schema.name!r}, demos={list(self.demos)})"

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self.h5.close()

    def layout(self, demo: str) -> DemoLayout:
        """Frames, cameras and sizes of a demo; reads no pixels.

        Raises:
            UsageError: the file has no such demo.
            EpisodeInconsistent: shapes, types or frame counts disagree.
        """
        with blame(self.path):
            return read_layout(self.group(demo), self.schema)

    def group(self, demo: str) -> h5py.Group:
        """The demo's HDF5 group."""
        if demo not in self.demos:
            raise UsageError(f"{self.path} has no {demo!r}; it has {', '.join(self.demos)}")
        return self.h5["data"][demo]

    def fps(self, demo: str) -> float:
        """The episode's own rate where the file says it (`fps` attribute or env_args' control_freq), else 30."""
        for holder in (self.group(demo), self.h5["data"]):
            with blame(self.path, holder.name):
                for rate in (holder.attrs.get("fps"), _control_freq(holder.attrs.get("env_args"))):
                    if isinstance(rate, int | float | np.number) and 0 < rate <= MAX_FPS:
                        return float(rate)
        return DEFAULT_FPS

    def read(self, demo: str, frames: slice = slice(None), *, views: Sequence[str] | None = None) -> Episode:
        """Read some frames of a demo.

        Args:
            demo: one of `demos`.
            frames: which; step 1.
            views: camera names, all by default.

        Returns:
            An `Episode` in memory of its own; pixels are held once, whatever the file's layout.

        Raises:
            EpisodeInconsistent, EpisodeUnreadable: with file and dataset.
            UsageError: no such demo or view, or no frame asked for.
        """
        layout = self.layout(demo)
        wanted = range(*frames.indices(layout.num_frames))
        if not wanted or wanted.step != 1:
            raise UsageError(f"frames {frames} of {demo} are none or not consecutive; it has {layout.num_frames}")
        unknown = set(views or ()) - set(layout.cameras)
        if unknown:
            raise UsageError(f"{demo} has no view {', '.join(sorted(unknown))}; it has {', '.join(layout.cameras)}")
        read = {name: self._view(demo, layout.cameras[name], wanted) for name in views or layout.cameras}
        return Episode(f"{self.path.stem}/{demo}", self.fps(demo), read, self.path)

    def read_rgb(self, demo: str, camera: CameraLayout, frames: range) -> Tensor:
        """Pictures [T, H, W, 3] uint8 of one camera."""
        rgb = _empty(frames, camera, 3)
        dataset = self.group(demo)[camera.rgb]
        with blame(self.path, dataset.name):
            _read_into(rgb, dataset, camera, frames)
        return rgb

    def read_depth_m(self, demo: str, camera: CameraLayout, frames: range) -> Tensor | None:
        """Depth [T, H, W] float32 in metres along the optical axis, None where the file has none."""
        if camera.depth_m is None:
            return None
        depth_m = _empty(frames, camera, dtype=np.float32)
        dataset = self.group(demo)[camera.depth_m]
        with blame(self.path, dataset.name):
            _read_into(depth_m, dataset, camera, frames)
        return depth_m

    def read_labels(self, demo: str, camera: CameraLayout, frames: range) -> Tensor | None:
        """Labels [T, H, W] uint8, None where the file has none; unknown colours are an error with their counts."""
        if camera.labels is None:
            return None
        labels = _empty(frames, camera)
        dataset, table = self.group(demo)[camera.labels], label_colours(self.schema)
        unknown: Unknown = {}
        with blame(self.path, dataset.name):
            for block in blocks(frames, dataset):
                out = labels[block.start - frames.start :][: len(block)].numpy()
                stored = dataset[_selection(camera, block)]
                if stored.ndim == 4 and stored.shape[-1] > 1:
                    found = decode_into(out, stored, table)
                    unknown |= {block.start + frame: colours for frame, colours in found.items()}
                else:
                    _copy_labels(out, stored.reshape(out.shape))
            refuse_unknown(unknown, table)
        return labels

    def read_camera(self, demo: str, camera: CameraLayout, frames: range) -> Camera | None:
        """Intrinsics and poses, None where the file has none."""
        if not camera.has_pose:
            return None
        group, window = self.group(demo), slice(frames.start, frames.stop)
        paths = (camera.position_m, camera.quat_wxyz, camera.intrinsics_px)
        with blame(self.path, f"{group.name}, camera {camera.name}"):
            position, quat, intrinsics = (torch.from_numpy(group[p][window].astype(np.float64)) for p in paths)
            return Camera.from_ros_pose(position, quat, intrinsics, camera.height_px, camera.width_px)

    def _view(self, demo: str, camera: CameraLayout, frames: range) -> View:
        with ThreadPoolExecutor(1) as beside:  # labels are decoded while libhdf5 reads the rest
            labels = beside.submit(self.read_labels, demo, camera, frames)
            rgb = self.read_rgb(demo, camera, frames)
            depth_m = self.read_depth_m(demo, camera, frames)
            camera_and_pose = self.read_camera(demo, camera, frames)
            return View(camera.name, rgb, depth_m, labels.result(), camera_and_pose)


def blocks(frames: range, dataset: h5py.Dataset) -> Iterator[range]:
    """Frames in portions that end where chunks end, so that no chunk is packed or unpacked twice."""
    rows = dataset.chunks[0] if dataset.chunks else 1
    step = rows * -(-BLOCK_FRAMES // rows)
    start = frames.start
    while start < frames.stop:
        stop = min(start - start % step + step, frames.stop)
        yield range(start, stop)
        start = stop


@contextmanager
def blame(file: Path, dataset: str | None = None) -> Iterator[None]:
    """Turn whatever h5py and the nouns raise into one typed error that names file and dataset."""
    try:
        yield
    except EpisodeError as error:
        error.file, error.dataset = error.file or file, error.dataset or dataset
        raise
    except FileNotFoundError:
        raise EpisodeUnreadable("no such file", file=file) from None
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise EpisodeUnreadable(f"cannot be read: {error}", file=file, dataset=dataset) from error


def _demo_names(h5: h5py.File) -> tuple[str, ...]:
    data = h5.get("data")
    if not isinstance(data, h5py.Group):
        raise EpisodeUnreadable(f"has no group 'data'; at its root are {sorted(h5)[:8]}")
    names = sorted(data, key=natural_key)
    strange = [n for n in names if not re.fullmatch(DEMO_NAME, n) or not isinstance(data.get(n), h5py.Group)]
    if strange or not names:
        raise EpisodeUnreadable(
            f"holds {strange[:8]}; groups demo_<n>, at least one, are accepted", dataset="/data"
        )
    return tuple(names)


def _control_freq(env_args: Any) -> Any:
    """The simulator's rate in robomimic's env_args JSON, where there is one."""
    try:
        return json.loads(env_args)["env_kwargs"]["control_freq"]
    except (TypeError, ValueError, KeyError, RecursionError):
        return None


def _empty(frames: range, camera: CameraLayout, *channels: int, dtype: type[np.generic] = np.uint8) -> Tensor:
    """Memory for pictures; NumPy asks the system for large pages, which halves what it costs to touch them."""
    return torch.from_numpy(np.empty((len(frames), camera.height_px, camera.width_px, *channels), dtype))


def _read_into(out: Tensor, dataset: h5py.Dataset, camera: CameraLayout, frames: range) -> None:
    """Read one camera's frames without a copy; h5py's own `read_direct` is ten times slower across ranks.

    Block by block, so that another thread gets its turn at libhdf5.
    """
    stack = (camera.stack_index,) if camera.is_stacked else ()
    picture = dataset.shape[1 + len(stack) :]
    window = dataset.id.get_space()
    for block in blocks(frames, dataset):
        count = (len(block), *(1 for _ in stack), *picture)
        window.select_hyperslab((block.start, *stack, *(0 for _ in picture)), count)
        part = out[block.start - frames.start :][: len(block)].numpy().reshape(count)
        dataset.id.read(h5py.h5s.create_simple(count), window, part)


def _selection(camera: CameraLayout, frames: range) -> tuple[slice | int, ...]:
    window = slice(frames.start, frames.stop)
    return (window,) if camera.stack_index is None else (window, camera.stack_index)


def _copy_labels(out: np.ndarray, stored: np.ndarray) -> None:
    low, high = int(stored.min()), int(stored.max())
    if low < 0 or high > 255:
        raise EpisodeInconsistent(f"labels run from {low} to {high}; 0 to 255 are accepted")
    out[...] = stored
