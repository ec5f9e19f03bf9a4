"""The sweep's curve as data, table and picture."""

import csv
import json
import xml.etree.ElementTree as ET

from guided_transfer.report.curve import Point, Sweep, write_sweep
from guided_transfer.report.page import write_pages


def figures(psnr_db, change):
    return {"foreground_psnr_db": psnr_db, "background_delta_e": change, "ceiling_psnr_db": 30.0}


SWEEP = Sweep(
    ["data_0/demo_0"],
    [
        Point("guided", "sigma_threshold", 0.3, figures(28.0, 9.0), chosen=True),
        Point("guided", "sigma_threshold", 3.0, figures(20.0, 10.0)),
        Point("guided", "resolution", "native", figures(28.0, 9.0), chosen=True),
        Point("guided", "resolution", "128", figures(24.0, 8.0)),
        Point("direct", "", None, figures(15.0, 11.0)),
        Point("composite", "", None, figures(45.0, 9.0)),
        Point("identity", "", None, figures(200.0, 0.0)),
    ],
    {"seed": 1},
)


def test_data_and_table_hold_every_point(tmp_path):
    data, table, _ = write_sweep(tmp_path, SWEEP)
    points = json.loads(data.read_text())["points"]
    assert [point["method"] for point in points] == [*["guided"] * 4, "direct", "composite", "identity"]
    rows = list(csv.DictReader(table.open()))
    assert [row["value"] for row in rows] == ["0.3", "3.0", "native", "128", "", "", ""]
    assert [row["setting"] for row in rows[1:4]] == ["sigma_threshold", "resolution", "resolution"]
    assert float(rows[1]["foreground_psnr_db"]) == 20.0


def test_picture_names_its_points_and_is_reproducible(tmp_path):
    first = write_sweep(tmp_path / "a", SWEEP)[2].read_bytes()
    assert write_sweep(tmp_path / "b", SWEEP)[2].read_bytes() == first
    words = {element.text.strip() for element in ET.fromstring(first).iter() if element.text}
    assert {"σ 3", "128", "guided, sigma_threshold", "guided, resolution"} <= words
    assert {"chosen: σ 0.3, native", "direct", "composite", "tokenizer's ceiling"} <= words
    assert "identity" not in words  # its place is off the scale


def test_page_shows_the_curve(recorded):
    write_sweep(recorded / "sweep", SWEEP)
    page = write_pages(recorded).read_text()
    assert 'src="sweep.svg"' in page
    assert (recorded / "report/sweep.svg").read_bytes() == (recorded / "sweep/sweep.svg").read_bytes()
    assert ">45.0<" in page
