"""The page in headless Chromium: what a person sees, hears and types. Skipped, with the reason, where there is no Chromium."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.report import fleet
from tests.report.test_drift import FACTS, UNITS
from vibray.report.data import ReportConfig
from vibray.report.page import render

pytestmark = pytest.mark.browser
SIZES = {"telephone": (360, 740), "desk": (1400, 900)}
CONFIG = ReportConfig(num_records=3, records_per_sensor=2)


def lacking() -> str | None:
    """What keeps the browser's tests from running."""
    names = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromedriver": ("chromedriver",)}
    for what, commands in names.items():
        if not any(map(shutil.which, commands)):
            return f"no {what} on the path (Debian: apt-get install chromium chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install -e '.[test]')"
    return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if reason := lacking():
        if os.environ.get("VIBRAY_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    options.binary_location = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def renamed(table: pa.Table) -> pa.Table:
    names = [name.replace("T12", "2号主变") for name in table["unit"].to_pylist()]
    return table.set_column(table.column_names.index("unit"), table.schema.field("unit"), pa.array(names))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of the page in English and Chinese, and of a fleet of 120 machines without evidence."""
    folder = tmp_path_factory.mktemp("pages")
    data = fleet.report_data(700)
    assert data.evidence is not None
    in_chinese = replace(data, scores=renamed(data.scores), evidence=renamed(data.evidence))
    many = replace(data, scores=fleet.scores(3000, 120, faults=fleet.FAULTS), evidence=None, explanations={})
    texts = {
        "en": render(replace(data, units=UNITS[:1], unit_facts=FACTS), CONFIG),
        "zh": render(in_chinese, CONFIG, "zh"),
        "many": render(many, CONFIG),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in texts}


def opened(browser: Any, url: str, size: str = "desk", scheme: str = "light", scripts: bool = True) -> Any:
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme_is = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_is)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get("about:blank")
    browser.get(url)
    return browser


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def texts_of(browser: Any, selector: str) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())", selector)


def shown(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) => e.dataset.unit)"
    return browser.execute_script(script, selector)


@pytest.mark.parametrize("name", ["en", "zh"])
def test_nothing_is_requested_and_the_console_is_silent(browser: Any, pages: dict[str, str], name: str) -> None:
    opened(browser, pages[name])
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "about"}
    assert [url for url in asked if url.startswith("file:")] == [pages[name]]
    assert browser.get_log("browser") == []


def test_sections_are_there_with_their_headings(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["en"])
    links = browser.execute_script("return [...document.querySelectorAll('nav ol a')].map((a) => a.getAttribute('href'))")
    assert len(links) >= 11
    for link in links:
        section = one(browser, f"section{link}")
        assert section.is_displayed() and section.find_element("css selector", "h2").text
    assert one(browser, "h1").text == "1 of 5 machines needs a look"
    assert shown(browser, "section.unit") == ["T12"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["en", "zh", "many"])
def test_nothing_runs_over_the_page_and_no_label_over_another(browser: Any, pages: dict[str, str], name: str, size: str) -> None:
    opened(browser, pages[name], size)
    browser.execute_script("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[size][0]
    assert browser.execute_script(OVERLAPPING) == []


OVERLAPPING = """
const found = [];
for (const svg of document.querySelectorAll("svg")) {
  const boxes = [...svg.querySelectorAll("text")].filter((text) => text.checkVisibility() && text.textContent.trim())
    .map((text) => [text.textContent.trim(), text.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
  const edge = svg.getBoundingClientRect();
  for (const [text, box] of boxes) if (box.left < edge.left - 1 || box.right > edge.right + 1) found.push(text + " is cut off");
  boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left), high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 0.5 && high > 2.5) found.push(`${text} | ${other}`);
  }));
}
return found;
"""
"""Labels that meet. A box of text is a line high, which is more than its letters: 2.5 px of that may meet."""


def test_tables_sort_by_click_and_by_key(browser: Any, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["en"])
    heads = browser.find_elements("css selector", ".ranking thead th")
    column = next(i for i, head in enumerate(heads) if "highest" in head.text)
    cells = f".ranking tbody tr td:nth-child({column + 1})"

    def values() -> list[float]:
        return [float(text) for text in texts_of(browser, cells) if text != "–"]

    button = heads[column].find_element("css selector", "button")
    button.click()
    assert heads[column].get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True) and len(set(values())) > 2
    button.send_keys(Keys.ENTER)
    assert heads[column].get_attribute("aria-sort") == "ascending"
    assert values() == sorted(values())
    assert texts_of(browser, cells)[-1] == "–"  # what is missing comes last, whichever way
    first = heads[1].find_element("css selector", "button")
    first.send_keys(Keys.SPACE)
    assert heads[column].get_attribute("aria-sort") is None
    assert texts_of(browser, ".ranking tbody th") == sorted(texts_of(browser, ".ranking tbody th"))


def test_one_box_filters_units_everywhere(browser: Any, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["en"])
    rows = (".map tr[data-unit]", ".ranking tr[data-unit]", ".unit[data-unit]")
    assert all(len(shown(browser, row)) == 5 for row in rows)
    box = one(browser, "#filter")
    box.send_keys("t12")
    assert [shown(browser, row) for row in rows] == [["T12"]] * 3
    assert one(browser, "#filtered").text == "1 of 5 machines"
    box.send_keys(Keys.ESCAPE)
    assert all(len(shown(browser, row)) == 5 for row in rows)


def test_a_cell_of_the_map_is_read_by_pointer_and_by_key(browser: Any, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["en"])
    cell = one(browser, '.map tr[data-unit="T12"] path')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", cell)
    ActionChains(browser).move_to_element(cell).perform()
    said = one(browser, "#readout").text
    assert said.startswith("T12 · 2024-03-") and "score" in said
    one(browser, '.map tr[data-unit="T13"] a').send_keys(Keys.ARROW_LEFT)
    last = one(browser, "#readout").text
    one(browser, '.map tr[data-unit="T13"] a').send_keys(Keys.ARROW_LEFT)
    assert last.startswith("T13 · ") and one(browser, "#readout").text not in (said, last)


def test_a_link_opens_what_is_folded(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["en"])
    folded = one(browser, "details.unit")
    assert folded.get_attribute("open") is None
    browser.execute_script("location.hash = arguments[0]", folded.get_attribute("id"))
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert folded.get_attribute("open") is not None


def test_the_accessibility_tree_has_names(browser: Any, pages: dict[str, str]) -> None:
    """Landmarks, tables and buttons, as a screen reader is told of them."""
    opened(browser, pages["en"])
    nodes = [node for node in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"] if not node["ignored"]]
    names: dict[str, list[str]] = {}
    parent = {child: node for node in nodes for child in node.get("childIds", ())}
    for node in nodes:
        names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert names["main"] and names["navigation"] == ["Contents"] and len(names["search"]) == 1
    assert names["searchbox"] == ["Filter machines"]
    assert all(names["region"]) and {"Ranking", "Machines that need a look", "Faulty sensors"} <= set(names["region"])
    assert all(names["button"]) and {"alarms", "how rare now"} <= set(names["button"])
    assert all(names["image"]) and all(names["link"]) and all(names["heading"])
    for node in nodes:
        if node["role"]["value"] == "table" and not node.get("name", {}).get("value"):
            around: list[str] = []
            while (node := parent.get(node["nodeId"], {})) and node:
                around.append(node.get("role", {}).get("value", ""))
            assert "region" in around or "article" in around


def test_it_is_whole_without_scripts(browser: Any, pages: dict[str, str]) -> None:
    opened(browser, pages["en"], scripts=False)
    assert one(browser, "h1").text == "1 of 5 machines needs a look"
    assert len(browser.find_elements("css selector", ".ranking tbody tr")) == 5
    assert not one(browser, "search").is_displayed()
    assert browser.find_elements("css selector", "button") == []
    opened(browser, pages["en"])


@pytest.mark.parametrize("name", ["en", "zh"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, pages: dict[str, str], scheme: str, name: str) -> None:
    """WCAG 2.2, 1.4.3: a ratio of 4.5 at least, by the formula there."""
    opened(browser, pages[name], scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")
    assert browser.execute_script(FAINT) == []


FAINT = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const light = (colour) => numbers(colour).slice(0, 3)
  .reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
const clear = (element) => (numbers(getComputedStyle(element).backgroundColor)[3] ?? 1) === 0;
const found = new Set();
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || element.closest("path, script, .visually-hidden")) continue;
  if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
  const style = getComputedStyle(element), text = element.closest("svg") ? style.fill : style.color;
  let around = element;
  while (around !== document.documentElement && clear(around)) around = around.parentElement;
  const [a, b] = [light(text), light(getComputedStyle(around).backgroundColor)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${text} ${element.tagName} ${element.className.baseVal ?? element.className}`);
}
return [...found];
"""


def test_it_prints(browser: Any, pages: dict[str, str], tmp_path: Path) -> None:
    """On white, whatever the screen, and without the contents and the filter."""
    opened(browser, pages["en"], scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not one(browser, "nav").is_displayed()
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
