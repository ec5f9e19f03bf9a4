"""Tests and files that the documents name are there, and every difference from the reference names one."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.md")])
LINKED = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"(?:tests/)?((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?")


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_tests_exist(document: Path) -> None:
    for file, test in NAMED.findall(document.read_text()):
        assert (TESTS / file).is_file(), f"{document.name} names {file}"
        assert not test or test in functions_of(TESTS / file), f"{document.name} names {file}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = [link for link in LINKED.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_difference_names_its_test() -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in (ROOT / "docs/differences.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| the reference does", "| ---"))
    ]
    differences = [row for row in rows if len(row) == 3]
    assert len(differences) > 60
    for row in differences:
        assert any(test for _, test in NAMED.findall(row[2])), row[0]
    assert {len(row) for row in rows} == {2, 3}  # those of two say why they do not apply, or stay as they are
