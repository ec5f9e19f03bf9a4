"""Is a file safe to open? Asked before anything is read."""

from __future__ import annotations

from pathlib import Path


def require_safe(path: Path) -> None:
    """Raise `EpisodeUnreadable` where a file's structure cannot be trusted."""
