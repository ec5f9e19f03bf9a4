"""Data-parallel training: every process of `torchrun` draws its own samples, gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn


class Ranks:
    """The processes that train together; one alone if `torchrun` did not start them.

    A loop around a captured step cannot use DistributedDataParallel's hooks, and a few million gradients are
    averaged in one message, so this is all there is to it.

    Attributes:
        rank, world: number of this process, and of all.
        device: this process's own, where the device given names none.
    """

    def __init__(self, device: str) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo")

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports and saves."""
        return self.rank == 0

    @torch.no_grad()
    def broadcast(self, module: nn.Module) -> None:
        """Give every process the first one's parameters."""
        if self.world > 1:
            for p in module.parameters():
                dist.broadcast(p.data, 0)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient with the mean over the processes."""
        if self.world > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            parts = flat.split([g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    def agree(self, value: float) -> float:
        """The first process's value, so that all do the same at the same step."""
        if self.world == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(told, 0)
        return float(told)

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()
