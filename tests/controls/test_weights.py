"""Weight maps: every format gives the same map, in step with the video."""

import av
import numpy as np
import pytest
import torch

from guided_transfer.controls.weights import load_mask, load_weight_map
from guided_transfer.errors import UsageError

T, H, W = 7, 16, 24


@pytest.fixture
def weights():
    return torch.rand(T, H, W, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_every_format_holds_the_same_map(tmp_path, weights, suffix):
    file = tmp_path / f"map{suffix}"
    {
        ".pt": lambda: torch.save(weights, file),
        ".npy": lambda: np.save(file, weights.numpy()),
        ".npz": lambda: np.savez(file, weights.numpy()),
    }[suffix]()
    assert torch.equal(load_weight_map(file, T, H, W), weights)


def test_video_white_is_one_and_black_is_zero(tmp_path):
    frames = np.zeros((T, H, W, 3), np.uint8)
    frames[3:, :, W // 2 :] = 255
    file = tmp_path / "map.mkv"
    with av.open(str(file), "w") as video:
        stream = video.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = W, H, "bgr0"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    assert torch.equal(load_weight_map(file, T, H, W), torch.from_numpy(frames[..., 0] / 255).float())


def test_a_still_map_counts_for_every_frame_of_a_long_video(tmp_path, weights):
    np.save(tmp_path / "map.npy", weights[0].numpy())
    loaded = load_weight_map(tmp_path / "map.npy", 350, H, W)
    assert loaded.shape == (350, H, W)
    assert torch.equal(loaded[0], weights[0])
    assert torch.equal(loaded[349], weights[0])


def test_size_is_matched_bilinearly_frame_by_frame(tmp_path):
    columns = torch.tensor([[0.0, 1.0]]).repeat(1, 1)  # one row, two columns
    np.save(tmp_path / "map.npy", torch.stack([columns, 3 * columns]).numpy())
    loaded = load_weight_map(tmp_path / "map.npy", 2, 1, 4)
    # new pixel centres lie at -0.25, 0.25, 0.75, 1.25 old pixels; outside the map the border value holds
    assert loaded[0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert loaded[1, 0].tolist() == [0, 0.75, 2.25, 3]


def test_zero_is_zero(tmp_path):
    torch.save(torch.zeros(T, 4, 4), tmp_path / "map.pt")
    assert not bool(load_weight_map(tmp_path / "map.pt", T, H, W).any())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((5, H, W)), "has 5 frames, the video has 7"),
        (np.ones((T, H, W, 1)), "accepted are .T, H, W. and .H, W."),
        (np.full((T, H, W), -0.1), "negative or not finite"),
        (np.full((T, H, W), np.nan), "negative or not finite"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_a_bad_map_is_one_clear_error(tmp_path, array, message):
    np.save(tmp_path / "map.npy", array)
    with pytest.raises(UsageError, match=f"map.npy.*{message}"):
        load_weight_map(tmp_path / "map.npy", T, H, W)


SIZES = [(480, 640), (240, 320), (960, 1280), (30, 40), (15, 20), (7, 10), (1, 1)]


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_a_mask_may_be_of_another_size_but_of_the_videos_shape(tmp_path, rows, columns):
    np.save(tmp_path / "mask.npy", np.ones((rows, columns), np.float32))
    assert bool(load_mask(tmp_path / "mask.npy", 2, 480, 640, "mask").all())


@pytest.mark.parametrize(("rows", "columns"), [(640, 480), (480, 600), (240, 326), (28, 40)])
def test_a_mask_of_another_shape_is_of_another_picture(tmp_path, rows, columns):
    np.save(tmp_path / "mask.npy", np.ones((rows, columns), np.float32))
    with pytest.raises(UsageError, match=rf"mask.npy has {rows} x {columns} pixels, the video 480 x 640: another"):
        load_mask(tmp_path / "mask.npy", 2, 480, 640, "mask")


def test_rounding_of_the_short_side_makes_no_other_shape(tmp_path):
    """102 columns scaled are 10.2 rows; 10 rows scaled are 100 columns."""
    np.save(tmp_path / "mask.npy", np.ones((10, 102), np.float32))
    assert bool(load_mask(tmp_path / "mask.npy", 2, 100, 1000, "mask").all())
    assert bool(load_mask(tmp_path / "mask.npy", 2, 102, 1000, "mask").all())
    with pytest.raises(UsageError, match="another shape"):
        load_mask(tmp_path / "mask.npy", 2, 130, 1000, "mask")


def test_a_mask_holds_from_a_half_on(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([[[0.4, 0.6]], [[1.0, 0.0]]], np.float32))
    assert load_mask(tmp_path / "mask.npy", 2, 1, 2, "mask").tolist() == [[[False, True]], [[True, False]]]


def test_no_code_runs_from_a_pt_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save(Trap(), tmp_path / "map.pt")
    with pytest.raises(UsageError, match="cannot be read"):
        load_weight_map(tmp_path / "map.pt", T, H, W)


def test_files_that_are_no_map(tmp_path, weights):
    torch.save({"a": weights}, tmp_path / "dict.pt")
    with pytest.raises(UsageError, match="holds a dict, not one tensor"):
        load_weight_map(tmp_path / "dict.pt", T, H, W)
    np.savez(tmp_path / "two.npz", a=weights.numpy(), b=weights.numpy())
    with pytest.raises(UsageError, match="holds the arrays a, b; exactly one"):
        load_weight_map(tmp_path / "two.npz", T, H, W)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UsageError, match=r"broken.mp4 cannot be read"):
        load_weight_map(tmp_path / "broken.mp4", T, H, W)
