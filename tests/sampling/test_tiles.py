"""Tiles: they cover everything, what they count adds up to one, and blending changes nothing they agree on."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_transfer.clips import upscaled_size
from guided_transfer.errors import UsageError
from guided_transfer.sampling.tiles import Spans, TiledDenoiser, Tiling, upscaling_tiles

SPANS = st.builds(
    lambda count, size, share: Spans(count, size, int(share * (size // 2))),
    st.integers(1, 4),
    st.integers(1, 24),
    st.floats(0, 1),
)


@given(SPANS)
@settings(max_examples=60, deadline=None)
def test_what_spans_count_adds_up_to_one_everywhere(spans):
    total = torch.zeros(spans.total)
    for where, weight in zip(spans, spans.weights(), strict=True):
        assert bool((weight > 0).all())
        total[where] += weight
    torch.testing.assert_close(total, torch.ones(spans.total), rtol=0, atol=1e-6)


@given(SPANS, SPANS)
@settings(max_examples=30, deadline=None)
def test_tiles_of_a_picture_blend_into_that_picture(rows, columns):
    tiling = Tiling(rows, columns)
    picture = torch.rand(2, 3, *tiling.size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiling.blend(tiling.cut(picture)), picture, rtol=0, atol=1e-6)


def test_a_tile_fades_into_the_next_without_a_step():
    tiling = Tiling(Spans(1, 1), Spans(2, 8, 4))
    blended = tiling.blend([torch.zeros(1, 8), torch.ones(1, 8)])[0]
    assert blended.tolist() == [0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]


def test_one_tile_is_handed_back_as_it_is():
    tile = torch.rand(4, 6, dtype=torch.float64).to(torch.bfloat16)
    assert Tiling.whole((4, 6)).blend([tile]) is tile


def test_bfloat16_tiles_are_blended_in_float32():
    """Rounded shares of one would not add up to one."""
    tiling = Tiling(Spans(1, 1), Spans(2, 96, 31))
    ones = torch.ones(1, 96, dtype=torch.bfloat16)
    torch.testing.assert_close(tiling.blend([ones, ones]), torch.ones(1, tiling.size[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tile_px", "overlap", "canvas_px"),
    [
        ((704, 1280), (9, 16), (1968, 3584)),  # the reference's own example
        ((960, 960), (16, 16), (2624, 2624)),
        ((704, 960), (12, 16), (1920, 2624)),
        ((32, 32), (1, 1), (80, 80)),
    ],
)
def test_the_upscalers_tiles_are_the_references(tile_px, overlap, canvas_px):
    tiling = upscaling_tiles(tile_px)
    assert len(tiling) == 9
    assert (tiling.rows.overlap, tiling.columns.overlap) == overlap
    assert tiling.scaled(8).tile_size == tile_px
    assert tiling.scaled(8).size == canvas_px


@pytest.mark.parametrize(
    ("source", "model", "expected"),
    [
        ((704, 1280), (704, 1280), (2112, 3840)),
        ((720, 1280), (704, 1280), (2160, 3840)),
        ((1080, 1920), (704, 1280), (2160, 3840)),
        ((480, 640), (704, 960), (2160, 2880)),
    ],
)
def test_an_upscaled_picture_has_the_shape_of_its_source(source, model, expected):
    assert upscaled_size(source, model) == expected


def test_a_denoiser_that_looks_at_single_places_is_the_same_in_tiles():
    tiling = upscaling_tiles((64, 96))
    x = torch.randn(1, 4, 2, *tiling.size, generator=torch.Generator().manual_seed(1))
    denoise = lambda x, sigma: x.sin() / (1 + sigma)  # noqa: E731
    tiled = TiledDenoiser(tiling, lambda tile: denoise)
    sigma = torch.tensor(2.0)
    torch.testing.assert_close(tiled(x, sigma), denoise(x, sigma), rtol=0, atol=1e-6)


def test_a_tiles_denoiser_is_made_when_its_turn_comes():
    """What the tiles are told never has to be held for two of them."""
    tiling = upscaling_tiles((32, 32))
    events = []

    def denoiser_of(tile):
        events.append(("made", tile))

        def denoise(x, sigma):
            events.append(("ran", tile))
            return x

        return denoise

    TiledDenoiser(tiling, denoiser_of)(torch.zeros(1, 1, 1, *tiling.size), torch.tensor(1.0))
    assert events == [(what, tile) for tile in range(9) for what in ("made", "ran")]


def test_tiles_lie_row_by_row():
    boxes = upscaling_tiles((64, 32)).boxes
    assert boxes == sorted(boxes, key=lambda box: (box[0].start, box[1].start))
    assert all(a[1].stop > b[1].start for a, b in pairwise(boxes[:3]))


@pytest.mark.parametrize(("count", "size", "overlap"), [(0, 4, 0), (2, 4, 3), (2, 0, 0), (2, 4, -1)])
def test_spans_that_cannot_be(count, size, overlap):
    with pytest.raises(UsageError, match="half a span"):
        Spans(count, size, overlap)
