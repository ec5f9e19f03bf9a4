"""The whole command on footage that lacks depth, labels or masks; the vision models are tiny and random."""

import json
import shutil

import cv2
import h5py
import numpy as np
import pytest
import torch
from tiny_run import NUM_FRAMES, SIZE_PX, same

from guided_transfer.cli.main import main
from guided_transfer.episodes import open_episodes
from guided_transfer.episodes.video import read_video, write_mp4
from tiny_vision import write_dot_models


@pytest.fixture(scope="session")
def unlabelled(episodes, tmp_path_factory):
    """The small episode without its labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    shutil.copy(episodes / "data_0.hdf5", folder)
    with h5py.File(folder / "data_0.hdf5", "a") as file:
        del file["data/demo_0/observations/seg_images"]
    return folder


@pytest.fixture
def specs(tmp_path):
    def write(**hints):
        file = tmp_path / f"specs_{len(list(tmp_path.glob('specs_*')))}.json"
        file.write_text(json.dumps(hints))
        return file

    return write


@pytest.fixture
def video(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    return write_mp4(tmp_path / "walk.mp4", torch.from_numpy(pixels), 12)


@pytest.fixture(scope="session")
def whole_tree(tiny_tree, tmp_path_factory):
    """The tiny checkpoint with a branch for keypoints, too."""
    root = tmp_path_factory.mktemp("whole") / "tree"
    shutil.copytree(tiny_tree, root)
    network = root / "nvidia" / "Cosmos-Transfer1-7B"
    shutil.copy(network / "edge_control.pt", network / "keypoint_control.pt")
    return root


def test_masks_of_the_true_foreground_are_as_good_as_labels(transfer, episodes, unlabelled, specs, tmp_path):
    """With the masks that the labels would give, every generated pixel is the same."""
    masks = tmp_path / "masks"
    masks.mkdir()
    with open_episodes(episodes / "data_0.hdf5") as file:
        for name, view in file.read("demo_0").views.items():
            np.savez(masks / f"data_0_{name}.npz", (view.labels >= 3).numpy())
    chosen = ["--controlnet_specs", specs(edge={"control_weight": 0.5}, depth={"control_weight": 0.5})]
    labelled = transfer(*chosen)
    masked = transfer(*chosen, "--foreground_mask", masks, source=unlabelled)
    assert same(masked.rgb(), labelled.rgb())
    seen = masked.record()["result"]["demo_0"]["seen"]
    assert 0 < seen["room"]["foreground_share"] < 1
    assert masked.view("wrist")["warp"]["zones"] == labelled.view("wrist")["warp"]["zones"]
    assert masked.record()["result"]["demo_0"]["metrics"] == labelled.record()["result"]["demo_0"]["metrics"]
    assert (masked.folder / "report" / "media" / "data_0" / "room.foreground.mp4").is_file()


def test_an_episode_without_labels_is_seen(transfer, unlabelled, vision_tree):
    """The seg control and the foreground come from words; the integration's own specs stay as they are."""
    run = transfer(*("--foreground_prompt", "robot arm, phantom", "--vision_dir", vision_tree), source=unlabelled)
    seen = run.record()["result"]["demo_0"]["seen"]
    assert set(seen) == {"room", "wrist"}
    assert set(seen["room"]["foreground_prompt"]) == {"robot arm", "phantom"}
    assert any(seen["room"]["foreground_prompt"].values())
    media = run.folder / "report" / "media" / "data_0"
    assert (media / "room.seg.mp4").is_file()
    assert {"vision", "grounding_dino", "sam2"} & {name.partition(":")[0] for name in run.record()["weights"]}


def test_an_episode_without_labels_says_what_would_do_instead(transfer, unlabelled, capsys):
    transfer(source=unlabelled, expect=3)
    error = capsys.readouterr().err
    assert "has no labels" in error
    assert "--foreground_prompt or --foreground_mask" in error


def test_a_mask_that_is_missing_is_one_bad_episode(transfer, unlabelled, specs, tmp_path, capsys):
    transfer("--foreground_mask", tmp_path, "--controlnet_specs", specs(edge={}), source=unlabelled, expect=3)
    assert f"foreground_mask {tmp_path} has no data_0_room (or data_0_demo_0_room)" in capsys.readouterr().err


def test_a_mask_of_another_shape_is_refused(transfer, unlabelled, specs, tiny, video, tmp_path, capsys):
    for name in ("room", "wrist"):
        np.savez(tmp_path / f"data_0_{name}.npz", np.ones((NUM_FRAMES, SIZE_PX, 2 * SIZE_PX), np.float32))
    edge = specs(edge={"control_weight": 1})
    transfer("--foreground_mask", tmp_path, "--controlnet_specs", edge, source=unlabelled, expect=3)
    wrong = f"data_0_room.npz has {SIZE_PX} x {2 * SIZE_PX} pixels, the video {SIZE_PX} x {SIZE_PX}"
    assert wrong in capsys.readouterr().err
    words = ["--input_video_path", video, "--controlnet_specs", edge, *tiny, "--dry_run"]
    mask = tmp_path / "data_0_room.npz"
    assert main(["transfer", *map(str, words), "--foreground_mask", str(mask)]) == 1
    assert wrong in capsys.readouterr().err


def test_every_control_of_a_video_is_computed(tiny, whole_tree, vision_tree, specs, video, tmp_path, capsys):
    detector, estimator = write_dot_models(tmp_path / "onnx")
    hints = specs(
        edge={"control_weight": 0.3, "control_weight_prompt": "a robot arm"},
        vis={"control_weight": 0.3},
        depth={"control_weight": 0.3},
        seg={"control_weight": 0.3, "input_control_prompt": "robot arm . phantom"},
        keypoint={"control_weight": 0.3},
    )
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(hints), *tiny]
    words += ["--checkpoint_dir", str(whole_tree), "--vision_dir", str(vision_tree), "--json", "--no_quiet"]
    words += ["--yolox_onnx", str(detector), "--rtmpose_onnx", str(estimator), "--foreground_prompt", "phantom"]
    assert main(words) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    stages = {event["stage"] for event in events if event["event"] == "progress"}
    assert {"depth", "seg", "keypoint", "edge.control_weight_prompt", "foreground_prompt", "sample"} <= stages
    assert read_video(tmp_path / "outputs" / "walk.mp4")[0].shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
    seen = json.loads((tmp_path / "outputs" / "walk.json").read_text())["seen"]
    assert set(seen) == {"edge.control_weight_prompt", "foreground_prompt", "foreground_share"}


@pytest.mark.parametrize("kind", ["edge", "vis", "depth", "seg", "keypoint"])
def test_every_control_may_count_in_places_that_words_name(
    tiny, whole_tree, vision_tree, specs, video, tmp_path, kind
):
    write_mp4(tmp_path / "given.mp4", read_video(video)[0], 12)
    given = {} if kind in ("edge", "vis") else {"input_control": "given.mp4"}
    words = ["transfer", "--input_video_path", str(video), *tiny, "--overwrite"]
    words += ["--checkpoint_dir", str(whole_tree), "--vision_dir", str(vision_tree)]
    results = []
    for places in ({}, {"control_weight_prompt": "a robot arm"}):
        hints = specs(**{kind: {"control_weight": 1, **given, **places}})
        assert main([*words, "--controlnet_specs", str(hints)]) == 0
        results.append(read_video(tmp_path / "outputs" / "walk.mp4")[0])
    assert not same(*results)


def test_a_mask_as_video_array_or_picture_holds_the_same(tiny, specs, video, tmp_path):
    mask = np.zeros((NUM_FRAMES, SIZE_PX, SIZE_PX), np.uint8)
    mask[:, 8:24, 8:24] = 255
    write_mp4(tmp_path / "mask.mp4", torch.from_numpy(mask)[..., None].expand(-1, -1, -1, 3), 12, crf=0)
    np.savez(tmp_path / "mask.npz", mask > 0)
    cv2.imwrite(str(tmp_path / "mask.png"), mask[0])
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(specs(edge={})), *tiny]
    results = []
    for name in ("mask.mp4", "mask.npz", "mask.png"):
        assert main([*words, "--overwrite", "--foreground_mask", str(tmp_path / name)]) == 0
        results.append(read_video(tmp_path / "outputs" / "walk.mp4")[0])
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_the_rim_of_a_mask_is_matched(tiny, specs, video, tmp_path):
    mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask[10:22, 10:22] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    words = ["transfer", "--input_video_path", str(video), "--controlnet_specs", str(specs(edge={})), *tiny]
    words += ["--overwrite", "--num_steps", "8", "--foreground_mask", str(tmp_path / "mask.png")]
    results = []
    for more in ([], ["--match_rim"]):
        assert main([*words, *more]) == 0
        results.append(read_video(tmp_path / "outputs" / "walk.mp4")[0])
    assert not same(*results)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--foreground_prompt", "arm", "--foreground_mask", "m.npz"],
            "foreground_prompt and foreground_mask are both",
        ),
        (["--foreground_prompt", "arm", "--foreground_label", ""], 'foreground_label is "", so nothing is kept'),
        (["--foreground_prompt", "arm"], "foreground_prompt needs IDEA-Research/grounding-dino-tiny"),
        (
            ["--foreground_mask", "m.npz"],
            "foreground_mask 'm.npz' is no folder; for episodes it holds one mask per view",
        ),
    ],
)
def test_what_cannot_be_is_said_before_any_model_loads(transfer, capsys, words, reason):
    transfer(*words, expect=1)
    assert reason in capsys.readouterr().err


def test_keypoints_without_their_files(transfer, specs, capsys):
    transfer("--controlnet_specs", specs(keypoint={}), "--yolox_onnx", "there.onnx", expect=1)
    error = capsys.readouterr().err
    assert "--yolox_onnx is 'there.onnx', --rtmpose_onnx is '', which is no file" in error
