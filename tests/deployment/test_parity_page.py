"""The page about an exported network, read and clicked in a real browser where there is one."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from browsers import assert_named, prefer
from senet import SenetError
from senet.deployment.inner_errors import InnerError, InnerErrors
from senet.deployment.parity import compare_exported
from senet.deployment.parity_page import write_parity_page


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Forty pictures of digits in folders of their classes."""
    from sklearn.datasets import load_digits

    digits, root = load_digits(), tmp_path_factory.mktemp("pictures")
    for k in range(10):
        (root / str(k)).mkdir()
    for i in range(40):
        Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(root / str(digits.target[i]) / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def report(digits_run, pictures):
    model = senet.from_pretrained(digits_run).eval()
    drift = 4 * torch.randn(10, generator=torch.Generator().manual_seed(0))
    found = compare_exported(digits_run, lambda x: model(x) + drift, pictures, precision="int8", optimized=model)
    errors = [
        InnerError(name=f"layer{i}.<b>", cosine=1 - i / 100, relative=i / 50, largest=i / 5) for i in range(1, 10)
    ]
    gates = [replace(each, name=f"SE_{i}", relative=each.relative / 10) for i, each in enumerate(errors)]
    inner = InnerErrors(num_images=16, blocks=tuple(errors), gates=tuple(gates))
    return replace(found, exported="some/<i>model.onnx", file_size=123456, inner=inner)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return write_parity_page(report, tmp_path_factory.mktemp("page") / "parity.html")


def embedded(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def own_text(page):
    text = page.read_text()
    return text[: text.index("<script>")] + text[text.rindex("<script>") :]


def test_the_page_is_one_file_that_holds_the_report(page, report):
    text = own_text(page)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)  # nothing from elsewhere
    assert "<i>" not in text.split("<script>")[0]
    assert "beyond the tolerance of int8" in text
    for said in (*report.problems, report.processor.name):
        assert said in text
    accuracy = report.accuracy
    for number in (accuracy.original, accuracy.exported, *accuracy.original_interval, *accuracy.difference_interval):
        assert f"{number:.2f}" in text
    data = embedded(page)
    assert len(report.disagreements) > 3
    assert [each["index"] for each in data["disagreements"]] == [each.index for each in report.disagreements]
    assert all(data["pictures"][str(each.index)].startswith("data:image/") for each in report.disagreements)
    assert re.fullmatch(r"\d+\.png", data["disagreements"][0]["image"])
    assert report.to_dict()["disagreements"][0]["image"].endswith(f"/{data['disagreements'][0]['image']}")


def test_the_page_of_a_report_of_float32(digits_run, tmp_path):
    model = senet.from_pretrained(digits_run).eval()
    report = compare_exported(model, model, timed=False)
    text = own_text(write_parity_page(report, tmp_path / "page.html"))
    assert "Yes: within the tolerance of fp32" in text
    assert "No accuracy was measured: there are no data" in text
    assert "There are none: both predict the same class" in text
    assert "Where the error arises" not in text
    assert "How long a batch takes" not in text.split("<script>")[0]
    with pytest.raises(SenetError, match=r"does not end in \.html"):
        write_parity_page(report, tmp_path / "page.txt")


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
    return browser.execute_script(script, selector)


@pytest.mark.slow
def test_choosing_a_measure_and_reading_the_tables(page, report, browser):
    from selenium.webdriver.common.by import By

    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"
    drawn = "return document.getElementById(arguments[0]).data[0].y"
    assert browser.execute_script(drawn, "blocks") == pytest.approx([100 * e.relative for e in report.inner.blocks])
    assert "18 %, in layer9.<b>" in browser.find_element(By.ID, "blocks-text").text
    browser.find_element(By.ID, "measure").send_keys("cosine")  # by keyboard
    assert browser.execute_script(drawn, "blocks") == pytest.approx([e.cosine for e in report.inner.blocks])
    assert browser.execute_script(drawn, "gates") == pytest.approx([e.cosine for e in report.inner.gates])
    assert texts(browser, "#gates-table tbody th") == [each.name for each in report.inner.gates]
    bars = browser.execute_script("return document.getElementById('latency').data.map((each) => [each.name, each.y])")
    for name, heights in bars:
        own = [each for each in report.latencies if each.name == name]
        assert heights == pytest.approx([each.median_ms / each.batch_size for each in own])
    assert [name for name, _ in bars] == ["original", "exported", "optimized"]
    x = browser.execute_script("return document.getElementById('accuracy').data[0].x")
    assert x == pytest.approx([report.accuracy.original, report.accuracy.exported])
    items = texts(browser, "#images li")
    assert len(items) == len(report.disagreements)
    first = report.disagreements[0]
    assert f"exported: {first.exported}, {100 * first.exported_probability:.1f} %" in items[0]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#images img")) == len(items)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
def test_phones_dark_rooms_and_screen_readers(page, browser):
    prefer(browser, "dark")
    for width in (320, 768):
        size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = "return document.getElementById('blocks').layout.paper_bgcolor"
    assert browser.execute_script(paper) == "#12161b"
    named = assert_named(browser, ("combobox", "image", "region", "DisclosureTriangle"))
    assert any(name.startswith("Accuracy of both with 95 % confidence") for name in named["image"])
    assert any(name.startswith("Medians, with the quartiles") for name in named["image"])
    assert sum(name.startswith("an image of class") for name in named["image"]) >= 3
