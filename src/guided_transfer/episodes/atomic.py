"""Results that replace nothing unasked, and appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from guided_transfer.errors import OutputError
from guided_transfer.whole import PARTIAL, whole_file


@contextmanager
def published(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; what was written there becomes `target` at the end.

    See `whole_file`; the next writer of the same target removes what a killed one left.

    Args:
        target: where the file shall appear.
        replace: whether an existing file may be replaced; it stays whole until the new one is complete.

    Raises:
        OutputError: the target exists, or the file system refused (full, read-only, no such folder).
    """
    _refuse_existing(target, replace)
    try:
        for stale in target.parent.glob(f".{escape(target.name)}.????????{PARTIAL}"):
            stale.unlink(missing_ok=True)
        with whole_file(target) as partial:
            yield partial
            _refuse_existing(target, replace)
    except (OSError, RuntimeError) as error:  # h5py tells failed writes as either
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} could not be written: {reason}; nothing was published") from error


def _refuse_existing(target: Path, replace: bool) -> None:
    if target.exists() and not replace:
        raise OutputError(f"{target} exists and is left as it is; remove it or ask for it to be replaced")
