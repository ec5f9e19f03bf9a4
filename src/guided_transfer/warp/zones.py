"""Which part of the wrist picture is to be believed, and the form in which the next stage takes it."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Zone(IntEnum):
    """What a wrist pixel shows. Higher codes are better known."""

    OUT_OF_SIGHT = 0
    """Lies outside every room picture, or nothing is known about it: neutral content."""
    HOLE = 1
    """Lies in the room's picture, but hidden there: neutral content."""
    FILLED = 2
    """Hidden in this frame; filled from another frame or from its own surface around it."""
    COVERED = 3
    """The room camera sees this very surface: its colour, warped."""
    FOREGROUND = 4
    """The simulation's own wrist pixels."""


def zone_shares(zones: Tensor) -> dict[str, float]:
    """Share of pixels in each zone, by lower-case name."""
    counts = torch.bincount(zones.reshape(-1).long(), minlength=len(Zone)).tolist()
    return {zone.name.lower(): counts[zone] / max(1, zones.numel()) for zone in Zone}


def stack_views(room: Tensor, wrist: Tensor) -> Tensor:
    """Room above wrist: two [T, H, W, ...] of one shape become [T, 2H, W, ...]."""
    return torch.cat([room, wrist], dim=1)


def unstack_views(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """The room and wrist halves of [T, 2H, W, ...]."""
    room, wrist = stacked.chunk(2, dim=1)
    return room, wrist


def guidance_masks(zones: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """What the wrist stage holds: `keep` and `background` of `types.SpatialGuidance`.

    Args:
        zones: [T, H, W] uint8 of `Zone` codes.
        joint: whether the room view is stacked on top; all of it is kept then.

    Returns:
        keep: foreground, [T, H or 2H, W] float32 of 0 and 1.
        background: covered or filled pixels, same shape.
    """
    keep = (zones == Zone.FOREGROUND).float()
    background = ((zones == Zone.COVERED) | (zones == Zone.FILLED)).float()
    if not joint:
        return keep, background
    return stack_views(torch.ones_like(keep), keep), stack_views(torch.zeros_like(background), background)
