import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from guided_transfer.metrics import similarity
from guided_transfer.metrics.similarity import (
    IDENTICAL_DB,
    abs_diff_per_frame,
    delta_e,
    psnr_db,
    psnr_per_frame_db,
    ssim_map,
)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def pair():
    """A smooth video and the same with noise, contrast and shift: SSIM in all of its range."""
    rows, columns = np.mgrid[:40, :56]
    waves = [
        np.sin((rows + t) / 5)[..., None] + np.cos(columns / np.array([3, 5, 9])[:, None, None]).transpose(1, 2, 0)
        for t in range(3)
    ]
    clean = (127 + 55 * np.stack(waves)).astype(np.uint8)
    rough = np.random.default_rng(0).normal(0, 12, clean.shape)
    other = np.clip(0.8 * np.roll(clean, 1, axis=2) + 20 + rough, 0, 255).astype(np.uint8)
    return torch.from_numpy(clean), torch.from_numpy(other)


def test_psnr_worked_by_hand():
    x = torch.zeros(2, 1, 2, 3, dtype=torch.uint8)
    y = x.clone()
    y[0, 0, 0] = torch.tensor([3, 4, 0])  # squares 9 + 16 + 0 over 3 channels of 2 masked pixels: 25 / 6
    mask = torch.tensor([[[True, False]], [[True, False]]])
    assert psnr_db(x, y, mask) == pytest.approx(10 * math.log10(255**2 / (25 / 6)), abs=1e-12)
    assert psnr_per_frame_db(x, y, mask) == [pytest.approx(10 * math.log10(255**2 / (25 / 3))), IDENTICAL_DB]


def test_psnr_is_scikit_images(pair):
    assert psnr_db(*pair) == pytest.approx(peak_signal_noise_ratio(pair[0].numpy(), pair[1].numpy()), abs=1e-9)


@pytest.mark.parametrize("sigma", [1, 4, 16])
def test_known_noise_gives_the_known_psnr(sigma):
    x = torch.full((4, 64, 64, 3), 128, dtype=torch.uint8)
    rough = torch.randn(x.shape, generator=torch.Generator().manual_seed(sigma)) * sigma
    y = (x + rough).round().to(torch.uint8)
    # rounding adds 1/12 to the variance; 49k samples leave 0.03 dB (one standard deviation)
    assert psnr_db(x, y) == pytest.approx(10 * math.log10(255**2 / (sigma**2 + 1 / 12)), abs=0.1)


def test_equal_pixels_and_an_empty_mask():
    x = noise(1, 4, 4, 3)
    assert psnr_db(x, x) == IDENTICAL_DB
    assert psnr_db(x, x, torch.zeros(1, 4, 4, dtype=torch.bool)) is None
    assert delta_e(x, x, torch.zeros(1, 4, 4, dtype=torch.bool)) is None


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_only_the_mask_counts(seed):
    x, y, mask = noise(2, 6, 7, 3, seed=seed), noise(2, 6, 7, 3, seed=seed + 1), noise(2, 6, 7, seed=seed + 2) > 127
    changed = torch.where(mask[..., None], y, noise(2, 6, 7, 3, seed=seed + 3))
    assert psnr_db(x, y, mask) == psnr_db(x, changed, mask)
    assert delta_e(x, y, mask) == delta_e(x, changed, mask)
    assert abs_diff_per_frame(x, y, mask) == abs_diff_per_frame(x, changed, mask)


def test_gaussian_ssim_is_scikit_images(pair):
    for ours, a, b in zip(ssim_map(*pair), *pair, strict=True):
        _, expected = structural_similarity(
            a.numpy(), b.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=255, channel_axis=-1, full=True,
        )  # fmt: skip
        np.testing.assert_allclose(ours.numpy(), expected.mean(-1), atol=2e-5)


def test_uniform_ssim_is_scikit_images(pair):
    for ours, a, b in zip(ssim_map(*pair, window=similarity.UNIFORM), *pair, strict=True):
        _, expected = structural_similarity(a.numpy(), b.numpy(), data_range=255, channel_axis=-1, full=True)
        np.testing.assert_allclose(ours.numpy(), expected.mean(-1), atol=2e-5)


def test_gaussian_ssim_is_torchmetrics_away_from_the_border(pair):
    x, y = (video.permute(0, 3, 1, 2).double() for video in pair)
    _, expected = structural_similarity_index_measure(x, y, sigma=1.5, data_range=255.0, return_full_image=True)
    inside = (slice(None), slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(ssim_map(*pair)[inside].numpy(), expected.mean(1)[inside].numpy(), atol=2e-5)


def test_ssim_of_equal_and_of_flat_frames():
    x = noise(1, 12, 12, 3)
    assert torch.equal(ssim_map(x, x), torch.ones(1, 12, 12))
    dark, bright = (
        torch.full((1, 12, 12, 3), 10, dtype=torch.uint8),
        torch.full((1, 12, 12, 3), 200, dtype=torch.uint8),
    )
    c1 = (0.01 * 255) ** 2  # flat frames have no structure to differ in: only the luminance term is left
    expected = (2 * 10 * 200 + c1) / (10**2 + 200**2 + c1)
    np.testing.assert_allclose(ssim_map(dark, bright).numpy(), expected, rtol=1e-4)


def test_colour_difference_of_black_and_white_is_100():
    black, white = torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    assert delta_e(black, white, torch.ones(1, 2, 2, dtype=torch.bool)) == pytest.approx(100, abs=1e-3)


def test_sampled_colour_difference_is_close_to_that_of_every_pixel(monkeypatch):
    x, y, mask = noise(4, 64, 64, 3), noise(4, 64, 64, 3, seed=1), torch.ones(4, 64, 64, dtype=torch.bool)
    every = float(deltaE_ciede2000(rgb2lab(x.numpy()), rgb2lab(y.numpy())).mean())
    assert delta_e(x, y, mask) == pytest.approx(every, abs=1e-9)
    monkeypatch.setattr(similarity, "COLOUR_SAMPLES", 3000)
    # colours of noise differ by 40 +- 20: 3000 samples leave 0.4 (one standard deviation)
    assert delta_e(x, y, mask) == pytest.approx(every, abs=1.5)


def test_abs_diff_per_frame_worked_by_hand():
    x = torch.zeros(2, 1, 2, 3, dtype=torch.uint8)
    y = torch.zeros(2, 1, 2, 3)
    y[0, 0, 0] = torch.tensor([30.0, 0.0, 21.0])
    mask = torch.tensor([[[True, True]], [[False, False]]])
    assert abs_diff_per_frame(x, y, mask) == [pytest.approx(17 / 2 / 255), None]


def test_the_example_in_the_docstring():
    assert doctest.testmod(similarity) == (0, 1)
