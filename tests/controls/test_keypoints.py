"""Keypoints through real ONNX graphs that point at coloured dots, and the drawing of skeletons."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch

from guided_transfer.controls.keypoints import (
    LINES,
    POINT_COLOURS,
    WholeBody,
    draw_person,
    keypoint_control,
    openpose_order,
)
from guided_transfer.controls.vision import VisionFiles
from guided_transfer.errors import CheckpointError
from tiny_vision import write_dot_models, write_estimator


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    return write_dot_models(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def model(onnx_files):
    return WholeBody(*onnx_files)


def person_picture(height, width, red_box, green_at):
    """[H, W, 3]: a red box (left, top, right, bottom) with a green square of 5 pixels around a place in it."""
    picture = np.full((height, width, 3), 30, np.uint8)
    left, top, right, bottom = red_box
    picture[top:bottom, left:right] = (255, 0, 0)
    x, y = green_at
    picture[y - 2 : y + 3, x - 2 : x + 3] = (255, 255, 0)
    return picture


@pytest.mark.parametrize("size", [(64, 64), (120, 160), (320, 200)])
def test_boxes_and_points_fall_on_what_the_models_point_at(model, size):
    height, width = size
    box = (width // 4, height // 8, 3 * width // 4, 7 * height // 8)
    place = (width // 2 + 5, height // 3)
    picture = person_picture(height, width, box, place)
    found = model.people(picture)
    pixel = max(size) / 64  # of the detector's square, in pixels of the frame
    np.testing.assert_allclose(found, [box], atol=pixel)
    points = model.points(picture, found)
    assert points.shape == (1, 133, 3)
    reach = 2.5 + max(box[2] - box[0], (box[3] - box[1]) * 72 / 96) * 1.25 / 72
    np.testing.assert_allclose(points[0, :, :2], np.tile(place, (133, 1)), atol=reach)
    assert (points[..., 2] > 0.6).all()


def test_the_estimator_is_shown_red_first(onnx_files, tmp_path):
    model = WholeBody(onnx_files[0], write_estimator(tmp_path / "red.onnx", channel=0))
    picture = np.zeros((96, 72, 3), np.uint8)
    picture[20:25, 10:15] = (255, 0, 0)
    picture[60:65, 50:55] = (0, 0, 255)
    points = model.points(picture, np.array([[0.0, 0, 72, 96]]))
    np.testing.assert_allclose(points[0, :, :2], np.tile((12, 22), (133, 1)), atol=4)


def test_people_are_looked_at_together_or_one_by_one(model, onnx_files):
    picture = person_picture(120, 160, (20, 20, 140, 110), (60, 60))
    boxes = np.array([[20.0, 20, 140, 110], [30, 30, 90, 90], [50, 40, 80, 100]])
    together = model.points(picture, boxes)
    alone = WholeBody(*onnx_files)
    alone.takes_many = False
    np.testing.assert_array_equal(alone.points(picture, boxes), together)


def test_without_a_person_the_whole_frame_is_looked_at(model):
    np.testing.assert_array_equal(model.people(np.zeros((48, 80, 3), np.uint8)), [[0, 0, 80, 48]])


def test_the_control_draws_where_the_person_is(model):
    picture = person_picture(120, 160, (40, 15, 120, 105), (70, 60))
    told = []
    control = keypoint_control(
        torch.from_numpy(picture)[None].repeat(2, 1, 1, 1), model, lambda *at: told.append(at)
    )
    assert told == [("keypoint", 1, 2), ("keypoint", 2, 2)]
    assert control.shape == (2, 120, 160, 3)
    assert control.dtype == torch.uint8
    drawn = control[0].any(-1).nonzero()
    assert (drawn.float().mean(0) - torch.tensor([60.0, 70.0])).abs().max() < 4
    assert torch.equal(control[0], control[1])


def test_the_order_of_openpose():
    points = np.zeros((1, 133, 3))
    points[0, :, 0] = np.arange(133)
    points[0, 5] = (10, 40, 0.9)
    points[0, 6] = (20, 60, 0.7)
    ordered = openpose_order(points)[0]
    assert ordered.shape == (134, 3)
    np.testing.assert_allclose(ordered[1], (15, 50, 0.7))  # the neck: middle of the shoulders, the less sure score
    np.testing.assert_allclose(ordered[[2, 5]], [(20, 60, 0.7), (10, 40, 0.9)])  # right, left shoulder
    # nose, elbows, wrists, hips, knees, ankles, eyes and ears, right before left
    assert ordered[[0, 3, 6, 4, 7, 8, 11, 9, 12, 10, 13, 14, 15, 16, 17], 0].tolist() == [
        *(0, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 2, 1, 4, 3),
    ]
    assert ordered[18:, 0].tolist() == list(range(17, 133))  # feet, face, hands


def test_the_table_is_the_published_one():
    table = [[list(colour) for colour in POINT_COLOURS], [[*pair, list(colour)] for pair, colour in LINES]]
    digest = hashlib.sha256(json.dumps(table).encode()).hexdigest()
    assert (
        digest == "d97d87eb45cc139c15c859f1b80e9e48346a9e29ac5e4de457417c5959c0fce3"
    )  # of openpose134's points and lines


def test_the_table_of_colours():
    assert len(POINT_COLOURS) == 134
    assert len(LINES) == 57
    colours = dict(LINES)
    known = {(1, 2): (255, 0, 0), (1, 11): (0, 255, 225), (1, 0): (0, 0, 255), (15, 17): (255, 0, 170)}
    known |= {(92, 93): (255, 0, 0), (92, 109): (204, 0, 255), (102, 103): (0, 255, 255), (111, 112): (255, 0, 76)}
    known |= {(122, 123): (0, 255, 178), (123, 124): (255, 255, 255), (124, 125): (0, 178, 255)}
    assert {pair: colours[pair] for pair in known} == known
    assert POINT_COLOURS[0] == (255, 0, 0)
    assert POINT_COLOURS[17] == (255, 0, 85)
    assert set(POINT_COLOURS[18:24]) == {(0, 0, 0)}
    assert set(POINT_COLOURS[24:92]) == {(255, 255, 255)}
    assert set(POINT_COLOURS[92:]) == {(0, 0, 255)}


def test_only_sure_points_and_lines_between_two_of_them_are_drawn():
    person = np.zeros((134, 3))
    person[1], person[2], person[3] = (30, 30, 0.9), (60, 30, 0.6), (60, 70, 0.59)
    picture = np.zeros((100, 100, 3), np.uint8)
    draw_person(picture, person)
    expected = np.zeros_like(picture)
    cv2.circle(expected, (30, 30), 2, (255, 85, 0), -1)
    cv2.circle(expected, (60, 30), 2, (255, 170, 0), -1)
    cv2.line(expected, (30, 30), (60, 30), (255, 0, 0), thickness=4)
    np.testing.assert_array_equal(picture, expected)


def test_files_that_are_not_named_are_listed(tmp_path, onnx_files):
    with pytest.raises(CheckpointError, match=r"two ONNX files that the checkpoint tree does not have") as error:
        VisionFiles(tmp_path, onnx_files[0], tmp_path / "none.onnx").onnx_files()
    assert "--yolox_onnx end2end.onnx of yolox_m_8xb8-300e_humanart" in str(error.value)
    assert f"--rtmpose_onnx is {str(tmp_path / 'none.onnx')!r}, which is no file" in str(error.value)
    assert VisionFiles(tmp_path, *onnx_files).onnx_files() == onnx_files
    assert VisionFiles(tmp_path, *onnx_files).available() == {"keypoint"}


def test_a_file_that_is_no_model_and_models_in_each_others_place(tmp_path, onnx_files):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match=r"broken.onnx: cannot be read as an ONNX model"):
        WholeBody(broken, onnx_files[1])
    swapped = WholeBody(onnx_files[1], onnx_files[1])
    with pytest.raises(CheckpointError, match=r"rtmpose.onnx: gives \[1, 133, 144\]; expected is a detector"):
        swapped.people(np.zeros((48, 80, 3), np.uint8))
