from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_transfer.errors import UsageError
from guided_transfer.sampling.noise import clip_noise, starting_state, view_noise

SHAPE = (16, 3, 8, 12)


def test_reference_numerics_draw_the_references_noise(sampler):
    noise = view_noise(7, SHAPE, numerics="reference")
    assert torch.equal(noise[None], sampler["augment_noise_seed7"])


def test_reference_numerics_hold_the_devices_own_noise(guided):
    noise = clip_noise(7, SHAPE, sigma_max=70, numerics="reference")
    assert noise.start.dtype == noise.held.dtype == torch.bfloat16
    assert torch.equal(noise.start, noise.held)
    assert noise.first_frames.dtype == torch.float32
    assert torch.equal(clip_noise(7, SHAPE, numerics="reference").start, view_noise(7, SHAPE, numerics="reference"))


def test_exact_noise_is_frozen():
    """The stream is a promise: a seed recorded today gives the same video with any later NumPy."""
    expected = torch.tensor([1.830886, -0.032009546, -0.085546881, -0.87781882])
    torch.testing.assert_close(view_noise(7, (4,), clip=2), expected, rtol=1e-6, atol=0)


def test_exact_noise_is_one_tensor_for_all_that_belongs_together():
    noise = clip_noise(7, SHAPE, sigma_max=70)
    assert torch.equal(noise.start, view_noise(7, SHAPE))
    assert noise.held is noise.start
    assert noise.first_frames is noise.start


@given(st.integers(0, 2**64), st.integers(0, 50), st.integers(0, 50))
def test_clips_differ_in_exact_numerics(seed, clip, other):
    same = torch.equal(view_noise(seed, (64,), clip=clip), view_noise(seed, (64,), clip=other))
    assert same == (clip == other)


@given(st.integers(0, 2**32 - 1), st.sampled_from([80, 20]), st.booleans())
def test_clips_differ_in_reference_numerics(seed, sigma_max, one_step):
    """The official run's seed is the first clip's alone: the same noise in all would bring its texture again."""
    options = {"sigma_max": sigma_max, "numerics": "reference", "one_step": one_step}
    first, *later = (clip_noise(seed, (64,), clip=clip, **options) for clip in (0, 1, 3))
    for name in ("start", "held", "first_frames"):
        drawn = [getattr(noise, name) for noise in (first, *later)]
        assert not any(torch.equal(one, other) for one, other in combinations(drawn, 2))
    assert torch.equal(first.first_frames, view_noise(seed, (64,), numerics="reference"))


@given(st.integers(0, 2**64), st.integers(0, 2**32 - 1))
def test_noise_depends_on_its_seed_alone(seed, other):
    """Whatever was drawn before, in whatever state the global generators are."""
    alone = view_noise(seed, (4, 3, 2, 2))
    np.random.seed(other)
    torch.manual_seed(other)
    view_noise(other, (5,))
    assert torch.equal(alone, view_noise(seed, (4, 3, 2, 2)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_is_the_same_on_a_gpu():
    assert torch.equal(clip_noise(7, SHAPE, device="cuda").start.cpu(), clip_noise(7, SHAPE).start)


def test_a_distilled_model_draws_from_the_device_and_counts_the_seed_up_as_the_reference_does():
    first, second = (clip_noise(7, SHAPE, clip=n, numerics="reference", one_step=True) for n in (0, 1))
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(8), dtype=torch.bfloat16)
    assert torch.equal(second.start, expected)
    assert not torch.equal(first.start, second.start)
    assert torch.equal(clip_noise(7, SHAPE, one_step=True).start, clip_noise(7, SHAPE).start)


def test_noise_is_standard_normal():
    noise = view_noise(1, (16, 8, 32, 32), clip=1)
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


@pytest.mark.parametrize(("seed", "numerics"), [(-1, "exact"), (-1, "reference"), (2**32, "reference")])
def test_a_seed_that_cannot_be_used_is_named(seed, numerics):
    with pytest.raises(UsageError, match=str(seed)):
        view_noise(seed, SHAPE, numerics=numerics)


def test_a_partial_denoise_starts_from_the_given_video(guided):
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7))
    start = starting_state(noise, 70, guided["x0"])
    torch.testing.assert_close(start, guided["guided_one_7_traj_x"][:1], rtol=0, atol=0)


@pytest.mark.parametrize("sigma_max", [80, 200])
def test_from_80_on_the_given_video_does_not_count(sigma_max):
    noise = view_noise(3, (1, 2, 3))
    assert torch.equal(starting_state(noise, sigma_max, torch.full((1, 2, 3), 5.0)), 80 * noise)
