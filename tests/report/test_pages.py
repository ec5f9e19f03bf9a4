"""What the pages say, held against hand-read records and golden files."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from recorded_run import RECORDED, scrubbed

from guided_transfer.cli.main import main
from guided_transfer.errors import UsageError
from guided_transfer.report.data import natural, read_run
from guided_transfer.report.figures import Chart, Line, figures_of, shown
from guided_transfer.report.page import write_pages

PAGES = ("index.html", "episodes/data_0.html", "episodes/data_1.html", "episodes/data_2.html")


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_the_golden_ones(recorded, page):
    """After a wanted change: python tests/report/recorded_run.py, then look at the difference."""
    write_pages(recorded)
    golden = RECORDED / "golden" / Path(page).name
    assert scrubbed((recorded / "report" / page).read_text()) == golden.read_text()


def test_figures_are_those_of_the_worse_view(recorded):
    record = json.loads((recorded / "ledger" / "data_0.json").read_text())
    metrics = record["result"]["demo_0"]["metrics"]
    by_view = [view["foreground"]["psnr_db"] for view in metrics["views"].values()]
    figures = figures_of(metrics)
    assert figures["foreground_psnr_db"] == min(by_view) != max(by_view)
    assert figures["flicker"] == 100 * max(view["flicker"] for view in metrics["views"].values())
    assert figures["cross_view_error"] == metrics["cross_view"]["normalised"]
    assert figures["seam_z"] is None


def test_every_outcome_is_counted_and_reasoned(recorded):
    run = read_run(recorded)
    assert run.counts == {"done": 1, "rejected": 1, "blocked": 0, "failed": 1}
    assert [episode.key for episode in run.episodes] == ["data_0", "data_1", "data_2"]
    assert run.episodes[1].attempts == 2
    index = write_pages(recorded).read_text()
    for episode in run.episodes[1:]:
        assert episode.reason.split(":")[0].replace(">", "&gt;") in index


def test_what_users_write_cannot_become_markup(recorded):
    write_pages(recorded)
    page = (recorded / "report/episodes/data_1.html").read_text()
    assert "A &lt;b&gt;white&lt;/b&gt; &amp; blue clinic" in page
    assert "<b>white" not in page


def test_nothing_outside_the_folder_is_asked_for(recorded):
    write_pages(recorded)
    report = recorded / "report"
    for page in report.rglob("*.html"):
        for link in links_of(page.read_text()):
            assert "://" not in link, f"{page.name}: {link}"
            if not link.startswith(("data:", "#")):
                target = (page.parent / link).resolve()
                assert target.is_relative_to(report.resolve()), f"{page.name}: {link}"
                assert target.exists(), f"{page.name}: {link}"


def links_of(text):
    """Every href and src of a page."""
    found = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.extend(value for name, value in attrs if name in ("href", "src") and value)

    Links().feed(text)
    return found


def test_data_is_there_without_the_page(recorded):
    write_pages(recorded)
    data = json.loads((recorded / "report/report.json").read_text())
    assert data["episodes"][0]["figures"]["foreground_psnr_db"] == pytest.approx(20.9, abs=0.05)


def test_charts_put_values_where_they_belong():
    chart = Chart("psnr", "dB", [Line("room", [10.0, None, 20.0], level=20.0)])
    low, high = chart.span
    assert (low, high) == pytest.approx((9.2, 20.8))
    assert chart.path(chart.lines[0]) == "M166.7 93.1M833.3 6.9"
    assert chart.height_of(20.0) == 6.9


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("foreground_psnr_db", 23.456, "23.5"),
        ("foreground_psnr_db", 200.0, "exact"),
        ("flicker", None, "–"),
        ("cross_view_error", -0.011, "-0.01"),
    ],
)
def test_figures_are_written_as_people_read_them(name, value, text):
    assert shown(name, value) == text


def test_names_sort_naturally():
    names = ["data_10", "data_9", "data_9_v10", "data_9_v2", "other"]
    assert sorted(names, key=natural) == ["data_9", "data_9_v2", "data_9_v10", "data_10", "other"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no run\.json"):
        read_run(tmp_path)


def test_tables_hold_the_rows_that_fool_nobody(real_run):
    rows = read_run(real_run).rows
    assert rows["identity"]["foreground_psnr_db"] == 200
    assert rows["identity"]["background_delta_e"] == 0
    # this run is the colour jitter, of one of the two sources that are alike
    assert rows["this run"]["background_delta_e"] == pytest.approx(rows["colour jitter"]["background_delta_e"])


def test_the_command_makes_missing_videos_again(real_run, tmp_path, capsys):
    media = real_run / "report/media/data_0"
    before = {path.name: path.stat().st_size for path in media.iterdir()}
    (media / "clip.json").unlink()
    (media / "room.edge.mp4").unlink()
    assert main(["report", str(real_run)]) == 0
    assert {path.name for path in media.iterdir()} == set(before)
    assert "index.html" in capsys.readouterr().out


def test_the_generated_videos_are_not_held_twice(real_run):
    published, shown_file = real_run / "data_0_room_view.mp4", real_run / "report/media/data_0/room.generated.mp4"
    assert published.samefile(shown_file)


def test_every_page_links_every_style_and_script(recorded):
    write_pages(recorded)
    for page in PAGES:
        assert re.search(r'href="(\.\./)?static/report\.css"', (recorded / "report" / page).read_text())
