"""The state of a training run on disk, so that one that was killed goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from guided_transfer.errors import CheckpointError
from guided_transfer.whole import whole_file

SAVE_EVERY_S = 120.0


class Stateful(Protocol):
    """A model, an optimizer, an average."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


@dataclass
class Position:
    """How far a run is.

    Attributes:
        step: steps taken.
        progress: share of the run that is behind, 0..1.
        losses: mean loss of each stretch of steps so far.
    """

    step: int = 0
    progress: float = 0.0
    losses: list[float] = field(default_factory=list)


class Snapshot:
    """One file with everything a run needs to go on.

    Args:
        path: the file; replaced as a whole.
        parts: what is saved and restored, by name.
    """

    def __init__(self, path: Path, parts: Mapping[str, Stateful]) -> None:
        self._path, self._parts, self._saved_at = path, parts, time.monotonic()

    def restore(self, device: torch.device) -> Position:
        """Load what an earlier run left, if there is any; a finished one is at its end.

        Raises:
            CheckpointError: it is of a run of other sizes.
        """
        if not self._path.exists():
            return Position()
        saved = torch.load(self._path, map_location=device, weights_only=True)
        try:
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])
            position = Position(**saved["position"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self._path} was left by a run of other sizes; give another --out, or remove it"
            ) from error
        print(f"goes on from {self._path}: step {position.step}, {position.progress:.0%}", flush=True)
        return position

    def save(self, position: Position) -> None:
        """Write all of it."""
        states = {name: part.state_dict() for name, part in self._parts.items()}
        with whole_file(self._path, durable=False) as partial:
            torch.save(states | {"position": vars(position)}, partial)
        self._saved_at = time.monotonic()

    def save_now_and_then(self, position: Position) -> bool:
        """Write it if the last time is a while ago; returns whether it was written."""
        due = time.monotonic() - self._saved_at > SAVE_EVERY_S
        if due:
            self.save(position)
        return due
