"""The figures of trained networks, with small random weights of the real classes."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from table_scene import make_episode
from torch import nn

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.metrics.foreground import regions
from guided_transfer.metrics.learned.depth import DepthAnything, depth_error
from guided_transfer.metrics.learned.dover import aesthetic_view, technical_views
from guided_transfer.metrics.learned.files import IMAGENET_MEAN, IMAGENET_STD, normalised
from guided_transfer.metrics.learned.frechet import VideoFeatures, frechet_distance
from guided_transfer.metrics.learned.lpips import HEADS, PLACES, TRUNK, Lpips, diversity, regional_lpips
from guided_transfer.metrics.learned.masks import Sam2, mask_iou
from tiny_vision import write_depth_anything, write_sam2, write_video_features


def pictures(count, height=64, width=64, seed=0):
    noise = torch.rand(count, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (height, width), mode="bilinear")
    return (smooth * 255).permute(0, 2, 3, 1).to(torch.uint8)


def made(write, network, folder):
    """A network from a folder that `write` filled."""
    torch.manual_seed(0)
    write(folder)
    return network.from_folder(folder)


# LPIPS


def alexnet():
    """The convolutions of AlexNet among the layers that its file counts."""
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(True), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(3, 2))


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory):
    """A random trunk in torchvision's layout, and the published heads, which torchmetrics carries."""
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed (dev extra)")
    torch.manual_seed(0)
    folder, trunk = tmp_path_factory.mktemp("lpips"), alexnet()
    torch.save({f"features.{name}": value for name, value in trunk.state_dict().items()}, folder / TRUNK)
    shutil.copy(Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth", folder / HEADS)
    return folder, trunk


@pytest.fixture(scope="module")
def lpips(lpips_files):
    return Lpips.from_folder(lpips_files[0])


@pytest.mark.parametrize("spatial", [False, True])
def test_lpips_is_that_of_torchmetrics(lpips_files, lpips, monkeypatch, spatial):
    from torchmetrics.functional.image import lpips as theirs

    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: lpips_files[1])
    oracle = theirs._NoTrainLpips(net="alex", spatial=spatial, pretrained=True)
    x, y = pictures(2, 96, 80), pictures(2, 96, 80, seed=1)
    pair = [video.permute(0, 3, 1, 2) / 127.5 - 1 for video in (x, y)]
    with torch.no_grad():
        wanted = oracle(*pair)[:, 0]
    found = lpips(x, y) if spatial else lpips.distance(x, y)
    torch.testing.assert_close(found, wanted if spatial else wanted[:, 0, 0], atol=1e-6, rtol=1e-4)


def test_lpips_of_equal_pictures_is_nothing(lpips):
    assert lpips(pictures(1), pictures(1)).abs().max() == 0


def test_lpips_is_taken_where_the_change_is(lpips):
    view = make_episode().views["room"]
    where, other = regions(view.labels, [3]), pictures(*view.rgb.shape[:3])
    background = torch.where(where.changed[..., None], other, view.rgb)
    found = regional_lpips(lpips, view.rgb, background, where)
    assert found["foreground_lpips"] == pytest.approx(0, abs=1e-9)
    assert found["background_lpips"] > 0
    foreground = torch.where(where.kept[..., None], other, view.rgb)
    found = regional_lpips(lpips, view.rgb, foreground, where)
    assert found["background_lpips"] == pytest.approx(0, abs=1e-9)
    assert found["foreground_lpips"] > 0


def test_diversity_is_the_mean_over_pairs(lpips):
    a, b, c = (pictures(2, seed=seed) for seed in range(3))
    pairs = [lpips.distance(x, y).mean() for x, y in ((a, b), (a, c), (b, c))]
    assert diversity(lpips, [a, b, c]) == pytest.approx(float(sum(pairs) / 3))
    assert diversity(lpips, [a, a]) == 0
    assert diversity(lpips, [a]) is None


def test_files_that_are_none_are_named(tmp_path, lpips_files):
    with pytest.raises(CheckpointError, match=f"{TRUNK} is missing; put"):
        Lpips.from_folder(tmp_path)
    torch.save({f"features.{place}.weight": torch.zeros(1) for place in PLACES}, tmp_path / TRUNK)
    shutil.copy(lpips_files[0] / HEADS, tmp_path)
    with pytest.raises(CheckpointError, match="not AlexNet"):
        Lpips.from_folder(tmp_path)
    (tmp_path / TRUNK).write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Lpips.from_folder(tmp_path)


# Depth Anything V2


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory):
    return made(write_depth_anything, DepthAnything, tmp_path_factory.mktemp("depth"))


def test_depth_up_to_scale_and_shift_is_right(depth_anything):
    rgb = pictures(2, 70, 56)
    seen = depth_anything.inverse_depth(rgb)
    assert seen.shape == (2, 70, 56)
    assert seen.std() > 0
    truth_m = (3 * seen - 3 * seen.amin() + 0.5).reciprocal()
    truth_m[:, :5] = torch.inf  # sky
    found = depth_error(depth_anything, rgb, truth_m)
    assert found == pytest.approx({"depth_si_rmse_m": 0, "depth_abs_rel": 0}, abs=1e-4)
    # a plane that the network knows nothing of: the fit has its mean, and misses the rest
    plane = torch.linspace(1, 2, 70)[:, None].expand(2, 70, 56)
    assert depth_error(depth_anything, rgb, plane)["depth_si_rmse_m"] > 0.1
    unknown = depth_error(depth_anything, rgb, torch.full((2, 70, 56), torch.inf))
    assert set(unknown.values()) == {None}


def test_depth_worked_by_hand():
    class Flat(DepthAnything):
        def inverse_depth(self, rgb):
            return torch.tensor([[[1.0, 2.0, 3.0]]])

    # least squares of [.5, .5, 1] over [1, 2, 3]: slope 1/4, mean 2/3 -> 5/12, 8/12, 11/12
    found = depth_error(Flat(None), torch.zeros(1, 1, 3, 3), torch.tensor([[[2.0, 2.0, 1.0]]]))
    errors = [2 - 2, 12 / 8 - 2, 12 / 11 - 1]  # 12 / 5 lies behind the farthest point, 2 m
    assert found["depth_si_rmse_m"] == pytest.approx((sum(e * e for e in errors) / 3) ** 0.5)
    assert found["depth_abs_rel"] == pytest.approx((0.5 / 2 + 1 / 11) / 3)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="depth_anything"):
        DepthAnything.from_folder(tmp_path)
    with pytest.raises(CheckpointError, match="DepthAnythingForDepthEstimation"):
        made(write_video_features, DepthAnything, tmp_path)


# SAM 2


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    return made(write_sam2, Sam2, tmp_path_factory.mktemp("sam2"))


def test_sam2_is_asked_by_the_box_of_each_label(sam2):
    frame = pictures(1, 60, 80)[0]
    labels = torch.zeros(1, 60, 80, dtype=torch.uint8)
    labels[0, 10:30, 20:60], labels[0, 40:55, 5:25] = 3, 4
    boxes = torch.tensor([[20.0, 10, 60, 30], [5, 40, 25, 55]])
    masks = sam2.masks(frame, boxes)
    assert masks.shape == (2, 60, 80)
    wanted = [
        float((mask & (labels[0] == label)).sum() / (mask | (labels[0] == label)).sum())
        for mask, label in zip(masks, (3, 4), strict=True)
    ]
    assert mask_iou(sam2, frame[None], labels, (3, 4)) == pytest.approx(sum(wanted) / 2)
    assert mask_iou(sam2, frame[None], labels, (3,)) == pytest.approx(wanted[0])
    assert mask_iou(sam2, frame[None], labels, (9,)) is None


def test_sam2_boxes_are_in_the_pixels_of_its_own_picture(sam2):
    frame, box = pictures(1, 60, 80)[0], torch.tensor([[20.0, 10, 60, 30]])
    side = sam2.model.config.prompt_encoder_config.image_size
    with torch.no_grad():
        logits = sam2.model(
            pixel_values=normalised(frame[None], (side, side), torch.device("cpu")),
            input_boxes=torch.tensor([[[side * 20 / 80, side * 10 / 60, side * 60 / 80, side * 30 / 60]]]),
            multimask_output=False,
        ).pred_masks[0]
    wanted = F.interpolate(logits, (60, 80), mode="bilinear")[0, 0] > 0
    assert torch.equal(sam2.masks(frame, box)[0], wanted)


# Fréchet distance


@pytest.fixture(scope="module")
def video_features(tmp_path_factory):
    return made(write_video_features, VideoFeatures, tmp_path_factory.mktemp("video"))


def test_features_are_those_of_whole_clips(video_features):
    video = pictures(40)
    found = video_features.of(video)
    assert found.shape == (2, video_features.model.config.hidden_size)
    torch.testing.assert_close(video_features.of(video[16:32]), found[1:])
    assert video_features.of(video[:15]).shape == (0, found.shape[1])


def test_distance_is_that_of_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed (dev extra)")
    x, y = torch.randn(50, 8).double(), torch.randn(40, 8).double() * 2 + 1
    wanted = fid._compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet_distance(x, y) == pytest.approx(float(wanted), rel=1e-6)


def test_distance_worked_by_hand():
    x = torch.tensor([[-1.0], [1.0]]).double()  # mean 0, variance 2
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, 3 * x + 5) == pytest.approx(25 + 2 + 18 - 2 * 6)
    with pytest.raises(UsageError, match="two clips"):
        frechet_distance(x, x[:1])


# DOVER


def test_dover_sees_the_video_in_fragments_and_whole():
    cells = torch.arange(7 * 7).view(7, 1, 7, 1).expand(7, 40, 7, 50).reshape(280, 350)
    video = cells[None, :, :, None].expand(100, -1, -1, 3).to(torch.uint8).clone()
    video[..., 0] = torch.arange(100)[:, None, None]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    views = (technical_views(video, 3) * std + mean) * 255
    assert views.shape == (3, 3, 32, 224, 224)
    # each fragment is the middle of its cell, at full resolution
    fragments = views[0, 1, 0].view(7, 32, 7, 32).permute(0, 2, 1, 3).flatten(2)
    torch.testing.assert_close(fragments, torch.arange(49.0).view(7, 7, 1).expand(7, 7, 1024), atol=1e-3, rtol=0)
    frames = views[:, 0, :, 0, 0].round().int().tolist()
    assert [clip[0] for clip in frames] == [0, 18, 36]
    assert frames[2] == list(range(36, 100, 2))
    whole = (aesthetic_view(video) * std + mean) * 255
    assert whole.shape == (3, 32, 224, 224)
    assert (whole[0, [0, -1], 0, 0].round()).tolist() == [0, 99]


def test_dover_takes_small_and_short_videos():
    assert technical_views(pictures(5, 48, 64), 4).shape == (4, 3, 32, 224, 224)


def test_dover_runs_an_exported_network(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra quality)")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from guided_transfer.metrics.learned.dover import FILE, Dover

    with pytest.raises(CheckpointError, match=FILE):
        Dover.from_folder(tmp_path)
    kind = onnx.TensorProto.FLOAT
    given = [
        onnx.helper.make_tensor_value_info(name, kind, [count, 3, 32, 224, 224])
        for name, count in (("aes_view", 1), ("tech_view", 2))
    ]
    out = [onnx.helper.make_tensor_value_info(name, kind, [1, 1, 1, 1, 1]) for name in ("aes", "tech")]
    nodes = [
        onnx.helper.make_node(what, [x.name], [y.name])
        for what, x, y in zip(("ReduceMax", "ReduceMin"), given, out, strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, "extremes", given, out)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / FILE).write_bytes(model.SerializeToString())
    video = torch.full((40, 64, 64, 3), 128, dtype=torch.uint8)
    grey = [(128 / 255 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    scores = Dover.from_folder(tmp_path).scores(video)
    assert scores == pytest.approx({"dover_technical": min(grey), "dover_aesthetic": max(grey)}, abs=1e-6)
    (tmp_path / FILE).write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="ONNX"):
        Dover.from_folder(tmp_path)
