"""What would the other camera see? One function, three engines, one answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from guided_transfer.errors import DeviceError, UsageError
from guided_transfer.types import Camera
from guided_transfer.warp.geometry import Relation, facets, invert, relate
from guided_transfer.warp.lookup import look_up
from guided_transfer.warp.splat import render_depth

Mode = Literal["exact", "reference"]
Backend = Literal["auto", "twin", "cpu", "triton"]


@dataclass(frozen=True)
class WarpedView:
    """A clip as another camera would see it.

    Attributes:
        rgb: [T, H, W, 3] of the frames' dtype, 0 where not covered.
        covered: [T, H, W] bool; the source saw the surface that is shown here.
        inverse_depth: [T, H, W] float32, 1/m along the target's axis, of the nearest surface, covered or not;
            0 where nothing is known.
        engine: what computed it.
        reason: why that engine.
    """

    rgb: Tensor
    covered: Tensor
    inverse_depth: Tensor
    engine: str
    reason: str

    @property
    def depth_m(self) -> Tensor:
        """[T, H, W] float32, metres; inf where not covered."""
        return torch.where(self.covered, 1 / self.inverse_depth, torch.inf)

    @property
    def coverage(self) -> float:
        """Share of target pixels that are covered."""
        return self.covered.float().mean().item() if self.covered.numel() else 0.0

    def __repr__(self) -> str:
        return f"WarpedView(rgb={list(self.rgb.shape)}, engine={self.engine!r}, reason={self.reason!r})"


def warp_view(
    frames: Tensor,
    depth_m: Tensor,
    source: Camera,
    target: Camera,
    *,
    mask: Tensor | None = None,
    target_depth_m: Tensor | None = None,
    mode: Mode = "exact",
    backend: Backend = "auto",
) -> WarpedView:
    """Show `frames`, seen by `source`, from `target`.

    Without `target_depth_m` the source's depth is splatted with a depth test and says what the target sees. With
    it, that depth is believed instead, and a pixel is covered only where the source saw the same surface:
    nothing shines through, not even what the source could not see.

    Args:
        frames: [T, H, W, 3], uint8, or float32 of any range.
        depth_m: [T, H, W] metres along the source's axis; inf, NaN, 0 and less are unknown.
        source: camera of `frames`, one pose per frame.
        target: the other camera, one pose per frame, of any image size.
        mask: [T, H, W] bool, which source pixels take part; all when None. The others neither show nor hide.
        target_depth_m: [T, H', W'] metres along the target's axis, where a simulator knows it.
        mode: "exact", or "reference": the soft-weighted splat of the integration, for parity only, on the CPU.
        backend: "twin" is the plain definition, slow; "cpu" runs on any device through torch; "triton" needs
            CUDA; "auto" picks triton for CUDA tensors and cpu otherwise.

    Returns:
        The warped clip, on the device of `frames`.

    Raises:
        UsageError: shapes, types or devices disagree, or an unknown mode or backend.
        DeviceError: backend "triton" without CUDA tensors or without triton.
    """
    _check(frames, depth_m, source, target, mask, target_depth_m)
    _check_choice("mode", mode, get_args(Mode))
    _check_choice("backend", backend, get_args(Backend))
    usable = torch.ones(depth_m.shape, dtype=torch.bool, device=frames.device) if mask is None else mask
    if mode == "reference":
        from guided_transfer.warp.reference import splat_soft

        rgb, covered = splat_soft(frames, depth_m, source, target, usable)
        return WarpedView(
            rgb,
            covered,
            torch.zeros(covered.shape, device=frames.device),
            "reference",
            'mode="reference" was asked for',
        )
    engine, reason = choose_engine(backend, frames.device)
    warped = _ENGINES[engine](frames, depth_m, usable, relate(source, target), target, target_depth_m)
    return WarpedView(*warped, engine, reason)


Warped = tuple[Tensor, Tensor, Tensor]
Engine = Callable[[Tensor, Tensor, Tensor, Relation, Camera, Tensor | None], Warped]


def _cpu(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, known_m: Tensor | None
) -> Warped:
    size = (target.height_px, target.width_px)
    rgb = torch.empty(len(frames), *size, 3, dtype=frames.dtype, device=frames.device)
    covered = torch.empty(len(frames), *size, dtype=torch.bool, device=frames.device)
    inverse_depth = torch.empty(covered.shape, device=frames.device) if known_m is None else invert(known_m)
    for t in range(len(frames)):
        surface = facets(depth_m[t])
        if known_m is None:
            inverse_depth[t] = render_depth(surface, usable[t], relation, t, *size)
        rgb[t], covered[t] = look_up(frames[t], surface, usable[t], relation, t, inverse_depth[t])
    return rgb, covered, inverse_depth


def _twin(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, known_m: Tensor | None
) -> Warped:
    from guided_transfer.warp.twin import warp

    return warp(frames, depth_m, usable, relation, target, known_m)


def _triton(
    frames: Tensor, depth_m: Tensor, usable: Tensor, relation: Relation, target: Camera, known_m: Tensor | None
) -> Warped:
    from guided_transfer.warp.triton_engine import warp

    return warp(frames, depth_m, usable, relation, target, known_m)


_ENGINES: dict[str, Engine] = {"twin": _twin, "cpu": _cpu, "triton": _triton}


def choose_engine(backend: Backend, device: torch.device) -> tuple[str, str]:
    """The engine for tensors on `device`, and why.

    Raises:
        DeviceError: "triton" was asked for and cannot run.
    """
    if backend in ("twin", "cpu"):
        return backend, f'backend="{backend}" was asked for'
    obstacle = _obstacle_to_triton(device)
    if backend == "triton":
        if obstacle:
            raise DeviceError(f'backend="triton" cannot run: {obstacle}; use backend="cpu" or "auto"')
        return "triton", 'backend="triton" was asked for'
    return ("cpu", obstacle) if obstacle else ("triton", f"tensors are on {device} and triton is installed")


def _obstacle_to_triton(device: torch.device) -> str:
    from importlib.util import find_spec

    if device.type != "cuda":
        return f"tensors are on {device}, triton needs cuda"
    return "" if find_spec("triton") else "triton is not installed"


def _check(
    frames: Tensor,
    depth_m: Tensor,
    source: Camera,
    target: Camera,
    mask: Tensor | None,
    target_depth_m: Tensor | None,
) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise UsageError(f"frames must be [T, H, W, 3], got {list(frames.shape)}")
    if frames.dtype not in (torch.uint8, torch.float32):
        raise UsageError(f"frames must be uint8 or float32, got {frames.dtype}")
    _check_camera("source", source, tuple(frames.shape[:3]))
    size = (len(frames), target.height_px, target.width_px)
    _check_camera("target", target, size)
    _check_map("depth_m", depth_m, tuple(frames.shape[:3]), frames.device)
    if mask is not None:
        _check_map("mask", mask, tuple(frames.shape[:3]), frames.device)
        if mask.dtype != torch.bool:
            raise UsageError(f"mask must be bool, True where a pixel takes part, got {mask.dtype}")
    if target_depth_m is not None:
        _check_map("target_depth_m", target_depth_m, size, frames.device)


def _check_camera(name: str, camera: Camera, size: tuple[int, ...]) -> None:
    found = (len(camera), camera.height_px, camera.width_px)
    if found != size:
        raise UsageError(f"{name} camera is for {found} frames, rows and columns; the clip has {size}")


def _check_map(name: str, value: Tensor, size: tuple[int, ...], device: torch.device) -> None:
    if tuple(value.shape) != size:
        raise UsageError(f"{name} must be [T, H, W] = {list(size)}, got {list(value.shape)}")
    if value.device != device:
        raise UsageError(f"{name} is on {value.device}, frames are on {device}; move one of them")


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise UsageError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")
