"""A scene drawn from a seed: room, furniture, table, phantom, arm, cameras, trajectory.

World: origin on the table top under the phantom, z up, metres. The room camera stands where the integration
has it, about (0.56, 0.56, 0.36), and looks across the phantom at the arm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.scenes.arm import Motion, arm_solids, plan_motion
from guided_transfer.scenes.furniture import PIECES, Stage, lay_out_clutter, rotation_z
from guided_transfer.scenes.solids import Kind, Pinhole, Solids, Torso
from guided_transfer.scenes.styles import SIM_ARMS, SIM_PHANTOMS, SIM_ROOMS, Slot

HELDOUT_SCENE_SEEDS = range(1_000_000, 2_000_000)
"""Reserved for evaluation: nothing is trained on scenes with these seeds. Training uses seeds below."""

FLOOR_Z_M = -0.78
FOCAL_PX = 128.3
"""12 mm focal length and 20.955 mm aperture on 224 px, as the integration's room camera has."""

SIZE_PX = 224
GROUND, TABLE, PHANTOM = 1, 2, 3


@dataclass(frozen=True)
class Scene:
    """Geometry and motion, without appearance.

    Attributes:
        seed: it was drawn from; heldout: whether it is reserved for evaluation.
        still, moving: solids that stand and the arm; still has T = 1, moving one pose per frame.
        torso: the phantom's shape, also found in `still`.
        motion: actions and states, one per frame.
        room, wrist: cameras; room has T = 1.
        torso_pose: [7] phantom position and quaternion wxyz.
        sim_arm, sim_phantom, sim_room: names of the plain colours of the simulated look.
    """

    seed: int
    heldout: bool
    still: Solids
    moving: Solids
    torso: Torso
    motion: Motion
    room: Pinhole
    wrist: Pinhole
    torso_pose: Tensor
    sim_arm: str
    sim_phantom: str
    sim_room: str

    @property
    def num_frames(self) -> int:
        return len(self.wrist.position_m)


def sample_scene(seed: int, *, heldout: bool = False) -> Scene:
    """Draw a scene; the same seed gives the same scene on every machine.

    Args:
        seed: held-out scenes need a seed of HELDOUT_SCENE_SEEDS, the others one outside it.
        heldout: draw the simulated arm and phantom colours from the reserved ones.

    Raises:
        UsageError: the seed belongs to the other share.
    """
    if heldout != (seed in HELDOUT_SCENE_SEEDS):
        raise UsageError(
            f"scene seed {seed} with heldout={heldout}: seeds {HELDOUT_SCENE_SEEDS.start} to "
            f"{HELDOUT_SCENE_SEEDS.stop - 1} are reserved for evaluation (heldout=True), all others for training"
        )
    rng = Random(f"scene {seed}")
    room = _room_camera(rng)
    torso = _sample_torso(rng)
    torso_yaw = math.radians(-45 + rng.uniform(-16, 16))
    torso_centre = torch.tensor([rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), 0.55 * torso.height_m[0]])
    base = _base_position(rng)

    stage = Stage(rng)
    _build_room(stage)
    _build_table(stage, base)
    _build_torso(stage.at(torso_centre, torso_yaw), torso)
    motion = plan_motion(rng, torso, torso_centre, torso_yaw, base)
    lay_out_clutter(stage, torso_yaw)
    pose = torch.cat([torso_centre, torch.tensor([math.cos(torso_yaw / 2), 0, 0, math.sin(torso_yaw / 2)])])
    return Scene(
        seed,
        heldout,
        stage.solids(torso),
        arm_solids(motion),
        torso,
        motion,
        room,
        motion.wrist_camera(rng.uniform(118.0, 132.0), SIZE_PX),
        pose,
        rng.choice(sorted(n for n, look in SIM_ARMS.items() if look.heldout == heldout)),
        rng.choice(sorted(n for n, look in SIM_PHANTOMS.items() if look.heldout == heldout)),
        rng.choice(sorted(SIM_ROOMS)),
    )


def _room_camera(rng: Random) -> Pinhole:
    position = torch.tensor([0.559, 0.560, 0.362]) + torch.tensor([rng.uniform(-0.04, 0.04) for _ in range(3)])
    target = torch.tensor([rng.uniform(-0.1, 0.0), rng.uniform(-0.1, 0.0), rng.uniform(0.08, 0.16)])
    forward = target - position
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    down = torch.linalg.cross(forward, right)
    return Pinhole(position[None], torch.stack([right, down, forward], 1)[None], FOCAL_PX, SIZE_PX)


def _sample_torso(rng: Random) -> Torso:
    """Chest, waist and hips as a polynomial profile; from a slender torso to a barrel of an abdomen."""
    half_length = rng.uniform(0.24, 0.30)
    width, height = rng.uniform(0.115, 0.150), rng.uniform(0.085, 0.110)
    waist, shoulder = rng.uniform(0.1, 0.55), rng.uniform(0.0, 0.16)
    belly, chest = rng.uniform(-0.35, 0.15), rng.uniform(-0.04, 0.14)
    return Torso(
        half_length,
        (width, 0.5 * shoulder * width, waist * width, shoulder * width, -0.55 * waist * width),
        (height, chest * height, -belly * height, 0.0, 0.6 * belly * height),
        rng.uniform(2.0, 2.5),
        rng.uniform(3.5, 6.0),
    )


def _base_position(rng: Random) -> Tensor:
    """Behind the phantom as the room camera sees it, somewhat to one side."""
    back, side = rng.uniform(0.34, 0.44), rng.uniform(0.10, 0.30) * rng.choice([-1, 1])
    diagonal = math.sqrt(0.5)
    return torch.tensor([(-back + side) * diagonal, (-back - side) * diagonal, 0.0])


def _build_torso(stage: Stage, torso: Torso) -> None:
    def part(kind: Kind, centre: tuple[float, float, float], size: tuple[float, float, float]) -> None:
        stage.add(kind, Slot.PHANTOM, centre, size, label=PHANTOM, casts=True, even=True)

    width, height, length = torso.width_m[0] * 1.5, torso.height_m[0] * 1.5, torso.half_length_m
    part(Kind.TORSO, (0, 0, 0), (length, width, height))
    if stage.rng.random() < 0.8:
        w, h = torso.width_m[0], torso.height_m[0]
        part(Kind.ELLIPSOID, (length * 1.02, 0, -0.1 * h), (0.075, 0.052, 0.050))
        thighs = stage.rng.random() < 0.5
        for sign in (-1, 1):
            stump = (length * 0.66, sign * w * 0.93, -0.05 * h)
            part(Kind.ELLIPSOID, stump, (0.070, 0.058, 0.056))
            if thighs:
                stump = (-length * 0.93, sign * w * 0.48, -0.08 * h)
                part(Kind.ELLIPSOID, stump, (0.095, 0.44 * w, 0.72 * h))


def _build_table(stage: Stage, base: Tensor) -> None:
    """A table top 4 to 6 cm thick with legs, a pedestal or a closed body; its top is z = 0."""
    rng = stage.rng
    angle = math.radians(rng.choice([-45, -45, -45, 0, 45]) + rng.uniform(-9, 9))
    along, across = rng.uniform(0.58, 0.78), rng.uniform(0.46, 0.58)
    centre = torch.tensor([-0.14, -0.14, 0.0]) + 0.25 * (base - torch.tensor([-0.32, -0.32, 0.0]))
    stage.at(centre, angle)
    thick = rng.uniform(0.018, 0.03)
    if angle > -0.5:  # the phantom lies across, or diagonally
        across = max(across, 0.58)
    stage.add(Kind.BOX, Slot.TABLE, (0, 0, -thick), (along, across, thick), label=TABLE, even=True, casts=True)
    under = -2 * thick
    height = (under - FLOOR_Z_M) / 2
    support = rng.random()
    if support < 0.5:
        for x in (-1, 1):
            for y in (-1, 1):
                leg = (x * (along - 0.06), y * (across - 0.06), under - height)
                stage.add(Kind.BOX, Slot.FRAME, leg, (0.025, 0.025, height), label=TABLE)
    elif support < 0.8:
        stage.add(Kind.CYLINDER, Slot.FRAME, (0, 0, under - height), (0.09, 0.09, height), label=TABLE)
        stage.add(Kind.BOX, Slot.FRAME, (0, 0, FLOOR_Z_M + 0.03), (0.45, 0.3, 0.03), label=TABLE)
    else:
        body = (along - 0.08, across - 0.08, height - 0.02)
        stage.add(Kind.BOX, Slot.CABINET, (0, 0, under - height + 0.02), body, label=TABLE)


def _build_room(stage: Stage) -> None:
    """Four walls about two metres away, and furniture along those the room camera sees."""
    rng = stage.rng
    angle = math.radians(rng.uniform(0, 90))
    half = (rng.uniform(1.9, 2.5), rng.uniform(1.9, 2.5), rng.uniform(1.25, 1.45))
    centre = torch.tensor([rng.uniform(-0.25, 0.1), rng.uniform(-0.25, 0.1), FLOOR_Z_M + half[2]])
    stage.at(centre, angle).add(Kind.ROOM, Slot.WALL, (0, 0, 0), half, even=True)
    view = torch.tensor([-math.sqrt(0.5), -math.sqrt(0.5)])
    for quarter in range(4):
        outward = rotation_z(angle + quarter * math.pi / 2)[:2, 0]
        facing = float(outward @ view)
        if facing > 0.15:
            _furnish_wall(stage, centre, angle + quarter * math.pi / 2, half[quarter % 2], half[1 - quarter % 2])


def _furnish_wall(stage: Stage, centre: Tensor, angle: float, distance: float, half_width: float) -> None:
    """Pieces side by side along one wall; x points along the wall, y into the room, z up from the floor."""
    rng = stage.rng
    outward = rotation_z(angle)[:, 0]
    foot = torch.tensor([float(centre[0]), float(centre[1]), FLOOR_Z_M]) + outward * distance
    stage.at(foot, angle + math.pi / 2)
    position = -half_width + rng.uniform(0.35, 0.7)
    count = 0
    while position < half_width - 0.35 and count < 4:
        piece, width = rng.choice(PIECES)
        if rng.random() < 0.82 and position + width < half_width:
            piece(stage, position + width / 2)
            count += 1
        position += width + rng.uniform(0.05, 0.35)
