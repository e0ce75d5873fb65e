"""The page in headless Chromium: no error, accessible in light and dark, narrow, printed.

Needs Chromium with its driver, and the packages selenium and axe-core-python.
"""

from __future__ import annotations

import base64
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import dfmpc_onnx
from tests.report.html.pages import harmful_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PHONE, NARROW_DESKTOP, DESKTOP = 360, 1000, 1280  # pixels
RULES = ["wcag2a", "wcag2aa", "best-practice"]
LIGHT, DARK = "light", "dark"

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
axe: Any = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="Chromium and chromedriver are not installed")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """A report and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    model, report, both = harmful_model(), folder / "report.html", folder / "both.html"
    first = dfmpc_onnx.quantize(model, None, "closed-form", weights="2/6", preprocess="imagenet", report=report)
    second = dfmpc_onnx.quantize(model, None, "int8", preprocess="imagenet")
    dfmpc_onnx.compare([first.model, second.model], model, both)
    return [report, both]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests: to start it takes seconds."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sockets that selenium leaves to the garbage collector
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        started.execute_cdp_cmd("Network.enable", {})
        started.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield started
        started.quit()


def shown(browser: Any, page: pathlib.Path, width: int, scheme: str) -> None:
    """Open a page at a width in a colour scheme."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def test_pages_open_without_an_error_and_names_do_no_harm(browser: Any, pages: list[pathlib.Path]) -> None:
    for page in pages:
        shown(browser, page, DESKTOP, LIGHT)
        assert browser.get_log("browser") == []
        assert browser.execute_script("return [window.harm === undefined, document.scripts.length]") == [True, 0]
        assert browser.execute_script("return document.querySelectorAll('h2').length") >= 4
        resources = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(name.startswith("data:") for name in resources)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_an_accessibility_checker_finds_nothing(browser: Any, pages: list[pathlib.Path], scheme: str) -> None:
    for page in pages:
        shown(browser, page, DESKTOP, scheme)
        found = axe.Axe().run(browser, options={"runOnly": {"type": "tag", "values": RULES}})
        assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found["violations"]] == []
        assert {"color-contrast", "document-title", "image-alt"} <= {rule["id"] for rule in found["passes"]} | {
            rule["id"] for rule in found["inapplicable"]
        }


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_never_wider_than_the_window(browser: Any, pages: list[pathlib.Path], width: int) -> None:
    for page in pages:
        shown(browser, page, width, LIGHT)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_nothing_scrolls_sideways_on_a_desktop_or_a_phone(browser: Any, pages: list[pathlib.Path]) -> None:
    wider = "return [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
    for width in (NARROW_DESKTOP, PHONE):
        shown(browser, pages[0], width, LIGHT)
        found = browser.execute_script(f"{wider}.map(e => e.getAttribute('aria-label'))")
        assert found == [], width
    drawn = "return [...document.querySelectorAll('.only-narrow, .not-narrow')].map(e => e.offsetWidth > 0)"
    assert sorted(set(browser.execute_script(drawn))) == [False, True]


def test_dark_is_dark(browser: Any, pages: list[pathlib.Path]) -> None:
    colours = []
    for scheme in (LIGHT, DARK):
        shown(browser, pages[0], DESKTOP, scheme)
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]


def test_it_prints(browser: Any, pages: list[pathlib.Path]) -> None:
    for page in pages:
        shown(browser, page, DESKTOP, DARK)
        printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
        assert printed.startswith(b"%PDF-") and len(printed) > 5_000  # text and charts: an empty page has 1 kB
