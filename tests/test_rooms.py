"""The arrows between the rooms: who may import whom."""

import ast
from pathlib import Path

import pytest

import guided_transfer

ROOT = Path(guided_transfer.__file__).parent
NOUNS = {"types", "errors", ""}
ALLOWED = {
    "types": {"errors"},
    "errors": set(),
    "whole": set(),
    "pretrained": {"errors"},
    "episodes": NOUNS | {"whole"},
    "controls": NOUNS | {"pretrained"},
    "models": NOUNS | {"whole"},
    "sampling": NOUNS,
    "warp": NOUNS,
    "metrics": NOUNS | {"pretrained"},
    "prompts": NOUNS,
    "safety": NOUNS | {"pretrained"},
    "runner": NOUNS | {"whole"},
    "report": NOUNS | {"metrics", "whole"},
    "scenes": NOUNS | {"whole"},
    "clips": NOUNS,
    "cost": NOUNS,
    "generation": NOUNS | {"clips", "sampling"},
    "pipeline": NOUNS | {"clips", "cost", "generation", "models", "sampling", "controls"},
    "two_view": NOUNS | {"clips", "cost", "generation", "pipeline", "models", "sampling", "controls", "warp"},
}


def imported_rooms(path: Path) -> set[str]:
    """First package level below guided_transfer of every import in a file, also those inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, f"{path}: relative import"
    return {name.split(".")[1] for name in names if name.startswith("guided_transfer.")}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py"))
    assert files, f"no files in {room}"
    for path in files:
        extra = imported_rooms(path) - ALLOWED[room] - {room} - {"__version__"}
        assert not extra, (
            f"{path.relative_to(ROOT)} imports {sorted(extra)}; {room} may know {sorted(ALLOWED[room])}"
        )
