"""The bundled model on a rendered scene: what is held stays, and does not show in what is not."""

from dataclasses import replace

import pytest
import torch

from guided_transfer import scenes
from guided_transfer.generation import GenerationSettings
from guided_transfer.metrics.foreground import regions
from guided_transfer.models.checkpoint import CheckpointTree, load_network
from guided_transfer.models.text import load_text_encoder
from guided_transfer.models.tokenizer import load_tokenizer
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.sampling.guidance import held_pixels, latent_mask
from guided_transfer.two_view import TwoViewSettings, transfer_episode
from guided_transfer.types import FOREGROUND_LABELS, Episode, View

SEED = 1_000_900
PROMPT = (
    "A realistic video of a robot arm moving an ultrasound probe over a body phantom on a plain white tabletop. "
    "The room has clean white walls."
)
WHERE = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(scope="module")
def view():
    scene = scenes.sample_scene(SEED, heldout=True)
    clip = scenes.render_clip(scene, [None], frames=range(40, 73), device="cpu", noise_seed=SEED)
    return View("room", clip.rgb[0, 0], clip.depth_m[0], clip.labels[0], clip.cameras[0])


def psnr_db(a, b, mask):
    return float(-10 * ((a[mask].float() - b[mask].float()) / 255).square().mean().log10())


def test_background_beside_the_foreground_is_that_of_a_free_generation(view):
    """The simulation's grey does not stay around what is held, and the foreground hardly pays for it."""
    tree = CheckpointTree.open("bundled")
    settings = TwoViewSettings(native_sizes=tree.config.native_sizes, sigma_threshold=0.15)
    defaults = dict(tree.config.defaults)
    assert (defaults.pop("sigma_threshold"), defaults.pop("match_rim")) == (0.15, True)
    pipeline = TransferPipeline(
        load_network(tree, list(settings.control_weights), **WHERE),
        load_tokenizer(tree, **WHERE),
        load_text_encoder(tree, **WHERE),
        GenerationSettings(clip_frames=33, **defaults),
        device=torch.device("cpu"),
    )
    prompts = {"room": PROMPT}

    def made(**changed):
        chosen = replace(settings, **changed)
        episode = Episode("scene/demo_0", 30.0, {"room": view})
        return transfer_episode(episode, pipeline, chosen, prompts=prompts, seeds={"room": 1}).rgb["room"]

    free, plain, matched = made(sigma_threshold=80.0), made(), made(match_rim=True)
    foreground = torch.isin(view.labels, torch.tensor(FOREGROUND_LABELS))
    rim = held_pixels(latent_mask(foreground.float(), touched=True)) & ~foreground
    assert psnr_db(matched, free, rim) > psnr_db(plain, free, rim) + 6
    kept = regions(view.labels, FOREGROUND_LABELS).kept
    assert psnr_db(matched, view.rgb, kept) > psnr_db(plain, view.rgb, kept) - 0.8
