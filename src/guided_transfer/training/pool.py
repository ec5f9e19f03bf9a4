"""Videos drawn at random from rendered clips, to train the tokenizer on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from guided_transfer.training.data import SceneClip, SceneFeed, stack, to_model
from guided_transfer.types import FOREGROUND_LABELS

RECOLOURED_SHARE = 0.4
"""Of the videos; users' colours are not those of our scenes."""
EDGE_TRIES = 8
"""Crops looked at until one shows both sides of a foreground's edge."""


@dataclass(frozen=True)
class Composite:
    """Videos in one look whose foreground is to come from another, as guided generation puts them together.

    Attributes:
        outside: [B, 3, T, H, W] in -1..1.
        inside: the same geometry in another look.
        foreground: [B, T, H, W] bool.
    """

    outside: Tensor
    inside: Tensor
    foreground: Tensor

    @property
    def whole(self) -> Tensor:
        """The picture that is meant, [B, 3, T, H, W]."""
        return torch.where(self.foreground[:, None], self.inside, self.outside)


class Pool:
    """Rendered clips in device memory, drawn from at random; takes in what `feed` has ready.

    Args:
        feed: brings the clips.
        device: where they are kept.
        generator: of the draws, on the CPU.
        shares: how often each stream of a clip is drawn.
        first: so many clips are waited for.
    """

    def __init__(
        self,
        feed: SceneFeed[SceneClip],
        device: torch.device | str,
        generator: torch.Generator,
        shares: Mapping[str, float],
        first: int = 1,
    ) -> None:
        self.feed, self.device, self.generator = feed, device, generator
        self.streams, self.shares = list(shares), torch.tensor(list(shares.values()))
        self.clips: list[SceneClip] = []
        for clip in feed:
            self.clips.append(clip.to(device))
            if len(self.clips) >= first:
                break

    def grow(self) -> None:
        """Take in the clips that became ready since."""
        self.clips.extend(clip.to(self.device) for clip in self.feed.ready())

    def crops(self, batch: int, frames: int, px: int) -> Tensor:
        """[B, 3, frames, px, px] in -1..1."""
        videos = (self._view(self._draw()) for _ in range(batch))
        return self._recoloured(to_model(torch.stack([video[self._window(video, frames, px)] for video in videos])))

    def wholes(self, batch: int, stacked: bool) -> Tensor:
        """[B, 3, T, H, W]: whole frames of single views, or [B / 2, 3, T, 2 H, W] of stacked ones."""
        draws = [self._draw() for _ in range(_videos(batch, stacked))]
        return self._recoloured(to_model(torch.stack([stack(v) if stacked else self._view(v) for v in draws])))

    def composite_crops(self, batch: int, frames: int, px: int) -> Composite:
        """As `crops`, the simulated look's foreground in a real look; at its edge where that is found."""
        return self._composites([self._at_edge(*self._pair(self._view), frames, px) for _ in range(batch)])

    def composite_wholes(self, batch: int, stacked: bool) -> Composite:
        """As `wholes`, the simulated look's foreground in a real look."""
        which = stack if stacked else self._view
        return self._composites([self._pair(which) for _ in range(_videos(batch, stacked))])

    def _draw(self) -> Tensor:
        """Both views [V, T, H, W, 3] of one stream of one clip."""
        clip = self._clip()
        stream = self.streams[int(torch.multinomial(self.shares, 1, generator=self.generator))]
        return clip.stream(stream, self._randint(len(clip.real)))

    def _pair(self, which: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Real look, simulated look and labels of what `which` makes of both views, [T, H, W, 3 or 1]."""
        clip = self._clip()
        real = clip.real[self._randint(len(clip.real))]
        together = which(torch.cat([real, clip.sim, clip.labels[..., None]], dim=-1))
        return together[..., :3], together[..., 3:6], together[..., 6:]

    def _at_edge(
        self, real: Tensor, sim: Tensor, labels: Tensor, frames: int, px: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        for _ in range(EDGE_TRIES):
            window = self._window(labels, frames, px)
            foreground = _is_foreground(labels[window])
            if foreground.any() and not foreground.all():
                break
        return real[window], sim[window], labels[window]

    def _composites(self, found: list[tuple[Tensor, Tensor, Tensor]]) -> Composite:
        real, sim, labels = (torch.stack(tensors) for tensors in zip(*found, strict=True))
        outside, inside = self._recoloured(to_model(torch.cat([real, sim]))).chunk(2)
        return Composite(outside, inside, _is_foreground(labels[..., 0]))

    def _recoloured(self, x: Tensor) -> Tensor:
        """A share of the videos with channels exchanged and scaled."""
        gains = 0.6 + 0.8 * torch.rand(len(x), 3, generator=self.generator)
        mix = torch.stack([torch.eye(3)[torch.randperm(3, generator=self.generator)] for _ in x]) * gains[:, None]
        plain = torch.rand(len(x), generator=self.generator) >= RECOLOURED_SHARE
        mix = torch.where(plain[:, None, None], torch.eye(3), mix).to(x.device)
        return (torch.einsum("bij,bjthw->bithw", mix, (x + 1) / 2) * 2 - 1).clamp(-1, 1)

    def _clip(self) -> SceneClip:
        return self.clips[self._randint(len(self.clips))]

    def _view(self, views: Tensor) -> Tensor:
        return views[self._randint(len(views))]

    def _window(self, video: Tensor, frames: int, px: int) -> tuple[slice, slice, slice]:
        sizes = (frames, px, px)
        starts = [self._randint(n - m + 1) for n, m in zip(video.shape[:3], sizes, strict=True)]
        t, y, x = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        return t, y, x

    def _randint(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self.generator))


def _videos(batch: int, stacked: bool) -> int:
    return max(batch // 2, 1) if stacked else batch


def _is_foreground(labels: Tensor) -> Tensor:
    return torch.isin(labels, labels.new_tensor(FOREGROUND_LABELS))
