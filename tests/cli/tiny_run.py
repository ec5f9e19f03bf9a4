"""What a run of the whole command on the small episode leaves behind."""

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

SIZE_PX = 32
NUM_FRAMES = 9


@dataclass(frozen=True)
class Outcome:
    """What one run left behind."""

    code: int
    folder: Path

    def record(self, stem="data_0"):
        return json.loads((self.folder / "ledger" / f"{stem}.json").read_text())

    def view(self, name="room", stem="data_0"):
        return self.record(stem)["result"]["demo_0"]["views"][name]

    def rgb(self, stem="data_0"):
        """[T, view, H, W, 3], room first."""
        with h5py.File(self.folder / f"{stem}.hdf5") as file:
            return file["data/demo_0/observations/rgb_images"][:]


def same(a, b):
    return np.array_equal(a, b)
