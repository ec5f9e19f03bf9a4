"""Exponential moving average of a model's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Averages parameters (not buffers) with a warm-up, so that the first steps do not linger.

    Args:
        model: whose parameters are followed.
        decay: weight of the past at each step, once warmed up.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the parameters of `model`."""
        self.steps += 1
        weight = 1.0 - min(self.decay, self.steps / (self.steps + 10))
        params = [p.detach() for _, p in model.named_parameters()]
        torch._foreach_lerp_(list(self.shadow.values()), params, weight)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from averaged parameters saved before."""
        self.shadow = {name: value.clone() for name, value in state.items()}
        self.steps = 10_000
