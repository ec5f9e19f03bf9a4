"""A training step of fixed shapes as one CUDA graph: no launch gaps, however many small kernels it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Loss = Callable[..., Tensor]


class GraphedStep:
    """Forward and backward of `loss(*inputs)`; leaves gradients in the parameters and returns the loss.

    All randomness comes in through `inputs`, whose shapes never change; for inputs that require gradients
    `input_gradients` holds them after a call. On a CPU the step simply runs.

    Args:
        loss: the function; it may autocast, with `cache_enabled=False`.
        parameters: whose gradients are wanted.
        inputs: an example.
        graphed: False simply runs the step on a GPU too.
    """

    def __init__(
        self, loss: Loss, parameters: Sequence[nn.Parameter], inputs: Sequence[Tensor], *, graphed: bool = True
    ) -> None:
        self._loss, self._parameters = loss, list(parameters)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in inputs]
        if graphed and inputs[0].is_cuda:
            self._capture()

    @property
    def input_gradients(self) -> list[Tensor | None]:
        """Gradients of the last call's inputs."""
        return [tensor.grad for tensor in self._inputs]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """One step."""
        with torch.no_grad():
            for mine, given in zip(self._inputs, inputs, strict=True):
                mine.copy_(given)
        if self._graph is None:
            return self._run().detach()
        self._graph.replay()
        for p, gradient in zip(self._parameters, self._gradients, strict=True):
            p.grad = gradient
        return self._result.detach()

    def _run(self) -> Tensor:
        for tensor in (*self._parameters, *self._inputs):
            tensor.grad = None
        result = self._loss(*self._inputs)
        result.backward()
        return result

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up: libraries choose their kernels, blocks are compiled
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._run()
        self._gradients = [p.grad for p in self._parameters]
        self._graph = graph
