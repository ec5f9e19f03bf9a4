from pathlib import Path

import pytest
from tiny_guardrails import write_classifier, write_detector, write_lists, write_llama_guard, write_siglip

from guided_transfer.safety.guardrails import BLOCKLIST, CONTENT_FILTER, FACE_DETECTOR, LLAMA_GUARD, SIGLIP


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkpoint folder with all four guardrails; as they stand they let prompts and videos pass."""
    write_lists(tmp_path / BLOCKLIST)
    write_llama_guard(tmp_path / LLAMA_GUARD, "safe <end>")
    write_siglip(tmp_path / SIGLIP[0])
    write_classifier(tmp_path / CONTENT_FILTER, 0)
    write_detector(tmp_path / FACE_DETECTOR, face=False)
    return tmp_path
