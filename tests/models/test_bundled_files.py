"""What is shipped with the package: small enough for a wheel, whole, and described."""

import hashlib

from guided_transfer.models.tree import CheckpointTree
from guided_transfer.training.package import DEFAULTS

ROOT = CheckpointTree.open("bundled").root


def test_files_are_small_enough_for_a_wheel() -> None:
    sizes = {file.name: file.stat().st_size for file in ROOT.rglob("*.safetensors")}
    assert sum(sizes.values()) <= 24e6
    assert max(sizes.values()) <= 15e6


def test_sums_are_those_of_all_weights() -> None:
    lines = (ROOT / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {
        str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in ROOT.rglob("*.safetensors")
    }
    assert listed == found


def test_defaults_are_those_that_packaging_writes() -> None:
    assert CheckpointTree.open("bundled").config.defaults == DEFAULTS


def test_the_card_lies_beside_the_weights() -> None:
    card = (ROOT / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    for part in ("## Data and recipe", "## Measured", "## Limits"):
        assert part in card
