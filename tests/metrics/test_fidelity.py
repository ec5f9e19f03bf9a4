import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.classification import binary_f1_score

from guided_transfer.metrics.fidelity import blur_ssim, canny, depth_edge_recall, depth_edges, edge_f1


def drawn(offset=0):
    picture = np.zeros((2, 48, 64, 3), np.uint8)
    for frame in picture:
        cv2.rectangle(frame, (10 + offset, 10), (40 + offset, 30), (200, 180, 90), -1)
        cv2.circle(frame, (50 + offset, 36), 7, (90, 220, 120), -1)
    return torch.from_numpy(picture)


def test_f1_worked_by_hand():
    source = torch.tensor([[[1, 1, 1, 0, 0]]]).bool()
    generated = torch.tensor([[[1, 1, 0, 1, 0]]]).bool()
    assert edge_f1(source, generated) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_f1_is_torchmetrics():
    source, generated = canny(drawn()), canny(drawn(3))
    expected = float(binary_f1_score(generated.int(), source.int()))
    assert edge_f1(source, generated) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 0.6


def test_f1_has_no_tolerance_and_knows_blank_pictures():
    edges = canny(drawn())
    assert edge_f1(edges, edges) == 1
    assert edge_f1(edges, canny(drawn(1))) < 0.7
    blank = torch.zeros_like(edges)
    assert edge_f1(edges, blank) == 0
    assert edge_f1(blank, blank) is None


def test_blur_ssim_is_scikit_images():
    source, generated = drawn(), drawn(2)
    values = []
    for a, b in zip(source.numpy(), generated.numpy(), strict=True):
        a, b = cv2.bilateralFilter(a, 9, 75, 75), cv2.bilateralFilter(b, 9, 75, 75)
        values.append(structural_similarity(a, b, channel_axis=2, data_range=255, full=True)[1].mean())
    assert blur_ssim(source, generated) == pytest.approx(np.mean(values), abs=1e-5)
    assert blur_ssim(source, source) == 1


def test_depth_edges_worked_by_hand():
    # 2 -> 2.04 is one slanted surface, 2.04 -> 3 a jump seen on the nearer pixel, 3 -> nothing hit another one
    depth_m = torch.tensor([[[2.0, 2.04, 3.0, torch.inf, torch.inf]]])
    assert depth_edges(depth_m).tolist() == [[[False, True, True, False, False]]]
    assert depth_edges(depth_m.mT).tolist() == [[[False], [True], [True], [False], [False]]]
    assert not bool(depth_edges(torch.tensor([[[2.0, 0.0, 5.0]]])).any())  # unknown depth borders on nothing


def test_recall_reaches_two_pixels():
    depth = torch.zeros(1, 9, 9, dtype=torch.bool)
    depth[0, 4, 4] = depth[0, 4, 0] = True
    picture = torch.zeros_like(depth)
    picture[0, 2, 6] = True
    assert depth_edge_recall(depth, picture) == 0.5
    assert depth_edge_recall(torch.zeros_like(depth), picture) is None


def test_a_melted_outline_is_missed():
    picture = drawn()
    depth_m = torch.where(picture.sum(-1) > 0, 1.0, 2.0)
    outline = depth_edges(depth_m)
    assert depth_edge_recall(outline, canny(picture)) == 1
    melted = picture.clone()
    melted[:, :, 45:] = 0  # the circle is gone
    assert 0.5 < depth_edge_recall(outline, canny(melted)) < 0.9
