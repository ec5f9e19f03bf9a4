"""What work costs: seconds by stage, memory, and where modules wait while they have nothing to do."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Stopwatch:
    """Seconds by stage, counted when the device is done."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the body takes to stage `name`."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@contextmanager
def resident(module: Any, device: torch.device, *, offload: bool) -> Iterator[None]:
    """Have a module on `device` while it works; afterwards keep it on the host if `offload` is set."""
    module.to(device)
    try:
        yield
    finally:
        if offload and device.type != "cpu":
            module.to("cpu")
            torch.cuda.empty_cache()


@contextmanager
def aside(module: Any, device: torch.device, *, offload: bool) -> Iterator[None]:
    """Within `resident`, make room for other work: on the host for the time being if `offload` is set."""
    if offload and device.type != "cpu":
        module.to("cpu")
        torch.cuda.empty_cache()
    yield
    module.to(device)


def peak_memory_gb(device: torch.device) -> float:
    """Most memory held since the process began: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory_now_gb() -> float:
    """Memory held now: of the GPU where it is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        return torch.cuda.memory_allocated() / 2**30
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30
