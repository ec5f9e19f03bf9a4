"""A network larger than the GPU: its linear layers live on the host and visit the GPU one by one.

A layer's weights are copied ahead of their turn, on a stream of their own, while the layer before computes. The
order is not declared but learnt: what followed a layer last time is fetched next time.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

IN_FLIGHT = 3
"""Layers whose weights may be on the GPU at once; the host, which runs ahead, would fetch the whole network."""

Weights = dict[str, Tensor]


class StreamedLinears:
    """Keeps the linear layers of a network on the host, and everything else on `device`.

    Attributes:
        layers: all linear layers of the network.
        follows: which layer came after each, by index, when it was used last.

    Args:
        network: on the host; its linear layers share no weights.
        device: where it is to compute.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device = device
        self.layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        self.follows: dict[int, int] = {}
        self._home = [_at_home(layer, pinned=device.type == "cuda") for layer in self.layers]
        self._fetched: dict[int, tuple[Weights, Any]] = {}
        self._last: int | None = None
        self._finished: deque[Any] = deque()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        _move_all_but(network, self.layers, device)
        for index, layer in enumerate(self.layers):
            _point_to(layer, self._home[index])
            layer.register_forward_pre_hook(lambda layer, _, index=index: self._arrive(index, layer))
            layer.register_forward_hook(lambda layer, *_, index=index: self._leave(index, layer))

    def _arrive(self, index: int, layer: nn.Linear) -> None:
        if self._last is not None:
            self.follows[self._last] = index
        self._last = index
        if index not in self._fetched:
            self._fetched.clear()  # guessed wrong: the order has changed
            self._fetch(index)
        weights, ready = self._fetched.pop(index)
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(ready)
            for weight in weights.values():
                weight.record_stream(current)
        _point_to(layer, weights)
        if (upcoming := self.follows.get(index)) is not None:
            self._fetch(upcoming)

    def _leave(self, index: int, layer: nn.Linear) -> None:
        _point_to(layer, self._home[index])
        if self._stream is None:
            return
        self._finished.append(torch.cuda.current_stream(self.device).record_event())
        if len(self._finished) >= IN_FLIGHT:
            self._finished.popleft().synchronize()

    def _fetch(self, index: int) -> None:
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            weights = {
                name: weight.to(self.device, non_blocking=True) for name, weight in self._home[index].items()
            }
            ready = self._stream.record_event() if self._stream is not None else None
        self._fetched[index] = (weights, ready)


def _at_home(layer: nn.Linear, *, pinned: bool) -> Weights:
    """Weights on the host, where the GPU can read them by itself."""
    return {
        name: parameter.data.pin_memory() if pinned else parameter.data
        for name, parameter in layer.named_parameters()
    }


def _point_to(layer: nn.Linear, weights: Weights) -> None:
    for name, parameter in layer.named_parameters():
        parameter.data = weights[name]


def _move_all_but(network: nn.Module, layers: list[nn.Linear], device: torch.device) -> None:
    streamed = set(layers)
    for module in network.modules():
        if module in streamed:
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
