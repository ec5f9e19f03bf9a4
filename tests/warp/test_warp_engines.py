"""The engines against the twin, which tests every facet against every pixel in float64."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import analytic
import pytest
import torch

from guided_transfer.types import Camera
from guided_transfer.warp import WarpedView, warp_view

EDGE_MISMATCH = 0.002
"""Share of pixels that may differ in coverage, where a depth edge falls within rounding of a pixel centre.
Measured: 0 on the CPU, over 16 warps of 48 x 48."""

SNAP_STEP = 0.01
"""Colours (0 to 1) may differ by what 1/256 px of source position makes: measured 1.3e-3 at most."""


def inputs(seed: int, size: int) -> dict[str, object]:
    scene, (room, wrist) = analytic.cluttered_table(seed), analytic.two_cameras(seed, (size, size))
    rgb, depth_m, _ = scene.clip(room)
    mask = torch.ones(depth_m.shape, dtype=torch.bool)
    mask[:, :5] = False
    _, known_m, _ = scene.clip(wrist)
    return {
        "frames": rgb / 255,
        "depth_m": depth_m,
        "source": room,
        "target": wrist,
        "mask": mask,
        "target_depth_m": known_m,
    }


def assert_agree(one: WarpedView, other: WarpedView) -> None:
    both = one.covered & other.covered
    assert both.any()
    assert (one.covered != other.covered).float().mean() <= EDGE_MISMATCH
    assert (one.rgb[both] - other.rgb[both]).abs().max() <= SNAP_STEP
    near = 1 / one.inverse_depth[both] - 1 / other.inverse_depth[both]
    assert (near.abs() < 1e-4).float().mean() >= 1 - EDGE_MISMATCH


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("known_depth", [False, True])
def test_cpu_engine_is_the_twin(seed: int, known_depth: bool) -> None:
    arguments = inputs(seed, 40)
    if not known_depth:
        del arguments["target_depth_m"]
    for target in (arguments["target"], arguments["target"].resized(40, 40)):
        assert_agree(*(warp_view(**arguments | {"target": target}, backend=b) for b in ("cpu", "twin")))


@pytest.mark.parametrize("size", [(13, 21), (90, 75)])
def test_cpu_engine_is_the_twin_at_other_sizes(size: tuple[int, int]) -> None:
    arguments = inputs(0, 40)
    del arguments["target_depth_m"]
    arguments["target"] = arguments["target"].resized(*size)
    assert_agree(*(warp_view(**arguments, backend=b) for b in ("cpu", "twin")))


def test_facets_larger_than_the_picture_are_tested_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from guided_transfer.warp import splat

    arguments = inputs(1, 40)
    del arguments["target_depth_m"]
    whole = warp_view(**arguments)
    monkeypatch.setattr(splat, "MAX_CANDIDATES", 100)
    parts = warp_view(**arguments)
    assert torch.equal(whole.rgb, parts.rgb)
    assert torch.equal(whole.inverse_depth, parts.inverse_depth)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("known_depth", [False, True])
def test_triton_engine_on_the_gpu(known_depth: bool, dtype: torch.dtype) -> None:
    arguments = inputs(2, 96)
    scale = 255.0 if dtype == torch.uint8 else 1.0
    arguments["frames"] = (arguments["frames"] * scale).to(dtype)
    if not known_depth:
        del arguments["target_depth_m"]
    moved = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    runs = [warp_view(**moved, backend="triton") for _ in range(3)]
    assert all(torch.equal(runs[0].rgb, r.rgb) and torch.equal(runs[0].covered, r.covered) for r in runs)
    expected = warp_view(**arguments, backend="cpu")
    assert_agree(
        *(
            WarpedView(w.rgb.cpu() / scale, w.covered.cpu(), w.inverse_depth.cpu(), "", "")
            for w in (runs[0], expected)
        )
    )


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_engine_in_the_interpreter() -> None:
    """The kernels' own lines, run by Triton's interpreter; a process of its own, since it is chosen on import."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore::RuntimeWarning", __file__]  # 1 / 0 in a lane that is then masked
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr


def interpret() -> None:
    from guided_transfer.errors import UsageError
    from guided_transfer.warp import triton_engine
    from guided_transfer.warp.geometry import relate

    arguments = inputs(0, 24)
    frames, depth_m, room, wrist, mask, known_m = arguments.values()
    assert isinstance(wrist, Camera)
    depth_m[0, 7, 3:7] = torch.tensor([torch.nan, 0.0, -1.0, torch.inf])  # unknown in every way there is
    targets = (
        (wrist, None),
        (wrist, known_m),
        (room, None),
        (room.resized(11, 9), None),
        (room.resized(5, 30), None),
    )
    for values, asked in ((frames, targets[:2]), ((frames * 255).to(torch.uint8), targets)):
        for target, known in asked:
            warped = WarpedView(
                *triton_engine.warp(values, depth_m, mask, relate(room, target), target, known), "triton", ""
            )
            expected = warp_view(values, depth_m, room, target, mask=mask, target_depth_m=known, backend="cpu")
            assert torch.equal(warped.covered, expected.covered)
            assert (warped.rgb[~warped.covered] == 0).all()
            scale = 1.0 if values.dtype == torch.float32 else 255.0
            assert_agree(
                *(WarpedView(w.rgb / scale, w.covered, w.inverse_depth, "", "") for w in (warped, expected))
            )
    known_bad = torch.where(known_m > 0.6, known_m, torch.nan)
    known_bad[0, :3] = 0
    one = triton_engine.warp(frames, depth_m, mask, relate(room, wrist), wrist, known_bad)
    other = warp_view(frames, depth_m, room, wrist, mask=mask, target_depth_m=known_bad, backend="cpu")
    assert torch.equal(one[1], other.covered)
    assert torch.equal(one[2], other.inverse_depth)

    clip = (frames, depth_m, mask, relate(room, wrist), wrist)
    usual = [triton_engine.warp(*clip, known) for known in (None, known_m)]
    for launch in ((1, 16, 2), (3, 4, 16)):
        triton_engine.SPLAT = triton_engine.LOOK_UP = triton_engine.Launch(*launch)
        for expected, known in zip(usual, (None, known_m), strict=True):
            assert all(map(torch.equal, triton_engine.warp(*clip, known), expected)), launch

    broad = torch.ones(1, 1, triton_engine.MAX_SOURCE_PX + 1)
    with pytest.raises(UsageError, match="16384 px"):
        triton_engine.warp(
            broad[..., None].expand(-1, -1, -1, 3), broad, broad > 0, relate(room, wrist), wrist, None
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    interpret()
