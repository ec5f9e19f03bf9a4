"""Keypoint control: skeletons of all people, found by YOLOX and RTMPose through onnxruntime.

The drawing is the one that the keypoint branch of Cosmos-Transfer1 was trained on: 134 points in OpenPose's order,
discs and lines in fixed colours on black. Drawn skeletons are RGB.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_transfer.controls.vision import OnFrames, require_frames, silent
from guided_transfer.errors import CheckpointError, DeviceError

MIN_PERSON_SCORE = 0.3
MIN_POINT_SCORE = 0.6
RADIUS_PX = 2
LINE_PX = 4

PADDING = 114
"""Grey level around a picture that is narrower than the detector's square."""

BOX_MARGIN = 1.25
"""A person's box is looked at with so much around it."""

POSE_MEAN = (123.675, 116.28, 103.53)
POSE_STD = (58.395, 57.12, 57.375)
"""Of RGB in 0..255."""

BATCH_PEOPLE = 16
"""People that go through the estimator together, where it takes more than one."""

Points = NDArray[np.float64]
"""[people, points, 3]: x, y [px], score."""


class WholeBody:
    """The person detector and the keypoint estimator, as the RTMPose project exports them.

    The detector gives `dets` [1, N, 5] (left, top, right, bottom, score in the pixels of its square) after its own
    non-maximum suppression; the estimator, for [N, 3, H, W], one line of scores per axis and point: [N, 133, 2 W]
    and [N, 133, 2 H].

    Args:
        detector, estimator: ONNX files.
        device: "cuda" uses the GPU where onnxruntime can.

    Raises:
        DeviceError: onnxruntime is not installed.
        CheckpointError: a file cannot be read, or has other inputs or outputs.
    """

    def __init__(self, detector: Path, estimator: Path, device: torch.device | str = "cpu") -> None:
        self.detector = _session(detector, device)
        self.estimator = _session(estimator, device)
        self.detector_size = _input_size(self.detector, (640, 640))
        self.estimator_size = _input_size(self.estimator, (384, 288))
        self.estimator_file = estimator
        self.detector_file = detector
        self.takes_many = not isinstance(self.estimator.get_inputs()[0].shape[0], int)

    def to(self, device: torch.device | str) -> WholeBody:
        """Stay: onnxruntime binds a model to its device when it is loaded."""
        return self

    def people(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Boxes [N, 4] of the people in an RGB frame: left, top, right, bottom [px].

        Where it finds none, the whole frame, as the reference does.
        """
        rows, columns = self.detector_size
        ratio = min(rows / frame.shape[0], columns / frame.shape[1])
        shown = cv2.resize(frame, (int(frame.shape[1] * ratio), int(frame.shape[0] * ratio)))
        square = np.full((rows, columns, 3), PADDING, np.uint8)
        square[: shown.shape[0], : shown.shape[1]] = shown
        pixels = square[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # YOLOX was trained on BGR, 0..255
        found = self.detector.run(None, {self.detector.get_inputs()[0].name: pixels})[0]
        if found.ndim != 3 or found.shape[-1] != 5:
            raise CheckpointError(
                f"{self.detector_file}: gives {list(found.shape)}; expected is a detector that gives [1, N, 5], "
                "with its non-maximum suppression inside"
            )
        boxes = found[0, found[0, :, 4] > MIN_PERSON_SCORE, :4].astype(np.float64) / ratio
        return boxes if len(boxes) else np.array([[0.0, 0.0, frame.shape[1], frame.shape[0]]])

    def points(self, frame: NDArray[np.uint8], boxes: NDArray[np.float64]) -> Points:
        """Keypoints of the people in an RGB frame, [N, 133, 3] in the order of COCO-WholeBody."""
        rows, columns = self.estimator_size
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        sizes = (boxes[:, 2:] - boxes[:, :2]) * BOX_MARGIN
        wide = sizes[:, 0] > sizes[:, 1] * columns / rows
        sizes[wide, 1], sizes[~wide, 0] = sizes[wide, 0] * rows / columns, sizes[~wide, 1] * columns / rows
        cut = [_cut_out(frame, *pair, (columns, rows)) for pair in zip(centres, sizes, strict=True)]
        pixels = ((np.stack(cut) - np.array(POSE_MEAN)) / np.array(POSE_STD)).transpose(0, 3, 1, 2)
        along_x, along_y = self._run_estimator(pixels.astype(np.float32))
        scores = (along_x.max(-1) + along_y.max(-1)) / 2
        share = np.stack([line.argmax(-1) / line.shape[-1] for line in (along_x, along_y)], -1)
        places = (share - 0.5) * sizes[:, None] + centres[:, None]
        return np.concatenate([places, scores[..., None]], -1)

    def _run_estimator(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        step = BATCH_PEOPLE if self.takes_many else 1
        name = self.estimator.get_inputs()[0].name
        parts = [self.estimator.run(None, {name: pixels[i : i + step]}) for i in range(0, len(pixels), step)]
        lines = [np.concatenate(axis) for axis in zip(*parts, strict=True)]
        if len(lines) != 2 or any(line.ndim != 3 or line.shape[1] != COCO_POINTS for line in lines):
            raise CheckpointError(
                f"{self.estimator_file}: gives {[list(line.shape) for line in lines]}; expected are two outputs "
                f"[N, {COCO_POINTS}, ...], the scores along x and along y"
            )
        return lines[0], lines[1]


def keypoint_control(rgb: Tensor, model: WholeBody, on_frames: OnFrames = silent) -> Tensor:
    """Skeletons of all people on black, drawn at the size of the frames.

    Args:
        rgb: [T, H, W, 3] uint8.
        model: detector and estimator.
        on_frames: told how far it is.

    Returns:
        [T, H, W, 3] uint8.

    Raises:
        UsageError: frames of another shape or type.
        CheckpointError: a model gives something else than expected.
    """
    require_frames(rgb)
    out = np.zeros(tuple(rgb.shape), np.uint8)
    for index, frame in enumerate(rgb.cpu().numpy()):
        for person in openpose_order(model.points(frame, model.people(frame))):
            draw_person(out[index], person)
        on_frames("keypoint", index + 1, len(rgb))
    return torch.from_numpy(out)


COCO_POINTS = 133
"""17 of the body, 6 of the feet, 68 of the face, 21 of each hand."""

LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6

BODY_FROM_COCO = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's 18 body points by their place in COCO's order, with the neck put in at 17."""


def openpose_order(points: Points) -> Points:
    """[N, 133, 3] in COCO-WholeBody's order -> [N, 134, 3]: body with a neck, feet, face, hands.

    The neck is the middle of the shoulders, as sure as the less sure of them.
    """
    left, right = points[:, LEFT_SHOULDER], points[:, RIGHT_SHOULDER]
    neck = np.concatenate([(left + right)[:, :2] / 2, np.minimum(left, right)[:, 2:]], -1)
    with_neck = np.insert(points, 17, neck, axis=1)
    return np.concatenate([with_neck[:, BODY_FROM_COCO], with_neck[:, 18:]], axis=1)


def draw_person(picture: NDArray[np.uint8], person: Points) -> None:
    """Draw one skeleton, [134, 3], into an RGB picture: first the discs, then the lines between sure points."""
    sure = person[:, 2] >= MIN_POINT_SCORE
    places = [(int(x), int(y)) for x, y in person[:, :2]]
    for place, colour, drawn in zip(places, POINT_COLOURS, sure, strict=True):
        if drawn:
            cv2.circle(picture, place, RADIUS_PX, colour, -1)
    for (start, end), colour in LINES:
        if sure[start] and sure[end]:
            cv2.line(picture, places[start], places[end], colour, thickness=LINE_PX)


Colour = tuple[int, int, int]

BODY_COLOURS: tuple[Colour, ...] = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)

POINT_COLOURS: tuple[Colour, ...] = (
    *BODY_COLOURS,
    *[(0, 0, 0)] * 6,  # the feet are not shown
    *[(255, 255, 255)] * 68,
    *[(0, 0, 255)] * 42,
)
"""Of the 134 points: body, feet, face, left and right hand."""

LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
LIMB_COLOURS: tuple[Colour, ...] = (
    *BODY_COLOURS[:9],
    *((0, 255, 225), (0, 170, 255), (0, 85, 255), (0, 0, 255), (255, 0, 170), (170, 0, 255)),
    *((255, 0, 255), (255, 0, 170)),
)

FINGER_COLOURS: tuple[Colour, ...] = (
    *((255, 0, 0), (255, 76, 0), (255, 153, 0), (255, 230, 0), (204, 255, 0), (128, 255, 0), (51, 255, 0)),
    *((0, 255, 26), (0, 255, 102), (0, 255, 178), (0, 255, 255), (0, 178, 255), (0, 102, 255), (0, 26, 255)),
    *((51, 0, 255), (128, 0, 255), (204, 0, 255), (255, 0, 230), (255, 0, 153), (255, 0, 76)),
)
"""Thumb to little finger, root to tip, four lines each."""

RIGHT_MIDDLE_FINGER_MIDDLE = 10
"""This one line of the right hand is white in the published table."""


def _lines() -> Iterator[tuple[tuple[int, int], Colour]]:
    yield from zip(LIMBS, LIMB_COLOURS, strict=True)
    for root in (92, 113):
        for number, colour in enumerate(FINGER_COLOURS):
            end = root + 1 + number
            start = root if number % 4 == 0 else end - 1
            white = root == 113 and number == RIGHT_MIDDLE_FINGER_MIDDLE
            yield (start, end), (255, 255, 255) if white else colour


LINES = tuple(_lines())
"""Pairs of points and the colour of the line between them, in the order of drawing."""


def _session(file: Path, device: torch.device | str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DeviceError(
            "the keypoint control needs onnxruntime: pip install 'guided-transfer[keypoint]'"
        ) from None
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CPUExecutionProvider"]
    if torch.device(device).type == "cuda":
        wanted.insert(0, "CUDAExecutionProvider")
    providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise CheckpointError(f"{file}: cannot be read as an ONNX model: {error}") from None


def _input_size(session: Any, usual: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a model's input; the usual ones where the file leaves them open."""
    shape = session.get_inputs()[0].shape
    rows, columns = shape[2:] if len(shape) == 4 else usual
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else usual


def _cut_out(
    frame: NDArray[np.uint8], centre: NDArray[np.float64], size: NDArray[np.float64], out: tuple[int, int]
) -> NDArray[np.uint8]:
    """The part of a frame around `centre`, scaled to `out` (columns, rows); black outside of the frame."""
    scale = out[0] / size[0]
    shift = np.array(out) / 2 - centre * scale
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(frame, matrix, out, flags=cv2.INTER_LINEAR)  # type: ignore[return-value]
