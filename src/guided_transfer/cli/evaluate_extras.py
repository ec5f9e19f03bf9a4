"""The figures of `guided-transfer evaluate` that need trained networks: which are here, and what they say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guided_transfer.episodes.video import read_video
from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.metrics.foreground import regions
from guided_transfer.metrics.learned.depth import REPOSITORY as DEPTH_ANYTHING
from guided_transfer.metrics.learned.depth import DepthAnything, depth_error
from guided_transfer.metrics.learned.dover import Dover
from guided_transfer.metrics.learned.frechet import REPOSITORY as V_JEPA
from guided_transfer.metrics.learned.frechet import VideoFeatures, frechet_distance
from guided_transfer.metrics.learned.lpips import Lpips, diversity, regional_lpips
from guided_transfer.metrics.learned.masks import REPOSITORY as SAM2
from guided_transfer.metrics.learned.masks import Sam2, mask_iou
from guided_transfer.metrics.suite import sampled_frames
from guided_transfer.report.figures import Figures, worse_view

if TYPE_CHECKING:
    from guided_transfer.types import Episode, View

Videos = Mapping[str, Tensor]
"""[T, H, W, 3] uint8 by view name."""

EXTRAS = ("lpips", "diversity", "dover", "depth", "masks", "fvd")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


def chosen_extras(asked: str, real_video_dir: str) -> tuple[str, ...]:
    """Read --extras; a folder of real videos asks for their distance by itself.

    Raises:
        UsageError: a word that is no extra.
    """
    words = [word.strip() for word in asked.split(",") if word.strip()]
    if unknown := [word for word in words if word not in (*EXTRAS, "all")]:
        raise UsageError(f"extras is {asked!r}: {unknown[0]!r} is none; accepted are all, {', '.join(EXTRAS)}")
    if "all" in words:
        return EXTRAS
    return tuple(name for name in EXTRAS if name in words or (name == "fvd" and real_video_dir))


@dataclass
class Extras:
    """The networks that were asked for and are here.

    Attributes:
        found: by extra.
        missing: by extra, why it is not measured and how it can be.
        real: features of the real videos [clips, D]; None without them.
    """

    found: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    real: Tensor | None = None
    _variants: dict[tuple[str, str], list[tuple[str, Videos]]] = field(default_factory=lambda: defaultdict(list))
    _features: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def load(cls, asked: Collection[str], checkpoint_dir: Path, device: str, real_video_dir: str) -> Extras:
        """Load what is there; what is not is kept as a reason, so that the rest can be measured.

        Raises:
            UsageError: the folder of real videos is none, or holds none.
        """
        loaders: dict[str, Callable[[], Any]] = {
            "lpips": lambda: Lpips.from_folder(checkpoint_dir / "lpips", device),
            "diversity": lambda: extras.found.get("lpips") or Lpips.from_folder(checkpoint_dir / "lpips", device),
            "dover": lambda: Dover.from_folder(checkpoint_dir / "dover"),
            "depth": lambda: DepthAnything.from_folder(checkpoint_dir / DEPTH_ANYTHING, device),
            "masks": lambda: Sam2.from_folder(checkpoint_dir / SAM2, device),
            "fvd": lambda: VideoFeatures.from_folder(checkpoint_dir / V_JEPA, device),
        }
        videos = real_videos(Path(real_video_dir)) if real_video_dir else []
        extras = cls()
        for name in asked:
            if name == "fvd" and not videos:
                extras.missing[name] = (
                    "real videos to compare with are missing; name their folder: --real_video_dir"
                )
                continue
            try:
                extras.found[name] = loaders[name]()
            except CheckpointError as error:
                extras.missing[name] = str(error)
        if "fvd" in extras.found:
            extras.real = extras._of_set(read_video(video)[0] for video in videos)
        return extras

    def measure(self, row: str, method: str, source: Episode, videos: Videos, labels: Collection[int]) -> Figures:
        """Figures of one episode, of the worse view.

        Args:
            row: of the table, for `of_rows`.
            method: "mean" for the run's own results, else the row that fools nobody.
            source: the simulated episode.
            videos: what is measured; views of the source.
            labels: of the foreground.
        """
        if "diversity" in self.found:
            few = {name: rgb[sampled_frames(len(rgb))] for name, rgb in videos.items()}
            self._variants[str(source.source), source.id.rpartition("/")[2] + method].append((row, few))
        if "fvd" in self.found:
            self._features[method].append(self._of_set(videos.values()))
        return worse_view(self._of_view(source.views[name], rgb, labels) for name, rgb in videos.items())

    def of_rows(self) -> Iterator[tuple[str, Figures]]:
        """Figures that say something of several episodes at once, by row, when all are measured."""
        several = [variants for variants in self._variants.values() if len(variants) > 1]
        if self._variants and not several:
            self.missing["diversity"] = "no episode has variants; transfer with --variants 2 or more"
        for variants in several:
            by_view = {name: [videos[name] for _, videos in variants] for name in variants[0][1]}
            figures = worse_view(
                {"diversity_lpips": diversity(self.found["diversity"], few)} for few in by_view.values()
            )
            yield from ((row, figures) for row, _ in variants)
        for method, features in self._features.items():
            yield method, {"fvd": self._distance(features)}

    def _of_view(self, view: View, rgb: Tensor, labels: Collection[int]) -> dict[str, float | None]:
        sampled = sampled_frames(view.num_frames)
        few = rgb[sampled]
        figures: dict[str, float | None] = {}
        if "lpips" in self.found and view.labels is not None:
            where = regions(view.labels[sampled], labels)
            figures |= regional_lpips(self.found["lpips"], view.rgb[sampled], few, where)
        if "dover" in self.found:
            figures |= self.found["dover"].scores(rgb)
        if "depth" in self.found and view.depth_m is not None:
            figures |= depth_error(self.found["depth"], few, view.depth_m[sampled])
        if "masks" in self.found and view.labels is not None:
            figures["mask_miou"] = mask_iou(self.found["masks"], few, view.labels[sampled], labels)
        return figures

    def _of_set(self, videos: Iterable[Tensor]) -> Tensor:
        return torch.cat([self.found["fvd"].of(video) for video in videos])

    def _distance(self, features: list[Tensor]) -> float | None:
        assert self.real is not None
        try:
            return frechet_distance(torch.cat(features), self.real)
        except UsageError as error:
            self.missing["fvd"] = str(error)
            return None


def real_videos(folder: Path) -> list[Path]:
    """The videos of a folder and of those below it.

    Raises:
        UsageError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise UsageError(f"real_video_dir {str(folder)!r} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    return found
