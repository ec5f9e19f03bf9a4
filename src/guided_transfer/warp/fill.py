"""What to put where the room camera saw nothing: first what is known, then what is likely, then what is quiet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_transfer.types import Camera
from guided_transfer.warp.geometry import same_surface
from guided_transfer.warp.view import Backend, warp_view

MAX_REACH = 1 / 8
"""How far a surface's colour is carried into a hole, as a share of the picture's longer side. Farther in, a
smear would claim to know what nobody saw."""


def fill_over_time(
    picture: Tensor,
    missing: Tensor,
    frames: Tensor,
    depth_m: Tensor,
    source: Camera,
    target: Camera,
    usable: Tensor | None,
    target_depth_m: Tensor,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    """Fill pixels with what the source saw of the same point in other frames, nearest frames first.

    The scene apart from the unusable pixels is taken as static. Frames on both sides are asked at distances that
    grow by half each time, so the cost grows with the logarithm of the clip's length.

    Args:
        picture: [T, H', W', 3] like `frames`.
        missing: [T, H', W'] bool, the pixels to fill.
        frames: as in `warp_view`, like all that follow.
        depth_m: metres.
        source: camera of `frames`.
        target: camera of `picture`.
        usable: the mask of `warp_view`.
        target_depth_m: metres.
        backend: which engine.

    Returns:
        the picture, and which pixels were filled [T, H', W'] bool.
    """
    picture, left = picture.clone(), missing.clone()
    clip = torch.arange(len(frames), device=frames.device)
    for distance in _distances(len(frames)):
        other = clip + distance
        ask = (other >= 0) & (other < len(frames)) & left.flatten(1).any(1)
        if not ask.any():
            continue
        here, there = clip[ask], other[ask]
        seen = warp_view(
            frames[there],
            depth_m[there],
            _pick(source, there),
            _pick(target, here),
            mask=None if usable is None else usable[there],
            target_depth_m=torch.where(left[here], target_depth_m[here], torch.inf),
            backend=backend,
        )
        picture[here] = torch.where(seen.covered[..., None], seen.rgb, picture[here])
        left[here] &= ~seen.covered
    return picture, missing & ~left


def _distances(num_frames: int) -> list[int]:
    """1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 9, ... and the clip's whole length."""
    steps, step = [], 1
    while step < num_frames - 1:
        steps.append(step)
        step = max(step + 1, step * 3 // 2)
    if num_frames > 1:
        steps.append(num_frames - 1)
    return [sign * distance for distance in steps for sign in (1, -1)]


def _pick(camera: Camera, frames: Tensor) -> Camera:
    frames = frames.to(camera.intrinsics_px.device)
    return Camera(camera.intrinsics_px[frames], camera.cam_from_world[frames], camera.height_px, camera.width_px)


def fill_over_space(
    picture: Tensor, known: Tensor, missing: Tensor, inverse_depth: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Carry colours into holes along their own surface: same label, no depth edge between.

    Args:
        picture: [T, H, W, 3] uint8.
        known: [T, H, W] bool, where colours flow from.
        missing: [T, H, W] bool, where they flow to.
        inverse_depth: [T, H, W], 1/m, 0 = unknown.
        labels: [T, H, W].

    Returns:
        the picture, and which pixels were filled [T, H, W] bool.
    """
    surface = _Neighbours(missing, inverse_depth, labels)
    colour = F.pad(picture, (0, 0, 1, 1, 1, 1)).reshape(-1, 3).float()
    has_colour = F.pad(known, (1, 1, 1, 1)).reshape(-1)
    steps = round(MAX_REACH * max(picture.shape[1:3]))
    for _ in range(steps):
        mean, found = surface.mean(colour, has_colour)
        fresh = found & ~has_colour[surface.pixel]
        if not fresh.any():
            break
        colour[surface.pixel[fresh]] = mean[fresh]
        has_colour[surface.pixel[fresh]] = True
    for _ in range(steps):  # the fronts met in creases; diffusion smooths them
        mean, found = surface.mean(colour, has_colour)
        smooth = found & has_colour[surface.pixel]
        colour[surface.pixel[smooth]] = mean[smooth]
    padded = (len(picture), picture.shape[1] + 2, picture.shape[2] + 2)
    filled = has_colour.reshape(padded)[:, 1:-1, 1:-1] & missing
    colour = colour.reshape(*padded, 3)[:, 1:-1, 1:-1]
    return torch.where(filled[..., None], (colour + 0.5).to(picture.dtype), picture), filled


class _Neighbours:
    """The missing pixels of a clip padded by one, and which of their four neighbours are the same surface."""

    def __init__(self, missing: Tensor, inverse_depth: Tensor, labels: Tensor) -> None:
        depth, label = (F.pad(field, (1, 1, 1, 1)).reshape(-1) for field in (inverse_depth, labels))
        self.pixel = torch.nonzero(F.pad(missing, (1, 1, 1, 1)).reshape(-1))[:, 0]
        row = missing.shape[2] + 2
        self.beside = [self.pixel + step for step in (-1, 1, -row, row)]
        self.linked = [
            (label[self.pixel] == label[n]) & same_surface(depth[self.pixel], depth[n]) for n in self.beside
        ]

    def mean(self, colour: Tensor, has_colour: Tensor) -> tuple[Tensor, Tensor]:
        """Mean colour [N, 3] of the linked neighbours that have one, and whether there is any [N]."""
        total, count = colour.new_zeros(len(self.pixel), 3), colour.new_zeros(len(self.pixel), 1)
        for neighbour, linked in zip(self.beside, self.linked, strict=True):
            counts = (linked & has_colour[neighbour])[:, None]
            total += torch.where(counts, colour[neighbour], 0.0)
            count += counts
        return total / count.clamp(min=1), count[:, 0] > 0


def quieten(picture: Tensor, known: Tensor) -> Tensor:
    """Replace what is not known by a smooth continuation, so that no edge detector finds anything there.

    Averages go down a pyramid of halved pictures and come back up bilinearly (pull-push of Gortler et al.,
    The Lumigraph, 1996). Mid-grey where a frame knows nothing.

    Args:
        picture: [T, H, W, 3] uint8.
        known: [T, H, W] bool.
    """
    smooth = [_pull_push(p, k) for p, k in zip(picture, known, strict=True)]
    return torch.where(known[..., None], picture, torch.stack(smooth)) if smooth else picture


def _pull_push(picture: Tensor, known: Tensor) -> Tensor:
    weight = known[None, None].float()
    colour = torch.where(known[..., None], picture, 0).permute(2, 0, 1)[None].float()
    levels = [(colour, weight)]
    while max(colour.shape[-2:]) > 1:
        # sums, not means: a pixel counts as much as what it stands for
        colour, weight = (F.avg_pool2d(t, 2, ceil_mode=True) for t in (colour, weight))
        levels.append((colour, weight))
    smooth = torch.where(weight > 0, colour / weight, 127.0)
    for colour, weight in reversed(levels[:-1]):
        smooth = F.interpolate(smooth, size=colour.shape[-2:], mode="bilinear", align_corners=False)
        smooth = torch.where(weight > 0, colour / weight.clamp(min=1e-12), smooth)
    return (smooth[0].permute(1, 2, 0) + 0.5).clamp(0, 255).to(picture.dtype)
