"""Background in held latents takes on what is generated around it."""

import pytest
import torch

from guided_transfer.sampling.guidance import SpatiallyGuided, held_pixels, latent_mask
from guided_transfer.sampling.rim import RIM_SIGMA, RimMatched, match_rim

SHAPE = (1, 4, 3, 2, 2)


@pytest.fixture
def scene():
    """A disc of foreground in a picture of 48 pixels, and the 8 x 8 blocks that it touches."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    foreground = ((y - 24) ** 2 + (x - 24) ** 2 < 81)[None]
    held = held_pixels(latent_mask(foreground.float(), touched=True))
    assert (held & ~foreground).sum() > 200
    return foreground, held


def grey(*levels):
    return torch.tensor(levels, dtype=torch.uint8).expand(1, 48, 48, 3)


def test_pixels_of_held_latents():
    keep = torch.zeros(1, 1, 3, 2, 3)
    keep[..., 0, 1, 2], keep[..., 1, 0, 0] = 0.25, 1
    held = held_pixels(keep)
    assert held.shape == (17, 16, 24)
    assert held.sum() == 64 + 8 * 64
    assert held[0, 8:, 16:].all()
    assert held[1:9, :8, :8].all()


def test_the_rim_changes_as_its_surroundings_did(scene):
    foreground, held = scene
    matched = match_rim(grey(100, 100, 100), grey(180, 100, 60), foreground, held)
    assert (matched[foreground] == 100).all()
    assert (matched[~foreground].int() - torch.tensor([180, 100, 60])).abs().max() <= 1


def test_what_the_given_video_draws_in_the_rim_stays(scene):
    foreground, held = scene
    stripes = 20 * (torch.arange(48) // 2 % 2)[:, None].expand(48, 3)
    given = (grey(100, 100, 100) + stripes).to(torch.uint8)
    matched = match_rim(given, (given + 50).to(torch.uint8), foreground, held)
    rim = held & ~foreground
    assert (matched[rim].int() - given[rim].int() - 50).abs().max() <= 1


def test_each_side_of_the_rim_follows_what_lies_nearest(scene):
    foreground, held = scene
    generated = torch.cat([grey(200, 200, 200)[:, :, :24], grey(40, 40, 40)[:, :, 24:]], dim=2)
    matched = match_rim(grey(100, 100, 100), generated, foreground, held)[..., 0].float()
    rim = held & ~foreground
    assert matched[:, :, :20][rim[:, :, :20]].min() > 180
    assert matched[:, :, 28:][rim[:, :, 28:]].max() < 60


def test_a_wide_rim_follows_what_is_far(scene):
    foreground, held = scene
    held = torch.ones_like(held)
    held[:, :, :4] = False
    matched = match_rim(grey(100, 100, 100), grey(150, 150, 150), foreground, held)
    assert (matched[~foreground] == 150).all()
    assert (matched[foreground] == 100).all()


def test_levels_are_rounded(scene):
    foreground, held = scene
    generated = grey(100, 100, 100).clone()
    generated[:, ::2] += 1
    generated[:, :, ::2] += 1  # by one in the mean
    generated[:, ::2, ::2] = 101  # by 3/4
    matched = match_rim(grey(100, 100, 100), generated, foreground, held)
    assert (matched[held & ~foreground] == 101).float().mean() > 0.9


def test_outside_is_what_was_generated(scene):
    foreground, held = scene
    generated = torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8)
    assert torch.equal(match_rim(grey(100, 100, 100), generated, foreground, held)[~held], generated[~held])


def test_a_rim_without_surroundings_stays_as_given(scene):
    foreground, held = scene
    given = torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8)
    assert torch.equal(match_rim(given, grey(9, 9, 9), foreground, torch.ones_like(held)), given)


def test_levels_end_at_black_and_white(scene):
    foreground, held = scene
    stripes = (70 * (torch.arange(48) % 2)).to(torch.uint8)[:, None].expand(48, 3)
    given = grey(100, 100, 100) + stripes
    matched = match_rim(given, grey(250, 250, 250), foreground, held)
    assert matched[held & ~foreground].max() == 255


class Inner:
    """A denoiser that keeps what it was asked, and answers with the noise level."""

    def __init__(self):
        self.inputs = []

    def __call__(self, x, sigma):
        self.inputs.append(x)
        return torch.full_like(x, float(sigma))


def rim_matched(threshold=0.5):
    inner, asked = Inner(), []
    clean, noise = torch.full(SHAPE, 2.0), torch.zeros(SHAPE)
    guided = SpatiallyGuided(inner, clean, noise, torch.ones(1, 1, 3, 2, 2), None, threshold)

    def match(estimate):
        asked.append(estimate.flatten()[0].item())
        return torch.full(SHAPE, 7.0, dtype=torch.float64)

    return RimMatched(guided, match), inner, asked


def test_once_after_the_colours_stand_the_given_video_is_another():
    denoiser, inner, asked = rim_matched()
    for sigma in (80.0, 6.0, RIM_SIGMA, 1.0, 0.6, 0.4):
        denoiser(torch.zeros(SHAPE), torch.tensor(sigma))
    assert asked == [6.0]  # the latest estimate, once
    assert [x.flatten()[0].item() for x in inner.inputs] == [2, 2, 7, 7, 7, 0]
    assert all(x.dtype == torch.float32 for x in inner.inputs)


def test_without_an_estimate_the_first_evaluation_sees_what_was_given():
    denoiser, inner, asked = rim_matched()
    for sigma in (3.0, 2.0):
        denoiser(torch.zeros(SHAPE), torch.tensor(sigma))
    assert asked == [3.0]
    assert [x.flatten()[0].item() for x in inner.inputs] == [2, 7]


def test_what_is_let_go_earlier_is_not_matched():
    denoiser, _, asked = rim_matched(threshold=RIM_SIGMA)
    for sigma in (80.0, 3.0, 1.0):
        denoiser(torch.zeros(SHAPE), torch.tensor(sigma))
    assert asked == []
