from itertools import pairwise

import pytest
import torch
from table_scene import HEIGHT, WIDTH, Table, camera_at, make_episode, room_camera, wrist_camera

from guided_transfer.errors import EpisodeInconsistent
from guided_transfer.metrics.cross_view import cross_view, normalised
from guided_transfer.metrics.geometry import look_up
from guided_transfer.types import Camera, View

ALL = torch.arange(5)


def test_a_view_finds_itself(episode):
    for view in episode.views.values():
        lookup = look_up(view, view)
        columns = (torch.arange(WIDTH) + 0.5) * 2 / WIDTH - 1
        rows = (torch.arange(HEIGHT) + 0.5) * 2 / HEIGHT - 1
        assert lookup.coverage == 1
        torch.testing.assert_close(lookup.grid[0, 7, :, 0], columns, atol=1e-5, rtol=0)
        torch.testing.assert_close(lookup.grid[0, :, 9, 1], rows, atol=1e-5, rtol=0)
        torch.testing.assert_close(lookup.read(view.rgb), view.rgb.float(), atol=0.02, rtol=0)


def test_a_step_sideways_worked_by_hand():
    # 6 cm to the right at 60 px focal length, 0.5 m above the table: all moves 60 * 0.06 / 0.5 = 7.2 px left.
    table = Table()
    here, there = (table.view("wrist", wrist_camera(1, shift), 0) for shift in (0.0, 0.06))
    lookup = look_up(here, there)
    position_px = (lookup.grid[0, 20, 30, 0] + 1) * WIDTH / 2
    assert float(position_px) == pytest.approx(30.5 - 7.2, abs=1e-3)
    # seen are columns whose new position is at least half a pixel inside: u - 7.2 >= 0.5
    assert lookup.seen[0, 20].tolist() == [column + 0.5 - 7.2 >= 0.5 for column in range(WIDTH)]


def test_what_the_plate_hides_is_not_seen():
    plate = Table(plate=True)
    room, wrist = plate.view("room", room_camera(1), 0), plate.view("wrist", wrist_camera(1), 0)
    seen = look_up(wrist, room).seen[0, :, 18:-18]  # columns well inside
    # From (y, z) = (-0.9, 0.9) m the plate, y up to 0.12 and z = 0.1, hides the table from y = -0.02 to 0.25.
    # The wrist camera above it sees table where |y| > 0.12 * 0.5 / 0.4 = 0.15, up to 0.2.
    table_y_m = 0.5 * (HEIGHT / 2 - (torch.arange(HEIGHT) + 0.5)) / 60
    assert not bool(seen[table_y_m > 0.155].any())
    assert bool(seen[table_y_m < -0.155].all())
    assert bool(seen[table_y_m.abs() < 0.12].all())  # the plate, but for the rim, where depths mix


def test_nothing_behind_the_other_camera_is_seen(episode):
    wrist = episode.views["wrist"]
    up = camera_at([(0.0, 0.0, 0.5)] * 5, [(0.0, 0.0, 1.0)] * 5)
    sky = View("up", wrist.rgb, torch.full_like(wrist.depth_m, torch.inf), None, up)
    assert look_up(wrist, sky).coverage == 0
    assert look_up(sky, wrist).coverage == 0


def test_unknown_depth_is_not_seen(episode):
    room, wrist = episode.views["room"], episode.views["wrist"]
    blind = View("wrist", wrist.rgb, torch.zeros_like(wrist.depth_m), None, wrist.camera)
    assert look_up(blind, room).coverage == 0
    assert look_up(room, blind).coverage == 0
    with pytest.raises(EpisodeInconsistent, match="wrist: a look-up needs depth_m and camera"):
        look_up(View("wrist", wrist.rgb, wrist.depth_m), room)


def measure(source, room, wrist, **options):
    views = source.views
    lookup = look_up(views["wrist"], views["room"])
    return cross_view(lookup, wrist, room, views["wrist"].rgb, views["room"].rgb, ALL, **options)


def test_the_same_room_in_both_views_is_consistent(episode):
    other = make_episode(texture=1)
    result = measure(episode, other.views["room"].rgb, other.views["wrist"].rgb)
    assert result.coverage > 0.9
    assert result.abs_diff < 1.5 / 255  # bilinear reading of a smooth picture, rounded
    assert result.psnr_db > 40
    assert result.ssim > 0.98
    assert result.normalised == pytest.approx(0, abs=0.02)
    assert result.time_line == pytest.approx([result.abs_diff] * 5, abs=2e-3)


@pytest.mark.parametrize("unrelated", [None, 2])
def test_views_of_different_rooms_score_about_one(episode, unrelated):
    other = make_episode(texture=1)
    room = None if unrelated is None else make_episode(texture=unrelated).views["room"].rgb
    result = measure(episode, episode.views["room"].rgb, other.views["wrist"].rgb, unrelated_room=room)
    assert result.normalised == pytest.approx(1, abs=0.3)


def test_a_shifted_wrist_camera_raises_the_error_step_by_step(episode):
    errors = []
    for shift_m in (0.0, 0.005, 0.01, 0.02, 0.04):
        shifted = Table().view("wrist", wrist_camera(5, shift_m), 0)
        errors.append(measure(episode, episode.views["room"].rgb, shifted.rgb).abs_diff)
    assert all(low * 1.2 < high for low, high in pairwise(errors))


def test_wrong_intrinsics_are_noticed_at_half_a_pixel(episode):
    room, wrist = episode.views["room"], episode.views["wrist"]
    k = room.camera.intrinsics_px.clone()
    k[:, :2, 2] -= 0.5
    off = View("room", room.rgb, room.depth_m, room.labels, Camera(k, room.camera.cam_from_world, HEIGHT, WIDTH))
    right, wrong = (look_up(wrist, other) for other in (room, off))
    error = [
        (wrist.rgb.float() - found.read(room.rgb)).abs().mean(-1)[found.seen].mean() for found in (right, wrong)
    ]
    assert error[1] > 1.5 * error[0]


def test_normalised_worked_by_hand():
    assert normalised(0.15, 0.1, 0.3) == pytest.approx(0.25)
    assert normalised(0.1, 0.1, 0.1 + 0.5 / 255) is None
    assert normalised(None, None, None) is None
