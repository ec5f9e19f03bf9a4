"""mode="reference" against the integration's own numbers (complete sums)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from guided_transfer.types import Camera, View
from guided_transfer.warp import Zone, guidance_masks, guide_for_wrist, stack_views, unstack_views, warp_view

ARRAYS = Path(__file__).parents[1] / "data" / "warp" / "reference_warp.npz"


@pytest.fixture(scope="module")
def known() -> dict[str, torch.Tensor]:
    with np.load(ARRAYS) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def views(known: dict[str, torch.Tensor]) -> tuple[View, View]:
    def view(index: int, name: str) -> View:
        pose = (known[f"{name}_pos"], known[f"{name}_quat_wxyz"], known[f"{name}_K"])
        depth_m, labels = known["depth"][:, index, :, :, 0], known["seg_labels"][:, index]
        return View(name, known[f"{name}_frames"], depth_m, labels, Camera.from_ros_pose(*pose, 64, 64))

    return view(0, "room"), view(1, "wrist")


def test_warped_frames(known: dict[str, torch.Tensor], views: tuple[View, View]) -> None:
    room, wrist = views
    usable = (room.labels != 3) & (room.labels != 4)
    frames = room.rgb.float() / 127.5 - 1
    warped = warp_view(frames, room.depth_m, room.camera, wrist.camera, mask=usable, mode="reference")
    expected = known["warp_frame_accumulated"].permute(0, 2, 3, 1)
    torch.testing.assert_close(warped.rgb, expected, atol=5e-5, rtol=0)
    assert torch.equal(warped.covered, known["warp_mask_accumulated"][:, 0] > 0)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("joint", [False, True])
def test_composite_and_zones(
    known: dict[str, torch.Tensor], views: tuple[View, View], fill: bool, joint: bool
) -> None:
    room, wrist = views
    guide = guide_for_wrist(room, wrist, fill_missing_pixels=fill, mode="reference")
    name = f"fill{int(fill)}_concat{int(joint)}"
    picture = stack_views(room.rgb, guide.picture) if joint else guide.picture
    assert (picture.int() - known[f"{name}_video_accumulated"].int()).abs().max() <= 1
    keep, background = guidance_masks(guide.zones, joint=joint)
    expected_background, expected_keep = known[f"{name}_roi_npz_accumulated"]
    assert torch.equal(keep, expected_keep.float())
    assert torch.equal(background, expected_background.float())
    if joint:
        assert torch.equal(unstack_views(picture)[1], guide.picture)


def test_depth_beyond_five_metres_is_cut_here_and_unknown_nowhere_else(views: tuple[View, View]) -> None:
    room, wrist = views
    far = torch.full_like(room.depth_m, torch.inf)
    assert warp_view(room.rgb, far, room.camera, wrist.camera, mode="reference").covered.any()
    assert not warp_view(room.rgb, far, room.camera, wrist.camera).covered.any()


def test_foreground_labels_govern_both_views(views: tuple[View, View]) -> None:
    room, wrist = views
    guide = guide_for_wrist(room, wrist, foreground_labels=[2], mode="reference")
    assert torch.equal(guide.zones == Zone.FOREGROUND, wrist.labels == 2)
