"""The page of a run in a real browser, headless Chromium: one start for all tests.

Without a browser they are skipped; with ``RESNEXT_BROWSER_TESTS=required`` they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fakes.pages import HOSTILE, full_run, hostile_run
from fakes.tuned import named, search
from resnext_bench import read_history
from resnext_bench.tune.page import tune_page

STORED = Path(__file__).parents[2] / "benchmarks" / "results"
Browser = Any
Page = Any


def missing(what: str) -> NoReturn:
    """There is no browser: skip, or fail if one is required."""
    if os.environ.get("RESNEXT_BROWSER_TESTS") == "required":
        pytest.fail(f"RESNEXT_BROWSER_TESTS=required, and {what}")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("chromium is not installed: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install playwright")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with everything."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(full_run().html(), encoding="utf-8")
    return path


class Opened:
    """A page in a tab of its own, with what it asked for and complained about."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def grave_faults(page: Page, parts: Sequence[str] = ("html",)) -> list[str]:
    """Serious and critical faults that axe finds in ``parts`` of the page."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python is not installed: pip install axe-playwright-python")
    context = {"include": [[part] for part in parts]}
    found = Axe().run(page, context=context).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def first_cells(page: Page, column: int) -> list[str]:
    """The cells of one column of the table of rows."""
    cells: list[str] = page.locator(
        f"table.sortable tbody tr > :nth-child({column})"
    ).all_inner_texts()
    return cells


@pytest.mark.parametrize("width", [400, 1600])
def test_it_renders_with_every_chart_and_asks_for_nothing(
    browser: Browser, report: Path, width: int
) -> None:
    with Opened(browser, report, viewport={"width": width, "height": 900}) as opened:
        assert opened.requests == [report.as_uri()]
        assert opened.complaints == []
        boxes = opened.page.evaluate(
            "[...document.querySelectorAll('.chart')].map(c => c.getBoundingClientRect().toJSON())"
        )
        assert len(boxes) > 60
        assert all(box["width"] > 150 and box["height"] > 10 for box in boxes)
        assert all(box["left"] >= 0 and box["right"] <= width for box in boxes)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        narrow = """[...document.querySelectorAll('dt, dd, p, .name')].filter(
            one => one.getBoundingClientRect().width < 24 && one.textContent.length > 3)"""
        assert opened.page.evaluate(f"{narrow}.map(one => one.textContent)") == []


def test_a_click_sorts_and_a_second_one_turns_the_order_round(
    browser: Browser, report: Path
) -> None:
    with Opened(browser, report) as opened:
        header = opened.page.locator("#rows").get_by_role("columnheader", name="median ms")
        column = 5
        before = first_cells(opened.page, column)
        header.get_by_role("button").click()
        numbers = [float(cell) for cell in first_cells(opened.page, column)[:-1]]
        assert numbers == sorted(float(cell) for cell in before if cell != "-")
        assert first_cells(opened.page, column)[-1] == "-"
        assert header.get_attribute("aria-sort") == "ascending"
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        assert first_cells(opened.page, column)[1:] == [f"{n:.3f}" for n in numbers[::-1]]


def test_the_keyboard_sorts(browser: Browser, report: Path) -> None:
    with Opened(browser, report) as opened:
        header = opened.page.locator("#rows").get_by_role("columnheader", name="backend")
        header.get_by_role("button").focus()
        opened.page.keyboard.press("Enter")
        names = first_cells(opened.page, 1)
        assert names == sorted(names)
        opened.page.keyboard.press("Tab")
        opened.page.keyboard.press("Space")
        verdict = opened.page.locator("#rows").get_by_role("columnheader", name="verdict")
        assert verdict.get_attribute("aria-sort") == "ascending"
        assert header.get_attribute("aria-sort") is None


def test_a_row_under_the_pointer_is_marked_in_every_chart_and_says_more(
    browser: Browser, report: Path
) -> None:
    with Opened(browser, report) as opened:
        opened.page.locator("#speedups li[data-row='4'] svg").hover()
        marked = opened.page.locator("[data-row='4'].on")
        assert marked.count() >= 8
        assert opened.page.locator(".on:not([data-row='4'])").count() == 0
        assert "openvino batch 1" in opened.page.locator(".tip").inner_text()
        opened.page.keyboard.press("Escape")
        assert opened.page.locator(".tip").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_grave_fault(browser: Browser, report: Path, scheme: Any) -> None:
    with Opened(browser, report, color_scheme=scheme) as opened:
        background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
        assert grave_faults(opened.page) == []


def test_a_fault_of_the_page_is_found_by_axe(browser: Browser, report: Path) -> None:
    with Opened(browser, report) as opened:
        opened.page.evaluate(
            """() => {
                const chart = document.querySelector('svg.gutter');
                chart.removeAttribute('aria-labelledby');
                chart.querySelector('title').remove();
                document.querySelector('.note').style.color = '#ccc';
            }"""
        )
        assert {
            fault.split(":")[0] for fault in grave_faults(opened.page, ["header", "#batches"])
        } == {
            "svg-img-alt",
            "color-contrast",
        }


def test_without_script_everything_can_be_read(browser: Browser, report: Path) -> None:
    with Opened(browser, report, java_script_enabled=False) as opened:
        assert opened.complaints == []
        assert opened.page.locator("table.sortable tbody tr").count() == 13
        assert opened.page.locator("thead button").count() == 0
        assert opened.page.get_by_text("11 of 13 rows valid").is_visible()
        assert opened.page.locator("#roofline-chart-title").count() == 1
        assert opened.page.locator("figure.strips").last.is_visible()


def test_it_prints_in_light_colors_without_navigation(browser: Browser, report: Path) -> None:
    a4 = {"width": 718, "height": 1000}  # pixels between margins of a centimeter
    with Opened(browser, report, color_scheme="dark", viewport=a4) as opened:
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.page.get_by_role("navigation").is_hidden()
        color = opened.page.evaluate("getComputedStyle(document.body).color")
        assert color == "rgb(0, 0, 0)"
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= a4["width"]
        assert opened.page.pdf()[:5] == b"%PDF-"


def test_names_of_users_and_files_run_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(hostile_run().html(), encoding="utf-8")
    with Opened(browser, path) as opened:
        assert opened.page.evaluate("window.pwned === undefined")
        assert opened.requests == [path.as_uri()]
        assert opened.complaints == []
        assert opened.page.locator("img").count() == 0


def test_the_policy_stops_what_would_get_in(browser: Browser, tmp_path: Path) -> None:
    attack = (
        "<script>window.pwned = 1</script><img src='https://x.invalid/' onerror='window.pwned=2'>"
    )
    path = tmp_path / "planted.html"
    path.write_text(full_run().html().replace("<main", attack + "<main"), encoding="utf-8")
    with Opened(browser, path) as opened:
        assert opened.page.evaluate("window.pwned === undefined")
        assert len(opened.complaints) >= 2
        assert opened.page.locator("thead button").count() > 10


def test_the_page_of_a_history_renders_without_a_grave_fault(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "history.html"
    path.write_text(read_history(STORED).html(), encoding="utf-8")
    with Opened(browser, path, viewport={"width": 400, "height": 900}) as opened:
        assert opened.requests == [path.as_uri()]
        assert opened.complaints == []
        assert opened.page.locator("svg.gutter .mark").count() > 20
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert grave_faults(opened.page) == []


def test_the_page_of_a_search_renders_sorts_and_has_no_grave_fault(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "tune.html"
    path.write_text(tune_page(search()), encoding="utf-8")
    with Opened(browser, path, viewport={"width": 1600, "height": 900}) as opened:
        assert opened.requests == [path.as_uri()]
        assert opened.complaints == []
        assert grave_faults(opened.page) == []
        table = opened.page.locator("#candidates")
        table.get_by_role("columnheader", name="p99 ms").get_by_role("button").click()
        column = 6
        bounds = first_cells(opened.page, column)[:4]
        assert bounds == sorted(bounds, key=float)
        table.locator("tr[data-row='2'] th").hover()
        assert opened.page.locator("#race [data-row='2'].on .line").evaluate(
            "one => getComputedStyle(one).strokeWidth"
        ) == ("3.5px")
        opened.page.set_viewport_size({"width": 400, "height": 900})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        name = opened.page.locator("#candidates tbody th").first.bounding_box()
        assert name["width"] < 200  # it stays where it is while the others scroll


def test_names_in_a_search_run_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(tune_page(named(HOSTILE)), encoding="utf-8")
    with Opened(browser, path) as opened:
        assert opened.page.evaluate("window.pwned === undefined")
        assert opened.requests == [path.as_uri()]
        assert opened.complaints == []
