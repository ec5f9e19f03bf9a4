"""Episode files: readable by the episodes room, exact, and true to the scene."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from guided_transfer import scenes
from guided_transfer.episodes.check import validate_file
from guided_transfer.errors import OutputError, UsageError
from guided_transfer.scenes.export import action_arrays, quat_from_rotation
from guided_transfer.types import LABEL_COLOURS, Camera, rotation_from_quat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("episodes")
    scenes.simulate(out, episodes=2, num_frames=6, seed=5, heldout=True, size_px=48, reference=True)
    return out


def test_files_are_named_as_the_state_machine_names_them_and_are_faultless(folder: Path) -> None:
    assert sorted(p.name for p in folder.glob("*.hdf5")) == ["data_0.hdf5", "data_1.hdf5"]
    assert not list(folder.glob(".*.partial"))
    assert validate_file(folder / "data_0.hdf5") == []


def test_schema(folder: Path) -> None:
    with h5py.File(folder / "data_1.hdf5") as file:
        demo = file["data/demo_0"]
        shapes = {name: (demo[name].shape, demo[name].dtype.name) for name in demo if name != "observations"}
        assert shapes == {
            "action": ((6, 6), "float32"),
            "abs_action": ((6, 7), "float32"),
            "state": ((6,), "int64"),
            "abs_joint_pos": ((6, 7), "float32"),
        }
        seen = demo["observations"]
        assert seen["rgb_images"].shape == (6, 2, 48, 48, 3)
        assert seen["depth_images"].shape == (6, 2, 48, 48, 1)
        assert seen["robot_obs"].shape == (6, 1, 7)
        assert seen["torso_obs"].shape == (6, 7)
        colours = {tuple(c) for c in seen["seg_images"][...].reshape(-1, 3)}
        assert colours <= set(LABEL_COLOURS)
        assert json.loads(file["data"].attrs["env_args"])["env_kwargs"]["scene_seed"] == 1_000_006
        assert demo.attrs["num_samples"] == 6


def test_cameras_read_back_are_the_rendered_ones(folder: Path) -> None:
    scene = scenes.sample_scene(1_000_005, heldout=True)
    clip = scenes.render_clip(scene, [None], frames=slice(6), size_px=48, noise_seed=scene.seed)
    with h5py.File(folder / "data_0.hdf5") as file:
        seen = file["data/demo_0/observations"]
        for v, view in enumerate(("room", "wrist")):
            names = ("pos", "quat_w_ros", "intrinsic_matrices")
            pos, quat, k = (torch.tensor(seen[f"{view}_camera_{n}"][...]) for n in names)
            read = Camera.from_ros_pose(pos, quat, k, 48, 48)
            assert torch.allclose(read.cam_from_world, clip.cameras[v].cam_from_world, atol=2e-6)
        assert np.array_equal(seen["rgb_images"][:, 1], clip.rgb[0, 1].numpy())
        assert np.array_equal(seen["depth_images"][:, 0, ..., 0], clip.depth_m[0].numpy())
    with np.load(folder / "data_0_reference.npz") as reference:
        assert reference["rgb"].shape == (2, 6, 48, 48, 3)
        assert json.loads(str(reference["style"]))["table"]


def test_actions_lead_from_pose_to_pose() -> None:
    scene = scenes.sample_scene(12)
    arrays = action_arrays(scene.motion)
    before, after = arrays["observations/robot_obs"][:, 0], arrays["abs_action"]
    assert torch.allclose(before[:, :3] + arrays["action"][:, :3], after[:, :3], atol=1e-6)
    assert torch.equal(before[1:], after[:-1])
    turned = (
        torch.linalg.matrix_exp(_skew(arrays["action"][:, 3:].double()))
        @ rotation_from_quat(before[:, 3:]).double()
    )
    assert torch.allclose(turned, rotation_from_quat(after[:, 3:]).double(), atol=1e-5)
    integrated = arrays["abs_joint_pos"][0] + arrays["observations/joint_vel"].cumsum(0) / 30
    assert torch.allclose(integrated, arrays["abs_joint_pos"], atol=1e-4)


def _skew(v: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros_like(v[:, 0])
    rows = [zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero]
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def test_quaternions_of_hard_rotations() -> None:
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]))
    generator = torch.Generator().manual_seed(1)
    q = torch.nn.functional.normalize(torch.randn(200, 4, generator=generator).double(), dim=-1)
    rotations = torch.cat([half_turns.double(), rotation_from_quat(q)])
    assert torch.allclose(rotation_from_quat(quat_from_rotation(rotations)), rotations, atol=1e-12)


def test_existing_files_and_senseless_counts_are_refused(folder: Path) -> None:
    before = (folder / "data_0.hdf5").read_bytes()
    with pytest.raises(OutputError, match="data_0"):
        scenes.simulate(folder, episodes=1, num_frames=1, size_px=16)
    assert (folder / "data_0.hdf5").read_bytes() == before
    with pytest.raises(UsageError, match="episodes=0"):
        scenes.simulate(folder, episodes=0)
