"""The picture in the README: one simulated episode under three prompts, directly and guided.

    python examples/three_prompts.py [folder] [picture]

Columns: simulated, then direct and guided for each prompt; rows: room and wrist view, frame 16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import h5py
import numpy as np

from guided_transfer.cli.main import main as guided_transfer

SCENE_SEED = 600_001
FRAME = 16
NO_GUIDANCE = "1000"
"""A threshold above every noise level."""
PROMPTS = (
    "A realistic video of a robot arm scanning a torso phantom on an oak wood table in a home office. "
    "The walls are painted white. Illuminated by warm yellow light.",
    "A realistic video of a robot arm scanning a torso phantom on a table covered with a blue drape in an "
    "operating room. The walls are covered with green tiles. There is bright daylight.",
    "A realistic video of a robot arm scanning a torso phantom on a dark granite table in a laboratory. "
    "The room has walls of red brick. There are white cabinets in the back.",
)


def main(folder: Path, picture: Path) -> int:
    """Transfer the episode six times and write the picture; returns the exit code."""
    source = folder / "simulated"
    if not (source / "data_0.hdf5").exists():
        guided_transfer(["simulate", str(source), "--num_frames", "33", "--seed", str(SCENE_SEED)])
    columns = [column(source)]
    for index, prompt in enumerate(PROMPTS):
        for name, extra in (("direct", ["--sigma_threshold", NO_GUIDANCE]), ("guided", [])):
            out = folder / f"{name}_{index}"
            words = ["--source_data_dir", str(source), "--output_data_dir", str(out), "--prompt", prompt]
            words += ["--checkpoint_dir", "bundled", "--quiet", "--no_report", *extra]
            if code := guided_transfer(["transfer", *words]):
                return code
            columns.append(column(out))
    gap = np.full((columns[0].shape[0], 6, 3), 255, np.uint8)
    row = [part for one in columns for part in (one, gap)][:-1]
    cv2.imwrite(str(picture), np.concatenate(row, axis=1)[..., ::-1])
    print(picture)
    return 0


def column(folder: Path) -> np.ndarray:
    """Room above wrist at FRAME, [2 * 224, 224, 3]."""
    with h5py.File(folder / "data_0.hdf5") as file:
        return np.concatenate(list(file["data/demo_0/observations/rgb_images"][FRAME]))


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    sys.exit(main(*(arguments or [Path("demo/three_prompts"), Path("docs/three_prompts.png")])))
