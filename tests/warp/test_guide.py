"""Zones, hole filling and stacking: what the wrist stage is handed."""

from dataclasses import replace

import analytic
import cv2
import numpy as np
import pytest
import torch

from guided_transfer.errors import UsageError
from guided_transfer.types import Camera, View
from guided_transfer.warp import (
    Zone,
    guidance_masks,
    guide_for_wrist,
    stack_views,
    unstack_views,
    warp_view,
    zone_shares,
)

TABLE, BLOCK = 2, 4
SIZE = (64, 64)


def two_views(block_x_m: list[float]) -> tuple[View, View]:
    """A table top with a block (the foreground) at a place of its own in every frame, and both views of it."""
    room = analytic.camera([analytic.look_at((1.5, 0, 1.0), (0, 0, 0))] * len(block_x_m), SIZE, 80)
    wrist = analytic.camera([analytic.look_at((-0.4, 0, 0.7), (-0.1, 0, 0))] * len(block_x_m), SIZE, 45)
    scenes = [
        analytic.Scene([((-0.8, -0.8, -0.05), (0.8, 0.8, 0)), ((x - 0.05, -0.1, 0), (x + 0.05, 0.1, 0.2))])
        for x in block_x_m
    ]

    def view(name: str, cam: Camera) -> View:
        frames = [scene.render(cam, t) for t, scene in enumerate(scenes)]
        rgb, depth_m, face = (torch.stack([f[k] for f in frames]) for k in range(3))
        labels = torch.where(face < 0, 0, torch.where(face < 6, TABLE, BLOCK)).to(torch.uint8)
        return View(name, rgb, depth_m, labels, cam)

    return view("room", room), view("wrist", wrist)


def test_zones_of_one_frame() -> None:
    room, wrist = two_views([0.1])
    guide = guide_for_wrist(room, wrist, fill_missing_pixels=False)
    assert torch.equal(guide.zones == Zone.FOREGROUND, wrist.labels == BLOCK)
    assert torch.equal(guide.picture[wrist.labels == BLOCK], wrist.rgb[wrist.labels == BLOCK])
    assert not (guide.zones == Zone.FILLED).any()
    hole = guide.zones == Zone.HOLE  # the table behind the block, seen from the room
    assert 100 < hole.sum() < 1500
    assert (wrist.labels[hole] == TABLE).all()
    assert (guide.zones[wrist.labels == 0] == Zone.OUT_OF_SIGHT).all()
    covered = guide.zones == Zone.COVERED
    assert (guide.picture[covered].int() - wrist.rgb[covered].int()).abs().float().mean() < 3
    assert sum(guide.record["zones"].values()) == pytest.approx(1)
    assert guide.record["warnings"] == []
    assert guide.record["engine"] == "cpu"


def test_holes_are_filled_with_what_another_frame_showed() -> None:
    room, wrist = two_views([0.1, 0.1, 0.1, 0.6])  # the block moves away: its shadow opens
    guide = guide_for_wrist(room, wrist)
    filled = guide.zones[0] == Zone.FILLED
    empty = guide_for_wrist(room, wrist, fill_missing_pixels=False).zones[0] == Zone.HOLE
    assert filled.sum() > 0.9 * empty.sum()
    error = (guide.picture[0][filled].int() - wrist.rgb[0][filled].int()).abs().float()
    assert error.mean() < 4  # the surface's own picture, not a smear: the next test reaches 27 here


def test_a_hole_that_never_opens_is_filled_from_its_own_surface() -> None:
    room, wrist = two_views([0.1])
    guide = guide_for_wrist(room, wrist)
    filled = guide.zones == Zone.FILLED
    assert filled.sum() > 100
    table = guide.picture[guide.zones == Zone.COVERED]
    assert (guide.picture[filled].amin(0) >= table.amin(0)).all()
    assert (guide.picture[filled].amax(0) <= table.amax(0)).all()


def test_filling_does_not_cross_depth_edges_or_labels() -> None:
    from guided_transfer.warp.fill import fill_over_space

    picture = torch.zeros(1, 8, 32, 3, dtype=torch.uint8)
    picture[:, :, :8] = 200
    known, missing = torch.zeros(1, 8, 32, dtype=torch.bool), torch.ones(1, 8, 32, dtype=torch.bool)
    known[:, :, :8], missing[:, :, :8] = True, False
    inverse_depth, labels = torch.ones(1, 8, 32), torch.full((1, 8, 32), TABLE, dtype=torch.uint8)
    inverse_depth[:, 4:] = torch.where(torch.arange(32) < 9, 1.0, 0.5)
    labels[:, :2, 9:] = 1
    _, filled = fill_over_space(picture, known, missing, inverse_depth, labels)
    expected = torch.zeros(8, 32, dtype=torch.bool)
    expected[:, 8] = True  # before the edges
    expected[2:4, 8:12] = True  # an eighth of the width
    assert torch.equal(filled[0], expected)
    filled_picture, _ = fill_over_space(picture, known, missing, inverse_depth, labels)
    assert (filled_picture[filled] == 200).all()


def test_what_stays_unknown_holds_no_edges() -> None:
    room, wrist = two_views([0.1])
    guide = guide_for_wrist(room, wrist, fill_missing_pixels=False)
    quiet = (guide.zones[0] == Zone.HOLE) | (guide.zones[0] == Zone.OUT_OF_SIGHT)
    black = torch.where(quiet[..., None], 0, guide.picture[0])
    around = cv2.dilate(quiet.numpy().astype(np.uint8), np.ones((3, 3))) > 0
    edges, traced = (cv2.Canny(p.numpy(), 100, 200)[around].astype(bool).sum() for p in (guide.picture[0], black))
    assert traced > 80  # what the integration's black holes do to an edge map
    assert edges < traced / 2
    inner = cv2.erode(quiet.numpy().astype(np.uint8), np.ones((5, 5))) > 0
    assert cv2.Canny(guide.picture[0].numpy(), 100, 200)[inner].astype(bool).mean() < 0.03
    assert guide.picture[0][quiet].min() > 10


def test_no_overlap_is_a_warning_and_an_empty_zone() -> None:
    room, wrist = two_views([0.1])
    away = analytic.camera([analytic.look_at((-2, 0, 1), (-4, 0, 1.0))], SIZE, 45)
    blind = View("wrist", wrist.rgb, torch.full((1, *SIZE), torch.inf), torch.zeros_like(wrist.labels), away)
    for fill in (False, True):
        guide = guide_for_wrist(room, blind, fill_missing_pixels=fill)
        assert (guide.zones == Zone.OUT_OF_SIGHT).all()
        assert (guide.picture == 127).all()
        assert "do not overlap" in guide.record["warnings"][0]


def test_without_the_wrists_depth_the_splat_decides() -> None:
    room, wrist = two_views([0.1])
    guide = guide_for_wrist(room, View("wrist", wrist.rgb, None, wrist.labels, wrist.camera))
    splat = warp_view(room.rgb, room.depth_m, room.camera, wrist.camera, mask=room.labels != BLOCK)
    covered = guide.zones == Zone.COVERED
    assert not (covered & ~splat.covered).any()
    assert covered.sum() > 0.9 * splat.covered.sum()  # less a pixel along the block's outline
    assert not (guide.zones == Zone.HOLE).any()  # nobody knows where the uncovered pixels lie


@pytest.mark.parametrize("labels", [[TABLE], [BLOCK, TABLE], []])
def test_any_label_set_may_be_the_foreground(labels: list[int]) -> None:
    room, wrist = two_views([0.1])
    guide = guide_for_wrist(room, wrist, foreground_labels=labels)
    assert torch.equal(guide.zones == Zone.FOREGROUND, torch.isin(wrist.labels, torch.tensor(labels)))


@pytest.mark.parametrize("label", [1, 7])
@pytest.mark.parametrize("block_x_m", [[0.1], [0.1, 0.6]], ids=["from around", "from another frame"])
def test_holes_are_filled_whatever_label_their_surface_has(block_x_m: list[float], label: int) -> None:
    """The integration fills table alone, which is label 2 to it."""
    room, wrist = two_views(block_x_m)
    guide = guide_for_wrist(room, wrist)
    room, wrist = (replace(v, labels=torch.where(v.labels == TABLE, label, v.labels)) for v in (room, wrist))
    other = guide_for_wrist(room, wrist)
    assert (guide.zones == Zone.FILLED).any()
    assert torch.equal(other.zones, guide.zones)
    assert torch.equal(other.picture, guide.picture)


def test_views_that_lack_something_are_named() -> None:
    room, wrist = two_views([0.1])
    with pytest.raises(UsageError, match="'wrist' has no labels"):
        guide_for_wrist(room, View("wrist", wrist.rgb, wrist.depth_m, None, wrist.camera))
    with pytest.raises(UsageError, match="'room' has no depth_m"):
        guide_for_wrist(View("room", room.rgb, None, room.labels, room.camera), wrist)
    with pytest.raises(UsageError, match="room has 2 frames, wrist has 1"):
        guide_for_wrist(two_views([0.1, 0.1])[0], wrist)


def test_stacking_and_masks() -> None:
    room, wrist = two_views([0.1, 0.2])
    stacked = stack_views(room.rgb, wrist.rgb)
    assert stacked.shape == (2, 128, 64, 3)
    assert torch.equal(unstack_views(stacked)[0], room.rgb)
    assert torch.equal(unstack_views(stacked)[1], wrist.rgb)
    zones = torch.arange(5, dtype=torch.uint8).reshape(1, 1, 5)
    keep, background = guidance_masks(zones, joint=False)
    assert keep.tolist() == [[[0, 0, 0, 0, 1]]]
    assert background.tolist() == [[[0, 0, 1, 1, 0]]]
    keep, background = guidance_masks(zones, joint=True)
    assert keep.tolist() == [[[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]]
    assert background.tolist() == [[[0, 0, 0, 0, 0], [0, 0, 1, 1, 0]]]
    assert zone_shares(zones) == {zone.name.lower(): 0.2 for zone in Zone}
