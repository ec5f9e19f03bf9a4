"""`guided-transfer simulate episodes --episodes 2`: simulated episodes of a tabletop ultrasound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro
from pydantic import BaseModel, Field

from guided_transfer.cli.arguments import parse
from guided_transfer.cli.settings import OptionalCount
from guided_transfer.errors import UsageError


class SimulateSettings(BaseModel):
    """What to make, and where."""

    folder: tyro.conf.Positional[Path] = Field(description="folder for data_0.hdf5, data_1.hdf5, ...")
    episodes: int = Field(default=1, ge=1, description="how many")
    num_frames: OptionalCount = Field(default=None, ge=1, description="frames of each; unset = the whole motion")
    seed: int = Field(default=0, ge=0, description="of the first scene; episode k takes seed + k")
    heldout: bool = Field(default=False, description="scenes that the bundled model was not trained on")
    size_px: int = Field(default=224, ge=16, description="rows and columns of both views [px]")
    reference: bool = Field(
        default=False, description="also write the scene in a real look, data_<k>_reference.npz"
    )
    device: str = Field(default="cpu", description="cpu, cuda or cuda:<n>")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings, _ = parse(argv, SimulateSettings, prog="guided-transfer simulate", about=__doc__)
    from guided_transfer.cli.resolve import choose_device
    from guided_transfer.scenes import simulate

    choose_device(settings.device)
    check_lengths(settings)
    simulate(
        settings.folder,
        episodes=settings.episodes,
        num_frames=settings.num_frames,
        seed=settings.seed,
        heldout=settings.heldout,
        size_px=settings.size_px,
        device=settings.device,
        reference=settings.reference,
        on_episode=print,
    )
    return 0


def check_lengths(settings: SimulateSettings) -> None:
    """Whether every motion has the frames that are asked for.

    Raises:
        UsageError: one is shorter; says how many all of them have.
    """
    from guided_transfer.scenes import HELDOUT_SCENE_SEEDS, sample_scene

    if settings.num_frames is None:
        return
    first = settings.seed + (HELDOUT_SCENE_SEEDS.start if settings.heldout else 0)
    seeds = range(first, first + settings.episodes)
    shortest = min(sample_scene(seed, heldout=settings.heldout).num_frames for seed in seeds)
    if settings.num_frames > shortest:
        raise UsageError(
            f"--num_frames is {settings.num_frames}; accepted are 1 to {shortest}, which is the shortest motion of "
            "these episodes. Leave it out for the whole motion of each"
        )
