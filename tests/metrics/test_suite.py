import json

import pytest
import torch
from table_scene import make_episode

from guided_transfer.errors import UsageError
from guided_transfer.metrics.similarity import IDENTICAL_DB
from guided_transfer.metrics.suite import baseline_rows, episode_metrics, jittered, sampled_frames
from guided_transfer.types import Episode, View


def unchanged(episode):
    return {name: view.rgb for name, view in episode.views.items()}


def noisy(rgb, sigma, seed=0):
    rough = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(seed)) * sigma
    return (rgb + rough).round().clamp(0, 255).to(torch.uint8)


def test_identity_is_perfect(episode):
    metrics = episode_metrics(episode, unchanged(episode))
    for view in metrics.views.values():
        assert view.foreground.psnr_db == view.foreground.edge_psnr_db == IDENTICAL_DB
        assert (view.foreground.ssim, view.foreground.delta_e) == (1, 0)
        assert (view.background.delta_e, view.background.abs_diff) == (0, 0)
        assert view.flicker == view.source_flicker
        assert view.edge_f1 in (1, None)
        assert view.blur_ssim == 1
        assert view.depth_edge_recall == view.source_depth_edge_recall
    assert metrics.cross_view_error == 0
    assert metrics.foreground_psnr_db == IDENTICAL_DB


def test_another_room_with_the_same_foreground(episode):
    other, generated = make_episode(texture=1), {}
    for name, view in episode.views.items():
        kept = (view.labels == 3)[..., None]
        generated[name] = torch.where(kept, view.rgb, other.views[name].rgb)
    metrics = episode_metrics(episode, generated)
    for view in metrics.views.values():
        assert view.foreground.psnr_db == IDENTICAL_DB
        assert view.background.delta_e > 10
        assert view.flicker < 1.5 * view.source_flicker + 1e-3
    assert metrics.cross_view_error == pytest.approx(0, abs=0.05)


def test_the_worst_view_decides(episode):
    generated = unchanged(episode)
    generated["wrist"] = noisy(generated["wrist"], 8)
    metrics = episode_metrics(episode, generated)
    assert metrics.foreground_psnr_db == metrics.views["wrist"].foreground.psnr_db
    assert metrics.foreground_psnr_db == pytest.approx(30.05, abs=0.3)  # 20 log10(255 / 8), some noise is clipped


def test_the_ceiling_is_measured_beside_the_result(episode):
    generated = {name: noisy(rgb, 12) for name, rgb in unchanged(episode).items()}
    ceiling = {name: noisy(rgb, 4) for name, rgb in unchanged(episode).items()}
    view = episode_metrics(episode, generated, ceiling=ceiling).views["room"]
    assert view.ceiling.psnr_db == pytest.approx(36.1, abs=0.3)
    assert view.ceiling.psnr_db > view.foreground.psnr_db + 8
    assert episode_metrics(episode, generated).views["room"].ceiling is None


def test_the_ceiling_may_be_of_some_frames(episode):
    ceiling = {name: noisy(rgb, 4) for name, rgb in unchanged(episode).items()}
    frames = [[0, 2], [4, 5]]
    some = {name: torch.cat([rgb[first:last] for first, last in frames]) for name, rgb in ceiling.items()}
    found = episode_metrics(episode, unchanged(episode), ceiling=some, ceiling_frames=frames).views["room"].ceiling
    chosen = torch.tensor([0, 1, 4])
    views = {name: View(name, view.rgb[chosen], labels=view.labels[chosen]) for name, view in episode.views.items()}
    alone = episode_metrics(Episode("some", 30.0, views), some).views["room"].foreground
    assert found == alone
    with pytest.raises(UsageError, match="room"):
        episode_metrics(episode, unchanged(episode), ceiling=some)


def test_noise_is_flicker_and_breaks_agreement(episode):
    metrics = episode_metrics(episode, {name: noisy(rgb, 10) for name, rgb in unchanged(episode).items()})
    assert metrics.views["room"].flicker > 0.03
    assert metrics.cross_view.abs_diff > metrics.cross_view.simulated_abs_diff + 0.02


def test_seam_at_the_clip_border(episode):
    generated = unchanged(episode)
    generated["room"] = generated["room"].clone()
    generated["room"][3:] += 5
    metrics = episode_metrics(episode, generated, clip_borders=[3])
    assert metrics.views["room"].seam_z > 10
    assert metrics.views["wrist"].seam_z < 3
    assert episode_metrics(episode, generated).views["room"].seam_z is None


def test_foreground_labels_are_the_callers(episode):
    generated = unchanged(episode)
    generated["room"] = noisy(generated["room"], 10)
    table = episode_metrics(episode, generated, foreground_labels=[2])
    assert table.views["room"].foreground.psnr_db < 30
    assert episode_metrics(episode, generated, foreground_labels=[9]).foreground_psnr_db is None


def test_as_dict_is_strict_json(episode):
    for metrics in baseline_rows(episode, clip_borders=[2]).values():
        loaded = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
        assert set(loaded) == {"views", "cross_view"}
        assert len(loaded["views"]["room"]["time_lines"]["foreground_psnr_db"]) == 5
        assert len(loaded["views"]["room"]["time_lines"]["flicker"]) == 4


def test_baseline_rows_fool_nobody(episode):
    rows = baseline_rows(episode)
    assert set(rows) == {"identity", "colour jitter"}
    room = {name: row.views["room"] for name, row in rows.items()}
    assert room["identity"].background.delta_e == 0
    assert room["colour jitter"].background.delta_e > 5
    assert room["colour jitter"].foreground.psnr_db < 25  # it paints the foreground, too
    assert rows["colour jitter"].cross_view_error < 0.05  # and stays consistent: both views change alike


def test_jitter_worked_by_hand():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).expand(1, 2, 2, 3)
    # hue 0 -> 40 degrees at 0.8 of the value: red 160, green 40/60 of it
    assert jittered(red)[0, 0, 0].tolist() == pytest.approx([160, 107, 0], abs=1)


def test_what_cannot_be_measured_is_none(episode):
    bare = Episode(episode.id, 30.0, {name: View(name, view.rgb) for name, view in episode.views.items()})
    metrics = episode_metrics(bare, unchanged(bare))
    room = metrics.views["room"]
    assert metrics.cross_view is metrics.cross_view_error is metrics.foreground_psnr_db is None
    assert room.foreground is room.background is room.flicker is room.depth_edge_recall is None
    assert room.blur_ssim == 1


def test_one_view_and_one_frame(episode):
    metrics = episode_metrics(episode, {"wrist": episode.views["wrist"].rgb})
    assert list(metrics.views) == ["wrist"]
    assert metrics.cross_view is None
    still = episode[:1]
    assert episode_metrics(still, unchanged(still)).views["room"].flicker is None


def test_frames_that_do_not_belong(episode):
    with pytest.raises(UsageError, match=r"has no view 'top'; it has room, wrist"):
        episode_metrics(episode, {"top": episode.views["room"].rgb})
    with pytest.raises(UsageError, match=r"room is torch.uint8\[3, 48, 64, 3\], its source uint8\[5, 48, 64, 3\]"):
        episode_metrics(episode, {"room": episode.views["room"].rgb[:3]})


def test_sampled_frames_are_even_and_keep_both_ends():
    assert sampled_frames(33).tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert sampled_frames(3).tolist() == [0, 1, 2]
    assert sampled_frames(1).tolist() == [0]
    assert len(sampled_frames(350).unique()) == 9
