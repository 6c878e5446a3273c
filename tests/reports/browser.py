"""Headless Chromium over files on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

# The shared memory of containers is small, so Chromium is told to do without.
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage"
WIDTHS = (380, 1400)
SCHEMES = ("light", "dark")


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser that records its console and its requests; skips where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or chromedriver is not on this machine")
    options = ChromeOptions()
    options.binary_location = program
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def show(browser: Chrome, page: Path, *, width: int = 1400, scheme: str = "light", scripts: bool = True) -> None:
    """Opens a page and waits for its charts; what the browser logged before is forgotten."""
    command = browser.execute_cdp_cmd
    command("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    command("Emulation.setEmulatedMedia", {"media": "", "features": [scheme_is(scheme)]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    command("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        _log(browser, kind)
    browser.get(page.as_uri())
    if scripts:
        wait_for(browser, "!document.getElementById('plotly') || document.documentElement.dataset.charts === 'drawn'")


def scheme_is(scheme: str) -> dict[str, str]:
    """The media feature of a colour scheme."""
    return {"name": "prefers-color-scheme", "value": scheme}


def wait_for(browser: Chrome, condition: str) -> None:
    """Waits until an expression holds."""
    WebDriverWait(browser, 20, poll_frequency=0.02).until(lambda _: evaluated(browser, condition))


def evaluated(browser: Chrome, expression: str) -> Any:
    """What an expression is in the page."""
    return browser.execute_script(f"return {expression}")


def complaints(browser: Chrome) -> list[str]:
    """What the console was told since the page was opened."""
    return [entry["message"] for entry in _log(browser, "browser")]


def requests(browser: Chrome) -> list[str]:
    """The URLs asked for since the page was opened, those that hold their own data left out."""
    messages = [json.loads(entry["message"])["message"] for entry in _log(browser, "performance")]
    urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def _log(browser: Chrome, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return found
