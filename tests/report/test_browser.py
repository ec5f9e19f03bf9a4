"""The report in a real browser, opened from disk."""

import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dev extra)")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (apt-get install chromium)")

READY = "[...document.querySelectorAll('video')].every(v => v.readyState >= 2 && !v.seeking)"
TIMES = "[...document.querySelectorAll('video')].map(v => v.currentTime)"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[("light", 1280), ("dark", 1280), ("light", 390)], ids=["light", "dark", "phone"])
def look(request):
    return request.param


@pytest.fixture
def open_page(browser, real_run):
    """Opens a page of the report; afterwards nothing may have been asked of others, and no error been logged."""
    faults, requests, contexts = [], [], []

    def visit(path, scheme="light", width=1280):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((real_run / "report" / path).as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not faults
    folder = (real_run / "report").as_uri()
    assert not [url for url in requests if not url.startswith((folder, "data:"))]


def shown_frame(page):
    return int(page.locator("#frame").inner_text())


def test_videos_step_together_frame_by_frame(open_page):
    page = open_page("episodes/data_0.html")
    page.wait_for_function(READY)
    for key, frame in [("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 23), ("Home", 0)]:
        page.keyboard.press(key)
        page.wait_for_function(READY)
        assert shown_frame(page) == frame
        fps = float(page.locator("#player").get_attribute("data-fps"))
        assert all(int(time * fps) == frame for time in page.evaluate(TIMES))


def test_videos_play_in_step(open_page):
    page = open_page("episodes/data_0.html")
    page.wait_for_function(READY)
    fps = float(page.locator("#player").get_attribute("data-fps"))
    page.select_option("#speed", "0.25")
    page.click("#play")
    page.wait_for_function("Number(document.getElementById('frame').value) >= 4")
    apart = []
    while shown_frame(page) < 20:
        times = page.evaluate(TIMES)
        apart.append(max(times) - min(times))
    assert max(apart[len(apart) // 3 :]) <= 1 / fps
    assert page.locator("#play").inner_text() == "Pause"
    page.keyboard.press("Space")
    page.wait_for_function(READY)
    assert len({int(time * fps) for time in page.evaluate(TIMES)}) == 1


def test_scrubbing_a_chart_moves_the_videos(open_page):
    page = open_page("episodes/data_0.html")
    page.wait_for_function(READY)
    plot = page.locator(".plot").first
    plot.click(position={"x": plot.bounding_box()["width"] * 0.5 + 2, "y": 20})
    assert shown_frame(page) == 12
    assert page.locator(".legend output").first.inner_text()


def test_kinds_of_videos_can_be_hidden(open_page):
    page = open_page("episodes/data_0.html")
    page.uncheck("input[value=zones]")
    assert not page.locator("figure[data-kind=zones]").first.is_visible()
    assert page.locator("figure[data-kind=generated]").first.is_visible()


def test_table_filters_and_sorts(open_page):
    page = open_page("index.html")
    rows = page.locator("#table tbody tr:visible th")
    page.select_option("#state", "failed")
    assert rows.all_inner_texts() == ["data_2"]
    page.select_option("#state", "")
    page.fill("#find", "blue clinic")
    assert rows.all_inner_texts() == ["data_1"]
    page.fill("#find", "")
    page.click("#table thead button >> nth=0")
    assert rows.all_inner_texts() == ["data_2", "data_1", "data_0"]
    page.click("#table thead button >> nth=2")  # foreground PSNR: what is not known comes last
    assert rows.all_inner_texts()[-1] == "data_2"
    assert page.locator("#count").inner_text() == "3 shown"


def test_nothing_is_wider_than_the_window(open_page, look):
    for path in ("index.html", "episodes/data_0.html", "episodes/data_2.html"):
        page = open_page(path, *look)
        assert page.evaluate("document.documentElement.scrollWidth") <= look[1]


def test_accessible(open_page, look):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    for path in ("index.html", "episodes/data_0.html", "episodes/data_2.html"):
        page = open_page(path, *look)
        assert path != "index.html" or page.locator("#asked, #curve").count() == 2
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        result = axe.Axe().run(page, options={"preload": False})
        assert result.violations_count == 0, result.generate_report()
