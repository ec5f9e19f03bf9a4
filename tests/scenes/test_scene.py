"""Seeds, reserved shares and motion."""

import pytest
import torch

from guided_transfer import scenes
from guided_transfer.errors import UsageError
from guided_transfer.scenes.arm import FOREARM_M, FPS, MAX_SPEED_MPS, SHOULDER_Z_M, UPPER_M, WRIST_TO_TIP_M, Phase
from guided_transfer.scenes.styles import ARMS, PHANTOMS, TABLES, THEMES, WALLS

SEEDS = range(0, 60, 3)


def test_a_seed_gives_the_same_pictures_and_another_seed_others() -> None:
    def picture(seed: int, noise_seed: int = 0) -> torch.Tensor:
        style = scenes.sample_style(seed)
        scene = scenes.sample_scene(seed)
        return scenes.render_clip(scene, [None, style], frames=[9], size_px=32, noise_seed=noise_seed).rgb

    assert torch.equal(picture(4), picture(4))
    assert not torch.equal(picture(4), picture(5))
    other_noise = picture(4, noise_seed=1)
    assert torch.equal(picture(4)[0], other_noise[0]), "the simulated look carries no noise"
    difference = picture(4)[1].int() - other_noise[1].int()
    assert 0 < difference.abs().float().mean() < 3


def test_frames_rendered_alone_and_together_agree() -> None:
    scene, style = scenes.sample_scene(2), scenes.sample_style(2)
    whole = scenes.render_clip(scene, [None], frames=slice(10, 16, 2), size_px=32)
    alone = scenes.render_clip(scene, [None, style], frames=[12], size_px=32)
    assert torch.equal(whole.rgb[0, :, 1], alone.rgb[0, :, 0])
    assert torch.equal(whole.depth_m[:, 1], alone.depth_m[:, 0])
    assert torch.equal(whole.cameras[1].cam_from_world[1], alone.cameras[1].cam_from_world[0])


def test_no_frame_is_an_error_that_says_how_many_there_are() -> None:
    scene = scenes.sample_scene(0)
    with pytest.raises(UsageError, match=str(scene.num_frames)):
        scenes.render_clip(scene, [None], frames=range(0))


def test_heldout_seeds_and_foregrounds_are_reserved() -> None:
    with pytest.raises(UsageError, match="1000000"):
        scenes.sample_scene(1_000_000)
    with pytest.raises(UsageError, match="reserved"):
        scenes.sample_scene(7, heldout=True)
    for seed in SEEDS:
        train, heldout = scenes.sample_scene(seed), scenes.sample_scene(1_000_000 + seed, heldout=True)
        assert not ARMS[train.sim_arm].heldout
        assert not PHANTOMS[train.sim_phantom].heldout
        assert ARMS[heldout.sim_arm].heldout
        assert PHANTOMS[heldout.sim_phantom].heldout
        assert not ARMS[scenes.sample_style(seed).arm].heldout
        assert PHANTOMS[scenes.sample_style(seed, heldout=True).phantom].heldout


def test_styles_cover_every_value_and_are_seldom_garish() -> None:
    styles = [scenes.sample_style(seed) for seed in range(2000)]
    assert {s.wall for s in styles} == set(WALLS)
    assert {s.table for s in styles} == set(TABLES)
    assert {s.theme for s in styles} == set(THEMES)
    garish = [
        s for s in styles if s.wall == "orange stripes" or s.table == "checkered cloth" or s.furniture == "red"
    ]
    assert 0 < len(garish) < 0.05 * len(styles)
    plain_tables = [t for t in TABLES if t != "checkered cloth"]
    assert min(sum(s.table == t for s in styles) for t in plain_tables) > 0.06 * len(styles)


@pytest.mark.parametrize("seed", SEEDS)
def test_motion_is_smooth_and_the_arm_stays_whole(seed: int) -> None:
    motion = scenes.sample_scene(seed).motion
    n = len(motion.phase)
    assert 100 <= n <= 270
    assert set(motion.phase.tolist()) == set(Phase)
    assert (motion.phase.diff() >= 0).all()
    speed = motion.tip_m.diff(dim=0).norm(dim=-1) * FPS
    assert speed.max() < 1.3 * MAX_SPEED_MPS
    assert speed[0] == 0
    assert speed[-1] == 0
    acceleration = motion.tip_m.diff(n=2, dim=0).norm(dim=-1) * FPS**2
    assert acceleration.max() < 0.6
    assert (motion.joints_rad.diff(dim=0).abs() * FPS).max() < 2.0
    eye = torch.eye(3)
    assert torch.allclose(motion.tool @ motion.tool.mT, eye.expand(n, 3, 3), atol=1e-5)

    shoulder = motion.base_m + torch.tensor([0.0, 0.0, SHOULDER_Z_M])
    assert torch.allclose((motion.elbow_m - shoulder).norm(dim=-1), torch.tensor(UPPER_M), atol=1e-5)
    assert torch.allclose((motion.wrist_m - motion.elbow_m).norm(dim=-1), torch.tensor(FOREARM_M), atol=1e-5)
    reach = (motion.wrist_m - motion.tip_m).norm(dim=-1)
    assert torch.allclose(reach, torch.tensor(WRIST_TO_TIP_M), atol=1e-5)
    assert motion.elbow_m[:, 2].min() > 0.15, "no link dips into the table"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_probe_touches_the_phantom_while_it_scans_and_never_enters_it(seed: int) -> None:
    scene = scenes.sample_scene(seed)
    motion, torso = scene.motion, scene.torso
    i = scene.still.slot.index(19)
    local = (motion.tip_m - scene.still.centre_m[0, i]) @ scene.still.rotation[0, i]
    value = torso.value(*local.T.double())
    assert value[motion.phase == Phase.SCANNING].abs().max() < 1e-3
    assert value.min() > -1e-3
    assert value[motion.phase == Phase.SETUP].min() > 0.2
