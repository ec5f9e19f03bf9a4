"""Files that appear whole or not at all: temporary sibling, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guided_transfer.errors import OutputError

PARTIAL = ".partial"


@contextmanager
def published(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; what was written there becomes `target` at the end.

    A writer that was killed leaves a hidden `.partial` file, never a target; the next writer of the same target
    removes it. When the body raises, nothing appears and the temporary file is removed.

    Args:
        target: where the file shall appear.
        replace: whether an existing file may be replaced; it stays whole until the new one is complete.

    Raises:
        OutputError: the target exists, or the file system refused (full, read-only, no such folder).
    """
    _refuse_existing(target, replace)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        for stale in target.parent.glob(f".{_glob_escape(target.name)}.????????{PARTIAL}"):
            stale.unlink(missing_ok=True)
        yield partial
        _sync(partial)
        _refuse_existing(target, replace)
        partial.replace(target)
        _sync(target.parent)
    except (OSError, RuntimeError) as error:  # h5py tells failed writes as either
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} could not be written: {reason}; nothing was published") from error
    finally:
        partial.unlink(missing_ok=True)


def _refuse_existing(target: Path, replace: bool) -> None:
    if target.exists() and not replace:
        raise OutputError(f"{target} exists and is left as it is; remove it or ask for it to be replaced")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _glob_escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
