"""Scenes as episode files, in the layout of the integration's state machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_transfer.errors import OutputError, UsageError
from guided_transfer.scenes.arm import FPS, Motion
from guided_transfer.scenes.render import VIEWS, RenderedClip, render_clip
from guided_transfer.scenes.styles import Style, sample_style
from guided_transfer.scenes.world import HELDOUT_SCENE_SEEDS, SIZE_PX, Scene, sample_scene
from guided_transfer.types import LABEL_COLOURS, Camera
from guided_transfer.whole import whole_file


def quat_from_rotation(rotation: Tensor) -> Tensor:
    """Unit quaternions [..., 4], w x y z with w >= 0, of rotations [..., 3, 3].

    Takes the column of largest norm of the 4 x 4 matrix 4 q q^T, so that no angle is singular.
    """
    m = rotation.double()
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    outer = m.new_zeros(*m.shape[:-2], 4, 4)
    outer[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[..., i + 1, i + 1] = 1 + 2 * m[..., i, i] - trace
        outer[..., 0, i + 1] = outer[..., i + 1, 0] = m[..., k, j] - m[..., j, k]
        outer[..., j + 1, k + 1] = outer[..., k + 1, j + 1] = m[..., j, k] + m[..., k, j]
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = outer.gather(-1, best[..., None, None].expand(*best.shape, 4, 1))[..., 0]
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def action_arrays(motion: Motion) -> dict[str, Tensor]:
    """What the state machine records besides pictures: actions, states and joints, [N, ...].

    `robot_obs` is the tool's pose before a step, `abs_action` the one it moves to, as in the integration;
    `action` is their difference: metres and axis-angle radians in world axes.
    """
    pose = torch.cat([motion.tip_m, quat_from_rotation(motion.tool).float()], -1)
    before = torch.cat([pose[:1], pose[:-1]])
    turn = motion.tool.double() @ torch.cat([motion.tool[:1], motion.tool[:-1]]).double().mT
    joints = motion.joints_rad
    return {
        "action": torch.cat([pose[:, :3] - before[:, :3], _axis_angle(turn)], -1),
        "abs_action": pose,
        "state": motion.phase,
        "abs_joint_pos": joints,
        "observations/robot_obs": before[:, None],
        "observations/joint_vel": torch.diff(joints, dim=0, prepend=joints[:1]) * FPS,
    }


def _axis_angle(rotation: Tensor) -> Tensor:
    q = quat_from_rotation(rotation)
    sine = q[:, 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, q[:, :1])
    return (q[:, 1:] * torch.where(sine > 1e-9, angle / sine.clamp(min=1e-9), 2.0)).float()


def write_episode(
    path: Path | str,
    scene: Scene,
    *,
    frames: slice | range = slice(None),
    size_px: int = SIZE_PX,
    device: torch.device | str = "cpu",
) -> None:
    """Render a scene in the simulated look and write it as one HDF5 file with one demo.

    `path` is "data_<k>.hdf5" by the state machine's naming, and appears by rename once it is complete; the other
    arguments are those of render_clip.

    Raises:
        OutputError: the file exists already, or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise OutputError(f"{path} exists; give another folder, or remove the file first")
    clip = render_clip(scene, [None], frames=frames, size_px=size_px, device=device, noise_seed=scene.seed)
    arrays = {name: value[_rows(scene, frames)] for name, value in action_arrays(scene.motion).items()}
    arrays["observations/torso_obs"] = scene.torso_pose.float().expand(len(arrays["state"]), 7)
    arrays |= _pictures(clip)
    for view, camera in zip(VIEWS, clip.cameras, strict=True):
        arrays |= {f"observations/{view}_camera_{name}": value for name, value in _pose(camera).items()}
    _write(path, arrays, scene)


def _rows(scene: Scene, frames: slice | range) -> list[int]:
    return list(range(scene.num_frames)[frames] if isinstance(frames, slice) else frames)


def _pictures(clip: RenderedClip) -> dict[str, Tensor]:
    """Views second, as [N, 2, H, W, C]."""
    colours = torch.tensor(LABEL_COLOURS, dtype=torch.uint8, device=clip.labels.device)
    return {
        "observations/rgb_images": clip.rgb[0].transpose(0, 1),
        "observations/depth_images": clip.depth_m.transpose(0, 1)[..., None],
        "observations/seg_images": colours[clip.labels.long()].transpose(0, 1),
    }


def _pose(camera: Camera) -> dict[str, Tensor]:
    world_from_cam = camera.cam_from_world[:, :3, :3].mT
    position = -(world_from_cam @ camera.cam_from_world[:, :3, 3:])[..., 0]
    return {
        "pos": position.float(),
        "quat_w_ros": quat_from_rotation(world_from_cam).float(),
        "intrinsic_matrices": camera.intrinsics_px.float(),
    }


def _write(path: Path, arrays: dict[str, Tensor], scene: Scene) -> None:
    import h5py

    kwargs = {"scene_seed": scene.seed, "heldout": scene.heldout, "fps": FPS}
    env_args: dict[str, Any] = {"env_name": "guided-transfer-tabletop-ultrasound", "type": 2, "env_kwargs": kwargs}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, h5py.File(partial, "w") as file:
            data = file.create_group("data")
            data.attrs["total"] = len(arrays["state"])
            data.attrs["env_args"] = json.dumps(env_args)
            demo = data.create_group("demo_0")
            demo.attrs["num_samples"] = len(arrays["state"])
            demo.attrs["sim"] = False
            for name, value in arrays.items():
                demo[name] = value.cpu().contiguous().numpy()
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}") from error


def simulate(
    out_dir: Path | str,
    *,
    episodes: int = 1,
    num_frames: int | None = None,
    seed: int = 0,
    heldout: bool = False,
    size_px: int = SIZE_PX,
    device: torch.device | str = "cpu",
    reference: bool = False,
    on_episode: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write data_0.hdf5, data_1.hdf5, ... as the state machine would.

    Args:
        out_dir: created if need be.
        episodes: how many; episode k shows the scene with seed + k.
        num_frames: of the start of each trajectory; None = all, 120 to 230.
        seed: of the first scene, counted from the start of the reserved seeds if heldout.
        heldout: scenes and foreground colours that nothing was trained on.
        size_px: height and width of the pictures.
        device: where to render.
        reference: also write data_<k>_reference.npz: `rgb` [2, T, H, W, 3] in a real look, and its style's factors.
        on_episode: called with each finished file.

    Returns:
        The HDF5 files.

    Raises:
        UsageError: episodes or num_frames below 1, or a seed outside its share.
        OutputError: a file exists already.
    """
    if episodes < 1 or (num_frames is not None and num_frames < 1):
        raise UsageError(f"episodes={episodes}, num_frames={num_frames}: both must be at least 1")
    paths = []
    for k in range(episodes):
        scene = sample_scene(seed + k + (HELDOUT_SCENE_SEEDS.start if heldout else 0), heldout=heldout)
        path = Path(out_dir) / f"data_{k}.hdf5"
        write_episode(path, scene, frames=slice(num_frames), size_px=size_px, device=device)
        if reference:
            style = sample_style(scene.seed, heldout=heldout)
            clip = render_clip(scene, [style], frames=slice(num_frames), size_px=size_px, device=device)
            _write_reference(path.with_name(f"data_{k}_reference.npz"), clip, style)
        paths.append(path)
        if on_episode is not None:
            on_episode(path)
    return paths


def _write_reference(path: Path, clip: RenderedClip, style: Style) -> None:
    import numpy as np

    np.savez(path, rgb=clip.rgb[0].cpu().numpy(), style=np.array(json.dumps(vars(style))))
