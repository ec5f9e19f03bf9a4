"""The guided trajectory inside the pipeline is the reference's: same network, same latents, same noise."""

from pathlib import Path

import numpy as np
import pytest
import torch

from guided_transfer import pipeline as pipeline_module
from guided_transfer.clips import plan_clips
from guided_transfer.generation import GenerationSettings, Given, Job, Told
from guided_transfer.models.checkpoint import CheckpointTree, load_network
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.sampling.noise import ClipNoise, view_noise
from guided_transfer.sampling.tiles import ReproduceTileMerge, Tiling
from guided_transfer.types import SpatialGuidance

PARITY = Path(__file__).parent / "data" / "parity"
KINDS = ("edge", "depth", "seg")
SEED = 7


@pytest.fixture(scope="module")
def guided():
    found = {}
    for file in ("c_sampler.npz", "d_guided.npz"):  # texts and hints are those of the unguided runs
        with np.load(PARITY / file) as arrays:
            found |= {name: torch.from_numpy(arrays[name]) for name in arrays}
    return found


@pytest.fixture(scope="module")
def network(parity_tree):
    return load_network(CheckpointTree.open(parity_tree), KINDS, device="cpu", dtype=torch.float32)


class FixtureTexts:
    """Embeddings of the fixture in place of a text encoder's."""

    def __init__(self, guided):
        self.texts = {"positive": guided["text"], "negative": guided["neg_text"]}

    def encode(self, prompts):
        return self.texts[prompts[0]]


def trajectory(monkeypatch, network, guided, *, num_steps, masks, sigma_max=70.0):
    """Run the pipeline's sampling from the fixture's latents; returns the result and every estimate."""
    estimates = []

    def recording(denoiser, x, sigmas, *, on_step):
        def record(step, denoised):
            estimates.append(denoised)
            on_step(step, denoised)

        # The fixture holds the defect of the reference's merge of one tile, which we do not reproduce unasked.
        return real_sample(ReproduceTileMerge(denoiser), x, sigmas, on_step=record)

    real_sample = pipeline_module.sample
    noise = torch.randn(guided["x0"].shape[1:], generator=torch.Generator().manual_seed(SEED))
    start = noise if sigma_max < 80 else view_noise(SEED, noise.shape, numerics="reference")
    monkeypatch.setattr(pipeline_module, "sample", recording)
    # The fixture was run in float32 with the reference's noise, which no numerics setting draws in float32.
    monkeypatch.setattr(pipeline_module, "clip_noise", lambda *args, **kwargs: ClipNoise(start, noise, start))
    settings = GenerationSettings(
        num_steps=num_steps, sigma_max=sigma_max, negative_prompt="negative", clip_frames=17
    )
    pipe = TransferPipeline(network, None, FixtureTexts(guided), settings, device=torch.device("cpu"))
    keep = torch.zeros(17, 64, 96)
    job = Job(
        torch.zeros(17, 64, 96, 3, dtype=torch.uint8),
        (),
        "positive",
        SEED,
        Tiling.whole((8, 12)),
        (64, 96),
        30.0,
        SpatialGuidance(keep, None, 1.2866) if masks else None,
        lambda progress: None,
    )
    told = Told(
        hints={kind: guided["hints"][:, index] for index, kind in enumerate(KINDS)},
        weights={kind: float(guided["control_weight"][index]) for index, kind in enumerate(KINDS)},
    )
    given = Given(
        tiles=[told],
        clean=guided["x0"],
        keep=masks.get("keep"),
        background=masks.get("background"),
        first_frames=None,
    )
    out = pipe._sample(job, plan_clips(17, 17, 1)[0], given)
    return out, torch.cat(estimates)


def masks_of(guided, zones):
    if zones == "one":
        return {"keep": guided["mask_label_latent"]}
    both = guided["mask_two_latent"]
    return {"background": both[:, :1], "keep": both[:, 1:]}


@pytest.mark.parametrize("num_steps", [7, 12])
@pytest.mark.parametrize("zones", ["one", "two"])
def test_every_estimate_of_the_guided_trajectory(monkeypatch, network, guided, zones, num_steps):
    out, estimates = trajectory(monkeypatch, network, guided, num_steps=num_steps, masks=masks_of(guided, zones))
    name = f"guided_{zones}_{num_steps}"
    torch.testing.assert_close(estimates, guided[f"{name}_traj_x0"], rtol=0, atol=1e-4)
    torch.testing.assert_close(out, guided[f"{name}_out"], rtol=0, atol=1e-4)


def test_from_pure_noise(monkeypatch, network, guided):
    out, _ = trajectory(monkeypatch, network, guided, num_steps=7, masks=masks_of(guided, "one"), sigma_max=80.0)
    torch.testing.assert_close(out, guided["guided_one_7_sigma80_seed7_out"], rtol=0, atol=1e-4)


def test_without_guidance(monkeypatch, network, guided):
    out, _ = trajectory(monkeypatch, network, guided, num_steps=7, masks={})
    torch.testing.assert_close(out, guided["unguided_7_out"], rtol=0, atol=1e-4)
