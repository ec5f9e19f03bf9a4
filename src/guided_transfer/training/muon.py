"""Muon for the hidden matrices of a small transformer, with equal shapes orthogonalised in one batch.

Momentum is orthogonalised by a quintic Newton-Schulz iteration (K. Jordan et al., "Muon: an optimizer for hidden
layers in neural networks", 2024, coefficients from there). A network of a few million parameters has a hundred
matrices of a handful of shapes; one batched product per shape keeps the step short.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix [N, R, C] close to 1."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates.

    Args:
        params: two-dimensional parameters only.
        lr: size of one update; scaled by sqrt(max(1, rows / columns)).
        momentum: decay of the (Nesterov) momentum.
        weight_decay: decoupled.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update to every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                self._step_shape(params, shape, group)

    def _step_shape(self, params: list[nn.Parameter], shape: torch.Size, group: dict) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
        updates = orthogonalise(torch.stack(nesterov))
        scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        torch._foreach_mul_(list[Tensor](params), 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(list[Tensor](params), list(updates.unbind()), alpha=-scale)
