"""How long a training run lasts: a wall-clock budget, or a number of steps."""

from __future__ import annotations

import time


class Budget:
    """Progress of a run from 0 to 1; learning rates follow it.

    Args:
        minutes: wall-clock length, counted from now.
        steps: if not 0, the run's length in steps, whatever the clock says.
        behind: share of the run that an earlier process has done.
    """

    def __init__(self, minutes: float, steps: int = 0, behind: float = 0.0) -> None:
        self._seconds, self._steps = minutes * 60, steps
        self._began = time.monotonic() - behind * self._seconds

    def progress(self, step: int) -> float:
        """Share of the run that is behind after `step` steps."""
        return step / self._steps if self._steps else (time.monotonic() - self._began) / self._seconds


def learning_rate_shape(progress: float, step: int) -> float:
    """Linear warm-up over 100 steps, constant, then linear decay over the last 60 % of the run."""
    return min(1.0, (step + 1) / 100) * min(1.0, (1.0 - progress) / 0.6)
