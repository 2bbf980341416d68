"""A real browser, where there is one, to read and click pages."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def started(profile: Path) -> Iterator[Any]:
    """Yield Chromium's driver, or skip the test where Chromium is not installed."""
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def prefer(browser: Any, scheme: str) -> None:
    """Set the color scheme that the reader prefers, "light" or "dark"."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def assert_named(browser: Any, roles: tuple[str, ...]) -> dict[str, list[str]]:
    """Assert that everything of these roles has a name for screen readers, and that regions have different ones.

    As Chromium's accessibility tree has it; WCAG 2.2, success criterion 4.1.2.

    Returns:
        The names by role.
    """
    named: dict[str, list[str]] = {}
    for node in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
        if not node["ignored"]:
            named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in roles:
        assert named[role], role
        assert all(named[role]), role
    assert len(set(named["region"])) == len(named["region"])
    return named
