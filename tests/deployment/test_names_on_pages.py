"""A thousand classes with awkward names, on the page for the browser and on the page of the parity report."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import senet
from browsers import started
from deployment.page_in_browser import classified, opened, smooth
from senet.data.preprocessing import CIFAR
from senet.deployment.parity import compare_exported
from senet.deployment.parity_page import write_parity_page
from senet.deployment.tally import Disagreement
from static_sites import onnxruntime_web, served

pytestmark = pytest.mark.slow

AWKWARD = (
    "</script><img src=x onerror=alert()>",
    "\"double\" and 'single' & ampersand",
    "\N{SOFT ICE CREAM}\N{ZERO WIDTH JOINER}\N{CAT FACE} \u05d0\u05d1 \u4e2d\u6587",
    "two\nlines",
    "a class of" + 600 * "x" + " " + 300 * "word ",
    "${title} $facts",
)
WIDTHS = (320, 1200)


class Net(nn.Module):
    """A network of a thousand classes that prefers the awkward ones, the first most."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 1000)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.arange(1000, 0, -1) / 1000)
        self.preprocessing, self.class_names = CIFAR, (*AWKWARD, *(f"class {i}" for i in range(len(AWKWARD), 1000)))

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.fixture
def chromium(tmp_path):
    yield from started(tmp_path / "profile")


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
    return browser.execute_script(script, selector)


def assert_fits(browser):
    for width in WIDTHS:
        size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def assert_calm(browser):
    assert browser.execute_script("return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_on_the_page_for_the_browser(chromium, tmp_path):
    site = tmp_path / 'it\'s <a> "page"'
    senet.export(Net().eval(), site, to="web", onnxruntime_web=onnxruntime_web(tmp_path))
    picture = tmp_path / "a.png"
    smooth(50, 40).save(picture)
    with served(site) as (address, _):
        chromium.get_log("browser")
        opened(chromium, address)
        (found,) = classified(chromium, picture)
    assert [each["name"] for each in found["classes"]] == list(AWKWARD[:5])
    assert len(found["probabilities"]) == 1000
    assert texts(chromium, "#results th.class") == list(AWKWARD[:5])
    assert "1,000 classes" in chromium.find_element("tag name", "header").text
    assert_fits(chromium)
    assert_calm(chromium)


def test_on_the_page_of_the_parity_report(chromium, tmp_path):
    model = Net().eval()
    report = compare_exported(model, model, timed=False)
    apart = tuple(
        Disagreement(
            index=i,
            image=f"{name[:40]}.png",
            class_name=name,
            original=name,
            original_probability=0.9,
            exported=AWKWARD[i - 1],
            exported_probability=0.8,
        )
        for i, name in enumerate(AWKWARD)
    )
    page = write_parity_page(replace(report, disagreements=apart), tmp_path / "page.html")
    chromium.get(page.as_uri())
    assert chromium.execute_script("return document.documentElement.dataset.drawn") == "true"
    items = texts(chromium, "#images li")
    assert len(items) == len(AWKWARD)
    for item, name in zip(items, AWKWARD, strict=True):
        assert f"original: {name}, 90.0 %" in item
    assert_fits(chromium)
    assert_calm(chromium)
