import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_transfer.errors import UsageError
from guided_transfer.sampling.guidance import SpatiallyGuided, latent_mask, pixel_mask
from guided_transfer.sampling.schedule import karras_sigmas
from guided_transfer.sampling.solver import sample
from guided_transfer.sampling.tiles import ReproduceTileMerge

SHAPE = (1, 4, 3, 2, 2)


class Seen:
    """A denoiser that keeps what it was asked."""

    def __init__(self):
        self.inputs = []

    def __call__(self, x, sigma):
        self.inputs.append((x, sigma))
        return x / 2


def guide(inner, keep=None, background=None, sigma_threshold=1.2866):
    clean, noise = torch.full(SHAPE, 2.0), torch.full(SHAPE, 0.5)
    return SpatiallyGuided(inner, clean, noise, keep, background, sigma_threshold)


def count(sigmas, zone):
    """At how many evaluations the given zone is held."""
    inner = Seen()
    guided = guide(inner, **{zone: torch.ones(1, 1, 3, 2, 2)})
    sample(guided, torch.zeros(SHAPE), sigmas)
    return sum(x.flatten()[0].item() == pytest.approx(2 + sigma.item() * 0.5) for x, sigma in inner.inputs)


@pytest.mark.parametrize(("sigma_max", "keep", "background"), [(80, 21, 17), (70, 20, 17)])
def test_the_default_threshold_holds_21_of_36_and_the_background_17(sigma_max, keep, background):
    sigmas = karras_sigmas(35, sigma_max)
    assert count(sigmas, "keep") == keep
    assert count(sigmas, "background") == background


def test_a_mask_mixes_the_given_video_at_the_noise_level_into_the_input():
    inner, x, sigma = Seen(), torch.randn(SHAPE), torch.tensor(4.0)
    keep = torch.rand(1, 1, 3, 2, 2)
    guide(inner, keep)(x, sigma)
    torch.testing.assert_close(inner.inputs[0][0], keep * (2 + 4 * 0.5) + (1 - keep) * x)


def test_keep_wins_where_both_zones_are_set():
    sigma = torch.tensor(4.0)
    keep = torch.ones(1, 1, 3, 2, 2)
    inner = Seen()
    x = torch.randn(SHAPE)
    guide(inner, keep, background=keep)(x, sigma)
    guide(inner, keep)(x, sigma)
    assert torch.equal(inner.inputs[0][0], inner.inputs[1][0])


@pytest.mark.parametrize("sigma", [80.0, 0.1])
def test_without_zones_there_is_no_guidance(sigma):
    inner, x = Seen(), torch.randn(SHAPE)
    guide(inner)(x, torch.tensor(sigma))
    assert inner.inputs[0][0] is x


def test_an_empty_mask_changes_no_bit():
    inner, x = Seen(), torch.randn(SHAPE)
    guide(inner, keep=torch.zeros(1, 1, 3, 2, 2))(x, torch.tensor(80.0))
    assert torch.equal(inner.inputs[0][0], x)


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(UsageError, match=r"keep is \[1, 1, 3, 4, 4\].*\[1, 4, 3, 2, 2\]"):
        guide(Seen(), keep=torch.ones(1, 1, 3, 4, 4))


@pytest.mark.parametrize(
    ("name", "labels", "foreground"), [("label", "label_video", (3, 4)), ("two", "two_video", (1,))]
)
def test_masks_are_the_references(guided, name, labels, foreground):
    volumes = guided[labels].reshape(-1, 17, 28, 42)
    for volume, pixels, latents in zip(
        volumes, guided[f"mask_{name}_pixels"][0], guided[f"mask_{name}_latent"][0], strict=True
    ):
        mask = pixel_mask(volume, foreground, 64, 96)
        assert torch.equal(mask, pixels / 255)  # stored as uint8
        torch.testing.assert_close(latent_mask(mask)[0, 0], latents, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["randmask3", "randmask6"])
def test_masks_of_another_ratio_than_the_latents_are_the_references(guided, name):
    for pixels, latents in zip(guided[f"{name}_pixels"][0], guided[f"{name}_latent"][0], strict=True):
        torch.testing.assert_close(latent_mask(pixels, (8, 12))[0, 0], latents, rtol=0, atol=1e-6)


@given(st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_a_latent_mask_is_the_mean_of_the_middle_of_each_block(groups, rows, columns, seed):
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(1 + 8 * groups, 8 * rows, 8 * columns, generator=random)
    middle = mask.reshape(-1, rows, 8, columns, 8)[:, :, 3:5, :, 3:5].mean((2, 4))
    expected = torch.cat([middle[:1], middle[1:].reshape(groups, 8, rows, columns)[:, 3:5].mean(1)])
    torch.testing.assert_close(latent_mask(mask)[0, 0], expected, rtol=0, atol=1e-6)


def test_a_mask_must_have_1_plus_8k_frames():
    with pytest.raises(UsageError, match="got 16"):
        latent_mask(torch.ones(16, 8, 8))


def test_a_mask_of_one_frame_gives_one_latent_frame():
    assert latent_mask(torch.ones(1, 16, 24)).shape == (1, 1, 1, 2, 3)


def test_the_tile_merge_shrinks_the_first_row_and_column():
    merged = ReproduceTileMerge(lambda x, sigma: x)(torch.ones(1, 2, 2, 3, 3), torch.tensor(1.0))
    expected = torch.tensor(
        [[0.990099, 0.9999, 0.9999], [0.9999, 0.999999, 0.999999], [0.9999, 0.999999, 0.999999]]
    )
    torch.testing.assert_close(merged, expected.expand(1, 2, 2, 3, 3), rtol=0, atol=1e-6)


def test_the_tile_merge_in_bfloat16_shrinks_the_corner_as_the_official_run_does():
    """0.99057 per evaluation: mask and mask + 1e-6 are rounded to bfloat16 before the division."""
    ones = torch.ones(1, 1, 1, 2, 2, dtype=torch.bfloat16)
    merged = ReproduceTileMerge(lambda x, sigma: x)(ones, torch.tensor(1.0))
    assert merged[0, 0, 0, 0, 0].item() == pytest.approx(0.99057, abs=2**-8)
    assert merged.dtype == torch.bfloat16


def test_touched_latents_are_held_whole():
    """One pixel of one frame is enough; the mean of the middle does not see it."""
    mask = torch.zeros(17, 16, 24)
    mask[0, 0, 23] = mask[16, 8, 7] = 1
    assert latent_mask(mask).sum() == 0
    held = latent_mask(mask, touched=True)
    assert held.shape == (1, 1, 3, 2, 3)
    assert held.nonzero()[:, 2:].tolist() == [[0, 0, 2], [2, 1, 0]]
    assert held.max() == 1
