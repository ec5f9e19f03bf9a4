"""Grounding DINO and SAM 2 at a tiny size, each against transformers' own way through the same weights."""

import colorsys
import logging

import numpy as np
import pytest
import torch
from transformers import GroundingDinoImageProcessorPil, GroundingDinoProcessor
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from guided_transfer.controls.grounding import Box, GroundingDino, shorter_side_size, split_phrases
from guided_transfer.controls.segmentation import Segmenter, mask_from_text, seg_control_from_text
from guided_transfer.controls.tracking import Sam2Tracker
from guided_transfer.controls.vision import Pictures, VisionFiles
from guided_transfer.errors import CheckpointError, EpisodeInconsistent, UsageError
from tiny_vision import GROUNDING_PICTURES, SAM2_PICTURES, write_pictures

BOXES_PX = [(4.0, 10.0, 20.0, 26.0), (30.0, 5.0, 60.0, 40.0)]


@pytest.fixture(scope="module")
def detector(vision_tree):
    return GroundingDino.from_folder(VisionFiles(vision_tree).folder("grounding_dino", "a test"))


@pytest.fixture(scope="module")
def tracker(vision_tree):
    tracker = Sam2Tracker.from_folder(VisionFiles(vision_tree).folder("sam2", "a test"))
    # A random model may well find that nothing is there: here something always is.
    with torch.no_grad():
        tracker.model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(10.0)
    return tracker


class Pointing:
    """A detector that points at given boxes: phrase -> frame's mean red level -> box; keeps what it was asked."""

    def __init__(self, boxes, rgb):
        self.boxes = {(phrase, float(rgb[frame].float().mean())): box for (phrase, frame), box in boxes.items()}
        self.asked = []

    def fitting(self, phrases):
        return tuple(phrases)

    def find(self, frame, phrases):
        self.asked.append(tuple(phrases))
        at = float(frame.float().mean())
        return [Box(phrase, 0.9, self.boxes[phrase, at]) for phrase in phrases if (phrase, at) in self.boxes]


@pytest.mark.parametrize("size", [(48, 64), (480, 640), (960, 960), (704, 1280), (1280, 704), (100, 900)])
def test_pictures_for_the_detector_are_as_transformers_prepares_them(tmp_path, size):
    write_pictures(tmp_path, GROUNDING_PICTURES)
    pictures, processor = Pictures.from_folder(tmp_path), GroundingDinoImageProcessorPil.from_pretrained(tmp_path)
    frame = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = processor(images=frame, return_tensors="pt")["pixel_values"]
    ours = pictures.prepared(torch.from_numpy(frame)[None], shorter_side_size(size, pictures), torch.zeros(1))
    assert ours.shape == expected.shape
    levels = (ours - expected) * torch.tensor(pictures.std).view(1, 3, 1, 1) * 255
    assert float(levels.abs().max()) < 1.01  # PIL rounds between its two passes as well: one grey level at most


def test_pictures_for_the_tracker_are_as_published(tmp_path):
    from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

    write_pictures(tmp_path, SAM2_PICTURES)
    pictures = Pictures.from_folder(tmp_path)
    assert list(pictures.mean) == Sam2VideoVideoProcessor.image_mean
    assert list(pictures.std) == Sam2VideoVideoProcessor.image_std
    assert pictures.filter == "bilinear"
    assert Sam2VideoVideoProcessor.resample == SAM2_PICTURES["resample"]
    assert pictures.size == Sam2VideoVideoProcessor.size


def test_boxes_are_those_of_transformers_own_post_processing(detector, footage, vision_tree):
    folder = VisionFiles(vision_tree).folder("grounding_dino", "a test")
    phrases = ("robot arm", "phantom")
    ours = detector.find(footage[0], phrases)
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessorPil.from_pretrained(
            folder, resample=0, size={"shortest_edge": 48, "longest_edge": 400}
        ),
        detector.tokenizer,
    )
    tokens = processor(images=footage[0].numpy(), text=[list(phrases)], return_tensors="pt")
    size = shorter_side_size((48, 64), detector.pictures)
    tokens["pixel_values"] = detector.pictures.prepared(footage[:1], size, torch.zeros(1))
    tokens["pixel_mask"] = torch.ones(1, *size, dtype=torch.int64)
    with torch.no_grad():
        output = detector.model(**tokens)
    expected = processor.post_process_grounded_object_detection(
        output, tokens["input_ids"], threshold=0.15, text_threshold=0.25, target_sizes=[(48, 64)]
    )[0]
    assert len(ours) == len(expected["boxes"]) > 1
    order = expected["scores"].argsort(descending=True, stable=True)
    # Ours are cut off at the borders of the picture, and do not count the words between the phrases.
    limits = torch.tensor([64.0, 48, 64, 48])
    found = torch.tensor([box.corners_px for box in ours])
    wanted = torch.minimum(expected["boxes"].clamp(min=0), limits)[order]
    by_place = torch.cdist(found, wanted).min(-1).values
    assert float(by_place.max()) < 1e-3
    assert {box.phrase for box in ours} <= set(phrases)
    assert [box.score for box in ours] == sorted((box.score for box in ours), reverse=True)


def test_the_second_threshold_counts_where_the_first_finds_nothing(detector, footage, monkeypatch):
    from guided_transfer.controls import grounding

    sure = detector.find(footage[0], ("phantom",))
    monkeypatch.setattr(grounding, "BOX_THRESHOLDS", (1.1, sure[2].score - 1e-6))
    assert detector.find(footage[0], ("phantom",)) == sure[:3]
    monkeypatch.setattr(grounding, "BOX_THRESHOLDS", (1.1, 1.05))
    assert detector.find(footage[0], ("phantom",)) == []


def test_words_belong_to_their_phrase(detector):
    ids = detector.tokenizer("robot arm. a phantom.")["input_ids"]
    letters = len("robotarm")
    assert detector._owners(ids) == [-1, *[0] * letters, -1, *[1] * len("aphantom"), -1, -1]


def test_what_a_text_names():
    assert split_phrases("Robot arm, phantom") == ("robot arm", "phantom")
    assert split_phrases(" a table .  the  Robot arm . a table") == ("a table", "the robot arm")
    with pytest.raises(UsageError, match=r"' \. ,' names nothing to look for"):
        split_phrases(" . ,")


def test_more_words_than_the_detector_reads(detector, footage):
    many = tuple("abcdefgh" * 8 + letter for letter in "abcdef")
    with pytest.raises(UsageError, match=r"is 398 tokens long; the detector reads 256, so name fewer things"):
        detector.find(footage[0], many)
    assert detector.fitting(many) == many[:3]


def test_masks_are_those_of_transformers_own_propagation(tracker, footage):
    """Frames prepared one by one and old memories dropped change nothing."""
    model = tracker.model
    pixels = tracker.pictures.prepared(footage, (64, 64), torch.zeros(1))
    session = Sam2VideoInferenceSession(video=pixels, video_height=48, video_width=64, dtype=torch.float32)
    for number, box in enumerate(BOXES_PX):
        corners = torch.tensor(box).view(1, 1, 2, 2) * torch.tensor([64 / 64, 64 / 48])
        inputs = {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}
        session.add_point_inputs(session.obj_id_to_idx(number), 0, inputs)
    session.obj_with_new_inputs = [0, 1]
    expected = [
        torch.nn.functional.interpolate(output.pred_masks, (48, 64), mode="bilinear")[:, 0] > 0
        for output in model.propagate_in_video_iterator(session, start_frame_idx=0)
    ]
    ours = list(tracker.track(footage, range(len(footage)), BOXES_PX))
    assert [frame for frame, _ in ours] == list(range(len(footage)))
    for (_, masks), wanted in zip(ours, expected, strict=True):
        assert torch.equal(masks, wanted)
    shares = torch.stack([masks.float().mean((1, 2)) for _, masks in ours])
    assert ((shares > 0.01) & (shares < 0.99)).any()
    assert not torch.equal(ours[0][1], ours[-1][1])


def test_memory_does_not_grow_with_the_video(tracker, footage):
    session = tracker._session(footage, range(len(footage)), BOXES_PX)
    for position in range(len(footage)):
        tracker.model(inference_session=session, frame_idx=position)
        tracker._forget(session, position)
        for outputs in session.output_dict_per_obj.values():
            assert len(outputs["non_cond_frame_outputs"]) <= 3
            assert all("high_res_masks" not in kept for part in outputs.values() for kept in part.values())


def test_a_mask_holds_what_any_of_the_phrases_names(tracker, footage):
    boxes = {("arm", 0): BOXES_PX[0], ("phantom", 0): BOXES_PX[1]}
    model, told = Segmenter(Pointing(boxes, footage), tracker), []
    found = mask_from_text(footage, model, "arm, phantom, table", lambda *at: told.append(at), "foreground")
    order = range(len(footage))
    tracked = [torch.stack([masks[0] for _, masks in tracker.track(footage, order, [box])]) for box in BOXES_PX]
    assert torch.equal(found.mask, tracked[0] | tracked[1])
    assert found.record == {
        "arm": {"frame": 0, "boxes": 1, "score": 0.9}, "phantom": {"frame": 0, "boxes": 1, "score": 0.9},
        "table": None,
    }  # fmt: skip
    assert told == [("foreground", number + 1, 8) for number in range(8)]


def test_what_comes_later_is_followed_back_to_the_beginning(tracker, footage):
    model = Segmenter(Pointing({("arm", 0): BOXES_PX[0], ("phantom", 4): BOXES_PX[1]}, footage), tracker)
    found = mask_from_text(footage, model, "arm, phantom")
    assert model.detector.asked[:2] == [("arm", "phantom"), ("phantom",)]
    assert found.record["phantom"]["frame"] == 4
    arm = dict(tracker.track(footage, range(8), [BOXES_PX[0]]))
    after = dict(tracker.track(footage, range(4, 8), [BOXES_PX[1]]))
    before = dict(tracker.track(footage, range(4, -1, -1), [BOXES_PX[1]]))
    expected = torch.stack([arm[t][0] | (after if t >= 4 else before)[t][0] for t in range(8)])
    assert torch.equal(found.mask, expected)


def test_nothing_of_it_is_seen(tracker, footage):
    with pytest.raises(EpisodeInconsistent, match=r"foreground: none of 'arm', 'leg' was found in frames 0, 1, 2"):
        mask_from_text(footage, Segmenter(Pointing({}, footage), tracker), "arm, leg", what="foreground")


def test_what_is_not_seen_is_said(tracker, footage, caplog):
    model = Segmenter(Pointing({("arm", 0): BOXES_PX[0]}, footage), tracker)
    with caplog.at_level(logging.WARNING):
        mask_from_text(footage, model, "arm, phantom", what="foreground")
    assert caplog.messages == ["foreground: 'phantom' was not found"]


def test_small_things_are_painted_over_large_ones(tracker, footage):
    model = Segmenter(Pointing({("arm", 0): BOXES_PX[0], ("phantom", 0): BOXES_PX[1]}, footage), tracker)
    picture = seg_control_from_text(footage, model, "an arm . phantom, arm")
    masks = torch.stack([m for _, m in tracker.track(footage, range(8), [BOXES_PX[1], BOXES_PX[0]])], 1)
    large, small = masks[masks.sum((1, 2, 3)).argsort(descending=True)]
    colours = {tuple(colour) for colour in picture.flatten(0, 2).unique(dim=0).tolist()} - {(0, 0, 0)}
    assert len(colours) == 2
    assert not bool(picture[~(large | small)].any())
    for things in (small, large & ~small):
        assert len(picture[things].unique(dim=0)) == 1
    for colour in colours:
        _, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
        assert saturation >= 0.09
        assert value >= 0.19


def test_a_thing_keeps_its_colour_in_another_view(tracker, footage):
    one = seg_control_from_text(footage, Segmenter(Pointing({("arm", 0): BOXES_PX[0]}, footage), tracker), "arm")
    other = seg_control_from_text(
        footage,
        Segmenter(Pointing({("table", 0): BOXES_PX[1], ("arm", 0): BOXES_PX[0]}, footage), tracker),
        "table, arm",
    )
    mine = {tuple(colour) for colour in one.flatten(0, 2).unique(dim=0).tolist()}
    assert mine <= {tuple(colour) for colour in other.flatten(0, 2).unique(dim=0).tolist()}


def test_without_anything_to_paint_the_control_is_black(tracker, footage, caplog):
    picture = seg_control_from_text(footage, Segmenter(Pointing({}, footage), tracker), "arm")
    assert not bool(picture.any())
    assert "nothing of 'arm' was found" in caplog.text


def test_both_models_together(detector, tracker, footage):
    """Random weights find something everywhere; what they find goes through the whole way."""
    model = Segmenter(detector, tracker)
    found = mask_from_text(footage[:3], model, "robot arm, phantom")
    assert found.mask.any()
    assert sum(entry["boxes"] for entry in found.record.values() if entry) > 1
    picture = seg_control_from_text(footage[:3], model, "A robot arm above a phantom. Soft light.")
    assert picture.shape == (3, 48, 64, 3)
    assert picture.any()


@pytest.mark.parametrize(
    ("part", "words"), [("sam2", "facebook/sam2-hiera-large"), ("grounding_dino", "IDEA-Research")]
)
def test_folders_that_are_missing(tmp_path, part, words):
    with pytest.raises(CheckpointError, match=words):
        VisionFiles(tmp_path).folder(part, "the seg control")


def test_what_is_there_is_available(vision_tree, tmp_path):
    assert VisionFiles(vision_tree).available() == {"depth", "seg"}
    assert VisionFiles(tmp_path).available() == frozenset()


def test_repositories_are_those_of_the_catalogue():
    from guided_transfer.checkpoints.catalogue import CATALOGUE
    from guided_transfer.controls.vision import REPOSITORIES

    parts = {file.part: repository.id for repository in CATALOGUE for file in repository.files}
    assert {part: parts[part] for part in REPOSITORIES} == REPOSITORIES
