import math
from itertools import pairwise

import pytest
import torch

from guided_transfer.sampling.schedule import ONE_STEP, karras_sigmas
from guided_transfer.sampling.solver import sample

DATA_STD = 0.7


def gaussian_denoiser(x, sigma):
    """The exact denoiser of data that are normal with standard deviation DATA_STD."""
    return x * DATA_STD**2 / (DATA_STD**2 + sigma**2)


def error_after(num_steps, sigma_max=10.0, sigma_min=0.1):
    """How far the solver ends from the known solution of dx/dsigma = (x - D(x)) / sigma."""
    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    sigmas = karras_sigmas(num_steps, sigma_max, sigma_min=sigma_min)
    last_x = []

    def watched(x, sigma):
        last_x.append(x.item())
        return gaussian_denoiser(x, sigma)

    sample(watched, x, sigmas)
    exact = math.sqrt((DATA_STD**2 + sigma_min**2) / (DATA_STD**2 + sigma_max**2))
    return abs(last_x[-1] - exact)


def test_a_linear_problem_is_solved():
    assert error_after(640) < 1e-6


def test_convergence_is_of_second_order():
    errors = [error_after(num_steps) for num_steps in (80, 160, 320, 640)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(1.9 < order < 2.1 for order in orders), orders


def test_a_constant_estimate_is_reached_exactly():
    clean = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 1, 4, 4)
    assert torch.equal(sample(lambda x, sigma: clean, 80 * torch.ones_like(clean), karras_sigmas(35)), clean)


@pytest.mark.parametrize("run", ["", "_cond1"])
def test_the_references_estimates_replayed_give_the_references_states(sampler, run):
    """No network: the solver alone, fed with what the reference's denoiser said, must pass through its states."""
    estimates = iter(sampler[f"traj_x0{run}"])
    states = []

    def replay(x, sigma):
        states.append(x[0])
        return next(estimates)[None]

    out = sample(replay, 70 * sampler["noise"], sampler["sigmas_7_70"])
    torch.testing.assert_close(torch.stack(states), sampler[f"traj_x{run}"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out, sampler[f"out{run}"], rtol=0, atol=0)


@pytest.mark.parametrize("zones", ["one", "two"])
@pytest.mark.parametrize("steps", [7, 12])
def test_guided_estimates_replayed_give_the_references_states(sampler, guided, zones, steps):
    estimates = iter(guided[f"guided_{zones}_{steps}_traj_x0"])
    states = []

    def replay(x, sigma):
        states.append(x[0])
        return next(estimates)[None]

    x = guided[f"guided_{zones}_{steps}_traj_x"][:1]
    out = sample(replay, x, sampler[f"sigmas_{steps}_70"])
    torch.testing.assert_close(torch.stack(states), guided[f"guided_{zones}_{steps}_traj_x"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out, guided[f"guided_{zones}_{steps}_out"], rtol=0, atol=0)


def test_35_steps_are_36_evaluations_and_every_one_is_reported():
    seen, reported = [], []

    def denoiser(x, sigma):
        seen.append(sigma.item())
        return gaussian_denoiser(x, sigma)

    sigmas = karras_sigmas(35)
    sample(denoiser, torch.ones(1, 1, 1, 2, 2), sigmas, on_step=lambda done, clean: reported.append(done))
    assert reported == list(range(1, 37))
    assert seen == sigmas.to(torch.float32).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_denoiser_sees_the_dtype_it_was_started_with(dtype):
    dtypes = set()

    def denoiser(x, sigma):
        dtypes.update({x.dtype, sigma.dtype})
        return gaussian_denoiser(x, sigma)

    out = sample(denoiser, torch.ones(1, 1, 1, 2, 2, dtype=dtype), karras_sigmas(3))
    assert dtypes == {dtype} == {out.dtype}


def test_a_distilled_model_is_one_call_at_the_highest_level():
    calls = []

    def denoiser(x, sigma):
        calls.append(sigma.item())
        return x / 2

    noise = torch.randn(1, 4, 2, 3, 3)
    assert torch.equal(sample(denoiser, 80 * noise, ONE_STEP), 40 * noise)
    assert calls == [80.0]
