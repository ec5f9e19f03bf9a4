from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_transfer.clips import (
    ASPECT_SIZES,
    SEAM_FRAMES,
    join_clips,
    model_size,
    plan_clips,
    resize_frames,
    still_share,
)
from guided_transfer.errors import UsageError


@given(st.integers(1, 700), st.sampled_from([33, 121]), st.sampled_from([1, 9, 17]))
def test_clips_cover_every_frame_once(num_frames, clip_frames, overlap):
    clips = plan_clips(num_frames, clip_frames, overlap)
    covered = torch.cat([clip.frames[clip.overlap :] for clip in clips])
    assert torch.equal(covered[:num_frames], torch.arange(num_frames))
    assert (covered[num_frames:] == num_frames - 1).all()  # padded by the last frame, cut away again
    assert all(len(clip.frames) == clip_frames for clip in clips)
    for before, after in pairwise(clips):
        assert torch.equal(before.frames[-overlap:], after.frames[:overlap])


@pytest.mark.parametrize(
    ("num_frames", "count"), [(1, 1), (120, 1), (121, 1), (122, 2), (241, 2), (242, 3), (350, 3)]
)
def test_number_of_clips(num_frames, count):
    assert len(plan_clips(num_frames, 121, 1)) == count


def test_a_video_without_frames():
    with pytest.raises(UsageError, match="no frames"):
        plan_clips(0, 121, 1)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((224, 224), (960, 960)),
        ((448, 224), (1280, 704)),  # two views, one above the other
        ((720, 1280), (704, 1280)),
        ((480, 640), (704, 960)),
        ((640, 480), (960, 704)),
    ],
)
def test_native_sizes_are_the_references(source, size):
    assert model_size(source, ASPECT_SIZES) == size
    assert model_size(source, ASPECT_SIZES, "native") == size


@pytest.mark.parametrize(
    ("source", "resolution", "size"),
    [
        ((224, 224), "480", (480, 480)),
        ((448, 224), "480", (960, 480)),
        ((720, 1280), "480", (480, 848)),
        ((224, 224), "256x448", (256, 448)),
    ],
)
def test_chosen_sizes(source, resolution, size):
    assert model_size(source, ASPECT_SIZES, resolution) == size


@pytest.mark.parametrize("resolution", ["250x448", "x", "256x", "-480", "1e3", "8x8"])
def test_sizes_the_model_cannot_take(resolution):
    with pytest.raises(UsageError, match="resolution"):
        model_size((224, 224), ASPECT_SIZES, resolution)


def test_a_size_larger_than_the_model_takes():
    assert model_size((448, 224), ASPECT_SIZES, "960", (1920, 1920)) == (1920, 960)
    with pytest.raises(UsageError, match=r"'976' makes 1952 x 976 of .* 448 x 224 .* at most 1920 x 1920"):
        model_size((448, 224), ASPECT_SIZES, "976", (1920, 1920))


def test_shrinking_averages():
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    frames[:, ::2] = 200
    assert (resize_frames(frames, (2, 2), "area") == 100).all()
    assert set(resize_frames(frames, (2, 2), "nearest").unique().tolist()) <= {0, 200}


def test_a_clip_departs_from_the_one_before_without_a_jump():
    tail, video, moving = torch.full((1, 3, 1, 4, 4), 0.3), torch.zeros(1, 3, 33, 4, 4), torch.zeros(4, 4)
    joined = join_clips(tail, video, moving)[0, 0, :, 0, 0]
    assert joined[0] == 0  # cut away as overlap
    steps = torch.diff(torch.cat([tail[0, 0, :, 0, 0], joined[1:]]))
    assert steps.abs().max() < 0.3 / SEAM_FRAMES
    assert (joined[1 + SEAM_FRAMES :] == 0).all()
    assert join_clips(tail, video[:, :, :5], moving).shape == (1, 3, 5, 4, 4)
    assert torch.equal(join_clips(tail, video[:, :, :1], moving), video[:, :, :1])


def test_what_stands_still_goes_on_where_it_was():
    """The first new frame differs from the shared one, in which the clips agree: a jump, unless something moves."""
    tail, video = torch.zeros(1, 3, 1, 1, 2), torch.full((1, 3, 33, 1, 2), 0.3)
    video[:, :, 0] = 0
    standing, moving = join_clips(tail, video, torch.tensor([[1.0, 0.0]]))[0, 0, :, 0].T
    assert torch.diff(standing[1:], prepend=torch.zeros(1)).abs().max() < 0.3 / SEAM_FRAMES
    assert torch.equal(moving, video[0, 0, :, 0, 1])
    torch.testing.assert_close(standing[1 + SEAM_FRAMES :], moving[1 + SEAM_FRAMES :])


def test_what_stands_still():
    """Rounding is no motion; around what moves, nothing counts as still as far as a latent reaches."""
    before = torch.zeros(64, 64, 3, dtype=torch.uint8)
    after = before + 2
    after[32, 32, 1] = 3
    still = still_share(before, after, (64, 64))
    assert (still[20:45, 20:45].min(), still.max()) == (0, 1)
    assert (still[29:36, 29:36] == 0).all()
    assert (still[:16] == 1).all()
    assert (still[:, 56:] == 1).all()
    assert still_share(before, after, (128, 32)).shape == (128, 32)
