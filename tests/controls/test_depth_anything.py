"""Depth Anything V2 at a tiny size: the whole way from frames to the control, against the same written out."""

import numpy as np
import pytest
import torch
from transformers import DPTImageProcessorPil

from guided_transfer.controls import depth_anything
from guided_transfer.controls.depth_anything import DepthAnything, covering_size, depth_control_from_rgb
from guided_transfer.controls.vision import Pictures, VisionFiles
from guided_transfer.errors import CheckpointError, UsageError
from tiny_vision import DEPTH_PICTURES, write_pictures


@pytest.fixture(scope="module")
def model(vision_tree):
    return DepthAnything.from_folder(VisionFiles(vision_tree).folder("depth_anything", "a test"))


@pytest.mark.parametrize("size", [(48, 64), (56, 56), (480, 640), (960, 960), (1280, 704), (33, 500)])
def test_pictures_are_prepared_as_transformers_own_processor_does(tmp_path, size):
    write_pictures(tmp_path, DEPTH_PICTURES)
    pictures, processor = Pictures.from_folder(tmp_path), DPTImageProcessorPil.from_pretrained(tmp_path)
    # Not up to black and white: PIL cuts off what overshoots between its two passes, torch after both.
    frame = np.random.default_rng(1).integers(70, 186, (*size, 3), dtype=np.uint8)
    expected = processor(images=frame, return_tensors="pt")["pixel_values"]
    ours = pictures.prepared(torch.from_numpy(frame)[None], covering_size(size, pictures), torch.zeros(1))
    assert ours.shape == expected.shape
    assert not any(side % 14 for side in ours.shape[2:])
    levels = (ours - expected) * torch.tensor(pictures.std).view(1, 3, 1, 1) * 255
    assert float(levels.abs().max()) < 1.01  # PIL rounds between its two passes as well: one grey level at most
    assert abs(float(levels.mean())) < 0.03


def test_depth_is_scaled_once_over_the_whole_video(model, footage):
    frames = footage[:, :42, :56]
    picture = depth_control_from_rgb(frames, model)
    with torch.no_grad():
        nearness = []
        for frame in frames:  # 42 x 56 becomes 56 x 70 at the model, by the rule of the published processor
            size = covering_size((42, 56), model.pictures)
            small = model.pictures.prepared(frame[None], size, torch.zeros(1))
            predicted = model.model(pixel_values=small).predicted_depth
            nearness.append(torch.nn.functional.interpolate(predicted[None], (42, 56), mode="bicubic")[0, 0])
    depths = torch.stack(nearness).numpy()
    expected = ((depths - depths.min()) / (depths.max() - depths.min() + 1e-8) * 255).astype(np.uint8)
    difference = np.abs(picture[..., 0].numpy().astype(int) - expected)
    assert difference.max() <= 1  # one frame at a time here, several there
    assert (difference > 0).mean() < 1e-3
    assert torch.equal(picture[..., 0], picture[..., 2])
    assert (int(picture.min()), int(picture.max())) == (0, 255)


def test_a_frame_keeps_its_grey_when_others_change(model, footage):
    still = footage[:1].expand(4, -1, -1, -1).clone()
    still[3] = footage[7]
    picture = depth_control_from_rgb(still, model)
    assert int((picture[0].int() - picture[2].int()).abs().max()) <= 1  # a place in the batch may round differently
    assert int((picture[0].int() - picture[3].int()).abs().max()) > 1


def test_batches_change_nothing_and_progress_is_told(model, footage, monkeypatch):
    told = []
    whole = depth_control_from_rgb(footage, model, lambda *at: told.append(at))
    assert told == [("depth", 8, 8)]
    monkeypatch.setattr(depth_anything, "BATCH_FRAMES", 5)
    told.clear()
    difference = (depth_control_from_rgb(footage, model, lambda *at: told.append(at)).int() - whole.int()).abs()
    assert told == [("depth", 5, 8), ("depth", 8, 8)]
    assert int(difference.max()) <= 1


def test_frames_of_another_kind_are_refused(model):
    with pytest.raises(UsageError, match=r"uint8 \[T, H, W, 3\] frames, got float32\[2, 8, 8, 3\]"):
        depth_control_from_rgb(torch.zeros(2, 8, 8, 3), model)


def test_a_folder_without_the_model_says_how_to_get_it(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"depth-anything/Depth-Anything-V2-Small-hf: no config.json"
    ) as error:
        VisionFiles(tmp_path).folder("depth_anything", "the depth control")
    assert f"checkpoints download --output_dir {tmp_path} --only depth_anything" in str(error.value)
    assert "--vision_dir" in str(error.value)


def test_weights_that_are_missing_are_not_drawn_at_random(vision_tree, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "depth"
    shutil.copytree(VisionFiles(vision_tree).folder("depth_anything", "a test"), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.conv1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing or of another shape than .*: head.conv1.weight"):
        DepthAnything.from_folder(folder)


def test_pictures_that_are_not_described_are_an_error(tmp_path):
    write_pictures(tmp_path, {"image_mean": [0, 0, 0]})
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: does not say .*image_std"):
        Pictures.from_folder(tmp_path)
