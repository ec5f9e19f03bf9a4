"""What a correct warp does, on scenes whose answer is known in closed form."""

import analytic
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_transfer.errors import DeviceError, EpisodeInconsistent, UsageError
from guided_transfer.types import Camera
from guided_transfer.warp import warp_view

FLOOR = analytic.Scene([((-20, -20, -0.1), (20, 20, 0.0))])
TWO_PLANES = analytic.Scene([((-9, -9, -0.02), (9, 9, 0.0)), ((-0.3, -0.3, 0.98), (0.3, 0.3, 1.0))])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("known_depth", [False, True])
def test_identity_returns_the_image(dtype: torch.dtype, known_depth: bool) -> None:
    scene, (room, _) = analytic.cluttered_table(3), analytic.two_cameras(3)
    rgb, depth_m, _ = scene.clip(room)
    frames = rgb if dtype == torch.uint8 else rgb / 255
    warped = warp_view(frames, depth_m, room, room, target_depth_m=depth_m if known_depth else None)
    seen = torch.isfinite(depth_m)
    assert torch.equal(warped.covered, seen)
    assert torch.equal(warped.rgb, torch.where(seen[..., None], frames, 0))


@pytest.mark.parametrize("shift", [(1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_near_plane_is_in_front_from_every_side(shift: tuple[float, float], sign: int) -> None:
    eye = np.array([0.4 * shift[0], 0.4 * shift[1], 2.5])
    source = analytic.camera([analytic.look_at(eye, (0, 0, 0), up=(0.1, 1, 0))])
    target = analytic.camera([analytic.look_at(eye * [-sign, sign, 0.9], (0, 0, 0), up=(0.1, 1, 0))])
    rgb, depth_m, _ = TWO_PLANES.clip(source)
    _, expected_m, face = TWO_PLANES.clip(target)
    warped = warp_view(rgb, depth_m, source, target)
    near = face // 6 == 1
    inner = -torch.nn.functional.max_pool2d(-near.float(), 3, 1, 1) > 0
    assert inner.sum() > 50
    assert warped.covered[inner].all()
    torch.testing.assert_close(warped.depth_m[inner], expected_m[inner], rtol=1e-4, atol=0)


def test_a_surface_seen_from_behind_hides_and_shows_nothing() -> None:
    source = analytic.camera([analytic.look_at((0, 0.01, 2.5), (0, 0, 0), up=(0, 1, 0))])
    below = analytic.camera([analytic.look_at((0, 0.01, 0.3), (0, 0, 2.0), up=(0, 1, 0))])
    rgb, depth_m, _ = TWO_PLANES.clip(source)
    assert not warp_view(rgb, depth_m, source, below).covered.any()


def test_a_homography_is_met_within_a_twentieth_of_a_pixel() -> None:
    source = analytic.camera([analytic.look_at((0.5, -2, 3), (0, 0, 0))], (120, 160), 150)
    target = analytic.camera([analytic.look_at((-0.8, -1.5, 2.5), (0.1, 0, 0))], (90, 110), 100)
    _, depth_m, _ = FLOOR.clip(source)
    x, y = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    frames = torch.from_numpy(np.stack([x, y, x * 0], -1)[None]).float()  # colour = own position
    warped = warp_view(frames, depth_m, source, target)

    def plane_from_pixels(cam: Camera) -> np.ndarray:
        k, pose = cam.intrinsics_px[0].numpy(), cam.cam_from_world[0].numpy()
        return k @ pose[:3, [0, 1, 3]]  # the floor is z = 0

    homography = plane_from_pixels(source) @ np.linalg.inv(plane_from_pixels(target))
    u, v = np.meshgrid(np.arange(110) + 0.5, np.arange(90) + 0.5)
    place = np.stack([u, v, u * 0 + 1], -1) @ homography.T
    place = place[..., :2] / place[..., 2:]
    inside = ((place > 3) & (place < [157, 117])).all(-1)
    assert inside.sum() > 3000
    assert warped.covered[0].numpy()[inside].all()
    error = np.abs(warped.rgb[0, ..., :2].numpy() - place)[inside]
    assert error.max() < 0.05  # measured 0.002: the rounding to 1/256 px


def test_weights_sum_to_one() -> None:
    scene = analytic.cluttered_table(1)
    room, wrist = analytic.two_cameras(1)
    _, depth_m, _ = scene.clip(room)
    warped = warp_view(torch.full((1, 96, 96, 3), 0.7), depth_m, room, wrist)
    assert 0.3 < warped.coverage < 1
    torch.testing.assert_close(warped.rgb[warped.covered], torch.full((int(warped.covered.sum()), 3), 0.7))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_nothing_is_lost_when_the_picture_shrinks(scale: int) -> None:
    """All source pixels that meet in a target pixel count, each once: a shrunk picture keeps its sum."""
    source = analytic.camera([analytic.look_at((0, 0.01, 2), (0, 0, 0), up=(0, 1, 0))], (96, 96), 90)
    _, depth_m, _ = FLOOR.clip(source)
    frames = torch.zeros(1, 96, 96, 3)
    frames[:, 24:72, 24:72] = torch.rand(48, 48, 3, generator=torch.Generator().manual_seed(0))
    warped = warp_view(frames, depth_m, source, source.resized(96 // scale, 96 // scale))
    torch.testing.assert_close(warped.rgb.sum((1, 2)) * scale**2, frames.sum((1, 2)), rtol=0.03, atol=0)


def test_points_behind_the_camera_are_dropped() -> None:
    source = analytic.camera([analytic.look_at((0, -2, 1), (0, 0, 0.5))])
    rgb, depth_m, _ = FLOOR.clip(source)
    away = analytic.camera([analytic.look_at((0, -2, 1), (0, -4, 1.5))])
    assert not warp_view(rgb, depth_m, source, away).covered.any()


def test_points_in_the_cameras_own_plane_are_dropped() -> None:
    """At depth 0 there is no pixel to go to; the centre of the source's picture is such a point of the floor."""
    source = analytic.camera([analytic.look_at((0, 0, 2), (0, 0, 0), up=(0, 1, 0))], (25, 25), 20)
    _, depth_m, _ = FLOOR.clip(source)
    beside = analytic.camera([analytic.look_at((1, 0, 0.5), (1, 1, 0.5))], (25, 25), 20)
    assert beside.cam_from_world[0, 2] @ torch.tensor([0.0, 0, 0, 1]).double() == 0
    warped = warp_view(torch.ones(1, 25, 25, 3), depth_m, source, beside)
    assert warped.covered.any()
    assert (warped.depth_m[warped.covered] > 0).all()
    torch.testing.assert_close(warped.rgb, warped.covered[..., None].float().expand_as(warped.rgb))


def test_what_lies_elsewhere_in_the_frame_changes_no_pixel() -> None:
    """The integration weights depths by the range of their frame: one far corner changes every blend."""
    source = analytic.camera([analytic.look_at((0.4, 0, 2.5), (0, 0, 0), up=(0, 1, 0))])
    target = analytic.camera([analytic.look_at((-0.4, 0, 2.25), (0, 0, 0), up=(0, 1, 0))])
    rgb, depth_m, _ = TWO_PLANES.clip(source)
    corner = torch.zeros_like(depth_m)
    corner[:, :12, :12] = 1
    far_m = torch.where(corner > 0, 2 * depth_m, depth_m)
    changed = {}
    for mode in ("exact", "reference"):
        warped = [warp_view(rgb, d, source, target, mode=mode) for d in (depth_m, far_m)]
        reach = corner[..., None].expand(-1, -1, -1, 3)
        shown = [warp_view(reach, d, source, target, mode=mode).rgb[..., 0] > 0 for d in (depth_m, far_m)]
        apart = warped[0].covered & ~(shown[0] | shown[1])
        assert apart.float().mean() > 0.4
        changed[mode] = (warped[0].rgb != warped[1].rgb).any(-1)[apart].float().mean().item()
    assert changed["exact"] == 0
    assert changed["reference"] > 0.1


def test_masked_pixels_neither_show_nor_hide() -> None:
    source = analytic.camera([analytic.look_at((0.4, 0, 2.5), (0, 0, 0), up=(0, 1, 0))])
    rgb, depth_m, face = TWO_PLANES.clip(source)
    warped = warp_view(rgb, depth_m, source, source.resized(24, 32), mask=face // 6 != 1)
    assert warped.covered.any()
    assert (warped.depth_m[warped.covered] > 2).all()


def test_moving_cameras_and_every_run_the_same_bits() -> None:
    scene = analytic.cluttered_table(5)
    rooms, wrists = zip(*(analytic.two_cameras(seed, (64, 64)) for seed in (5, 6, 7)), strict=True)

    def together(cams: tuple[Camera, ...]) -> Camera:
        poses = torch.cat([c.cam_from_world for c in cams])
        return Camera(torch.cat([c.intrinsics_px for c in cams]), poses, 64, 64)

    room, wrist = together(rooms), together(wrists)
    rgb, depth_m, _ = scene.clip(room)
    runs = [warp_view(rgb, depth_m, room, wrist) for _ in range(3)]
    assert all(torch.equal(runs[0].rgb, r.rgb) and torch.equal(runs[0].covered, r.covered) for r in runs)
    for t in range(3):
        alone = warp_view(rgb[t : t + 1], depth_m[t : t + 1], room[t : t + 1], wrist[t : t + 1])
        assert torch.equal(alone.rgb[0], runs[0].rgb[t])


unit = st.floats(-1, 1)


@settings(max_examples=40, deadline=None)
@given(eye=st.tuples(unit, unit, st.floats(0.02, 2)), at=st.tuples(unit, unit, unit), focal_px=st.floats(5, 200))
def test_any_two_cameras(eye: tuple[float, ...], at: tuple[float, ...], focal_px: float) -> None:
    scene = analytic.cluttered_table(0)
    source = analytic.camera([analytic.look_at((1.5, 0.3, 1.6), (0, 0, 0.7))], (24, 32), 40)
    at = tuple(np.add(at, (0, 0.013, 0)) if np.allclose(eye[:2], at[:2], atol=1e-2) else at)
    target = analytic.camera([analytic.look_at(eye, at)], (20, 16), focal_px)
    rgb, depth_m, _ = scene.clip(source)
    frames = rgb / 255
    warped = warp_view(frames, depth_m, source, target)
    assert torch.isfinite(warped.rgb).all()
    assert (warped.rgb >= 0).all()
    assert (warped.rgb <= frames.max() + 1e-6).all()
    assert (warped.rgb[~warped.covered] == 0).all()
    assert (warped.depth_m[warped.covered] > 0).all()


def test_unknown_depth_of_every_kind_shows_nothing() -> None:
    _, wrist = analytic.two_cameras(0, (24, 24))
    for value in (torch.inf, -torch.inf, torch.nan, 0.0, -1.0):
        depth_m = torch.full((1, 24, 24), value)
        warped = warp_view(torch.ones(1, 24, 24, 3), depth_m, wrist, wrist, target_depth_m=depth_m)
        assert not warped.covered.any()
        assert (warped.rgb == 0).all()


def test_bad_input_is_named() -> None:
    cam, _ = analytic.two_cameras(0, (24, 24))
    frames, depth_m = torch.zeros(1, 24, 24, 3, dtype=torch.uint8), torch.ones(1, 24, 24)
    for match, kwargs in {
        r"depth_m must be \[T, H, W\] = \[1, 24, 24\], got \[2, 24, 24\]": {"depth_m": depth_m.repeat(2, 1, 1)},
        "frames must be uint8 or float32": {"frames": frames.double()},
        r"frames must be \[T, H, W, 3\]": {"frames": frames[..., :1]},
        "mask must be bool": {"mask": depth_m},
        "target_depth_m must be": {"target_depth_m": depth_m[:, 1:]},
        "source camera is for": {"source": cam.resized(12, 12)},
        "mode must be one of exact, reference": {"mode": "soft"},
        "backend must be one of": {"backend": "opengl"},
    }.items():
        arguments = {"frames": frames, "depth_m": depth_m, "source": cam, "target": cam} | kwargs
        with pytest.raises(UsageError, match=match):
            warp_view(**arguments)
    with pytest.raises(DeviceError, match="triton needs cuda"):
        warp_view(frames, depth_m, cam, cam, backend="triton")
    singular, mirrored = cam.intrinsics_px.clone(), cam.cam_from_world.clone()
    singular[:, 0, 0] = 0
    mirrored[:, 0, :3] *= -1
    with pytest.raises(EpisodeInconsistent, match="focal"):
        Camera(singular, cam.cam_from_world, 24, 24)
    with pytest.raises(EpisodeInconsistent, match="rotation"):
        Camera(cam.intrinsics_px, mirrored, 24, 24)


def test_the_engine_and_its_reason_can_be_printed() -> None:
    cam, _ = analytic.two_cameras(0, (24, 24))
    warped = warp_view(torch.zeros(1, 24, 24, 3, dtype=torch.uint8), torch.ones(1, 24, 24), cam, cam)
    assert "engine='cpu'" in repr(warped)
    assert "triton needs cuda" in repr(warped)
