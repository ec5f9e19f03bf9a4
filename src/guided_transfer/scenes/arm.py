"""The jointed arm: a smooth approach, contact and scan, joint angles in closed form, and its solids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from random import Random

import torch
from torch import Tensor

from guided_transfer.scenes.solids import Kind, Pinhole, Solids, Torso
from guided_transfer.scenes.styles import Slot

ROBOT = 4
"""Semantic label."""

FPS = 30.0
MAX_SPEED_MPS = 0.085
"""Of the probe's tip: about 1.5 pixels a frame in the wrist view."""

HOVER_M = 0.04
"""Height over the phantom between approach and contact."""

SHOULDER_Z_M = 0.27
UPPER_M, FOREARM_M = 0.38, 0.35
WRIST_TO_TIP_M = 0.29
CAMERA_BACK_M, CAMERA_SIDE_M = 0.215, 0.085
"""Wrist camera: behind the tip along the probe, and beside it."""


class Phase(IntEnum):
    """Values of the data set `state`."""

    SETUP = 0
    APPROACH = 1
    CONTACT = 2
    SCANNING = 3
    DONE = 4


@dataclass(frozen=True)
class Motion:
    """The arm over N frames.

    Attributes:
        tip_m: [N, 3] the probe's tip; tool: [N, 3, 3] world from tool, z along the probe, x to the camera's side.
        elbow_m, wrist_m: [N, 3]; base_m: [3].
        joints_rad: [N, 7]; phase: [N] int64, values of Phase.
    """

    tip_m: Tensor
    tool: Tensor
    elbow_m: Tensor
    wrist_m: Tensor
    base_m: Tensor
    joints_rad: Tensor
    phase: Tensor

    def wrist_camera(self, focal_px: float, size_px: int) -> Pinhole:
        """Fixed to the tool, tilted towards the tip, which it sees at the lower middle of the picture."""
        side, axis = self.tool[:, :, 0], self.tool[:, :, 2]
        tilt = 0.45 * math.atan2(CAMERA_SIDE_M, CAMERA_BACK_M)
        forward = math.cos(tilt) * axis - math.sin(tilt) * side
        down = -math.cos(tilt) * side - math.sin(tilt) * axis
        right = torch.linalg.cross(down, forward)
        position = self.tip_m - CAMERA_BACK_M * axis + CAMERA_SIDE_M * side
        return Pinhole(position, torch.stack([right, down, forward], -1), focal_px, size_px)


def minimum_jerk(frames: int) -> Tensor:
    """Positions from 0 to 1 that start and end at rest, without the first: [frames]."""
    s = torch.arange(1, frames + 1, dtype=torch.float64) / frames
    return s**3 * (10 - 15 * s + 6 * s * s)


def _frames_for(distance_m: float) -> int:
    """So that the peak of the minimum-jerk profile, 15/8 of the mean speed, stays below MAX_SPEED_MPS."""
    return max(12, math.ceil(1.875 * distance_m / MAX_SPEED_MPS * FPS))


def plan_motion(rng: Random, torso: Torso, torso_centre: Tensor, torso_yaw: float, base: Tensor) -> Motion:
    """Hover, touch down on the phantom, scan along it, rest; 120 to 230 frames."""
    c, s = math.cos(torso_yaw), math.sin(torso_yaw)
    turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    centre = torso_centre.double()

    span = rng.uniform(0.16, 0.30) * torso.half_length_m * rng.choice([-1, 1])
    middle = rng.uniform(-0.2, 0.2) * torso.half_length_m
    drift = rng.uniform(-0.025, 0.025)
    scan_frames = max(50, _frames_for(2.2 * abs(span)))
    along = torch.cat([torch.zeros(1, dtype=torch.float64), minimum_jerk(scan_frames)])
    x = middle + span * (2 * along - 1)
    y = drift * (2 * along - 1) + 0.012 * torch.sin(math.pi * along) * rng.uniform(-1, 1)
    local = torch.stack([x, y, torso.top_m(x, y)], -1)
    surface = centre + local @ turn.T
    normal = torso.gradient(local.T).T @ turn.T
    normal = normal / normal.norm(dim=-1, keepdim=True)
    lean = rng.uniform(0.3, 0.8)
    outward = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) * (1 - lean) + normal * lean
    outward = outward / outward.norm(dim=-1, keepdim=True)

    hover = surface[0] + HOVER_M * outward[0]
    start = hover + torch.tensor([rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(0.04, 0.08)])
    setup, rest = rng.randint(3, 6), rng.randint(3, 6)
    approach = minimum_jerk(_frames_for(float((hover - start).norm())))[:, None]
    contact = minimum_jerk(_frames_for(HOVER_M))[:, None]
    tip = torch.cat(
        [
            start.expand(setup, 3),
            start + approach * (hover - start),
            hover + contact * (surface[0] - hover),
            surface[1:],
            surface[-1:].expand(rest, 3),
        ]
    )
    before = setup + len(approach) + len(contact)
    up = torch.cat([outward[:1].expand(before, 3), outward[1:], outward[-1:].expand(rest, 3)])
    counts = [setup, len(approach), len(contact), scan_frames, rest]
    phase = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    tool = _tool_frames(rng, up, base)
    return _solve(tip, tool, base.double(), phase)


def _tool_frames(rng: Random, outward: Tensor, base: Tensor) -> Tensor:
    """Probe along -outward; the camera on the side away from the base, turned a little per scene."""
    angle = math.atan2(-float(base[1]), -float(base[0])) + math.radians(rng.uniform(-50, 50))
    swing = math.radians(rng.uniform(-6, 6)) * minimum_jerk(len(outward))
    away = torch.stack([torch.cos(angle + swing), torch.sin(angle + swing), torch.zeros_like(swing)], -1)
    z = -outward
    x = away - (away * z).sum(-1, keepdim=True) * z
    x = x / x.norm(dim=-1, keepdim=True)
    return torch.stack([x, torch.linalg.cross(z, x), z], -1)


def _solve(tip: Tensor, tool: Tensor, base: Tensor, phase: Tensor) -> Motion:
    """Two-link inverse kinematics, elbow up, in the vertical plane through shoulder and wrist."""
    wrist = tip - WRIST_TO_TIP_M * tool[:, :, 2]
    shoulder = base + torch.tensor([0.0, 0.0, SHOULDER_Z_M], dtype=torch.float64)
    reach = wrist - shoulder
    distance = reach.norm(dim=-1, keepdim=True).clamp(max=0.995 * (UPPER_M + FOREARM_M))
    direction = reach / reach.norm(dim=-1, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    bend = up - (direction @ up)[:, None] * direction
    bend = bend / bend.norm(dim=-1, keepdim=True)
    cosine = (UPPER_M**2 + distance**2 - FOREARM_M**2) / (2 * UPPER_M * distance)
    elbow = shoulder + UPPER_M * (cosine * direction + (1 - cosine**2).clamp(min=0).sqrt() * bend)
    joints = _joint_angles(shoulder, elbow, wrist, tool)
    return Motion(tip.float(), tool.float(), elbow.float(), wrist.float(), base.float(), joints.float(), phase)


def _joint_angles(shoulder: Tensor, elbow: Tensor, wrist: Tensor, tool: Tensor) -> Tensor:
    """Base yaw, shoulder, upper-arm roll (0), elbow, and three wrist angles: [N, 7] rad.

    The wrist angles are the yaw-pitch-roll of the tool relative to the forearm.
    """
    upper, fore = elbow - shoulder, wrist - elbow
    yaw = torch.atan2(fore[:, 1] + upper[:, 1], fore[:, 0] + upper[:, 0])
    radial = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], -1)
    pitch_upper = torch.atan2((upper * radial).sum(-1), upper[:, 2])
    pitch_fore = torch.atan2((fore * radial).sum(-1), fore[:, 2])
    side = torch.stack([-yaw.sin(), yaw.cos(), torch.zeros_like(yaw)], -1)
    along = fore / fore.norm(dim=-1, keepdim=True)
    frame = torch.stack([torch.linalg.cross(side, along), side, along], -1)
    relative = frame.mT @ tool
    roll_fore = torch.atan2(relative[:, 1, 2], relative[:, 0, 2])
    bend = torch.acos(relative[:, 2, 2].clamp(-1, 1))
    roll_tool = torch.atan2(relative[:, 2, 1], -relative[:, 2, 0])
    angles = [yaw, pitch_upper, torch.zeros_like(yaw), pitch_fore - pitch_upper, roll_fore, bend, roll_tool]
    return torch.stack([_unwrap(a) for a in angles], -1)


def _unwrap(angle: Tensor) -> Tensor:
    step = torch.diff(angle, prepend=angle[:1])
    return angle - 2 * math.pi * torch.cumsum(torch.round(step / (2 * math.pi)), 0)


def arm_solids(motion: Motion) -> Solids:
    """Base, links, joint housings, hand and probe as capsules, cylinders and boxes: T = N."""
    n = len(motion.tip_m)
    shoulder = (motion.base_m + torch.tensor([0.0, 0.0, SHOULDER_Z_M])).expand(n, 3)
    elbow, wrist, tip = motion.elbow_m, motion.wrist_m, motion.tip_m
    side_axis, axis = motion.tool[:, :, 0], motion.tool[:, :, 2]
    hinge = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand(n, 3), wrist - shoulder, dim=-1)
    hinge = hinge / hinge.norm(dim=-1, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0]).expand(n, 3)
    base = motion.base_m.expand(n, 3)
    wrist_end = wrist + 0.055 * axis

    rows: list[tuple[Kind, Slot, Tensor, Tensor, tuple[float, float, float]]] = []

    def link(slot: Slot, start: Tensor, end: Tensor, radius: float) -> None:
        half = float((end - start).norm(dim=-1).mean()) / 2
        rows.append((Kind.CAPSULE, slot, (start + end) / 2, _frames_along(end - start), (radius, radius, half)))

    rows.append((Kind.CYLINDER, Slot.JOINT, base + 0.015 * up, _frames_along(up), (0.10, 0.10, 0.015)))
    rows.append((Kind.CYLINDER, Slot.ARM, base + 0.12 * up, _frames_along(up), (0.072, 0.072, 0.10)))
    link(Slot.JOINT, shoulder - 0.06 * hinge, shoulder + 0.06 * hinge, 0.073)
    link(Slot.ARM, shoulder, elbow, 0.058)
    link(Slot.JOINT, elbow - 0.05 * hinge, elbow + 0.05 * hinge, 0.063)
    link(Slot.ARM, elbow, wrist, 0.049)
    link(Slot.JOINT, wrist - 0.03 * hinge, wrist + 0.03 * hinge, 0.052)
    rows.append((Kind.CYLINDER, Slot.ARM, wrist_end, motion.tool, (0.038, 0.038, 0.03)))
    rows.append((Kind.BOX, Slot.JOINT, tip - 0.20 * axis, motion.tool, (0.026, 0.044, 0.022)))
    link(Slot.PROBE, tip - 0.17 * axis, tip - 0.045 * axis, 0.019)
    rows.append((Kind.ELLIPSOID, Slot.PROBE, tip - 0.030 * axis, motion.tool, (0.017, 0.031, 0.030)))
    camera = tip - (CAMERA_BACK_M + 0.035) * axis + (CAMERA_SIDE_M - 0.012) * side_axis
    rows.append((Kind.BOX, Slot.JOINT, camera, motion.tool, (0.014, 0.036, 0.012)))

    kind, slot, centre, rotation, size = zip(*rows, strict=True)
    return Solids(
        kind,
        slot,
        (ROBOT,) * len(rows),
        torch.ones(len(rows)),
        torch.tensor(size),
        torch.stack(centre, 1),
        torch.stack(rotation, 1),
        (True,) * len(rows),
        None,
        tuple(
            s.index(max(s)) if k not in (Kind.CAPSULE, Kind.CYLINDER) else 2
            for k, s in zip(kind, size, strict=True)
        ),
    )


def _frames_along(axis: Tensor) -> Tensor:
    """Rotations [N, 3, 3] whose third columns are the directions of `axis` [N, 3]."""
    z = axis / axis.norm(dim=-1, keepdim=True)
    level = (z[:, 2:].abs() > 0.95).to(z.dtype)
    helper = torch.cat([level, torch.zeros_like(level), 1 - level], -1)
    x = torch.linalg.cross(helper, z)
    x = x / x.norm(dim=-1, keepdim=True)
    return torch.stack([x, torch.linalg.cross(z, x), z], -1)
