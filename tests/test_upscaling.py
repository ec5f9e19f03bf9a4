"""Upscaling in the pipeline: tiles of the model's size, one at a time, on a tiny tree of the real classes."""

import pytest
import torch

from guided_transfer.clips import upscaled_size
from guided_transfer.errors import UsageError
from guided_transfer.generation import GenerationSettings, RgbControl
from guided_transfer.models.checkpoint import CheckpointTree, load_network
from guided_transfer.models.text import load_text_encoder
from guided_transfer.models.tokenizer import load_tokenizer
from guided_transfer.pipeline import TransferPipeline
from guided_transfer.sampling.rim import match_rim
from guided_transfer.sampling.tiles import Spans, Tiling, upscaling_tiles
from guided_transfer.types import ControlVideo, SpatialGuidance

TILE = (32, 32)


@pytest.fixture(scope="module")
def make_pipeline(tiny_tree):
    tree = CheckpointTree.open(tiny_tree)
    tree = CheckpointTree(tree.root, tree.config.model_copy(update={"text_tokens": 16, "numerics": "exact"}))
    tokenizer = load_tokenizer(tree, device="cpu", dtype=torch.float32)
    network = load_network(tree, ["edge", "depth"], device="cpu", dtype=torch.float32)
    text = load_text_encoder(tree, device="cpu", dtype=torch.float32)

    def make(**settings):
        chosen = {"num_steps": 1, "guidance": 0.0, "clip_frames": 9, "sigma_max": 70.0, **settings}
        return TransferPipeline(network, tokenizer, text, GenerationSettings(**chosen), device=torch.device("cpu"))

    return make


def video(num_frames, size=(24, 40)):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (num_frames, *size), mode="trilinear")
    return (smooth[0].permute(1, 2, 3, 0) * 255).to(torch.uint8)


def generate(pipeline, rgb, *, controls=None, tiling=None, out_size=None, guidance=None):
    controls = controls or [RgbControl("edge", lambda frames: frames, 0.5)]
    return pipeline.generate(
        rgb,
        controls,
        "a clinic",
        seed=3,
        size=TILE,
        fps=30.0,
        tiling=tiling,
        out_size=out_size,
        guidance=guidance,
    )


def test_one_tile_that_covers_all_is_a_run_without_tiles(make_pipeline):
    pipeline, rgb = make_pipeline(guidance=1.0), video(10)
    whole = generate(pipeline, rgb, tiling=Tiling(Spans(1, 4), Spans(1, 4)))
    assert torch.equal(whole.rgb, generate(pipeline, rgb).rgb)


def test_a_large_picture_of_odd_size_and_no_model_ever_sees_more_than_a_tile(make_pipeline, monkeypatch):
    pipeline, size = make_pipeline(), (33, 47)
    sizes = []
    hook = pipeline.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-2:]))
    for name in ("encode", "decode"):
        real = getattr(pipeline.tokenizer, name)

        def noting(x, real=real, scale=8 if name == "encode" else 1):
            sizes.append(torch.Size(side // scale for side in x.shape[-2:]))
            return real(x)

        monkeypatch.setattr(pipeline.tokenizer, name, noting)
    out_size = upscaled_size(size, TILE)
    try:
        result = generate(pipeline, video(10, size), tiling=upscaling_tiles(TILE), out_size=out_size)
    finally:
        hook.remove()
    assert set(sizes) == {torch.Size((4, 4))}
    assert result.rgb.shape == (10, 96, 137, 3)  # 3 x 32 rows, and 47 / 33 of that
    assert result.record["tiles"] == 9
    assert result.record["canvas_size"] == [80, 80]
    assert result.record["num_clips"] == 2


def test_almost_no_noise_gives_the_enlarged_source_back(make_pipeline):
    """Every tile lies where it belongs: what little noise leaves is the tokenizer's picture of the source."""
    pipeline, rgb = make_pipeline(sigma_max=0.003), video(9, (80, 80))
    tiling = upscaling_tiles(TILE)
    result = generate(pipeline, rgb, tiling=tiling, out_size=(80, 80)).rgb.float()
    tiles = tiling.scaled(8).cut(rgb.permute(0, 3, 1, 2))
    latents = tiling.blend(pipeline._encode(tile.permute(0, 2, 3, 1)) for tile in tiles)
    decoded = (pipeline._pixels(pipeline.tokenizer.decode(tile)) for tile in tiling.cut(latents))
    expected = tiling.scaled(8).blend(tile.permute(0, 3, 1, 2) for tile in decoded).permute(0, 2, 3, 1)
    torch.testing.assert_close(result, expected.round(), rtol=0, atol=3)


def test_seams_do_not_show_where_tiles_agree(make_pipeline):
    """An even source under almost no noise: steps across tile borders are no larger than elsewhere."""
    pipeline = make_pipeline(sigma_max=0.003)
    rgb = torch.full((9, 80, 80, 3), 120, dtype=torch.uint8)
    result = generate(pipeline, rgb, tiling=upscaling_tiles(TILE), out_size=(80, 80)).rgb.float()
    steps = (result[:, :, 1:] - result[:, :, :-1]).abs().mean(dim=(0, 1, 3))
    borders = torch.tensor([23, 31, 47, 55])
    others = torch.ones(79, dtype=torch.bool)
    others[borders] = False
    assert steps[borders].max() <= steps[others].max() + 1


def test_masks_and_weight_maps_reach_the_tiles_they_lie_in(make_pipeline):
    """What changes in the upper left corner of a map or mask leaves the tiles that do not touch it alone."""
    pipeline, rgb = make_pipeline(), video(9)
    tiling = upscaling_tiles(TILE)

    even, corner = torch.full((9, 24, 40), 0.5), torch.zeros(9, 24, 40)
    corner[:, :6, :10] = 1

    def made(weight_map, keep):
        guidance = SpatialGuidance(keep, None, 0.0)
        control = ControlVideo("depth", rgb, weight_map)
        run = {"controls": [control], "tiling": tiling, "out_size": (80, 80), "guidance": guidance}
        return generate(pipeline, rgb, **run).rgb.int()

    plain = made(even, torch.zeros_like(corner))
    for changed in (made(even - 0.4 * corner, torch.zeros_like(corner)), made(even, corner)):
        difference = (plain - changed).abs().amax(dim=(0, 3))
        assert difference[:24, :24].max() > 0
        # one step and the clean call: what a tile sees comes from its own places and its neighbours'
        assert difference[60:, 60:].max() == 0


def test_the_rim_is_matched_tile_by_tile(make_pipeline, monkeypatch):
    calls = []

    def watched(*arguments):
        calls.append(arguments)
        return match_rim(*arguments)

    monkeypatch.setattr("guided_transfer.pipeline.match_rim", watched)
    rgb, mask, tiling = video(9, (80, 80)), torch.zeros(9, 80, 80), upscaling_tiles(TILE)
    mask[:, :20, :20] = 1
    guidance = SpatialGuidance(mask, None, 0.0, match_rim=True)
    generate(make_pipeline(num_steps=8), rgb, tiling=tiling, out_size=(80, 80), guidance=guidance)
    assert len(calls) == 9
    for (given, generated, foreground, held), (rows, columns) in zip(calls, tiling.scaled(8).boxes, strict=True):
        assert torch.equal(given, rgb[:, rows, columns])
        assert torch.equal(foreground, mask[:, rows, columns] > 0)
        assert generated.shape == given.shape
        assert held[foreground].all()
        assert held.any() == foreground.any()
    assert not torch.equal(calls[0][1], calls[8][1])


def test_a_weight_of_zero_skips_the_branch(make_pipeline):
    pipeline, rgb = make_pipeline(guidance=1.0), video(18)
    ran = []
    hook = pipeline.network.branch("depth").register_forward_pre_hook(lambda *_: ran.append(1))
    edge = RgbControl("edge", lambda frames: frames, 0.5)
    try:
        alone = generate(pipeline, rgb, controls=[edge]).rgb
        for zero in (0.0, torch.zeros(18, 24, 40)):
            assert torch.equal(
                generate(pipeline, rgb, controls=[edge, ControlVideo("depth", rgb, zero)]).rgb, alone
            )
        assert not ran
        late = torch.zeros(18, 24, 40)
        late[17] = 1  # counts in the third clip alone: 2 evaluations of 2 passes
        generate(pipeline, rgb, controls=[edge, ControlVideo("depth", rgb, late)])
        assert len(ran) == 4
    finally:
        hook.remove()


def test_a_distilled_model_takes_one_step_from_noise(make_pipeline):
    pipeline = make_pipeline(one_step=True, sigma_max=80.0)
    passes = []
    hook = pipeline.network.register_forward_pre_hook(lambda _, inputs: passes.append(float(inputs[1])))
    try:
        first = generate(pipeline, video(9)).rgb
    finally:
        hook.remove()
    assert passes == pytest.approx([0.25 * torch.tensor(80.0).log().item()])
    assert torch.equal(generate(pipeline, video(9)).rgb, first)


@pytest.mark.parametrize("settings", [{"guidance": 1.0}, {"sigma_max": 70.0}])
def test_a_distilled_model_has_neither_guidance_nor_a_partial_start(settings):
    with pytest.raises(UsageError, match="one step from noise"):
        GenerationSettings(**{"guidance": 0.0, "sigma_max": 80.0, "one_step": True, **settings})


def test_tiles_of_another_size_than_the_models(make_pipeline):
    with pytest.raises(UsageError, match="do not have the model's size"):
        generate(make_pipeline(), video(9), tiling=upscaling_tiles((64, 32)))
