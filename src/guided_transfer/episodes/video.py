"""Videos through PyAV: H.264 that every browser plays, and a lossless pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from guided_transfer.episodes.atomic import published
from guided_transfer.errors import EpisodeUnreadable, UsageError

if TYPE_CHECKING:  # imported where it works: episodes can be read and written without it
    import av

Rate = Fraction | float | int
Found = TypeVar("Found")
BT709 = 1
"""Code of BT.709 for primaries, transfer and matrix in H.264 streams (ITU-T H.273)."""


def write_mp4(
    path: Path | str, frames: Tensor | Iterable[Tensor], fps: Rate, *, crf: int = 18, replace: bool = False
) -> Path:
    """Write an H.264 video for people: yuv420p, BT.709, index in front; it appears whole or not at all.

    Args:
        path: the .mp4 file.
        frames: uint8 [T, H, W, 3], or T frames [H, W, 3]. An odd height or width repeats its last row or column,
            since 4:2:0 needs even sizes.
        fps: frames per second.
        crf: x264's quality, 0 to 51, lower is better.
        replace: whether an existing file may be replaced.

    Raises:
        UsageError: no frames, or frames that are not uint8 RGB of one size.
        OutputError: the file exists or the file system refused.
    """
    options = {"crf": str(crf), "preset": "medium"}
    return _write(Path(path), frames, fps, "mp4", "libx264", "yuv420p", options, replace)


def write_lossless(
    path: Path | str, frames: Tensor | Iterable[Tensor], fps: Rate, *, replace: bool = False
) -> Path:
    """Write an FFV1 video in Matroska with a checksum per slice; `read_video` gives the same bytes back.

    Arguments and errors are those of `write_mp4`; odd sizes are kept.
    """
    options = {"level": "3", "g": "1", "slicecrc": "1"}
    return _write(Path(path), frames, fps, "matroska", "ffv1", "bgr0", options, replace)


@dataclass(frozen=True)
class VideoFacts:
    """What a video is, without its pictures."""

    num_frames: int
    height_px: int
    width_px: int
    fps: Fraction


def read_video(path: Path | str) -> tuple[Tensor, Fraction]:
    """Read a whole video.

    Returns:
        uint8 [T, H, W, 3] RGB, and frames per second.

    Raises:
        EpisodeUnreadable: no such file, no video in it, or frames that are missing or cannot be decoded.
    """
    return _attempted(_read, Path(path))


def probe_video(path: Path | str) -> VideoFacts:
    """Length, size and rate of a video or picture; nothing is decoded.

    Raises:
        EpisodeUnreadable: no such file, no video in it, or a file that is cut short.
    """
    return _attempted(_probe, Path(path))


def _attempted(read: Callable[[Path], Found], path: Path) -> Found:
    import av.error

    if not path.is_file():
        raise EpisodeUnreadable("no such file", file=path)
    try:
        return read(path)
    except (av.error.FFmpegError, ValueError, IndexError, RuntimeError) as error:
        raise EpisodeUnreadable(f"is no video that can be read: {error}", file=path) from error


def as_rate(fps: Rate) -> Fraction:
    """Frames per second as a fraction; 29.97 is taken for the 30000/1001 of broadcast."""
    exact = Fraction(fps)
    if exact <= 0:
        raise UsageError(f"fps must be positive, got {fps}")
    if exact.denominator == 1:
        return exact
    broadcast = Fraction(round(exact * Fraction(1001, 1000)) * 1000, 1001)
    return broadcast if abs(broadcast - exact) < Fraction(1, 200) else exact.limit_denominator(1001)


def _write(
    path: Path,
    frames: Tensor | Iterable[Tensor],
    fps: Rate,
    container_format: str,
    codec: str,
    pixels: str,
    options: dict[str, str],
    replace: bool,
) -> Path:
    import av

    rate, stream_of_frames = as_rate(fps), iter(frames)
    first = next(stream_of_frames, None)
    if first is None:
        raise UsageError(f"{path}: there are no frames to write")
    _require_rgb(first, first.shape)
    height, width = first.shape[:2]
    even = pixels == "yuv420p"
    with (
        published(path, replace=replace) as partial,
        av.open(
            str(partial), "w", format=container_format, options={"movflags": "faststart"} if even else {}
        ) as container,
    ):
        stream = cast("av.VideoStream", container.add_stream(codec, rate=rate, options=options))
        stream.height, stream.width = (height + height % 2, width + width % 2) if even else (height, width)
        stream.pix_fmt = pixels
        if even:
            _tag_bt709(stream.codec_context)
        for frame in chain([first], stream_of_frames):
            _require_rgb(frame, first.shape)
            container.mux(stream.encode(_to_frame(frame, stream.height, stream.width, pixels)))
        container.mux(stream.encode(None))
    return path


def _tag_bt709(codec: av.VideoCodecContext) -> None:
    """Players guess BT.601 for small pictures unless told, which shifts colours."""
    from av.video.reformatter import ColorRange

    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = ColorRange.MPEG


def _to_frame(frame: Tensor, height: int, width: int, pixels: str) -> av.VideoFrame:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    array = frame.cpu().numpy()
    if array.shape[:2] != (height, width):
        array = np.pad(array, ((0, height - array.shape[0]), (0, width - array.shape[1]), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
    if pixels != "yuv420p":
        return picture.reformat(format=pixels)
    return picture.reformat(format=pixels, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def _require_rgb(frame: Tensor, shape: torch.Size) -> None:
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != torch.uint8 or frame.shape != shape:
        raise UsageError(f"frames must be uint8 [H, W, 3] of one size, got {list(frame.shape)} {frame.dtype}")


def _probe(path: Path) -> VideoFacts:
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise EpisodeUnreadable("holds no video stream", file=path)
        stream = container.streams.video[0]
        count = sum(packet.size > 0 for packet in container.demux(video=0))
        declared, rate = stream.frames or count, stream.average_rate
        if not count or count != declared or not rate:
            raise EpisodeUnreadable(f"is damaged: {count} of {declared} frames could be read", file=path)
        return VideoFacts(count, stream.height, stream.width, as_rate(rate))


def _read(path: Path) -> tuple[Tensor, Fraction]:
    import av

    facts = _probe(path)  # counted without decoding, so that the frames are held once
    video, given = torch.empty(facts.num_frames, facts.height_px, facts.width_px, 3, dtype=torch.uint8), 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for given, frame in enumerate(container.decode(stream), 1):
            video[given - 1] = torch.from_numpy(_on_white(frame))
    if given != facts.num_frames:
        raise EpisodeUnreadable(f"is damaged: {given} of {facts.num_frames} frames could be read", file=path)
    return video, facts.fps


def _on_white(frame: av.VideoFrame) -> np.ndarray:
    """A frame as RGB [H, W, 3]; what is transparent in it shows white."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame.to_ndarray(format="rgb24")
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    colour, opacity = rgba[..., :3], rgba[..., 3:]
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
