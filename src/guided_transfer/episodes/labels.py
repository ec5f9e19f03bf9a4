"""Colours of the simulator's segmentation to labels and back, exactly: a colour nobody declared is an error."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import EpisodeInconsistent

Colour = tuple[int, int, int]

LABEL_COLOURS: Mapping[Colour, int] = {
    (0, 0, 0): 0,
    (255, 0, 0): 1,
    (0, 255, 0): 2,
    (0, 0, 255): 3,
    (255, 255, 0): 4,
}
"""RGB -> label of docs/conventions.md."""

OPAQUE = np.uint32(0xFF000000)


def labels_from_colours(colours: Tensor, table: Mapping[Colour, int] = LABEL_COLOURS) -> Tensor:
    """Decode a colour-coded segmentation.

    Args:
        colours: [T, H, W, 3] RGB or [T, H, W, 4] RGBA uint8; alpha is ignored.
        table: RGB -> label in 0..255; several colours may share a label.

    Returns:
        [T, H, W] uint8.

    Raises:
        EpisodeInconsistent: a colour is not in the table; shows each (the most frequent first), how many
            pixels have it and the first frame it is in.
    """
    labels = torch.empty(colours.shape[:3], dtype=torch.uint8)
    decode_into(labels.numpy(), colours.numpy(), table)
    return labels


def decode_into(labels: np.ndarray, colours: np.ndarray, table: Mapping[Colour, int]) -> None:
    """`labels_from_colours` into memory the caller has, so that long episodes are held once."""
    codes = [(np.uint32(_pack(colour)), np.uint8(label)) for colour, label in table.items()]
    for frame, (out, picture) in enumerate(zip(labels, colours, strict=True)):
        # One uint32 per pixel and one picture at a time: comparisons vectorise and stay in the cache.
        rgba = (
            cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA) if picture.shape[-1] == 3 else np.ascontiguousarray(picture)
        )
        packed = rgba.view(np.uint32)[..., 0] | OPAQUE
        out[...] = 0
        known = 0
        for code, label in codes:
            hit = packed == code
            known += int(np.count_nonzero(hit))
            if label:
                out |= hit.view(np.uint8) * label
            if known == packed.size:
                break
        else:
            raise _unknown_colours(frame, colours, table)


def colours_from_labels(labels: Tensor, table: Mapping[Colour, int] = LABEL_COLOURS) -> Tensor:
    """Colours [T, H, W, 3] uint8 of labels [T, H, W] uint8; a label without a colour is an error."""
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    for colour, label in reversed(list(table.items())):
        palette[label] = torch.tensor(colour, dtype=torch.uint8)
    unknown = sorted(set(labels.unique().tolist()) - set(table.values()))
    if unknown:
        raise EpisodeInconsistent(f"labels {unknown} have no colour; declared are {sorted(set(table.values()))}")
    return palette[labels.long()]


def _pack(colour: Colour) -> int:
    red, green, blue = colour
    return red | green << 8 | blue << 16 | int(OPAQUE)


def _unknown_colours(first_frame: int, colours: np.ndarray, table: Mapping[Colour, int]) -> EpisodeInconsistent:
    found, counts = np.unique(colours[..., :3].reshape(-1, 3), axis=0, return_counts=True)
    order = np.argsort(-counts)
    unknown = [(tuple(found[i].tolist()), int(counts[i])) for i in order if tuple(found[i].tolist()) not in table]
    shown = ", ".join(f"{colour} in {count} pixels" for colour, count in unknown[:4])
    more = f" and {len(unknown) - 4} more colours" if len(unknown) > 4 else ""
    declared = ", ".join(f"{colour} = {label}" for colour, label in table.items())
    return EpisodeInconsistent(
        f"unknown label colour {shown}{more}, first in frame {first_frame} of those read; declared are {declared}. "
        "Render labels without blending or anti-aliasing, or declare the colours in the schema"
    )
