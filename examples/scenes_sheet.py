"""The picture in docs/scenes.md: four scenes in the simulated and three real looks.

    python examples/scenes_sheet.py [picture]

Left half: room camera; right half: wrist camera.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

from guided_transfer import scenes

SEEDS = (7, 21, 42, 1234)
LOOKS = 3


def row(seed: int) -> np.ndarray:
    """The middle frame of one scene, [224, 8 * 224, 3]."""
    scene = scenes.sample_scene(seed)
    styles = [scenes.sample_style(10 * seed + k) for k in range(LOOKS)]
    middle = [scene.num_frames // 2]
    clip = scenes.render_clip(scene, [None, *styles], frames=middle, device="cpu", noise_seed=seed)
    return np.concatenate([clip.rgb[look, view, 0].numpy() for view in (0, 1) for look in range(1 + LOOKS)], axis=1)


if __name__ == "__main__":
    picture = sys.argv[1] if len(sys.argv) > 1 else "docs/scenes.jpg"
    cv2.imwrite(picture, np.concatenate([row(seed) for seed in SEEDS])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(picture)
