"""Where an episode keeps finished stages, so that one that was interrupted continues from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_transfer.runner.files import sha256_file, write_json, write_whole


class Workspace:
    """Verified intermediates of one episode, lossless; removed once the episode is published.

    A stage is believed only under the episode's fingerprint (input content, settings, code, weights) and with
    its own hash, so what continues from it ends bit-identical to a run that was never interrupted.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def save(self, name: str, array: np.ndarray, facts: Mapping[str, Any] | None = None) -> None:
        """Keep an array, for example "demo_0.room" [T, H, W, 3] uint8, with JSON-able facts about it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._array_path(name)
        write_whole(path, lambda file: np.save(file, np.ascontiguousarray(array), allow_pickle=False))
        seal = {"fingerprint": self.fingerprint, "sha256": sha256_file(path), "facts": facts or {}}
        write_json(path.with_suffix(".json"), seal)

    def load(self, name: str) -> tuple[np.ndarray, dict[str, Any]] | None:
        """The array and its facts, or None where nothing whole and of this fingerprint is kept."""
        path = self._array_path(name)
        try:
            seal = json.loads(path.with_suffix(".json").read_bytes())
            if seal["fingerprint"] != self.fingerprint or seal["sha256"] != sha256_file(path):
                return None
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return np.load(path, allow_pickle=False), seal["facts"]

    def clear(self) -> None:
        """Remove everything kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _array_path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"
