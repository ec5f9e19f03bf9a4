"""From a finished room view to what the wrist stage starts from: a picture, and which pixels to believe."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.types import FOREGROUND_LABELS, Camera, View
from guided_transfer.warp.fill import fill_over_space, fill_over_time, quieten
from guided_transfer.warp.geometry import follow, invert, relate
from guided_transfer.warp.reference import composite
from guided_transfer.warp.unseen import behind_unseen
from guided_transfer.warp.view import Backend, Mode, WarpedView, warp_view
from guided_transfer.warp.zones import Zone, zone_shares

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WristGuide:
    """What the wrist stage starts from.

    Attributes:
        picture: [T, H, W, 3] uint8; the simulation's foreground over the warped room view.
        zones: [T, H, W] uint8, codes of `Zone`.
        record: JSON-able facts: engine and reason, share of every zone, warnings.
    """

    picture: Tensor
    zones: Tensor
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"WristGuide(picture={list(self.picture.shape)}, record={self.record})"


def guide_for_wrist(
    room: View,
    wrist: View,
    *,
    foreground_labels: Sequence[int] = FOREGROUND_LABELS,
    fill_missing_pixels: bool = True,
    mode: Mode = "exact",
    backend: Backend = "auto",
) -> WristGuide:
    """Carry the room view into the wrist camera.

    The foreground never takes part in the warp: it moves, and the wrist stage keeps the simulation's own. Where
    the wrist's depth is known, a pixel is covered only if the room camera saw the same surface; where it is not,
    only if the way there leads through space that the room camera saw to be empty.

    Args:
        room: `rgb` generated, `depth_m`, `labels` and `camera` of the simulation; labels may be None.
        wrist: the simulated wrist view; `labels` and `camera` are needed, `depth_m` should be there.
        foreground_labels: what counts as foreground in both views.
        fill_missing_pixels: fill holes from other frames, then from their own surface around them.
        mode: "reference" gives the integration's warp, fill and zones, for parity.
        backend: as in `warp_view`.

    Raises:
        UsageError: a view lacks depth, labels or camera, or the views differ in length.
    """
    room_depth_m, room_camera = _need(room, "depth_m"), _need(room, "camera")
    labels, wrist_camera = _need(wrist, "labels"), _need(wrist, "camera")
    if room.num_frames != wrist.num_frames:
        raise UsageError(f"room has {room.num_frames} frames, wrist has {wrist.num_frames}")
    foreground = _is_any(labels, foreground_labels)
    usable = None if room.labels is None else ~_is_any(room.labels, foreground_labels)
    if mode == "reference":
        warped = warp_view(
            room.rgb, room_depth_m, room_camera, wrist_camera, mask=usable, mode=mode, backend=backend
        )
        pixels = (warped.rgb, warped.covered, wrist.rgb, labels, foreground)
        picture, zones = composite(*pixels, fill=fill_missing_pixels)
        return WristGuide(picture, zones, _record(warped, zones))

    usable = None if usable is None else _without_rim(usable)
    source = (room.rgb, room_depth_m, room_camera)
    warped = warp_view(*source, wrist_camera, mask=usable, target_depth_m=wrist.depth_m, backend=backend)
    covered = warped.covered
    if wrist.depth_m is None:
        relation = relate(room_camera, wrist_camera)
        covered = covered & ~behind_unseen(relation, warped.inverse_depth, room_depth_m, usable)
    picture, zones = warped.rgb, _zones(covered, foreground, room_camera, wrist_camera, wrist.depth_m)
    if fill_missing_pixels and wrist.depth_m is not None:
        picture, filled = fill_over_time(
            picture, zones < Zone.FILLED, *source, wrist_camera, usable, wrist.depth_m, backend
        )
        zones[filled] = Zone.FILLED
        picture, filled = fill_over_space(
            picture, _is_background(zones), zones == Zone.HOLE, invert(wrist.depth_m), labels
        )
        zones[filled] = Zone.FILLED
    picture = quieten(picture, _is_background(zones))
    picture = torch.where(foreground[..., None], wrist.rgb, picture)
    return WristGuide(picture, zones, _record(warped, zones))


def _need(view: View, name: str) -> Any:
    value = getattr(view, name)
    if value is None:
        raise UsageError(f"view {view.name!r} has no {name}; the warp needs depth, labels and camera of both views")
    return value


def _is_any(labels: Tensor, wanted: Sequence[int]) -> Tensor:
    return torch.isin(labels, torch.tensor(list(wanted), dtype=labels.dtype, device=labels.device))


def _without_rim(usable: Tensor) -> Tensor:
    """Less the pixels beside unusable ones: an outline blends both colours, and magnified it shows as a smear."""
    unusable = F.max_pool2d(1 - usable[:, None].float(), 3, stride=1, padding=1)
    return unusable[:, 0] == 0


def _is_background(zones: Tensor) -> Tensor:
    return (zones == Zone.COVERED) | (zones == Zone.FILLED)


def _zones(
    covered: Tensor, foreground: Tensor, room: Camera, wrist: Camera, wrist_depth_m: Tensor | None
) -> Tensor:
    zones = torch.full(covered.shape, Zone.OUT_OF_SIGHT, dtype=torch.uint8, device=covered.device)
    if wrist_depth_m is not None:
        zones[_in_sight(room, wrist, wrist_depth_m)] = Zone.HOLE
    zones[covered] = Zone.COVERED
    zones[foreground] = Zone.FOREGROUND
    return zones


def _in_sight(room: Camera, wrist: Camera, wrist_depth_m: Tensor) -> Tensor:
    """[T, H, W] bool: which points of the wrist view fall into the room picture, hidden there or not."""
    relation = relate(room, wrist)
    sight = []
    for t, inverse_depth in enumerate(invert(wrist_depth_m)):
        u, v, scale = follow(relation, t, inverse_depth)
        inside = (u >= 0) & (u < room.width_px) & (v >= 0) & (v < room.height_px)
        sight.append(inside & (scale > 0) & (inverse_depth > 0))
    return torch.stack(sight) if sight else torch.zeros(wrist_depth_m.shape, dtype=torch.bool)


def _record(warped: WarpedView, zones: Tensor) -> dict[str, Any]:
    shares = zone_shares(zones)
    warnings = []
    if not warped.covered.any():
        warnings.append(
            "no wrist pixel shows anything the room camera saw: the views do not overlap, or poses, depth or "
            "labels are wrong; the wrist background is left to the prompt alone"
        )
    for warning in warnings:
        log.warning(warning)
    log.info("warp engine: %s (%s)", warped.engine, warped.reason)
    return {"engine": warped.engine, "reason": warped.reason, "zones": shares, "warnings": warnings}
