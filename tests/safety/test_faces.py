"""Where faces are said to be, and what is left of them."""

from pathlib import Path

import pytest
import torch

from guided_transfer.safety.face_blur import FaceBlur, faces, overlap, pixelate
from guided_transfer.safety.retinaface import RetinaFace, anchors, decode

DATA = Path(__file__).parents[1] / "data/safety"


def test_anchors_stand_at_the_centres_of_their_cells():
    rows = anchors(64, 40)
    assert len(rows) == 2 * (8 * 5 + 4 * 3 + 2 * 2)
    assert rows[0].tolist() == [4, 4, 16, 16]
    assert rows[1].tolist() == [4, 4, 32, 32]
    assert rows[2].tolist() == [12, 4, 16, 16]
    assert rows[2 * 5].tolist() == [4, 12, 16, 16]
    assert rows[-1].tolist() == [48, 48, 512, 512]


def test_there_are_as_many_outputs_as_anchors_at_any_size():
    network = RetinaFace(stem=4, pyramid=8).eval()
    for height, width in ((64, 64), (33, 70), (224, 224)):
        boxes, probabilities = network(torch.rand(1, 3, height, width) * 255)
        assert boxes.shape == (1, len(anchors(height, width)), 4)
        assert probabilities.shape == boxes.shape[:2]


def test_boxes_by_hand():
    anchor = torch.tensor([[100.0, 50.0, 20.0, 20.0]])
    still = decode(torch.zeros(1, 1, 4), anchor)
    assert still[0, 0].tolist() == [90, 40, 110, 60]
    moved = decode(torch.tensor([[[5.0, 0.0, 5 * torch.log(torch.tensor(2.0)), 0.0]]]), anchor)
    torch.testing.assert_close(moved[0, 0], torch.tensor([90.0, 40.0, 130.0, 60.0]))


def test_the_published_network_has_the_published_sizes():
    """27,293,600 parameters with landmark heads (3 x 256 x 20 weights and 20 biases each) in the published file."""
    with torch.device("meta"):
        network = RetinaFace()
    names = set(network.state_dict())
    assert {"body.layer1.0.downsample.0.weight", "fpn.merge2.0.weight", "ssh3.conv7x7_3.1.bias"} <= names
    assert network.state_dict()["fpn.output3.0.weight"].shape == (256, 2048, 1, 1)
    assert sum(parameter.numel() for parameter in network.body.parameters()) == 23_508_032  # ResNet-50 without fc


def published_detector() -> dict[str, torch.Size]:
    """Names and shapes of the published Resnet50_Final.pth, as its authors' own code builds the network.

    From github.com/biubug6/Pytorch_Retinaface with torchvision's ResNet-50; saved from several GPUs, so each name
    begins with "module.".
    """
    lines = (DATA / "retinaface_resnet50.txt").read_text().split("\n")
    rows = (line.split() for line in lines if line)
    return {name: torch.Size([] if shape == "scalar" else map(int, shape.split("x"))) for name, shape in rows}


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        ours = {name: value.shape for name, value in RetinaFace().state_dict().items()}
    published = published_detector()
    landmarks = {name for name in published if name.startswith("LandmarkHead.")}
    assert ours == {name: shape for name, shape in published.items() if name not in landmarks}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(s.numel() for n, s in published.items() if not n.endswith(statistics)) == 27_293_600


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_in_the_published_form_loads(tmp_path, zipped):
    """From several GPUs, by an old torch, and with or without the counters of its norms."""
    torch.manual_seed(0)
    weights = RetinaFace(stem=4, pyramid=8).state_dict()
    content = {f"module.{name}": value for name, value in weights.items() if zipped or "num_batches" not in name}
    file = tmp_path / "Resnet50_Final.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    loaded = FaceBlur.from_file(file, "cpu", offload=True).detector.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_of_boxes_on_one_face_the_surest_is_kept():
    boxes = torch.tensor([[0, 0, 40, 40], [2, 2, 42, 42], [100, 100, 140, 140], [0, 60, 19, 100], [5, 5, 45, 45.0]])
    found = faces(boxes, torch.tensor([0.8, 0.9, 0.71, 0.99, 0.5]))
    assert found.tolist() == [[2, 2, 42, 42], [100, 100, 140, 140]]
    assert len(faces(boxes, torch.full((5,), 0.7))) == 0  # not above
    assert len(faces(boxes, torch.zeros(5))) == 0


def test_overlap_by_hand():
    boxes = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30.0]])
    torch.testing.assert_close(overlap(boxes[0], boxes), torch.tensor([1.0, 1 / 3, 0.0]))


def test_a_face_becomes_five_by_five_blocks():
    frame = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8)
    before = frame.clone()
    pixelate(frame, torch.tensor([10.0, 5.0, 60.0, 55.0]))
    face = frame[5:55, 10:60]
    assert len(face.reshape(-1, 3).unique(dim=0)) <= 25
    mean = before[5:15, 10:20].float().mean(dim=(0, 1))
    assert (face[0, 0].float() - mean).abs().max() <= 0.5
    frame[5:55, 10:60] = before[5:55, 10:60]
    assert torch.equal(frame, before)  # nothing outside was touched


def test_boxes_beyond_the_frame():
    frame = torch.randint(0, 256, (30, 30, 3), dtype=torch.uint8)
    before = frame.clone()
    pixelate(frame, torch.tensor([-50.0, -50.0, -5.0, -5.0]))
    assert torch.equal(frame, before)
    pixelate(frame, torch.tensor([-50.0, -50.0, 90.0, 90.0]))
    assert len(frame.reshape(-1, 3).unique(dim=0)) <= 25
