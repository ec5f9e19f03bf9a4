"""Files that appear whole or not at all: hidden sibling, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def whole_file(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path in the target's folder; what was written there becomes `target` at the end.

    A reader meets the old content or the new one, also after a power failure. When the body raises, nothing
    appears and nothing is left; a writer that is killed leaves a hidden `.partial` file.

    Args:
        target: where the file shall appear.
        durable: wait for the disk; needless for what is easily made again.

    Raises:
        OSError: the file system refused.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync(target.parent)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
