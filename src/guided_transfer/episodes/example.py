"""A small made-up episode in the i4h layout: what a test, a page of the docs or a first try needs.

A robot's tool (a small ball) moves over an organ (a larger one) on a checkered table; the room camera stands
still, the wrist camera rides along. Pictures, depth, labels and poses are ray-cast from one scene, so that they
agree exactly: a pixel of one view can be found in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from guided_transfer.types import LABEL_COLOURS

ORGAN_M, ORGAN_RADIUS_M = np.array([0.0, 0.0, 0.06]), 0.12
TOOL_RADIUS_M = 0.05
TABLE_HALF_M, GROUND_M = 0.45, -0.7
ROOM_M, FAR_M = np.array([0.75, 0.55, 0.65]), 4.0


@dataclass(frozen=True)
class _Shot:
    """One picture: rgb [H, W, 3], depth_m [H, W], labels [H, W]."""

    rgb: np.ndarray
    depth_m: np.ndarray
    labels: np.ndarray


def make_example_episode(
    path: Path | str,
    num_frames: int = 8,
    *,
    num_demos: int = 1,
    height_px: int = 224,
    width_px: int = 224,
    compression: str | None = None,
) -> Path:
    """Write an HDF5 file as the state machine does: float32, uncompressed and contiguous unless told otherwise.

    Args:
        path: the new file, for example data_0.hdf5.
        num_frames: of each demo.
        num_demos: how many; they differ in where the tool passes.
        height_px: of both views.
        width_px: of both views.
        compression: h5py's, for example "gzip"; pictures then lie in one-frame chunks.

    Returns:
        The path.
    """
    path = Path(path)
    with h5py.File(path, "w") as h5:
        data = h5.create_group("data")
        data.attrs["total"] = num_frames * num_demos
        data.attrs["env_args"] = '{"env_name": "guided-transfer-example", "type": 2, "env_kwargs": {}}'
        for index in range(num_demos):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = num_frames
            demo.attrs["sim"] = True
            for name, value in _demo(num_frames, 0.03 * index, height_px, width_px).items():
                chunks = (1, 1, *value.shape[2:]) if compression and value.ndim == 5 else None
                demo.create_dataset(name, data=value, chunks=chunks, compression=compression if chunks else None)
    return path


def _demo(num_frames: int, shift_m: float, height_px: int, width_px: int) -> dict[str, np.ndarray]:
    """All datasets of one demo, by path."""
    share = np.linspace(-1, 1, num_frames) if num_frames > 1 else np.zeros(1)
    tool_m = np.stack([0.1 * share, np.full_like(share, shift_m), 0.26 - 0.04 * share**2], -1)
    focal_px = 1.15 * width_px
    intrinsics_px = np.array([[focal_px, 0, width_px / 2], [0, focal_px, height_px / 2], [0, 0, 1]])
    wrist_m = tool_m + np.array([0.1, 0.0, 0.16])
    poses = {
        "room": [(ROOM_M, _look_at(ROOM_M, np.zeros(3)))] * num_frames,
        "wrist": [(eye, _look_at(eye, target - [0, 0, 0.15])) for eye, target in zip(wrist_m, tool_m, strict=True)],
    }
    shots = [
        [_shoot(*poses[view][t], tool_m[t], intrinsics_px, height_px, width_px) for view in poses]
        for t in range(num_frames)
    ]
    palette = np.array(LABEL_COLOURS, np.uint8)
    tool_pose = np.concatenate([tool_m, np.tile([1.0, 0, 0, 0], (num_frames, 1))], -1).astype(np.float32)
    joints = np.outer(share, np.linspace(0.1, 0.7, 7)).astype(np.float32)
    step = np.diff(tool_m, axis=0, append=tool_m[-1:])
    datasets = {
        "action": np.concatenate([step, np.zeros_like(step)], -1).astype(np.float32),
        "abs_action": tool_pose,
        "abs_joint_pos": joints,
        "state": np.full(num_frames, 3, np.int64),
        "observations/robot_obs": tool_pose[:, None],
        "observations/torso_obs": np.tile(np.array([*ORGAN_M, 1, 0, 0, 0], np.float32), (num_frames, 1)),
        "observations/joint_vel": np.diff(joints, axis=0, prepend=joints[:1]),
        "observations/rgb_images": np.array([[shot.rgb for shot in pair] for pair in shots]),
        "observations/depth_images": np.array([[shot.depth_m for shot in pair] for pair in shots])[..., None],
        "observations/seg_images": palette[np.array([[shot.labels for shot in pair] for pair in shots])],
    }
    for view, along in poses.items():
        prefix = f"observations/{view}_camera"
        quat_xyzw = Rotation.from_matrix([rotation for _, rotation in along]).as_quat()
        datasets[f"{prefix}_pos"] = np.array([eye for eye, _ in along], np.float32)
        datasets[f"{prefix}_quat_w_ros"] = quat_xyzw[:, [3, 0, 1, 2]].astype(np.float32)
        datasets[f"{prefix}_intrinsic_matrices"] = np.tile(intrinsics_px.astype(np.float32), (num_frames, 1, 1))
    return datasets


def _look_at(eye_m: np.ndarray, target_m: np.ndarray) -> np.ndarray:
    """World-from-camera rotation [3, 3]: x right, y down, z towards the target."""
    forward = (target_m - eye_m) / np.linalg.norm(target_m - eye_m)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], -1)


def _shoot(
    eye_m: np.ndarray,
    world_from_cam: np.ndarray,
    tool_m: np.ndarray,
    intrinsics_px: np.ndarray,
    height_px: int,
    width_px: int,
) -> _Shot:
    """Ray-cast one picture; rays have z = 1 in the camera, so the distance along them is the depth."""
    u, v = np.meshgrid(np.arange(width_px) + 0.5, np.arange(height_px) + 0.5)
    x, y = (u - intrinsics_px[0, 2]) / intrinsics_px[0, 0], (v - intrinsics_px[1, 2]) / intrinsics_px[1, 1]
    rays = (np.stack([x, y, np.ones_like(x)], -1) @ world_from_cam.T).astype(np.float32)  # [H, W, 3]
    depths_m = np.stack(
        [
            np.full(x.shape, FAR_M),
            _plane(eye_m, rays, GROUND_M, 2.0),
            _plane(eye_m, rays, 0.0, TABLE_HALF_M),
            _ball(eye_m, rays, ORGAN_M, ORGAN_RADIUS_M),
            _ball(eye_m, rays, tool_m, TOOL_RADIUS_M),
        ]
    )
    labels = depths_m.argmin(0).astype(np.uint8)
    depth_m = depths_m.min(0).astype(np.float32)
    rgb = _paint(eye_m + rays * depth_m[..., None], labels, tool_m)
    return _Shot(rgb, np.where(labels == 0, np.float32(np.inf), depth_m), labels)


def _plane(eye_m: np.ndarray, rays: np.ndarray, height_m: float, half_m: float) -> np.ndarray:
    """Depth of a horizontal square around the origin, inf where it is missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (height_m - eye_m[2]) / rays[..., 2]
        inside = (np.abs(eye_m[:2] + rays[..., :2] * depth[..., None]) < half_m).all(-1)
    return np.where(inside & (depth > 0), depth, np.inf)


def _ball(eye_m: np.ndarray, rays: np.ndarray, centre_m: np.ndarray, radius_m: float) -> np.ndarray:
    """Depth of a ball's near side, inf where it is missed."""
    offset = eye_m - centre_m
    a, b, c = (rays**2).sum(-1), rays @ offset, offset @ offset - radius_m**2
    under_root = b**2 - a * c
    depth = (-b - np.sqrt(np.maximum(under_root, 0))) / a
    return np.where((under_root > 0) & (depth > 0), depth, np.inf)


def _paint(points_m: np.ndarray, labels: np.ndarray, tool_m: np.ndarray) -> np.ndarray:
    """Colours of world points: fixed to the scene, so that both cameras see the same ones."""
    paints = np.array(
        [[90, 110, 150], [120, 120, 115], [190, 150, 110], [200, 90, 80], [230, 230, 235]], np.float32
    )
    base = paints[labels]
    checks = np.floor(points_m[..., :2] / 0.075).sum(-1) % 2
    height_m = points_m[..., 2] - np.where(labels == 4, tool_m[2], ORGAN_M[2])
    light = np.where(labels >= 3, 0.75 + 2.0 * height_m, np.where(labels == 0, 1.0, 0.8 + 0.2 * checks))
    return np.clip(base * light[..., None], 0, 255).astype(np.uint8)
