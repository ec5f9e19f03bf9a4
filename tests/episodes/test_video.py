from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from guided_transfer.episodes import open_episodes, read_video, write_lossless, write_mp4
from guided_transfer.episodes.video import VideoFacts, as_rate, probe_video
from guided_transfer.errors import EpisodeUnreadable, OutputError, UsageError


@pytest.fixture(scope="module")
def frames(real_file: Path) -> Tensor:
    """4 real frames [4, 224, 224, 3]."""
    with open_episodes(real_file) as file:
        return file.read("demo_0").views["room"].rgb


def boxes(path: Path) -> list[bytes]:
    """Names of an mp4's top-level boxes in order."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    return found


def test_mp4_is_what_every_browser_plays(frames: Tensor, tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "room.mp4", frames, 20)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 20)
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
    assert boxes(path).index(b"moov") < boxes(path).index(b"mdat")


def test_mp4_shows_the_right_colours(tmp_path: Path) -> None:
    colours = torch.tensor(
        [[200, 30, 40], [30, 160, 60], [40, 50, 210], [250, 250, 250], [5, 5, 5]], dtype=torch.uint8
    )
    frames = colours.repeat_interleave(16, 0).expand(3, 32, 80, 3)
    shown, _ = read_video(write_mp4(tmp_path / "bars.mp4", frames, 30))
    middles = shown[:, :, 8::16].float() - colours.float()
    assert middles.abs().amax() <= 5


def test_mp4_of_a_real_clip_is_close(frames: Tensor, tmp_path: Path) -> None:
    shown, rate = read_video(write_mp4(tmp_path / "room.mp4", iter(frames), 20))
    assert shown.shape == frames.shape
    assert rate == 20
    assert (shown.float() - frames.float()).abs().mean() < 3


def test_odd_sizes_repeat_the_last_row_and_column(frames: Tensor, tmp_path: Path) -> None:
    shown, _ = read_video(write_mp4(tmp_path / "odd.mp4", frames[:, :101, :77], 30))
    assert shown.shape == (4, 102, 78, 3)
    assert (shown[:, -1].float() - shown[:, -2].float()).abs().mean() < 3


@pytest.mark.parametrize("size", [(224, 224), (101, 77), (1, 1), (2, 3)])
def test_lossless_is_lossless(frames: Tensor, tmp_path: Path, size: tuple[int, int]) -> None:
    cut = frames[:, : size[0], : size[1]]
    shown, rate = read_video(write_lossless(tmp_path / "clip.mkv", cut, Fraction(30000, 1001)))
    assert torch.equal(shown, cut)
    assert rate == Fraction(30000, 1001)


def test_noise_survives_lossless(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (5, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_video(write_lossless(tmp_path / "noise.mkv", noise, 7.5))[0], noise)


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (30, 30),
        (20.0, 20),
        (29.97, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_rates_are_exact(frames: Tensor, tmp_path: Path, fps: float, exact: Fraction) -> None:
    assert as_rate(fps) == exact
    assert read_video(write_mp4(tmp_path / "clip.mp4", frames, fps))[1] == exact
    assert read_video(write_lossless(tmp_path / "clip.mkv", frames, fps))[1] == exact


def test_nothing_to_write_or_not_rgb_is_refused(frames: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no frames"):
        write_mp4(tmp_path / "a.mp4", frames[:0], 30)
    with pytest.raises(UsageError, match="uint8"):
        write_mp4(tmp_path / "a.mp4", frames.float(), 30)
    with pytest.raises(UsageError, match="one size"):
        write_mp4(tmp_path / "a.mp4", [frames[0], frames[0, 2:]], 30)
    with pytest.raises(UsageError, match="positive"):
        write_mp4(tmp_path / "a.mp4", frames, 0)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_video_is_left_unless_asked(frames: Tensor, tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", frames, 30)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_mp4(path, frames, 30)
    assert path.read_bytes() == before
    write_mp4(path, frames[:2], 30, replace=True)
    assert len(read_video(path)[0]) == 2


def test_what_is_no_video_or_damaged_is_unreadable(frames: Tensor, tmp_path: Path) -> None:
    with pytest.raises(EpisodeUnreadable, match="no such file"):
        read_video(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(EpisodeUnreadable, match="no video"):
        read_video(tmp_path / "text.mp4")
    path = write_mp4(tmp_path / "clip.mp4", frames, 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(EpisodeUnreadable, match=r"clip\.mp4"):
        read_video(path)


@pytest.mark.parametrize("writer", [write_mp4, write_lossless])
def test_a_probe_tells_what_reading_gives(frames: Tensor, tmp_path: Path, writer) -> None:
    path = writer(tmp_path / "clip.mkv", frames[:, :100, :66], 24)
    assert probe_video(path) == VideoFacts(4, 100, 66, Fraction(24))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(EpisodeUnreadable, match=r"clip\.mkv"):
        probe_video(path)


def test_what_is_transparent_in_a_picture_shows_white(tmp_path: Path) -> None:
    """OpenCV writes blue first."""
    pixels = np.array([[[0, 0, 255, 255], [0, 0, 255, 0], [0, 0, 255, 51]]], np.uint8).repeat(2, 0)
    cv2.imwrite(str(tmp_path / "red.png"), pixels)
    picture, _ = read_video(tmp_path / "red.png")
    assert picture.shape == (1, 2, 3, 3)
    assert picture[0, 0].tolist() == [[255, 0, 0], [255, 255, 255], [255, 204, 204]]
