"""Every error a user can meet, in one tree.

    GuidedTransferError
    ├── UsageError              an argument or a settings file asks for something that cannot be
    ├── EpisodeError            an input file is to blame; carries file and dataset
    │   ├── EpisodeUnreadable     it cannot be opened, or opening it would not be safe
    │   └── EpisodeInconsistent   it opens, but what it holds does not agree with itself
    ├── CheckpointError         weights are missing, damaged, or belong to another network
    ├── DeviceError             the machine lacks what was asked for (GPU, memory, a kernel)
    ├── OutputError             a result could not be written whole; nothing half-written was published
    ├── RunConflict             the output folder holds a run with other settings
    └── Blocked                 a guardrail stopped a prompt or a video; carries the reason

A message names the argument, file or dataset, shows the value, says what would be accepted and, where
there is one, gives the next command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class GuidedTransferError(Exception):
    """Base of every error that is reported to the user without a traceback."""


class UsageError(GuidedTransferError):
    """An argument or a settings file asks for something that cannot be (exit code 1)."""


class EpisodeError(GuidedTransferError):
    """An episode file is to blame.

    Args:
        reason: what is wrong, with the value found and what would be accepted.
        file: the HDF5 file.
        dataset: path inside the file, where one is to blame.
    """

    def __init__(self, reason: str, *, file: Path | str | None = None, dataset: str | None = None) -> None:
        self.reason = reason
        self.file = Path(file) if file is not None else None
        self.dataset = dataset
        super().__init__(reason)

    def __str__(self) -> str:
        where = ": ".join(str(part) for part in (self.file, self.dataset) if part)
        return f"{where}: {self.reason}" if where else self.reason


class EpisodeUnreadable(EpisodeError):
    """The file cannot be opened, or reading it would not be safe."""


class EpisodeInconsistent(EpisodeError):
    """The file opens, but its shapes, types or values do not agree with the schema or with each other."""


class CheckpointError(GuidedTransferError):
    """Weights are missing, damaged, or belong to another network; names the file and the keys."""


class DeviceError(GuidedTransferError):
    """The machine lacks what was asked for: a GPU, memory, a kernel."""


class OutputError(GuidedTransferError):
    """A result could not be written whole. Nothing half-written was published."""


class RunConflict(GuidedTransferError):
    """The output folder holds results of other settings; the message names what differs."""


class Blocked(GuidedTransferError):
    """A guardrail stopped a prompt or a video.

    Args:
        guardrail: which one ("blocklist", "llama_guard", "video_content").
        reason: its verdict, in words.
    """

    def __init__(self, guardrail: str, reason: str) -> None:
        self.guardrail = guardrail
        self.reason = reason
        super().__init__(f"blocked by {guardrail}: {reason}")


@contextmanager
def collected(faults: list[str]) -> Iterator[None]:
    """Note a UsageError of the body among `faults` and go on, so that a user learns of all at once."""
    try:
        yield
    except UsageError as error:
        faults.append(str(error))


def refuse(faults: Sequence[str], where: str = "") -> None:
    """Raise one UsageError that names every fault, several on a line each; without a fault do nothing.

    Args:
        faults: what is wrong, in words.
        where: the file or argument they are all found in.
    """
    if len(faults) == 1:
        raise UsageError(f"{where}: {faults[0]}" if where else faults[0])
    if faults:
        raise UsageError("\n  ".join([f"{where + ': ' if where else ''}{len(faults)} faults", *faults]))
