"""`make demo`: one simulated episode, both views transferred on this machine, and what came of it.

    python examples/demo.py [folder]

Run again, it finds the episode done and only prints. A few minutes on two CPU cores; no GPU, nothing downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np

from guided_transfer.cli.main import main as guided_transfer

DATASET = "data/demo_0/observations/rgb_images"
SCENE_SEED = 600_001
"""Of a scene that the bundled model never saw in training."""
SHOWN = (0, 16, 32)


def main(folder: Path) -> int:
    """Simulate, transfer, check, and say where everything is; returns the exit code."""
    source, output = folder / "simulated", folder / "transferred"
    if not (source / "data_0.hdf5").exists():
        guided_transfer(["simulate", str(source), "--num_frames", "33", "--seed", str(SCENE_SEED)])
    folders = ["--source_data_dir", str(source), "--output_data_dir", str(output)]
    if code := guided_transfer(["transfer", *folders, "--checkpoint_dir", "bundled"]):
        return code
    before, after = source / "data_0.hdf5", output / "data_0.hdf5"
    check_untouched(before, after)
    sheet = write_sheet(before, after, folder / "sheet.png")
    print_figures(json.loads((output / "ledger" / "data_0.json").read_text())["result"]["demo_0"]["metrics"])
    print(f"episode  {after}")
    print(f"videos   {', '.join(str(p) for p in sorted(output.glob('*.mp4')))}")
    print(f"sheet    {sheet}   (rows: room, wrist; simulated left, generated right)")
    return 0


def check_untouched(before: Path, after: Path) -> None:
    """Everything but the pictures must be byte-identical."""
    with h5py.File(before) as a, h5py.File(after) as b:
        names: list[str] = []
        a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            if name != DATASET and a[name][()].tobytes() != b[name][()].tobytes():
                sys.exit(f"{after}: {name} was changed")
        print(f"checked  {len(names) - 1} datasets are byte-identical, {DATASET.rsplit('/', 1)[1]} is new")


def write_sheet(before: Path, after: Path, path: Path) -> Path:
    """Room above wrist; three frames simulated, the same three generated."""
    with h5py.File(before) as a, h5py.File(after) as b:
        rows = [
            np.concatenate([file[DATASET][t, view] for file in (a, b) for t in SHOWN], axis=1) for view in (0, 1)
        ]
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])
    return path


def print_figures(metrics: dict) -> None:
    """Foreground kept, background changed."""
    for name, view in metrics["views"].items():
        kept, most = view["foreground"]["psnr_db"], view["ceiling"]["psnr_db"]
        changed = view["background"]["delta_e"]
        print(
            f"{name:8} foreground {kept:.1f} dB of at most {most:.1f} dB (the tokenizer's own), "
            f"background changed by {changed:.0f} CIEDE2000"
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
