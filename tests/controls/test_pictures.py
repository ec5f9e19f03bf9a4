"""Edge, blur, depth and seg pictures against the reference's own output and against cases worked by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_transfer.controls.blur import BLURS, vis_control
from guided_transfer.controls.depth import depth_control
from guided_transfer.controls.edge import CANNY_THRESHOLDS, edge_control
from guided_transfer.controls.seg import seg_control
from guided_transfer.errors import EpisodeInconsistent, UsageError
from guided_transfer.types import LABEL_COLOURS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    """Two frames of a real robot video and what the reference implementation made of them (OpenCV 4.11)."""
    with np.load(ROOT / "tests/data/controls/reference_controls.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("preset", CANNY_THRESHOLDS)
def test_edges_are_the_references_bit_for_bit(reference, preset):
    lines = np.unpackbits(reference[f"canny_{preset}"].numpy(), axis=-1) * 255
    edge = edge_control(reference["rgb"], preset)
    assert edge.shape == reference["rgb"].shape
    for channel in range(3):
        np.testing.assert_array_equal(edge[..., channel].numpy(), lines)


@pytest.mark.parametrize("preset", BLURS)
def test_blur_is_the_references_within_one_level(reference, preset):
    blurred = vis_control(reference["rgb"], preset)
    difference = (blurred.int() - reference[f"vis_{preset}"].int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3


@pytest.mark.parametrize("control", [edge_control, vis_control])
def test_number_of_threads_changes_nothing(reference, control):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = control(reference["rgb"])
        torch.set_num_threads(4)
        assert torch.equal(one, control(reference["rgb"]))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("control", [edge_control, vis_control])
def test_unknown_preset_names_the_nearest(reference, control):
    with pytest.raises(UsageError, match=r"'medum', accepted are .*did you mean medium"):
        control(reference["rgb"], "medum")


@pytest.mark.parametrize("frames", [torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_frames_of_another_kind_are_refused(frames):
    with pytest.raises(UsageError, match=r"uint8 \[T, H, W, 3\]"):
        edge_control(frames)


def test_blur_of_a_frame_smaller_than_its_factor():
    tiny = torch.full((1, 6, 9, 3), 77, dtype=torch.uint8)
    assert torch.equal(vis_control(tiny, "very_high"), tiny)


def test_depth_is_inverse_and_linear_between_the_ends():
    # 1/d runs from 1/4 to 1/1 in three equal steps: grey 0, 85, 170, 255. Each quarter is larger than the
    # half per cent that the range leaves out at either end.
    depth_m = torch.tensor([4.0, 2.0, 4 / 3, 1.0]).repeat_interleave(8).reshape(1, 4, 8)
    picture = depth_control(depth_m)
    assert picture.dtype == torch.uint8
    assert picture[0, :, 0, 0].tolist() == [0, 85, 170, 255]
    assert torch.equal(picture[..., 0], picture[..., 2])


def test_depth_of_a_still_background_does_not_flicker_when_something_enters():
    depth_m = torch.linspace(1, 4, 16).expand(6, 16, 16).clone()
    depth_m[3:, 4:8, 4:8] = 0.2
    picture = depth_control(depth_m)[..., 0]
    background = torch.ones(16, 16, dtype=torch.bool)
    background[4:8, 4:8] = False
    assert torch.equal(picture[0][background], picture[5][background])
    assert bool((picture[5][~background] == 255).all())


def test_one_speck_near_the_camera_does_not_flatten_the_rest():
    depth_m = torch.linspace(1, 4, 64).expand(4, 64, 64).clone()
    quiet = depth_control(depth_m)[..., 0]
    depth_m[0, 0, 0] = 1e-3
    assert int((depth_control(depth_m)[..., 0].int() - quiet.int()).abs().max()) <= 1


@pytest.mark.parametrize("nothing", [torch.inf, torch.nan, 0.0, -1.0])
def test_pixels_without_depth_are_black_and_change_no_other(nothing):
    depth_m = torch.linspace(1, 4, 64).expand(2, 64, 64).clone()
    whole = depth_control(depth_m)
    depth_m[:, :32] = nothing
    picture = depth_control(depth_m)
    assert int(picture[:, :32].max()) == 0
    assert torch.equal(picture[:, 32:], whole[:, 32:])


def test_depth_of_a_flat_wall_and_of_nothing():
    assert bool((depth_control(torch.full((1, 4, 4), 2.0)) == 255).all())
    assert bool((depth_control(torch.full((1, 4, 4), torch.inf)) == 0).all())


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_nearer_is_never_darker(seed):
    depth_m = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(seed)) * 5 + 0.01
    order = depth_m.flatten().argsort()
    assert bool((depth_control(depth_m)[..., 0].flatten()[order].int().diff() <= 0).all())


def test_seg_colours_are_those_of_the_conventions_page():
    rows = [line.split("|") for line in (ROOT / "docs/conventions.md").read_text().splitlines()]
    table = {
        int(row[1]): [int(v) for v in row[2].split(",")]
        for row in rows
        if len(row) > 3 and row[1].strip().isdigit()
    }
    labels = torch.tensor([[sorted(table)]], dtype=torch.uint8)
    assert seg_control(labels)[0, 0].tolist() == [table[label] for label in sorted(table)]


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_labels_can_be_read_back(seed):
    labels = torch.randint(0, 5, (2, 7, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    matches = (seg_control(labels)[..., None, :] == torch.tensor(LABEL_COLOURS)).all(-1)
    assert torch.equal(matches.float().argmax(-1), labels.long())
    assert bool((matches.sum(-1) == 1).all())


def test_label_without_a_colour():
    with pytest.raises(EpisodeInconsistent, match=r"labels \[7\] have no colour; known are 0..4"):
        seg_control(torch.tensor([[[0, 7]]], dtype=torch.uint8))


def test_edge_of_a_drawn_square_is_its_outline():
    picture = np.zeros((1, 32, 32, 3), np.uint8)
    cv2.rectangle(picture[0], (8, 8), (23, 23), (255, 255, 255), -1)
    lines = edge_control(torch.from_numpy(picture))[0, ..., 0] > 0
    rows, columns = torch.where(lines)
    assert {int(rows.min()), int(columns.min())} <= {7, 8}
    assert {int(rows.max()), int(columns.max())} <= {23, 24}
    assert not bool(lines[10:22, 10:22].any())
