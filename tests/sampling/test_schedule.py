import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_transfer.errors import UsageError
from guided_transfer.sampling.schedule import karras_sigmas


@pytest.mark.parametrize(("num_steps", "sigma_max"), [(35, 80), (7, 70), (35, 70), (12, 70)])
def test_levels_are_the_references(sampler, num_steps, sigma_max):
    expected = sampler[f"sigmas_{num_steps}_{sigma_max}"]
    torch.testing.assert_close(karras_sigmas(num_steps, sigma_max), expected, rtol=1e-12, atol=0)


@given(st.integers(1, 200), st.floats(0.01, 80))
def test_levels_fall_from_first_to_last(num_steps, sigma_max):
    sigmas = karras_sigmas(num_steps, sigma_max)
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == num_steps + 1
    assert (sigmas.diff() < 0).all()
    assert sigmas[0].item() == pytest.approx(sigma_max, rel=1e-12)
    assert sigmas[-1].item() == pytest.approx(0.002, rel=1e-12)


@pytest.mark.parametrize(("num_steps", "sigma_max"), [(0, 80), (-3, 80), (35, 0.002), (35, -1), (35, float("nan"))])
def test_an_impossible_schedule_is_refused_with_its_value(num_steps, sigma_max):
    with pytest.raises(UsageError, match=str(num_steps if num_steps < 1 else sigma_max)):
        karras_sigmas(num_steps, sigma_max)
