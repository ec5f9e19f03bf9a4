import pytest
import torch

from guided_transfer.errors import UsageError
from guided_transfer.sampling.denoiser import (
    ClassifierFree,
    EdmDenoiser,
    FirstFrames,
    edm_scaling,
    first_frames_mask,
)
from guided_transfer.sampling.schedule import karras_sigmas
from guided_transfer.sampling.solver import sample

SHAPE = (2, 4, 3, 2, 2)


class CountingNetwork:
    """A raw network of one linear map that remembers what it was fed."""

    def __init__(self, gain=0.3):
        self.gain, self.inputs, self.labels = gain, [], []

    def __call__(self, x, c_noise):
        self.inputs.append(x)
        self.labels.append(c_noise)
        return self.gain * x


def test_scaling_is_the_references(sampler):
    scaling = edm_scaling(sampler["edm_sigma"])
    for name, value in scaling._asdict().items():
        torch.testing.assert_close(value, sampler[f"edm_{name}"], rtol=1e-6, atol=0)


def test_exact_numerics_scale_in_float32_around_a_bfloat16_network():
    network = CountingNetwork()
    x, sigma = torch.randn(SHAPE), torch.tensor(68.325)
    denoised = EdmDenoiser(network, torch.bfloat16)(x, sigma)
    assert network.inputs[0].dtype == torch.bfloat16
    assert network.labels[0].dtype == denoised.dtype == torch.float32
    torch.testing.assert_close(network.labels[0], (0.25 * sigma.log()).expand(2), rtol=1e-6, atol=0)


def test_reference_numerics_round_sigma_before_scaling():
    network = CountingNetwork()
    x = torch.randn(SHAPE)
    denoised = EdmDenoiser(network, torch.bfloat16, "reference")(x, torch.tensor(68.325))
    rounded = EdmDenoiser(network, torch.bfloat16, "reference")(x, torch.tensor(68.5))
    assert denoised.dtype == network.inputs[0].dtype == network.labels[0].dtype == torch.bfloat16
    assert torch.equal(denoised, rounded)
    exact = EdmDenoiser(network)(x, torch.tensor(68.325))
    assert not torch.equal(exact, EdmDenoiser(network)(x, torch.tensor(68.5)))
    torch.testing.assert_close(denoised.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("numerics", ["exact", "reference"])
def test_an_estimate_does_not_depend_on_its_neighbours(numerics):
    denoiser = EdmDenoiser(CountingNetwork(), numerics=numerics)
    x, sigma = torch.randn(5, 4, 3, 2, 2), torch.tensor(3.0)
    assert torch.equal(denoiser(x, sigma)[3:4], denoiser(x[3:4], sigma))


def test_guidance_leads_away_from_the_unconditional_estimate():
    one, two = torch.randn(SHAPE), torch.randn(SHAPE)
    denoiser = ClassifierFree(lambda x, sigma: one, lambda x, sigma: two, guidance=5.0)
    torch.testing.assert_close(denoiser(one, torch.tensor(1.0)), 6 * one - 5 * two)


@pytest.mark.parametrize(("guidance", "passes"), [(5.0, 72), (0.0, 36)])
def test_35_steps_are_72_passes_or_half_without_guidance(guidance, passes):
    network = CountingNetwork()
    denoiser = ClassifierFree(EdmDenoiser(network), EdmDenoiser(network), guidance)
    sample(denoiser, 80 * torch.randn(1, 4, 3, 2, 2), karras_sigmas(35))
    assert len(network.inputs) == passes


@pytest.mark.parametrize("sigma", [80.0, 1.0, 0.002])
def test_held_frames_reach_the_network_at_one_scale_and_leave_unchanged(sigma):
    network = CountingNetwork()
    frames, noise = torch.randn(2, 4, 1, 2, 2), torch.randn(SHAPE)
    denoised = FirstFrames(EdmDenoiser(network), frames, noise)(torch.randn(SHAPE), torch.tensor(sigma))
    expected = (frames + 0.001 * noise[:, :, :1]) / 0.5
    torch.testing.assert_close(network.inputs[0][:, :, :1], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(denoised[:, :, :1], frames)


def test_later_frames_are_the_denoisers_own():
    frames, noise, x = torch.randn(2, 4, 2, 2, 2), torch.randn(SHAPE), torch.randn(SHAPE)
    inner, sigma = EdmDenoiser(CountingNetwork()), torch.tensor(2.0)
    assert torch.equal(FirstFrames(inner, frames, noise)(x, sigma)[:, :, 2:], inner(x, sigma)[:, :, 2:])


def test_the_networks_condition_mask_marks_the_held_frames():
    mask = first_frames_mask(2, torch.randn(SHAPE))
    assert mask.shape == (2, 1, 3, 2, 2)
    assert (mask[:, :, :2] == 1).all()
    assert (mask[:, :, 2:] == 0).all()
    with pytest.raises(UsageError, match="3 of 3 latent frames"):
        first_frames_mask(3, torch.randn(SHAPE))
