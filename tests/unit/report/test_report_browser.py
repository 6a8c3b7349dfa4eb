from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from reports_folder import JUDGEMENTS, write

from mcdo.report.figures import LEAST_LETTERS
from mcdo.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install Debian's package chromium"),
    pytest.mark.skipif(bool(MISSING), reason='pip install "mcdo[browser]" brings what drives a browser'),
]


@dataclass
class Opened:
    """A page in a browser, with what it said and asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def shown(self) -> list[str]:
        """Claims of the rows that are visible, in order."""
        rows = self.page.query_selector_all("#claims tbody tr")
        return [row.get_attribute("data-claim") for row in rows if row.is_visible()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    return write_page(write(folder), folder / "report.html")


WIDTHS = pytest.mark.parametrize("width", [1400, 400])


@pytest.fixture
def width() -> int:
    """Of the window, in pixels; what depends on it is tested at two."""
    return 1400


@pytest.fixture
def opened(width: int, browser: Any, file: Path) -> Iterator[Opened]:
    page = browser.new_page(viewport={"width": width, "height": 900})
    found = Opened(page)
    page.on("console", lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("request", lambda asked: found.requests.append(asked.url))
    page.goto(file.as_uri())
    yield found
    page.close()


def test_a_page_opens_from_disk_without_error_or_request(opened: Opened, file: Path) -> None:
    opened.page.wait_for_load_state("networkidle")
    assert opened.errors == []
    assert [url[:100] for url in opened.requests if not url.startswith("data:")] == [file.as_uri()]


def test_filters_and_search_leave_the_rows_they_name(opened: Opened) -> None:
    every = [judgement.claim for judgement in JUDGEMENTS]
    assert opened.shown() == every
    opened.page.select_option("[data-filter=outcome]", "not met")
    assert opened.shown() == ["follows/trace_post"]
    assert opened.page.text_content("#counted") == "1 of 4 claims"
    opened.page.select_option("[data-filter=outcome]", "")
    opened.page.fill("[data-filter=search]", "BEYOND")
    assert opened.shown() == ["beyond/trace_post", "beyond/other"]
    opened.page.fill("[data-filter=search]", "")
    assert opened.shown() == every


def test_a_heading_sorts_by_mouse_and_keyboard(opened: Opened) -> None:
    estimate = "#claims th:nth-child(4)"
    opened.page.click(f"{estimate} button")
    rising = ["follows/trace_post", "beyond/trace_post", "follows/trace_pre", "beyond/other"]
    assert opened.shown() == rising
    assert opened.page.get_attribute(estimate, "aria-sort") == "ascending"
    opened.page.focus(f"{estimate} button")
    opened.page.keyboard.press("Enter")
    assert opened.shown() == rising[::-1]
    for column, first in ((1, "beyond/other"), (3, "follows/trace_pre"), (5, "beyond/trace_post")):
        opened.page.click(f"#claims th:nth-child({column}) button")
        assert opened.shown()[0] == first, "by words, and by the distance from the bar in widths of the interval"
    assert opened.page.get_attribute(estimate, "aria-sort") == "none"


def test_every_table_can_be_sorted(opened: Opened) -> None:
    tables, headings = (opened.page.locator(each).count() for each in (".scroll > table", ".scroll > table th"))
    assert tables > 2
    assert opened.page.locator(".scroll > table th button").count() == headings


@WIDTHS
def test_pictures_are_seen_and_nothing_is_wider_than_the_window(opened: Opened) -> None:
    pictures = opened.page.query_selector_all(".sheet img")
    assert len(pictures) == 12
    for picture in pictures:
        picture.scroll_into_view_if_needed()
        assert picture.is_visible()
        assert opened.page.evaluate("(image) => image.decode().then(() => image.naturalWidth)", picture) == 8
    widths = opened.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]


FIGURES = """[...document.querySelectorAll("figure.plot")].map((figure) => {
  const image = figure.querySelector("img");
  const natural = parseFloat(getComputedStyle(image).getPropertyValue("--natural"));
  const text = figure.parentElement.getBoundingClientRect();
  return {right: figure.getBoundingClientRect().right - text.right, scale: image.clientWidth / natural,
          over: image.getBoundingClientRect().right - figure.getBoundingClientRect().right};
})"""


@WIDTHS
def test_no_figure_is_wider_than_its_text_or_too_small_to_read(opened: Opened) -> None:
    found = opened.page.evaluate(FIGURES)
    assert found
    for figure in found:
        assert figure["right"] <= 0.5
        assert LEAST_LETTERS * 96 / 72 * figure["scale"] >= 9, "pixels of the smallest letters"
    opened.page.emulate_media(media="print")
    assert all(figure["over"] <= 0.5 for figure in opened.page.evaluate(FIGURES)), "on paper nothing scrolls"


def test_on_paper_nothing_is_wider_than_the_sheet(browser: Any, file: Path) -> None:
    page = browser.new_page(viewport={"width": 720, "height": 1000})  # A4 less its margins, in pixels of 1/96 inch
    page.goto(file.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
    page.close()


@WIDTHS
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(opened: Opened, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened.page.emulate_media(color_scheme=scheme)
    for closed in opened.page.query_selector_all("details"):
        closed.evaluate("(element) => { element.open = true; }")
    found = Axe().run(opened.page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:120]) for each in serious] == []
