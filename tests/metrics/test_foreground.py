import pytest
import torch

from guided_transfer.metrics.foreground import background_change, foreground_fidelity, regions
from guided_transfer.metrics.similarity import IDENTICAL_DB

FIRST = torch.tensor([0])


@pytest.fixture
def labels():
    labels = torch.zeros(1, 15, 15, dtype=torch.uint8)
    labels[:, 3:12, 3:12] = 3  # 9 x 9
    labels[:, 3:12, 8:12] = 4
    return labels


def test_regions_worked_by_hand(labels):
    where = regions(labels, (3, 4))
    assert int(where.kept.sum()) == 7 * 7  # one pixel off every side; none between the two labels
    assert int(where.edge.sum()) == 9 * 9 - 3 * 3
    assert int(where.changed.sum()) == 15 * 15 - 11 * 11


def test_only_the_chosen_labels_are_foreground(labels):
    assert int(regions(labels, [4]).kept.sum()) == 7 * 2
    assert not bool(regions(labels, [7]).kept.any())


def test_the_images_border_is_no_edge():
    where = regions(torch.full((2, 6, 8), 3, dtype=torch.uint8), (3, 4))
    assert bool(where.kept.all())
    assert not bool(where.edge.any())


def test_what_changes_where(labels):
    source = torch.full((1, 15, 15, 3), 100, dtype=torch.uint8)
    where = regions(labels, (3, 4))
    generated = source.clone()
    generated[where.changed] = 151  # 51 / 255 = 0.2
    kept, changed = (
        foreground_fidelity(source, generated, where, FIRST),
        background_change(source, generated, where),
    )
    assert kept.psnr_db == IDENTICAL_DB
    assert kept.delta_e == 0
    assert kept.edge_psnr_db == IDENTICAL_DB
    assert changed.abs_diff == pytest.approx(0.2, abs=1e-6)
    assert changed.delta_e > 10

    generated = source.clone()
    generated[where.kept] = 151
    kept, changed = (
        foreground_fidelity(source, generated, where, FIRST),
        background_change(source, generated, where),
    )
    assert kept.psnr_db == pytest.approx(13.98, abs=0.01)  # 20 log10(255 / 51)
    assert kept.ssim < 0.99
    assert (changed.abs_diff, changed.delta_e) == (0, 0)


def test_without_foreground_there_is_nothing_to_keep():
    source = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    where = regions(torch.zeros(1, 8, 8, dtype=torch.uint8), (3, 4))
    kept = foreground_fidelity(source, source, where, FIRST)
    assert (kept.psnr_db, kept.ssim, kept.delta_e, kept.edge_psnr_db) == (None, None, None, None)
