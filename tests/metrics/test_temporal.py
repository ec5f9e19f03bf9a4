import pytest
import torch
from table_scene import Table, make_episode, wrist_camera

from guided_transfer.metrics.foreground import regions
from guided_transfer.metrics.temporal import mean_known, seam_z, static_steps


def steps(view, *videos):
    return static_steps(view, regions(view.labels, (3, 4)).changed, videos)


def test_a_still_camera_and_a_still_picture(episode):
    room = episode.views["room"]
    assert steps(room, room.rgb)[0] == pytest.approx([0] * 4, abs=1e-4)


def test_flicker_worked_by_hand(episode):
    room = episode.views["room"]
    grey = torch.full_like(room.rgb, 100)
    grey[1::2] += 10
    assert steps(room, grey)[0] == pytest.approx([10 / 255] * 4, abs=1e-6)


def test_camera_motion_is_no_flicker(episode):
    wrist = episode.views["wrist"]
    moved, still = steps(wrist, wrist.rgb)[0], (wrist.rgb[1:].float() - wrist.rgb[:-1]).abs().mean((1, 2, 3)) / 255
    assert max(moved) < 1.5 / 255
    assert max(moved) < 0.1 * float(still.min())


def test_what_moves_in_the_foreground_does_not_count(episode):
    wrist = episode.views["wrist"]
    video = wrist.rgb.clone()
    video[wrist.labels == 3] = torch.randint(0, 256, (int((wrist.labels == 3).sum()), 3), dtype=torch.uint8)
    # reading at the foreground's border takes in half a pixel of it
    assert steps(wrist, video)[0] == pytest.approx(steps(wrist, wrist.rgb)[0], abs=2e-3)


def test_a_plate_uncovering_the_table_is_no_flicker():
    plate = Table(plate=True).view("wrist", wrist_camera(5), 0)
    assert max(steps(plate, plate.rgb)[0]) < 2.5 / 255


def test_no_static_pixel_is_none():
    wrist = make_episode().views["wrist"]
    nothing = torch.zeros_like(wrist.labels, dtype=torch.bool)
    assert static_steps(wrist, nothing, [wrist.rgb]) == [[None] * 4]
    assert mean_known([None, None]) is None
    assert mean_known([None, 2.0, 4.0]) == 3


def test_seam_worked_by_hand():
    # other steps 1, 2, 3: mean 2, standard deviation 1; the border's step is 7
    assert seam_z([1.0, 2.0, 7.0, 3.0], clip_borders=[3]) == pytest.approx(5)


def test_the_oddest_border_counts():
    assert seam_z([1.0, 9.0, 2.0, 7.0, 3.0, None], [2, 4, 6]) == pytest.approx(7)


def test_seam_of_one_clip_and_of_too_short_ones():
    assert seam_z([1.0, 2.0], []) is None
    assert seam_z([1.0, 2.0], [1, 2]) is None
    assert seam_z([1.0, None, 2.0], [2]) is None


def test_equal_steps_do_not_make_a_border_infinitely_odd():
    # the floor is a tenth of a grey level: a step of one grey level more is 10 of them
    assert seam_z([0.01] * 5 + [0.01 + 1 / 255] + [0.01] * 5, [6]) == pytest.approx(10)


def test_a_jump_of_colour_between_clips_stands_out(episode):
    room = episode.views["room"]
    video = room.rgb.clone()
    video[3:] = (video[3:].int() + 6).clamp(0, 255).to(torch.uint8)
    assert seam_z(steps(room, video)[0], [3]) > 20
    assert abs(seam_z(steps(room, room.rgb)[0], [3])) < 1
