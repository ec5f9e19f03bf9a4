"""A small recorded output folder, and how its pages are made comparable.

`python tests/report/recorded_run.py` writes the golden pages anew; look at `git diff` then.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

from guided_transfer.report.page import write_pages

RECORDED = Path(__file__).parents[1] / "data" / "report"


def scrubbed(page: str) -> str:
    """A page without versions and dates."""
    page = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "DATE", page)
    return re.sub(r"\d+\.\d+\.\d+(\+\w+)?", "VERSION", page)


def recorded_run(folder: Path) -> Path:
    """A folder with a done, a rejected and a failed episode; its videos are there, but empty."""
    out = folder / "out"
    shutil.copytree(RECORDED / "out", out)
    media = out / "report" / "media" / "data_0"
    media.mkdir(parents=True)
    for view in ("room", "wrist"):
        for kind in ("simulated", "generated", "foreground", "edge"):
            (media / f"{view}.{kind}.mp4").touch()
    (media / "wrist.zones.mp4").touch()
    (media / "thumb.jpg").touch()
    (media / "clip.json").write_text(json.dumps({"fps": 30.0, "num_frames": 5}))
    return out


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        output_dir = recorded_run(Path(temporary))
        write_pages(output_dir)
        for page in (output_dir / "report").rglob("*.html"):
            (RECORDED / "golden" / page.name).write_text(scrubbed(page.read_text()))
