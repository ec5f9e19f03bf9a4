"""Denoising in tiles: a picture larger than the network was made for, covered by overlapping tiles of its size.

    tiling = upscaling_tiles((704, 1280))                 # in latents: 3 x 3 tiles of 88 x 160 cover 246 x 448
    denoiser = TiledDenoiser(tiling, denoiser_of_tile)

There is one noisy picture for all tiles. At every evaluation each tile is denoised by itself, and where tiles
overlap their estimates are blended: neighbours agree long before the end, and one tile is worked on at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from guided_transfer.errors import UsageError
from guided_transfer.sampling.solver import Denoiser

UPSCALING_TILES = 3
"""Tiles of the upscaler along each side."""

UPSCALING_OVERLAP_PX = 128
"""Overlap of its tiles along the longer side; less where a side is so short that this were more than a quarter."""

PIXELS_PER_LATENT = 8

RAMP_FLOOR = 0.01
DIVISION_GUARD = 1e-6

Box: TypeAlias = tuple[slice, slice]
"""Rows and columns of one tile."""


@dataclass(frozen=True)
class Spans:
    """A length covered by `count` equal spans, each overlapping the next.

    Attributes:
        count: how many.
        size: of each.
        overlap: of neighbours, at most half of `size`, so that no place lies in three.
    """

    count: int
    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 1 or not 0 <= 2 * self.overlap <= self.size:
            raise UsageError(f"{self} cannot be: at least one span, and an overlap of 0 to half a span")

    @property
    def total(self) -> int:
        """What they cover."""
        return self.count * self.size - (self.count - 1) * self.overlap

    def __iter__(self) -> Iterator[slice]:
        for start in range(0, self.count * (self.size - self.overlap), self.size - self.overlap):
            yield slice(start, start + self.size)

    def weights(self) -> Iterator[Tensor]:
        """What each span counts at each of its places, float32 [size]: ramps in the overlaps, adding up to 1."""
        rising = (torch.arange(self.overlap) + 0.5) / max(self.overlap, 1)
        for index in range(self.count):
            weight = torch.ones(self.size)
            if index > 0:
                weight[: self.overlap] = rising
            if index < self.count - 1:
                weight[self.size - self.overlap :] = 1 - rising
            yield weight

    def scaled(self, factor: int) -> Spans:
        """The same spans counted in a unit `factor` times smaller."""
        return Spans(self.count, factor * self.size, factor * self.overlap)


@dataclass(frozen=True)
class Tiling:
    """A picture covered by tiles of one size, row by row; sizes are in latents or in pixels."""

    rows: Spans
    columns: Spans

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Tiling:
        """One tile that covers everything."""
        return cls(Spans(1, size[0]), Spans(1, size[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the whole picture."""
        return self.rows.total, self.columns.total

    @property
    def tile_size(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        return self.rows.size, self.columns.size

    def __len__(self) -> int:
        return self.rows.count * self.columns.count

    @property
    def boxes(self) -> list[Box]:
        """Where each tile lies."""
        return list(product(self.rows, self.columns))

    def cut(self, picture: Tensor) -> Iterator[Tensor]:
        """Each tile of a picture [..., rows, columns], without copying it."""
        return (picture[..., rows, columns] for rows, columns in self.boxes)

    def blend(self, tiles: Iterable[Tensor]) -> Tensor:
        """The whole picture [..., rows, columns] of floating point from one tile after the other.

        A place in one tile alone keeps its value; in the overlaps one tile fades into the next.
        """
        whole: Tensor | None = None
        weights = product(self.rows.weights(), self.columns.weights())
        for (rows, columns), (down, across), tile in zip(self.boxes, weights, tiles, strict=True):
            if len(self) == 1:
                return tile
            share = tile * torch.outer(down, across).to(tile.device)  # in float32 at least
            if whole is None:
                whole = share.new_zeros(*tile.shape[:-2], *self.size)
            whole[..., rows, columns] += share
        assert whole is not None
        return whole

    def scaled(self, factor: int) -> Tiling:
        """The same tiles counted in a unit `factor` times smaller."""
        return Tiling(self.rows.scaled(factor), self.columns.scaled(factor))


def upscaling_tiles(tile_px: tuple[int, int]) -> Tiling:
    """The upscaler's tiles, in latents: 3 x 3 of the network's own size.

    They overlap by 128 pixels along the longer side and by the same share of the shorter one, rounded up to whole
    latents: tiles of 704 x 1280 pixels cover 1968 x 3584.

    Args:
        tile_px: rows and columns that the network works at.
    """
    longer = max(tile_px)
    share = min(UPSCALING_OVERLAP_PX, longer // 4) / longer

    def spans(side_px: int) -> Spans:
        overlap = max(1, math.ceil(side_px * share / PIXELS_PER_LATENT))
        return Spans(UPSCALING_TILES, side_px // PIXELS_PER_LATENT, overlap)

    return Tiling(spans(tile_px[0]), spans(tile_px[1]))


@dataclass(frozen=True)
class TiledDenoiser:
    """The estimate for a whole picture from the estimates for its tiles.

    Attributes:
        tiling: in latents.
        denoiser_of: makes the denoiser of the tile of an index; called when the tile's turn comes, at every
            evaluation, so that what a tile is told need not be held for all tiles at once.
    """

    tiling: Tiling
    denoiser_of: Callable[[int], Denoiser]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The blended estimate."""
        tiles = enumerate(self.tiling.cut(x))
        return self.tiling.blend(self.denoiser_of(index)(tile, sigma) for index, tile in tiles)


@dataclass(frozen=True)
class ReproduceTileMerge:
    """The denoiser's estimate after the reference's merge of one single tile; for parity only.

    The reference blends tiles by ramps that fall to 0.01, even where there is nothing to blend, and divides by the
    sum of the ramps plus 1e-6. Of one tile the first row and column shrink by 1e-4 and the corner by 1 %, at every
    evaluation. Wrap it around all that shapes the estimate (classifier-free guidance, first frames).
    """

    denoiser: Denoiser

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The merged estimate."""
        denoised = self.denoiser(x, sigma)
        ramp = torch.ones_like(denoised[:1, :1, :1])
        ramp[..., 0, :] *= RAMP_FLOOR
        ramp[..., 0] *= RAMP_FLOOR
        return denoised * ramp / (ramp + DIVISION_GUARD)
