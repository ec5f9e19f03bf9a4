"""What the two passes over an episode are told."""

from dataclasses import asdict, replace
from itertools import combinations
from operator import add
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guided_transfer.episodes import make_example_episode, open_episodes
from guided_transfer.errors import EpisodeInconsistent, UsageError
from guided_transfer.generation import Generated, RgbControl
from guided_transfer.two_view import (
    EPISODE_CONTROLS,
    FEATHER_PX,
    JOINT_SUFFIX,
    TwoViewSettings,
    check_episode,
    composite_foreground,
    controls_of,
    told_prompts,
    transfer_episode,
    view_names,
)
from guided_transfer.types import ControlVideo, Episode, View
from guided_transfer.warp import Zone

PROMPTS = {"room": "a clinic", "wrist": "its table"}
SEEDS = {"room": 1, "wrist": 2}


class Recorder:
    """Stands where the models are and keeps what it is asked for; gives back a grey picture."""

    device = torch.device("cpu")
    text_encoder = SimpleNamespace(joined=add)  # one that reads prompts of any length

    def __init__(self):
        self.calls = []

    def generate(self, rgb, controls, prompt, **options):
        self.calls.append({"rgb": rgb, "controls": controls, "prompt": prompt, **options})
        return Generated(torch.full_like(rgb, 90), {"seconds": {}, "num_clips": 1})


@pytest.fixture(scope="module")
def episode(tmp_path_factory):
    path = make_example_episode(tmp_path_factory.mktemp("two") / "data_0.hdf5", 5, height_px=48, width_px=48)
    with open_episodes(path) as file:
        return file.read("demo_0")


def run(episode, **settings):
    models = Recorder()
    result = transfer_episode(episode, models, TwoViewSettings(**settings), prompts=PROMPTS, seeds=SEEDS)
    return result, *models.calls


def test_the_room_view_is_told_the_simulation(episode):
    _, room, _ = run(episode)
    view = episode.views["room"]
    assert torch.equal(room["rgb"], view.rgb)
    assert (room["prompt"], room["seed"], room["fps"]) == ("a clinic", 1, 30.0)
    assert room["size"] == (960, 960)
    assert torch.equal(room["guidance"].keep.bool(), view.labels >= 3)
    assert room["guidance"].background is None
    assert [control.kind for control in room["controls"]] == ["edge", "depth", "seg"]


def test_the_rim_is_matched_in_the_room_view_alone(episode):
    """The wrist view is told pictures of the finished room around its foreground; there is no rim to match."""
    for chosen in (True, False):
        _, room, joint = run(episode, match_rim=chosen)
        assert room["guidance"].match_rim is chosen
        assert joint["guidance"].match_rim is False


def test_the_wrist_view_is_made_below_the_finished_room_view(episode):
    result, _, joint = run(episode)
    top, bottom = joint["rgb"].chunk(2, dim=1)
    wrist = episode.views["wrist"]
    foreground = wrist.labels >= 3
    assert (top == 90).all()
    assert torch.equal(bottom[foreground], wrist.rgb[foreground])
    assert joint["prompt"] == "its table" + JOINT_SUFFIX
    assert joint["size"] == (1280, 704)
    keep_top, keep = joint["guidance"].keep.chunk(2, dim=1)
    assert (keep_top == 1).all()
    assert torch.equal(keep.bool(), foreground)
    # Where the room camera saw the surface, the picture shows the room view's grey, and it is held for a while.
    held = joint["guidance"].background.chunk(2, dim=1)[1].bool()
    assert held.any()
    assert not (held & foreground).any()
    assert result.rgb["wrist"].shape == wrist.rgb.shape


def test_stacked_controls_are_each_views_own(episode):
    _, room, joint = run(episode)
    alone = controls_of(episode.views["wrist"], TwoViewSettings())
    for stacked, above, below in zip(joint["controls"], room["controls"], alone, strict=True):
        assert stacked.kind == above.kind
        if isinstance(stacked, ControlVideo):
            assert torch.equal(stacked.frames, torch.cat([above.frames, below.frames], dim=1))


def test_the_wrist_view_alone(episode):
    result, _, wrist = run(episode, concat_video_second_view=False)
    assert wrist["rgb"].shape == episode.views["wrist"].rgb.shape
    assert wrist["prompt"] == "its table"
    assert result.record["views"]["wrist"]["warp"]["zones"]["covered"] > 0


def test_other_foreground_labels_reach_room_warp_and_wrist(episode):
    """The reference's warp knows labels 3 and 4 alone."""
    _, room, joint = run(episode, foreground_labels=(4,))
    assert torch.equal(room["guidance"].keep.bool(), episode.views["room"].labels == 4)
    keep = joint["guidance"].keep.chunk(2, dim=1)[1].bool()
    assert torch.equal(keep, episode.views["wrist"].labels == 4)


def test_no_foreground_holds_nothing_in_the_room_view(episode):
    _, room, joint = run(episode, foreground_labels=())
    assert room["guidance"] is None
    assert not joint["guidance"].keep.chunk(2, dim=1)[1].any()


def test_prompts_told_are_known_ahead(episode):
    for joint in (True, False):
        _, room, wrist = run(episode, concat_video_second_view=joint)
        settings = TwoViewSettings(concat_video_second_view=joint)
        assert told_prompts(PROMPTS, settings, Recorder()) == [room["prompt"], wrist["prompt"]]


def test_a_finished_room_view_is_not_made_again(episode):
    models, told = Recorder(), []
    room = Generated(torch.full_like(episode.views["room"].rgb, 40), {"seconds": {}})
    result = transfer_episode(
        episode, models, TwoViewSettings(), prompts=PROMPTS, seeds=SEEDS, room=room, on_room=told.append
    )
    assert len(models.calls) == 1
    assert not told
    assert (models.calls[0]["rgb"].chunk(2, dim=1)[0] == 40).all()
    assert torch.equal(result.rgb["room"], room.rgb)


def test_one_camera(episode):
    alone = Episode("data_0/demo_0", 30.0, {"front": replace(episode.views["room"], name="front")})
    models = Recorder()
    result = transfer_episode(alone, models, TwoViewSettings(), prompts={"front": "a clinic"}, seeds={"front": 1})
    assert list(result.rgb) == ["front"]
    assert view_names(episode) == ("room", "wrist")


def test_views_of_two_sizes_need_separate_passes(episode):
    small = episode.views["wrist"]
    camera = small.camera.resized(24, 24)
    shrunk = View("wrist", small.rgb[:, ::2, ::2], small.depth_m[:, ::2, ::2], small.labels[:, ::2, ::2], camera)
    mixed = Episode(episode.id, 30.0, {"room": episode.views["room"], "wrist": shrunk}, episode.source)
    with pytest.raises(EpisodeInconsistent, match="no_concat_video_second_view"):
        run(mixed)
    result, *_ = run(mixed, concat_video_second_view=False)
    assert result.rgb["wrist"].shape == (5, 24, 24, 3)


def test_controls_an_episode_cannot_give():
    with pytest.raises(UsageError, match="keypoint"):
        TwoViewSettings(control_weights={"keypoint": 1.0})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_set_of_controls(episode, count):
    """The integration needs depth and seg, whatever else there is."""
    for kinds in combinations(EPISODE_CONTROLS, count):
        _, room, joint = run(episode, control_weights=dict.fromkeys(kinds, 0.5))
        assert tuple(control.kind for control in room["controls"]) == kinds
        assert tuple(control.kind for control in joint["controls"]) == kinds


def test_a_picture_larger_than_the_model_takes_is_that_episodes_error(episode):
    """The stacked views are twice as high as one: said before the room view is made, not after."""
    check_episode(episode, TwoViewSettings(resolution="480", largest_size=(960, 960)))
    alone = TwoViewSettings(resolution="640", largest_size=(960, 960), concat_video_second_view=False)
    check_episode(episode, alone)
    too_large = replace(alone, concat_video_second_view=True)
    with pytest.raises(
        EpisodeInconsistent, match=r"'640' makes 1280 x 640 of a picture of 96 x 48 pixels; .* 960 .--no_c"
    ):
        run(episode, **asdict(too_large))


def test_presets_reach_their_controls(episode):
    view = episode.views["room"]
    made = [
        controls_of(view, TwoViewSettings(control_weights={"edge": 1.0, "vis": 1.0}, **presets))
        for presets in ({}, {"canny_threshold": "very_low", "blur_strength": "high"})
    ]
    for one, other in zip(*made, strict=True):
        assert isinstance(one, RgbControl)
        assert not torch.equal(one.compute(view.rgb), other.compute(view.rgb))


def test_a_composite_is_exact_inside_and_untouched_outside():
    simulated, generated = (torch.full((2, 40, 40, 3), level, dtype=torch.uint8) for level in (200, 50))
    foreground = torch.zeros(2, 40, 40, dtype=torch.bool)
    foreground[:, 10:30, 10:30] = True
    out = composite_foreground(generated, simulated, foreground)
    inner = slice(10 + FEATHER_PX, 30 - FEATHER_PX)
    assert (out[:, inner, inner] == 200).all()
    assert (out[~foreground] == 50).all()
    seam = out[0, 20, 10 : 10 + FEATHER_PX, 0].tolist()
    assert seam == sorted(seam)
    assert 50 < seam[0] < seam[-1] < 200


def test_the_composite_is_pasted_before_the_warp_and_recorded(episode):
    result, _, joint = run(episode, composite_foreground=True)
    labels = episode.views["room"].labels
    inside = composite_foreground(
        torch.zeros_like(episode.views["room"].rgb), torch.full_like(episode.views["room"].rgb, 255), labels >= 3
    )[..., 0].eq(255)
    top = joint["rgb"].chunk(2, dim=1)[0]
    assert inside.any()
    assert torch.equal(top[inside], episode.views["room"].rgb[inside])
    assert result.record["views"]["room"]["composite_foreground"]


def test_zones_are_recorded(episode):
    result, *_ = run(episode)
    shares = result.record["views"]["wrist"]["warp"]["zones"]
    assert set(shares) == {zone.name.lower() for zone in Zone}
    assert sum(shares.values()) == pytest.approx(1)


def test_what_vision_models_saw_wins_over_what_could_be_computed(episode):
    view = episode.views["room"]
    picture = torch.full_like(view.rgb, 7)
    mask = (view.labels == 4).float()
    seen = replace(
        view, controls={"depth": picture, "keypoint": picture}, control_weights={"edge": mask, "seg": mask}
    )
    weights = {"edge": 0.5, "depth": 0.75, "seg": 2.0, "keypoint": 1.0}
    controls = {c.kind: c for c in controls_of(seen, TwoViewSettings(weights, seen=frozenset({"keypoint"})))}
    assert torch.equal(controls["depth"].frames, picture)
    assert controls["depth"].weight == 0.75
    assert torch.equal(controls["keypoint"].frames, picture)
    assert torch.equal(controls["edge"].weight, 0.5 * mask)
    assert torch.equal(controls["seg"].weight, 2.0 * mask)
    with pytest.raises(UsageError, match="controls keypoint cannot be computed from an episode"):
        TwoViewSettings(weights)


def test_a_weight_mask_multiplies_a_weight_map(episode, tmp_path):
    view = episode.views["room"]
    mask = (view.labels == 4).float()
    file = tmp_path / "half.npy"
    np.save(file, np.full(tuple(view.rgb.shape[1:3]), 0.5, np.float32))
    (control,) = controls_of(replace(view, control_weights={"vis": mask}), TwoViewSettings({"vis": file}))
    assert torch.equal(control.weight, 0.5 * mask)


def test_a_part_of_a_view_keeps_what_was_seen(episode):
    view = episode.views["room"]
    seen = replace(view, controls={"depth": view.rgb}, control_weights={"edge": view.depth_m})
    part = seen[1:3]
    assert torch.equal(part.controls["depth"], view.rgb[1:3])
    assert torch.equal(part.control_weights["edge"], view.depth_m[1:3])
    with pytest.raises(EpisodeInconsistent, match=r"controls\['depth'\] is \[2, 48, 48\]"):
        replace(view, controls={"depth": view.rgb[:2]})


def test_an_episode_may_lack_what_vision_models_supply(episode):
    room = replace(episode.views["room"], labels=None, depth_m=None)
    alone = Episode("data_0/demo_0", 30.0, {"room": room})
    settings = TwoViewSettings({"depth": 0.5, "seg": 0.5}, seen=frozenset({"depth", "seg", "labels"}))
    check_episode(alone, settings)
    with pytest.raises(EpisodeInconsistent, match=r"has no labels; .*--foreground_prompt or --foreground_mask"):
        check_episode(alone, replace(settings, seen=frozenset({"depth", "seg"})))
    with pytest.raises(EpisodeInconsistent, match=r"has no depth_m; .*Depth Anything V2"):
        check_episode(alone, replace(settings, seen=frozenset({"seg", "labels"})))
