"""Time the warp against the integration's own splat and against moving the bytes.

    PYTHONPATH=src python benchmarks/warp.py --device cpu
    PYTHONPATH=src python benchmarks/warp.py --device cuda
    PYTHONPATH=src python benchmarks/warp.py --device cuda --sweep

Prints a table and writes benchmarks/results/warp_<device>.json. On CUDA the Triton engine is first compared
with the CPU engine and the twin, and run three times for equal bits. `--sweep` also times its kernels for every
way of spreading them over the device that is worth asking, and compares their bits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from guided_transfer.types import Camera
from guided_transfer.warp import warp_view

RADIUS_PX = 6
BOXES_M = torch.tensor(
    [
        [[-3.0, -3.0, -0.1], [3.0, 3.0, 0.0]],
        [[-0.6, -0.5, 0.65], [0.6, 0.5, 0.7]],
        [[-0.1, -0.2, 0.7], [0.1, 0.0, 0.85]],
        [[0.2, 0.1, 0.7], [0.35, 0.3, 0.8]],
    ]
)


def look_at(eye: Tensor, at: Tensor) -> Tensor:
    """cam_from_world [4, 4], z forward, world z up."""
    forward = torch.nn.functional.normalize(at - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, forward.new_tensor([0, 0, 1])), dim=0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


def make_cameras(num_frames: int, size: int) -> tuple[Camera, Camera]:
    """A room camera at rest and a wrist camera that moves over the table."""
    table = torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)
    room = look_at(table + torch.tensor([1.3, -0.5, 0.9]), table).repeat(num_frames, 1, 1)
    shifts = torch.linspace(-0.15, 0.15, num_frames, dtype=torch.float64)
    wrist = [
        look_at(table + torch.stack([s - 0.2, s, s * 0 + 0.4]), table + torch.stack([s, s, s * 0])) for s in shifts
    ]
    intrinsics = [
        torch.tensor([[f * size, 0, size / 2], [0, f * size, size / 2], [0, 0, 1]], dtype=torch.float64)
        for f in (1.15, 0.65)
    ]
    poses = (room, torch.stack(wrist))
    return tuple(Camera(k.repeat(num_frames, 1, 1), e, size, size) for k, e in zip(intrinsics, poses, strict=True))


def cast(camera: Camera, device: str) -> Tensor:
    """depth_m [T, H, W] float32 of the boxes."""
    y, x = torch.meshgrid(torch.arange(camera.height_px) + 0.5, torch.arange(camera.width_px) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double().to(device)
    boxes = BOXES_M[:, :, None, None].double().to(device)
    depth = []
    for k, pose in zip(camera.intrinsics_px, camera.cam_from_world, strict=True):
        rays = pixels @ (torch.linalg.inv(k).T @ pose[:3, :3]).to(device)
        eye = (-pose[:3, :3].T @ pose[:3, 3]).to(device)
        sides = (boxes - eye) / rays  # [boxes, 2, H, W, 3]
        enter, leave = sides.amin(1).amax(-1), sides.amax(1).amin(-1)
        depth.append(torch.where((enter <= leave) & (enter > 0), enter, torch.inf).amin(0).float())
    return torch.stack(depth)


def make_clip(num_frames: int, size: int, device: str) -> dict[str, object]:
    room, wrist = make_cameras(num_frames, size)
    noise = torch.randint(0, 256, (num_frames, size, size, 3), generator=torch.Generator().manual_seed(0))
    depth_m = cast(room[:1], device).repeat(num_frames, 1, 1)
    return {
        "frames": noise.to(torch.uint8).to(device),
        "depth_m": depth_m,
        "source": room,
        "target": wrist,
        "mask": torch.isfinite(depth_m),
        "target_depth_m": cast(wrist, device),
    }


def plain_scatter(frame: Tensor, depth_m: Tensor, source: Camera, target: Camera, mask: Tensor) -> Tensor:
    """The integration's algorithm, plainly: 113 offsets x 4 corners, colours and weights added one by one."""
    device, (height, width) = frame.device, depth_m.shape
    v, u = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1).float()
    relative = (target.cam_from_world[0] @ torch.linalg.inv(source.cam_from_world[0])).float().to(device)
    points = torch.linalg.inv(source.intrinsics_px[0]).float().to(device) @ pixels
    points = relative[:3, :3] @ (points * depth_m.clamp(max=5).reshape(-1)) + relative[:3, 3:]
    seen = target.intrinsics_px[0].float().to(device) @ points
    u, v, z = seen[0] / seen[2], seen[1] / seen[2], seen[2].clamp(0, 1000)
    strength = mask.reshape(-1) / (1 + 1.5 * (z - z.min()) / (z.max() - z.min()))
    colours = frame.reshape(-1, 3).float() / 127.5 - 1
    sums = torch.zeros((height + 2) * (width + 2), 3, device=device)
    weights = torch.zeros((height + 2) * (width + 2), device=device)
    for dx in range(-RADIUS_PX, RADIUS_PX + 1):
        for dy in range(-RADIUS_PX, RADIUS_PX + 1):
            distance = (dx * dx + dy * dy) ** 0.5
            if distance > RADIUS_PX:
                continue
            left, top = (u + dx).floor(), (v + dy).floor()
            for x, share_x in ((left, left + 1 - u - dx), (left + 1, u + dx - left)):
                for y, share_y in ((top, top + 1 - v - dy), (top + 1, v + dy - top)):
                    index = (y.clamp(-1, height) + 1) * (width + 2) + x.clamp(-1, width) + 1
                    weight = strength * share_x * share_y * (1 - distance / RADIUS_PX if distance else 1.0)
                    sums.index_add_(0, index.long(), colours * weight[:, None])
                    weights.index_add_(0, index.long(), weight)
    return sums / (weights + 1e-8)[:, None]


CALLS = {"cpu": 1, "cuda": 5}
"""Calls between two synchronisations: on a GPU the next call is prepared while one runs, as in a real run."""


def timed(work: Callable[[], object], device: str, calls: int = 1) -> float:
    """Seconds for one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def copy_rate(device: str) -> float:
    """Bytes read plus bytes written per second by a large copy."""
    source = torch.zeros(1 << (30 if device == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / statistics.median(timed(lambda: target.copy_(source), device) for _ in range(10))


def measure(size: int, num_frames: int, device: str, rounds: int) -> dict[str, object]:
    """Milliseconds per frame, the three contenders taking turns in every round."""
    clip = make_clip(num_frames, size, device)
    splat = {k: v for k, v in clip.items() if k != "target_depth_m"}
    first = [clip[k][0] for k in ("frames", "depth_m")] + [clip[k][:1] for k in ("source", "target")]
    contenders = {
        "reference_scatter": (lambda: plain_scatter(*first, clip["mask"][0]), 1),
        "splat": (lambda: warp_view(**splat), num_frames),
        "look_up": (lambda: warp_view(**clip), num_frames),
    }
    for work, _ in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (work, frames) in contenders.items():
            times[name].append(timed(work, device, CALLS[device]) * 1e3 / frames)
    warped = warp_view(**splat)
    result: dict[str, object] = {
        "size": size,
        "num_frames": num_frames,
        "engine": warped.engine,
        "coverage": warped.coverage,
    }
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"ms_per_frame": middle, "quartiles": [low, high]}
    reference = result["reference_scatter"]["ms_per_frame"]
    bytes_moved = size * size * ((3 + 4 + 1) + (3 + 1))
    byte_ms = bytes_moved / copy_rate(device) * 1e3
    for name in ("splat", "look_up"):
        ms = result[name]["ms_per_frame"]
        result[name] |= {"times_faster_than_reference": reference / ms, "times_the_byte_time": ms / byte_ms}
    result["byte_time_ms"] = byte_ms
    if device == "cuda":
        result["kernel_ms_per_frame"] = {
            "splat": kernel_times(splat, num_frames),
            "look_up": kernel_times(clip, num_frames),
        }
        for name, kernels in result["kernel_ms_per_frame"].items():
            row = result[name]
            row["share_of_time_in_kernels"] = sum(kernels.values()) / row["ms_per_frame"]
            row["host_ms_per_call"] = statistics.median(host_time(contenders[name][0]) for _ in range(10)) * 1e3
    return result


def host_time(work: Callable[[], object]) -> float:
    """Seconds until a call returns, with the device idle before it: what the host spends to start it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def kernel_times(clip: dict[str, object], num_frames: int, calls: int = 3) -> dict[str, float]:
    """Device milliseconds per frame by kernel, from the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            warp_view(**clip)
        torch.cuda.synchronize()
    return {
        e.key[:60]: e.device_time_total / 1e3 / num_frames / calls
        for e in profile.key_averages()
        if e.device_time_total
    }


SPREADS = [*((tiles, 8, 4) for tiles in (1, 4, 8, 16)), (8, 4, 8), (8, 16, 2), (8, 32, 1), (4, 8, 8)]
"""Tiles per program; width and height of a tile."""


def sweep(size: int, num_frames: int) -> list[dict[str, object]]:
    """Microseconds per frame of each kernel for every launch; the result's bits must not depend on it."""
    from guided_transfer.warp import triton_engine
    from guided_transfer.warp.triton_engine import Launch

    clip = make_clip(num_frames, size, "cuda")
    splat = {k: v for k, v in clip.items() if k != "target_depth_m"}
    usual, expected, rows = (triton_engine.SPLAT, triton_engine.LOOK_UP), None, []
    for spread in SPREADS:
        triton_engine.SPLAT = triton_engine.LOOK_UP = launch = Launch(*spread)
        splatted, looked_up = warp_view(**splat), warp_view(**clip)
        bits = (splatted.rgb, splatted.covered, splatted.inverse_depth, looked_up.rgb, looked_up.covered)
        expected = expected or bits
        assert all(torch.equal(a, b) for a, b in zip(bits, expected, strict=True)), launch
        in_splat, in_look_up = kernel_times(splat, num_frames), kernel_times(clip, num_frames)
        times = {
            "_splat": in_splat["_splat"] * 1e3,
            "_look_up after it": in_splat["_look_up"] * 1e3,
            "_look_up of known depth": in_look_up["_look_up"] * 1e3,
        }
        rows.append(asdict(launch) | {"us_per_frame": times})
    triton_engine.SPLAT, triton_engine.LOOK_UP = usual
    names = list(rows[0]["us_per_frame"])
    print("us per frame; tile, tiles per program:", ", ".join(names))
    for row in sorted(rows, key=lambda row: row["us_per_frame"][names[-1]]):
        spread = f"{row['WIDE']:3d} x {row['TALL']} {row['TILES']:3d}"
        print(spread, " ".join(f"{row['us_per_frame'][name]:8.2f}" for name in names))
    for name in names:
        best = min(rows, key=lambda row: row["us_per_frame"][name])
        print(f"fastest {name}: {best}")
    return rows


def check_triton() -> dict[str, object]:
    """Triton against twin and CPU engine, and against itself."""
    report = {}
    for size, other in ((48, "twin"), (224, "cpu")):
        for known in (False, True):
            clip = make_clip(3, size, "cpu")
            if not known:
                del clip["target_depth_m"]
            on_gpu = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in clip.items()}
            expected, runs = warp_view(**clip, backend=other), [warp_view(**on_gpu) for _ in range(3)]
            same_bits = all(
                torch.equal(r.rgb, runs[0].rgb) and torch.equal(r.covered, runs[0].covered) for r in runs
            )
            rgb, covered = runs[0].rgb.cpu(), runs[0].covered.cpu()
            both = covered & expected.covered
            off = (rgb[both].int() - expected.rgb[both].int()).abs()
            report[f"{runs[0].engine} vs {other} at {size}, {'look-up' if known else 'splat'}"] = {
                "coverage": expected.coverage,
                "coverage_mismatch": (covered != expected.covered).float().mean().item(),
                "colour_off_by_more_than_2": (off > 2).float().mean().item(),
                "largest_colour_difference": off.max().item(),
                "three_runs_bit_identical": same_bits,
            }
    return report


def machine(device: str) -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def print_table(run: dict[str, object]) -> None:
    print(f"{run['size']} x {run['size']}, engine {run['engine']}, coverage {run['coverage']:.2f}")
    for name in ("reference_scatter", "splat", "look_up"):
        row = run[name]
        line = f"  {name:20s} {row['ms_per_frame']:10.4f} ms"
        if name != "reference_scatter":
            line += (
                f" {row['times_faster_than_reference']:8.1f} x faster {row['times_the_byte_time']:8.2f} x byte time"
            )
        if "host_ms_per_call" in row:
            line += f" {row['share_of_time_in_kernels']:5.0%} in kernels"
            line += f", {row['host_ms_per_call']:.2f} ms of host a call"
        print(line)
    for mode, kernels in run.get("kernel_ms_per_frame", {}).items():
        for kernel, ms in kernels.items():
            print(f"    {mode:8s} {kernel:60s} {ms * 1e3:8.2f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help="CUDA: also time the kernels for every launch")
    arguments = parser.parse_args()
    if arguments.sweep and arguments.device != "cuda":
        parser.error("--sweep times the Triton kernels; give --device cuda with it")
    torch.set_num_threads(arguments.threads)
    sizes = [(224, 121), (960, 121)] if arguments.device == "cuda" else [(224, 8)]
    report: dict[str, object] = {"command": " ".join(sys.argv), "machine": machine(arguments.device)}
    if arguments.device == "cuda":
        report["agreement"] = check_triton()
        print(json.dumps(report["agreement"], indent=2))
    report["runs"] = [measure(size, frames, arguments.device, arguments.rounds) for size, frames in sizes]
    for run in report["runs"]:
        print_table(run)
    target = Path(__file__).parent / "results" / f"warp_{arguments.device}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {target}", flush=True)
    if arguments.sweep:
        report["sweep_at_960"] = sweep(960, 24)
        target.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
