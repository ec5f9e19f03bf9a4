"""Clips, seams, memory and numerics of the pipeline, on a tiny tree of the real classes."""

import logging
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from guided_transfer.clips import plan_clips
from guided_transfer.cost import aside, resident
from guided_transfer.errors import UsageError
from guided_transfer.generation import GenerationSettings, Progress, RgbControl
from guided_transfer.models.checkpoint import CheckpointTree, load_network
from guided_transfer.models.text import load_text_encoder
from guided_transfer.models.tokenizer import load_tokenizer
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.sampling.rim import match_rim
from guided_transfer.sampling.solver import sample
from guided_transfer.types import LABEL_COLOURS, ControlVideo, SpatialGuidance

CPU = torch.device("cpu")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def make_pipeline(tiny_tree):
    tree = CheckpointTree.open(tiny_tree)
    tree = CheckpointTree(tree.root, tree.config.model_copy(update={"text_tokens": 16, "numerics": "exact"}))
    tokenizer = load_tokenizer(tree, device="cpu", dtype=torch.float32)
    network = load_network(tree, ["edge", "depth", "seg"], device="cpu", dtype=torch.float32)
    text = load_text_encoder(tree, device="cpu", dtype=torch.float32)

    def make(**settings):
        chosen = {"num_steps": 2, "guidance": 1.0, "clip_frames": 17, **settings}
        return TransferPipeline(network, tokenizer, text, GenerationSettings(**chosen), device=CPU)

    return make


def video(num_frames, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (num_frames, *size), mode="trilinear")
    return (smooth[0].permute(1, 2, 3, 0) * 255).to(torch.uint8)


def generate(pipeline, rgb, *, controls=None, seed=3, guidance=None, **more):
    if controls is None:
        controls = [RgbControl("edge", lambda frames: 255 - frames, 0.5)]
    options = {"size": SIZE, "fps": 30.0, **more}
    return pipeline.generate(rgb, controls, "a clinic", seed=seed, guidance=guidance, **options)


@pytest.mark.parametrize("num_frames", [1, 16, 17, 18, 40])
def test_exact_lengths_and_sizes(make_pipeline, num_frames):
    rgb = video(num_frames, (24, 40))
    generated = generate(make_pipeline(), rgb)
    assert generated.rgb.shape == rgb.shape
    assert generated.rgb.dtype == torch.uint8
    assert generated.record["num_clips"] == 1 + max(0, num_frames - 2) // 16
    assert generated.record["model_size"] == [32, 32]


def spied_on(monkeypatch, owner, name):
    """Every call of a function from now on: its first argument, and what it gave back."""
    calls, real = [], getattr(owner, name)

    def spy(first, *args, **kwargs):
        calls.append((first, real(first, *args, **kwargs)))
        return calls[-1][1]

    monkeypatch.setattr(owner, name, spy)
    return calls


def test_the_next_clip_begins_with_the_last_frames_of_the_one_before(make_pipeline, monkeypatch):
    """Their latents are held: what the second clip decodes there are the same frames once more."""
    pipeline = make_pipeline(num_input_frames=9)
    decoded = spied_on(monkeypatch, pipeline.tokenizer, "decode")
    generate(pipeline, video(25))
    (_, first), (latents, _) = decoded
    tail = first[:, :, -9:].clamp(-1, 1)
    torch.testing.assert_close(latents[:, :, :2], pipeline.tokenizer.encode(tail), rtol=0, atol=1e-6)


@pytest.mark.parametrize("numerics", ["exact", "reference"])
@pytest.mark.parametrize("num_input_frames", [1, 9])
def test_frames_are_handed_on_as_they_were_decoded(make_pipeline, monkeypatch, numerics, num_input_frames):
    """Not as the whole levels of a picture: what they are off by would be in every clip that follows."""
    pipeline = make_pipeline(num_input_frames=num_input_frames, numerics=numerics)
    decoded = spied_on(monkeypatch, pipeline.tokenizer, "decode")
    encoded = spied_on(monkeypatch, pipeline.tokenizer, "encode")
    generate(pipeline, video(25))
    (tail,) = [given for given, _ in encoded if given.shape[2] == num_input_frames]
    assert torch.equal(tail, decoded[0][1][:, :, -num_input_frames:].clamp(-1, 1))
    levels = (tail + 1) * 127.5
    assert (levels - levels.round()).abs().mean() > 0.1


@pytest.mark.parametrize("numerics", ["exact", "reference"])
@pytest.mark.parametrize("sigma_max", [80, 20])
def test_clips_have_noise_of_their_own(make_pipeline, monkeypatch, numerics, sigma_max):
    """The same noise would bring the same texture again, one clip after the other."""
    states = []

    def noting(denoiser, state, sigmas, **options):
        states.append(state.flatten().double())
        return sample(denoiser, state, sigmas, **options)

    monkeypatch.setattr("guided_transfer.pipeline.sample", noting)
    still = video(1).expand(33, -1, -1, -1)
    generate(make_pipeline(numerics=numerics, sigma_max=sigma_max), still)
    first, second = states
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.1


def test_global_generators_are_left_alone(make_pipeline):
    """Whatever else draws from them, the choice of prompts in the integration, depends on no run before."""

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    for numerics in ("exact", "reference"):
        generate(make_pipeline(numerics=numerics, sigma_max=20), video(17))
    assert states() == before


def test_the_result_depends_on_seed_and_prompt_alone(make_pipeline):
    pipeline, rgb = make_pipeline(), video(17)
    first = generate(pipeline, rgb).rgb
    generate(pipeline, video(17, seed=1), seed=9)
    assert torch.equal(generate(pipeline, rgb).rgb, first)
    assert not torch.equal(generate(pipeline, rgb, seed=4).rgb, first)


def test_little_noise_gives_the_source_back(make_pipeline):
    """A partial denoise from almost no noise is the tokenizer's own reconstruction."""
    pipeline, rgb = make_pipeline(sigma_max=0.003), video(17)
    decoded = pipeline.tokenizer.decode(pipeline._encode(rgb))
    torch.testing.assert_close(
        generate(pipeline, rgb).rgb.float(), pipeline._pixels(decoded).float(), rtol=0, atol=2
    )


def test_what_is_held_everywhere_is_the_source(make_pipeline):
    """Held at every evaluation, the result is the source's reconstruction more than the free one is."""
    pipeline, rgb = make_pipeline(num_steps=8), video(17)
    target = pipeline._pixels(pipeline.tokenizer.decode(pipeline._encode(rgb))).float()
    held = SpatialGuidance(torch.ones(17, *SIZE), None, 0.0)
    kept, free = generate(pipeline, rgb, guidance=held).rgb, generate(pipeline, rgb).rgb
    assert (kept - target).abs().mean() < 0.5 * (free - target).abs().mean()


@pytest.mark.parametrize(
    ("num_frames", "num_input_frames", "frames"),
    [(3, 1, [[0, 3]]), (30, 1, [[0, 9], [17, 25]]), (40, 9, [[0, 9], [17, 25], [25, 33], [33, 40]])],
)
def test_the_ceiling_is_the_first_half_of_each_clip(make_pipeline, num_frames, num_input_frames, frames):
    """The very frames that decoding whole clips gives: the tokenizer is causal."""
    rgb = video(num_frames)
    pipeline = make_pipeline(with_ceiling=True, num_input_frames=num_input_frames)
    generated = generate(pipeline, rgb)
    assert generated.record["ceiling_frames"] == frames
    whole = torch.zeros_like(rgb)
    for clip in plan_clips(num_frames, 17, num_input_frames):
        latents = pipeline.tokenizer.encode(rgb[clip.frames].permute(3, 0, 1, 2)[None] / 255 * 2 - 1)
        levels = (pipeline.tokenizer.decode(latents)[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5
        new = clip.frames[clip.overlap :].unique()  # the last frame is repeated past the end
        whole[new] = levels.round().to(torch.uint8)[clip.overlap :][: len(new)]
    wanted = torch.cat([whole[first:last] for first, last in frames]).int()
    assert (generated.ceiling.int() - wanted).abs().max() <= 1


def test_an_empty_mask_is_no_guidance(make_pipeline):
    pipeline, rgb = make_pipeline(), video(17)
    nothing = SpatialGuidance(torch.zeros(17, *SIZE), torch.zeros(17, *SIZE), 0.0)
    assert torch.equal(generate(pipeline, rgb, guidance=nothing).rgb, generate(pipeline, rgb).rgb)


def corner_mask(num_frames):
    """Foreground in one corner, the edge of which runs through held latents."""
    mask = torch.zeros(num_frames, *SIZE)
    mask[:, :12, :12] = 1
    return mask


def watched_rim(monkeypatch, answer=match_rim):
    """Every call of `match_rim` in the pipeline from now on: its arguments; it gives back what `answer` does."""
    calls = []

    def watched(*arguments):
        calls.append(arguments)
        return answer(*arguments)

    monkeypatch.setattr("guided_transfer.pipeline.match_rim", watched)
    return calls


def test_the_rim_is_matched_once_in_every_clip(make_pipeline, monkeypatch):
    pipeline, rgb, mask = make_pipeline(num_steps=8), video(30), corner_mask(30)
    calls = watched_rim(monkeypatch)
    decoded = spied_on(monkeypatch, pipeline.tokenizer, "decode")
    matched = generate(pipeline, rgb, guidance=SpatialGuidance(mask, None, 0.0, match_rim=True)).rgb
    pictures = [pipeline._pixels(video) for _, video in decoded]
    assert len(calls) == 2
    assert len(pictures) == 4  # what is generated so far, and the result, of each clip
    for (given, generated, foreground, held), shown, clip in zip(
        calls, pictures[::2], plan_clips(30, 17, 1), strict=True
    ):
        assert torch.equal(given, rgb[clip.frames])
        assert torch.equal(generated, shown)
        assert torch.equal(foreground, mask[clip.frames] > 0)
        assert held[:, :16, :16].all()
        assert held.sum() == 17 * 16 * 16
    plain = generate(pipeline, rgb, guidance=SpatialGuidance(mask, None, 0.0)).rgb
    assert len(calls) == 2
    assert not torch.equal(matched, plain)


def test_what_was_matched_is_held_from_then_on(make_pipeline, monkeypatch):
    watched_rim(monkeypatch, lambda given, *_: 255 - given)
    pipeline, rgb = make_pipeline(num_steps=8), video(17)
    held = SpatialGuidance(torch.ones(17, *SIZE), None, 0.0, match_rim=True)
    kept = generate(pipeline, rgb, guidance=held).rgb.float()
    given, inverted = (
        pipeline._pixels(pipeline.tokenizer.decode(pipeline._encode(frames))).float() for frames in (rgb, 255 - rgb)
    )
    assert (kept - inverted).abs().mean() < 0.5 * (kept - given).abs().mean()


def test_nothing_held_has_no_rim(make_pipeline, monkeypatch):
    calls = watched_rim(monkeypatch)
    for threshold, mask in ((0.0, torch.zeros(17, *SIZE)), (80.0, corner_mask(17))):
        generate(
            make_pipeline(num_steps=4), video(17), guidance=SpatialGuidance(mask, None, threshold, match_rim=True)
        )
    assert calls == []


def test_weight_maps_follow_every_clip(make_pipeline):
    """A map that is zero in the second clip alone changes the second clip alone."""
    pipeline, rgb = make_pipeline(), video(33)
    late = torch.ones(33, *SIZE)
    late[17:] = 0
    depth = ControlVideo("depth", video(33, seed=2), 0.5)
    even, changed = (
        generate(pipeline, rgb, controls=[ControlVideo("depth", depth.frames, w)]).rgb
        for w in (torch.ones(33, *SIZE), late)
    )
    assert torch.equal(even[:17], changed[:17])
    assert not torch.equal(even[17:], changed[17:])


def test_a_weight_of_zero_beside_a_map_is_zero(make_pipeline):
    """The integration takes a number 0 for no weight given, and runs that control at 1."""
    pipeline, rgb = make_pipeline(), video(17)
    half = torch.full((17, *SIZE), 0.5)
    half[:, :, :16] = 0
    depth = ControlVideo("depth", video(17, seed=2), half)
    alone, beside, ignored = (
        generate(pipeline, rgb, controls=[depth, *others]).rgb
        for others in ((), [RgbControl("edge", lambda f: f, 0)], [RgbControl("edge", lambda f: f, 1.0)])
    )
    assert torch.equal(alone, beside)
    assert not torch.equal(alone, ignored)


def test_controls_of_any_size_are_brought_to_the_one_of_the_clip(make_pipeline, monkeypatch):
    """Whatever shape they have, and colours that stand for labels are never blended on the way."""
    pipeline = make_pipeline()
    encoded = spied_on(monkeypatch, pipeline.tokenizer, "encode")
    colours = torch.tensor(LABEL_COLOURS, dtype=torch.uint8)
    labels = torch.randint(0, 5, (17, 70, 50), generator=torch.Generator().manual_seed(0))
    controls = [ControlVideo("depth", video(17, (40, 90)), 0.5), ControlVideo("seg", colours[labels], 0.5)]
    generate(pipeline, video(17, (24, 24)), controls=controls)
    assert {tuple(given.shape) for given, _ in encoded} == {(1, 3, 17, *SIZE)}
    seg = ((encoded[1][0][0].permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8)
    assert (seg[..., None, :] == colours).all(-1).any(-1).all()


def test_from_noise_alone_nothing_of_the_given_video_is_left(make_pipeline):
    """From sigma_max 80 on, with controls that are not computed from it and nothing held."""
    controls = [ControlVideo("depth", video(17, seed=2), 1.0)]
    for numerics in ("exact", "reference"):
        pipeline = make_pipeline(numerics=numerics)
        one, other = (generate(pipeline, video(17, seed=seed), controls=controls).rgb for seed in (0, 1))
        assert torch.equal(one, other)


def test_results_are_shrunk_by_area(make_pipeline):
    """Every pixel of the result is the mean of all that it stands for: nothing is skipped, so nothing aliases."""
    pipeline, rgb = make_pipeline(), video(17)
    large = generate(pipeline, rgb).rgb
    small = generate(pipeline, rgb, out_size=(8, 8)).rgb
    means = large.float().unflatten(2, (8, 4)).unflatten(1, (8, 4)).mean((2, 4))
    assert (small - means).abs().max() <= 0.51
    sampled = large[:, 1::4, 1::4].float()
    assert (sampled - means).abs().max() > 5


def test_evaluations_log_nothing(make_pipeline, caplog):
    with caplog.at_level(logging.DEBUG, logger="guided_transfer"):
        generate(make_pipeline(num_steps=3), video(17))
    assert not [entry for entry in caplog.records if entry.name.startswith("guided_transfer")]


def test_progress_counts_to_its_end(make_pipeline):
    seen: list[Progress] = []
    generate(make_pipeline(num_steps=3), video(18), on_progress=seen.append)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 11, 12)
    assert [(s.clip, s.stage) for s in seen if s.stage != "sample"] == [
        (1, "encode"),
        (1, "decode"),
        (2, "encode"),
        (2, "decode"),
    ]


def test_reference_numerics_cut_levels_off_where_ours_round(make_pipeline):
    levels = torch.tensor([-1.0, -0.999, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 1, 6).expand(1, 3, 1, 1, 6)
    exact, reference = (make_pipeline(numerics=n)._pixels(levels)[0, 0, :, 0] for n in ("exact", "reference"))
    assert exact.tolist() == [0, 0, 128, 255, 255, 255]
    assert reference.tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize("settings", [{"clip_frames": 16}, {"num_input_frames": 8}, {"num_input_frames": 17}])
def test_lengths_that_cannot_be(settings):
    with pytest.raises(UsageError, match="frames"):
        GenerationSettings(**{"clip_frames": 17, **settings})


class Moves:
    """Notes where it was sent."""

    def __init__(self):
        self.places = []

    def to(self, place):
        self.places.append(str(place))


@pytest.mark.parametrize(("offload", "places"), [(True, ["cuda:0", "cpu"]), (False, ["cuda:0"])])
def test_an_offloaded_module_leaves_the_gpu_even_after_an_error(offload, places):
    module = Moves()
    with pytest.raises(ZeroDivisionError), resident(module, torch.device("cuda:0"), offload=offload):
        raise ZeroDivisionError
    assert module.places == places


@pytest.mark.parametrize(("offload", "places"), [(True, ["cpu", "cuda:0"]), (False, ["cuda:0"])])
def test_an_offloaded_module_makes_room_for_other_work(monkeypatch, offload, places):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    module = Moves()
    with aside(module, torch.device("cuda:0"), offload=offload):
        assert module.places == places[:-1]
    assert module.places == places


def test_offloaded_models_are_moved_around_their_work(make_pipeline, monkeypatch):
    moved = []

    @contextmanager
    def noting(module, device, *, offload):
        moved.append((module, offload))
        yield

    monkeypatch.setattr("guided_transfer.pipeline.resident", noting)
    monkeypatch.setattr("guided_transfer.pipeline.aside", lambda *a, **k: noting("aside", *a[1:], **k))
    pipeline = make_pipeline(num_steps=8)
    pipeline.offload_network = True
    pipeline.remember(["a clinic"])
    generate(pipeline, video(17), guidance=SpatialGuidance(corner_mask(17), None, 0.0, match_rim=True))
    assert moved == [(pipeline.text_encoder, False), (pipeline.network, True), ("aside", True)]
