"""The published weights of the vision models through the same code, where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from guided_transfer.controls.depth_anything import DepthAnything, depth_control_from_rgb
from guided_transfer.controls.grounding import GroundingDino
from guided_transfer.controls.keypoints import WholeBody, keypoint_control
from guided_transfer.controls.segmentation import Segmenter, mask_from_text, seg_control_from_text
from guided_transfer.controls.tracking import Sam2Tracker
from guided_transfer.controls.vision import VisionFiles
from guided_transfer.episodes import make_example_episode, open_episodes
from guided_transfer.errors import CheckpointError

pytestmark = pytest.mark.weights


def real_files() -> VisionFiles:
    root = os.environ.get("GUIDED_TRANSFER_CHECKPOINTS")
    if not root:
        pytest.skip("GUIDED_TRANSFER_CHECKPOINTS does not name a checkpoint tree")
    onnx = (os.environ.get(f"GUIDED_TRANSFER_{name}_ONNX") for name in ("YOLOX", "RTMPOSE"))
    return VisionFiles(Path(root), *(Path(file) if file else None for file in onnx))


def folder(part: str) -> Path:
    files = real_files()
    try:
        return files.folder(part, "this test")
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """A phantom on a table under an arm, as the room camera sees it."""
    path = make_example_episode(tmp_path_factory.mktemp("real") / "data_0.hdf5", 5, height_px=224, width_px=224)
    with open_episodes(path) as file:
        return file.read("demo_0").views["room"]


def test_depth_anything_ranks_depths_as_the_simulator_does(view):
    picture = depth_control_from_rgb(view.rgb, DepthAnything.from_folder(folder("depth_anything")))[..., 0]
    known = view.depth_m.isfinite()
    ranks = [values.numpy().argsort().argsort() for values in (picture[known].float(), 1 / view.depth_m[known])]
    assert np.corrcoef(*ranks)[0, 1] > 0.3


def test_grounding_dino_and_sam2_follow_what_they_find(view):
    model = Segmenter(GroundingDino.from_folder(folder("grounding_dino")), Sam2Tracker.from_folder(folder("sam2")))
    found = mask_from_text(view.rgb, model, "table, robot arm")
    share = found.mask.float().mean((1, 2))
    assert ((share > 0.001) & (share < 0.999)).all()
    assert seg_control_from_text(view.rgb, model, "table . robot arm").any()


def test_rtmpose_draws_no_one_where_no_one_is(view):
    try:
        files = real_files().onnx_files()
    except CheckpointError as error:
        pytest.skip(str(error))
    control = keypoint_control(view.rgb, WholeBody(*files))
    assert control.shape == view.rgb.shape
    assert float(control.any(-1).float().mean()) < 0.05
