"""Colours of the simulator's segmentation to labels and back, exactly: a colour nobody declared is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from guided_transfer.errors import EpisodeInconsistent
from guided_transfer.types import LABEL_COLOURS

Colour = tuple[int, int, int]
Unknown = dict[int, Counter[Colour]]
"""Colours that are not in a table and their pixel counts, by frame."""

LABEL_OF_COLOUR: Mapping[Colour, int] = {colour: label for label, colour in enumerate(LABEL_COLOURS)}
"""RGB -> label of docs/conventions.md."""

OPAQUE = np.uint32(0xFF000000)


def labels_from_colours(colours: Tensor, table: Mapping[Colour, int] = LABEL_OF_COLOUR) -> Tensor:
    """Decode a colour-coded segmentation.

    Args:
        colours: [T, H, W, 3] RGB or [T, H, W, 4] RGBA uint8; alpha is ignored.
        table: RGB -> label in 0..255; several colours may share a label.

    Returns:
        [T, H, W] uint8.

    Raises:
        EpisodeInconsistent: colours are not in the table; shows the most frequent, in how many pixels they are,
            and the first frame that has one.
    """
    labels = torch.empty(colours.shape[:3], dtype=torch.uint8)
    refuse_unknown(decode_into(labels.numpy(), colours.numpy(), table), table)
    return labels


def decode_into(labels: np.ndarray, colours: np.ndarray, table: Mapping[Colour, int]) -> Unknown:
    """`labels_from_colours` into memory the caller has, telling unknown colours instead of raising."""
    codes = [(np.uint32(_pack(colour)), np.uint8(label)) for colour, label in table.items()]
    unknown: Unknown = {}
    rgba = np.empty((*labels.shape[1:], 4), np.uint8)
    packed, hit = rgba.view(np.uint32)[..., 0], np.empty(labels.shape[1:], bool)
    for frame, (out, picture) in enumerate(zip(labels, colours, strict=True)):
        # One uint32 per pixel and one picture at a time: comparisons vectorise and stay in the cache.
        if picture.shape[-1] == 3:
            cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA, dst=rgba)
        else:
            np.bitwise_or(np.ascontiguousarray(picture).view(np.uint32)[..., 0], OPAQUE, out=packed)
        out[...] = 0
        known = 0
        for code, label in codes:
            np.equal(packed, code, out=hit)
            if label:
                out |= hit.view(np.uint8) * label
            else:
                known += int(np.count_nonzero(hit))
        if known + np.count_nonzero(out) < packed.size:
            unknown[frame] = _count_unknown(packed, table)
    return unknown


def refuse_unknown(unknown: Unknown, table: Mapping[Colour, int]) -> None:
    """Raise `EpisodeInconsistent` where `decode_into` met colours that are not in the table."""
    if not unknown:
        return
    total = sum(unknown.values(), Counter())
    shown = ", ".join(f"{colour} in {count} pixels" for colour, count in total.most_common(4))
    more = f" and {len(total) - 4} more colours" if len(total) > 4 else ""
    declared = ", ".join(f"{colour} = {label}" for colour, label in table.items())
    raise EpisodeInconsistent(
        f"unknown label colour {shown}{more}, first in frame {min(unknown)}; declared are {declared}. "
        "Render labels without blending or anti-aliasing, or declare the colours in the schema"
    )


def colours_from_labels(labels: Tensor, table: Mapping[Colour, int] = LABEL_OF_COLOUR) -> Tensor:
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


def _count_unknown(packed: np.ndarray, table: Mapping[Colour, int]) -> Counter[Colour]:
    codes, counts = np.unique(packed, return_counts=True)
    found = ((_unpack(int(code)), int(count)) for code, count in zip(codes, counts, strict=True))
    return Counter({colour: count for colour, count in found if colour not in table})


def _unpack(code: int) -> Colour:
    return code & 255, code >> 8 & 255, code >> 16 & 255
