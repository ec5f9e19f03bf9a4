"""Which results are good enough to keep."""

from __future__ import annotations

from dataclasses import dataclass

from guided_transfer.cli.settings import QualitySettings
from guided_transfer.errors import EpisodeInconsistent
from guided_transfer.metrics.suite import EpisodeMetrics


@dataclass(frozen=True)
class Bound:
    """One figure that is asked for.

    Attributes:
        argument: that asks for it.
        what, unit: the figure's name.
        limit: the argument's value.
        value: what was measured.
        is_floor: whether the value must not be below the limit, rather than not above.
    """

    argument: str
    what: str
    unit: str
    limit: float
    value: float | None
    is_floor: bool

    @property
    def fault(self) -> str:
        """In words how the limit is missed; empty where it is kept.

        Raises:
            EpisodeInconsistent: the figure cannot be measured, so nobody can say.
        """
        if self.value is None:
            raise EpisodeInconsistent(
                f"--{self.argument} {self.limit:g}: the {self.what} cannot be measured here; it needs labels, and "
                "across views depth and cameras, and pixels to look at"
            )
        missed = self.value < self.limit if self.is_floor else self.value > self.limit
        side = "below" if self.is_floor else "above"
        return (
            f"{self.what} {self.value:.4g}{self.unit} is {side} --{self.argument} {self.limit:g}" if missed else ""
        )


def has_limits(settings: QualitySettings) -> bool:
    """Whether anything is asked of a result, so that it must be measured before the next step."""
    return settings.min_foreground_psnr is not None or settings.max_cross_view_error is not None


def faults(settings: QualitySettings, metrics: EpisodeMetrics) -> str:
    """Why a result is not good enough, or nothing.

    Raises:
        EpisodeInconsistent: a figure that is asked for cannot be measured.
    """
    psnr_db, error = settings.min_foreground_psnr, settings.max_cross_view_error
    bounds = []
    if psnr_db is not None:
        figure = ("min_foreground_psnr", "foreground PSNR", " dB", psnr_db, metrics.foreground_psnr_db)
        bounds.append(Bound(*figure, is_floor=True))
    if error is not None:
        figure = ("max_cross_view_error", "cross-view error", "", error, metrics.cross_view_error)
        bounds.append(Bound(*figure, is_floor=False))
    return "; ".join(bound.fault for bound in bounds if bound.fault)
