from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_transfer.episodes import colours_from_labels, labels_from_colours
from guided_transfer.episodes.schema import ISAACLAB, label_colours
from guided_transfer.errors import EpisodeInconsistent
from guided_transfer.types import LABEL_COLOURS

FIXTURE = Path(__file__).parents[1] / "data" / "episodes" / "labels.npz"


def fixture_views() -> tuple[torch.Tensor, torch.Tensor]:
    """Colours [6, 40, 48, 3] and the reference's labels [6, 40, 48]."""
    with np.load(FIXTURE, allow_pickle=False) as arrays:
        colours, labels = arrays["seg_color"], arrays["seg_labels_rgb_to_mask"]
        return torch.from_numpy(colours.reshape(-1, 40, 48, 3)), torch.from_numpy(labels.reshape(-1, 40, 48))


def is_declared(colours: torch.Tensor) -> torch.Tensor:
    table = torch.tensor(list(LABEL_COLOURS), dtype=torch.uint8)
    return (colours[..., None, :] == table).all(-1).any(-1)


def test_known_colours_decode_as_in_the_reference() -> None:
    colours, expected = fixture_views()
    known = is_declared(colours)
    ours = labels_from_colours(torch.where(known[..., None], colours, 0))
    assert torch.equal(ours, expected.to(torch.uint8))
    assert set(ours.unique().tolist()) == {0, 1, 2, 3, 4}


def test_a_colour_the_reference_turns_into_0_is_an_error_that_shows_it_and_the_count() -> None:
    colours, _ = fixture_views()
    unknown = ~is_declared(colours)
    shades = {tuple(shade.tolist()) for shade in colours[unknown]}
    assert shades
    with pytest.raises(EpisodeInconsistent) as caught:
        labels_from_colours(colours)
    shade = min(shades)
    count = int((colours == torch.tensor(shade, dtype=torch.uint8)).all(-1).sum())
    assert len(shades) > 4 or f"{shade} in {count} pixels" in str(caught.value)
    first = int(unknown.flatten(1).any(1).nonzero()[0])
    assert f"first in frame {first}" in str(caught.value)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_labels_survive_the_way_through_colours(seed: int, frames: int, height: int, width: int) -> None:
    labels = torch.randint(0, 5, (frames, height, width), generator=torch.Generator().manual_seed(seed))
    labels = labels.to(torch.uint8)
    assert torch.equal(labels_from_colours(colours_from_labels(labels)), labels)


def test_alpha_is_ignored_and_several_colours_may_share_a_label() -> None:
    table = label_colours(ISAACLAB)
    colours = torch.tensor([[120, 230, 255, 255], [255, 36, 66, 0], [204, 110, 248, 7]], dtype=torch.uint8)
    assert labels_from_colours(colours.reshape(1, 1, 3, 4), table).flatten().tolist() == [3, 3, 4]


def test_a_label_without_a_colour_is_an_error() -> None:
    with pytest.raises(EpisodeInconsistent, match=r"labels \[7\] have no colour"):
        colours_from_labels(torch.full((1, 2, 2), 7, dtype=torch.uint8))
