"""The nouns that cross rooms: small, frozen, checked on construction, printed as shapes.

Axes, quaternion order, pixel centres, colour range and time are fixed in docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from guided_transfer.errors import EpisodeInconsistent

Numerics: TypeAlias = Literal["exact", "reference"]
"""How numbers are rounded: "exact" in float32 where it matters, "reference" as the official run does (bfloat16)."""

ROTATION_TOLERANCE = 1e-3
"""Largest entry of R R^T - 1 that still counts as a rotation; float32 poses reach about 1e-6."""


LABEL_COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
"""RGB of labels 0..4 in the simulator's segmentation: unlabelled, ground, table, organ or phantom, robot."""

FOREGROUND_LABELS = (3, 4)
"""What is kept as simulated unless the user says otherwise: phantom and robot."""


def summarise(value: object) -> str:
    """Shape, dtype and device of a tensor, or the plain repr of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {summarise(v)}" for k, v in value.items()) + "}"
    return repr(value)


class _Noun:
    """Prints shapes, not pixels."""

    def __repr__(self) -> str:
        parts = (f"{f.name}={summarise(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise EpisodeInconsistent(reason)


@dataclass(frozen=True, repr=False)
class Camera(_Noun):
    """A pinhole camera, one pose and one set of intrinsics per frame.

    Attributes:
        intrinsics_px: [T, 3, 3] float64, pixels; the image centre is (width_px / 2, height_px / 2).
        cam_from_world: [T, 4, 4] float64, metres; maps world points to camera points
            (x right, y down, z forward along the optical axis).
        height_px, width_px: size of the image the intrinsics belong to.

    Raises:
        EpisodeInconsistent: wrong shapes, non-finite values, focal lengths that are not positive,
            a singular matrix, or a rotation that is none.
    """

    intrinsics_px: Tensor
    cam_from_world: Tensor
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        k, e = self.intrinsics_px, self.cam_from_world
        _require(k.ndim == 3 and k.shape[1:] == (3, 3), f"intrinsics_px must be [T, 3, 3], got {list(k.shape)}")
        _require(e.ndim == 3 and e.shape[1:] == (4, 4), f"cam_from_world must be [T, 4, 4], got {list(e.shape)}")
        _require(len(k) == len(e), f"{len(k)} intrinsics for {len(e)} poses; one of each per frame is needed")
        _require(self.height_px > 0 and self.width_px > 0, f"empty image {self.height_px} x {self.width_px}")
        _require(bool(torch.isfinite(k).all()), "intrinsics_px holds values that are not finite")
        _require(bool(torch.isfinite(e).all()), "cam_from_world holds values that are not finite")
        focal_px = torch.stack([k[:, 0, 0], k[:, 1, 1]])
        _require(bool((focal_px > 0).all()), f"focal lengths must be positive, smallest is {focal_px.min():g} px")
        bottom = k.new_tensor([0.0, 0.0, 1.0])
        _require(bool((k[:, 2] == bottom).all()), "the last row of intrinsics_px must be 0, 0, 1")
        rotation = e[:, :3, :3]
        eye = torch.eye(3, dtype=e.dtype, device=e.device)
        error = (rotation @ rotation.mT - eye).abs().amax() if len(e) else e.new_zeros(())
        _require(
            bool(error < ROTATION_TOLERANCE) and bool((torch.linalg.det(rotation) > 0).all()),
            f"cam_from_world holds a matrix that is no rotation (R R^T is off by {error:.2g})",
        )

    @classmethod
    def from_ros_pose(
        cls,
        position_m: Tensor,
        quat_wxyz: Tensor,
        intrinsics_px: Tensor,
        height_px: int,
        width_px: int,
    ) -> Camera:
        """Build a camera from world poses in the ROS optical convention.

        Args:
            position_m: [T, 3] camera centre in the world.
            quat_wxyz: [T, 4] rotation camera -> world, order w, x, y, z, of unit length.
            intrinsics_px: [T, 3, 3].
            height_px: rows of the image.
            width_px: its columns.

        Raises:
            EpisodeInconsistent: a quaternion's length is off by more than 1e-3, or see the class.
        """
        q = quat_wxyz.to(torch.float64)
        length = q.norm(dim=-1, keepdim=True)
        worst = (length - 1).abs().amax() if len(q) else q.new_zeros(())
        _require(bool(worst < ROTATION_TOLERANCE), f"quaternion lengths differ from 1 by up to {worst:.2g}")
        world_from_cam = rotation_from_quat(q / length)
        rotation = world_from_cam.mT
        pose = torch.eye(4, dtype=torch.float64, device=q.device).repeat(len(q), 1, 1)
        pose[:, :3, :3] = rotation
        pose[:, :3, 3] = -(rotation @ position_m.to(torch.float64)[..., None])[..., 0]
        return cls(intrinsics_px.to(torch.float64), pose, height_px, width_px)

    def __len__(self) -> int:
        return len(self.intrinsics_px)

    def __getitem__(self, frames: slice) -> Camera:
        return Camera(self.intrinsics_px[frames], self.cam_from_world[frames], self.height_px, self.width_px)

    def to(self, device: torch.device | str) -> Camera:
        """The same camera with its tensors on `device`."""
        return Camera(self.intrinsics_px.to(device), self.cam_from_world.to(device), self.height_px, self.width_px)

    def resized(self, height_px: int, width_px: int) -> Camera:
        """The same view sampled at another image size (pixel centres at i + 0.5, so scaling is exact)."""
        scale = torch.diag(
            self.intrinsics_px.new_tensor([width_px / self.width_px, height_px / self.height_px, 1.0])
        )
        return Camera(scale @ self.intrinsics_px, self.cam_from_world, height_px, width_px)


def rotation_from_quat(quat_wxyz: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4] in the order w, x, y, z."""
    w, x, y, z = quat_wxyz.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


@dataclass(frozen=True, repr=False)
class View(_Noun):
    """What one camera saw over T frames.

    Attributes:
        name: "room", "wrist", or what the schema calls it.
        rgb: [T, H, W, 3] uint8.
        depth_m: [T, H, W] float32, metres along the optical axis, inf where nothing was hit; or None.
        labels: [T, H, W] uint8, 0 = unlabelled (docs/conventions.md lists the others); or None.
        camera: intrinsics and poses; or None.
        controls: pictures of vision models, by kind of control: [T, H, W, 3] uint8. They win over what could be
            computed from the other fields.
        control_weights: maps that a control's weight is multiplied with, by kind: [T, H, W] float32.
    """

    name: str
    rgb: Tensor
    depth_m: Tensor | None = None
    labels: Tensor | None = None
    camera: Camera | None = None
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    control_weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rgb = self.rgb
        _require(
            rgb.ndim == 4 and rgb.shape[-1] == 3, f"{self.name}: rgb must be [T, H, W, 3], got {list(rgb.shape)}"
        )
        _require(rgb.dtype == torch.uint8, f"{self.name}: rgb must be uint8, got {rgb.dtype}")
        pixels = {"depth_m": self.depth_m, "labels": self.labels}
        pixels |= {f"control_weights[{kind!r}]": weights for kind, weights in self.control_weights.items()}
        pixels |= {f"controls[{kind!r}]": frames[..., 0] for kind, frames in self.controls.items()}
        for name, value in pixels.items():
            _require(
                value is None or value.shape == rgb.shape[:3],
                f"{self.name}: {name} is {None if value is None else list(value.shape)}, "
                f"rgb has {list(rgb.shape[:3])} frames, rows and columns",
            )
        if self.camera is not None:
            size = (len(self.camera), self.camera.height_px, self.camera.width_px)
            _require(
                size == tuple(rgb.shape[:3]), f"{self.name}: camera is for {size}, rgb is {tuple(rgb.shape[:3])}"
            )

    @property
    def num_frames(self) -> int:
        return len(self.rgb)

    def __getitem__(self, frames: slice) -> View:
        return View(
            self.name,
            self.rgb[frames],
            None if self.depth_m is None else self.depth_m[frames],
            None if self.labels is None else self.labels[frames],
            None if self.camera is None else self.camera[frames],
            {kind: video[frames] for kind, video in self.controls.items()},
            {kind: weights[frames] for kind, weights in self.control_weights.items()},
        )


@dataclass(frozen=True, repr=False)
class Episode(_Noun):
    """One demonstration: the same T frames seen by every camera.

    Attributes:
        id: "<file stem>/<demo>", for example "data_0/demo_0"; seeds are derived from it.
        fps: frames per second.
        views: by camera name, in the file's order.
        source: the file it came from, or None for one made in memory.
    """

    id: str
    fps: float
    views: Mapping[str, View]
    source: Path | None = None

    def __post_init__(self) -> None:
        _require(bool(self.views), f"{self.id}: an episode needs at least one view")
        _require(self.fps > 0, f"{self.id}: fps must be positive, got {self.fps}")
        lengths = {name: view.num_frames for name, view in self.views.items()}
        _require(len(set(lengths.values())) == 1, f"{self.id}: views differ in length: {lengths}")

    @property
    def num_frames(self) -> int:
        return next(iter(self.views.values())).num_frames

    def __getitem__(self, frames: slice) -> Episode:
        views = {name: view[frames] for name, view in self.views.items()}
        return Episode(self.id, self.fps, views, self.source)


@dataclass(frozen=True, repr=False)
class ControlVideo(_Noun):
    """A picture sequence that steers the generation through one control branch.

    Attributes:
        kind: which branch ("edge", "vis", "depth", "seg", "keypoint", "upscale", ...).
        frames: [T, H, W, 3] uint8.
        weight: a number, or a map [T, H, W] float32; before normalisation over all controls.
    """

    kind: str
    frames: Tensor
    weight: float | Tensor = 1.0

    def __post_init__(self) -> None:
        frames = self.frames
        _require(
            frames.ndim == 4 and frames.shape[-1] == 3 and frames.dtype == torch.uint8,
            f"control {self.kind}: frames must be uint8 [T, H, W, 3], got {summarise(frames)}",
        )
        if isinstance(self.weight, Tensor):
            _require(
                self.weight.shape == frames.shape[:3],
                f"control {self.kind}: weight map is {[*self.weight.shape]}, frames are {[*frames.shape[:3]]}",
            )


@dataclass(frozen=True, repr=False)
class SpatialGuidance(_Noun):
    """Which pixels are held at the given video while the noise level is above a threshold.

    Attributes:
        keep: [T, H, W] float32 in 0..1; held while sigma > sigma_threshold (the foreground).
        background: [T, H, W] float32 in 0..1 or None; held only while sigma > 2.5 * sigma_threshold
            (the warped background of a second view).
        sigma_threshold: lower means more guided steps, more faithful, less free.
        match_rim: let background that is held beside the foreground change as its surroundings do.
    """

    keep: Tensor
    background: Tensor | None
    sigma_threshold: float
    match_rim: bool = False

    def __post_init__(self) -> None:
        _require(self.keep.ndim == 3, f"keep must be [T, H, W], got {list(self.keep.shape)}")
        _require(
            self.background is None or self.background.shape == self.keep.shape,
            f"background is {summarise(self.background)}, keep is {summarise(self.keep)}",
        )


@dataclass(frozen=True, repr=False)
class TransferResult(_Noun):
    """What came out for one episode.

    Attributes:
        episode_id: of the source.
        rgb: generated frames by view name, [T, H, W, 3] uint8 at the source's size.
        prompts: by view name.
        record: JSON-able facts: seeds, effective settings, zones, timings, peak memory, metrics.
        ceilings: by view name, the given frames as the tokenizer alone gives them back, like `rgb`.
        zones: of a view that started from a warped one, what is known of each pixel: [T, H, W] uint8, warp.Zone.
        seen: the source as it was transferred, with what vision models have added to it; None where nobody asks.
    """

    episode_id: str
    rgb: Mapping[str, Tensor]
    prompts: Mapping[str, str]
    record: Mapping[str, Any] = field(default_factory=dict)
    ceilings: Mapping[str, Tensor] = field(default_factory=dict)
    zones: Mapping[str, Tensor] = field(default_factory=dict)
    seen: Episode | None = None
