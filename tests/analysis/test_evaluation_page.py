"""The page about how well networks do, read and clicked in a real browser where there is one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from browsers import assert_named, prefer
from senet import SenetError
from senet.analysis.evaluation_page import gates_of_images, write_evaluation_page
from senet.analysis.gates import find_blocks
from senet.cli import main
from senet.evaluation.comparison import Comparison, compare, report_on
from senet.evaluation.scores import Scores


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Forty pictures of digits, of which three are in the folder of another class."""
    from sklearn.datasets import load_digits

    digits, root = load_digits(), tmp_path_factory.mktemp("pictures")
    for k in range(10):
        (root / str(k)).mkdir()
    for i in range(40):
        label = (int(digits.target[i]) + (i % 13 == 0)) % 10
        Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(root / str(label) / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def found(digits_run, pictures) -> Comparison:
    plain = senet.create_model("cifar_resnet20", in_channels=1, num_classes=10)
    plain.preprocessing = senet.from_pretrained(digits_run).preprocessing
    return compare([digits_run, plain], pictures, ensemble=True, names=["se <b>", "plain"])


@pytest.fixture(scope="module")
def page(found, tmp_path_factory) -> Path:
    return write_evaluation_page(found, tmp_path_factory.mktemp("page") / "evaluation.html")


def embedded(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_the_page_is_one_file_that_holds_the_comparison(page, found):
    text = page.read_text()
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert not re.findall(r"(?:src|href)=\"(?!data:)", own)  # nothing from elsewhere
    assert "<b>" not in own.replace("se &lt;b&gt;", "")
    data = embedded(page)
    assert [each["name"] for each in data["reports"]] == ["se <b>", "plain", "ensemble"]
    for drawn, report in zip(data["reports"], found.all_reports, strict=True):
        assert sum(count for _, _, count in drawn["confusion"]) == 40
        assert [row[0] for row in drawn["classes"]] == [each.class_name for each in report.classes]
        assert drawn["ece"] == pytest.approx(report.ece, abs=0.01)
        assert [each["index"] for each in drawn["mistakes"]] == [each.index for each in report.mistakes]
        assert all(str(each["index"]) in data["pictures"] for each in drawn["mistakes"])
    first = found.reports[0]
    assert f"{first.evaluation.top1:.2f}" in own
    assert f"({first.intervals['top1'][0]:.2f} to {first.intervals['top1'][1]:.2f})" in own
    assert f"{found.tests[0].p_value:.2g}" in own


def test_the_gates_of_a_mistake_are_those_of_the_network(page, found, digits_run):
    drawn = embedded(page)["reports"]
    assert drawn[0]["blocks"] == [f"SE_{stage}_{i}" for stage in (2, 3, 4) for i in (1, 2, 3)]
    assert drawn[1]["blocks"] == []
    assert drawn[2]["blocks"] == []
    model, report = senet.from_pretrained(digits_run), found.reports[0]
    mistake = drawn[0]["mistakes"][0]
    blocks = find_blocks(model)
    gates = gates_of_images(model, blocks, report.images, model.preprocessing, range(40))["SE_4_3"]
    transform = senet.create_transform(model)
    seen = []
    block = model.get_submodule(blocks[-1].module)
    block.register_forward_hook(lambda block, args, _: seen.append(block.compute_gate(args[0]).flatten(1)))
    with torch.no_grad():
        model.eval()(torch.stack([transform(report.images[i][0]) for i in range(40)]))
    torch.testing.assert_close(gates, seen[0].reshape(40, -1), atol=1e-5, rtol=0)
    change = seen[0].reshape(40, -1)[mistake["index"]] - seen[0].reshape(40, -1).mean(0)
    channel, by = mistake["gates"]["SE_4_3"]["raised"][0]
    assert by == pytest.approx(change.max().item(), abs=2e-3)
    assert change[channel].item() == pytest.approx(by, abs=2e-3)


def test_without_mistakes_or_pictures(tmp_path):
    labels = torch.arange(6) % 2
    sure = Scores(
        name="sure",
        source="x",
        class_names=("a", "b"),
        log_probabilities=torch.eye(2)[labels].mul(9).log_softmax(1),
        labels=labels,
    )
    report = report_on(sure)
    alone = Comparison(reports=(report,), ensemble=None, tests=(), networks=(torch.nn.Identity(),))
    text = write_evaluation_page(alone, tmp_path / "page.html").read_text()
    assert "There are no pictures here" in text
    assert "McNemar" not in text.split("<script>")[0]
    with pytest.raises(SenetError, match="cannot be written"):
        write_evaluation_page(alone, tmp_path)


def of_many_classes(tmp_path: Path) -> Path:
    """A page of 100 classes, each taken for the next one at times."""
    labels = torch.arange(1000) % 100
    logits = torch.randn(1000, 100, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(1000), (labels + (torch.arange(1000) % 7 == 0)) % 100] += 9
    names = tuple(f"class {i}" for i in range(100))
    scores = Scores(name="many", source="x", class_names=names, log_probabilities=logits.log_softmax(1), labels=labels)
    report = report_on(scores)
    alone = Comparison(reports=(report,), ensemble=None, tests=(), networks=(torch.nn.Identity(),))
    return write_evaluation_page(alone, tmp_path / "many.html")


def texts(browser, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
    return browser.execute_script(script, selector)


@pytest.mark.slow
def test_choosing_a_network_and_sorting(page, found, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"
    se, plain, _ = found.all_reports
    assert texts(browser, "#matrix tbody tr:first-child td")[0] == str(se.confusion[0, 0])
    assert len(texts(browser, "#mistakes li")) == len(se.mistakes)
    assert "raised: " in texts(browser, "#mistakes li")[0]

    select = browser.find_element(By.ID, "network")
    select.send_keys("plain")  # by keyboard
    assert texts(browser, ".chosen-network") == ["plain"] * 4
    assert texts(browser, "#classes tbody td:nth-child(3)") == [str(each.predicted) for each in plain.classes]
    assert len(texts(browser, "#mistakes li")) == len(plain.mistakes)
    assert "raised" not in texts(browser, "#mistakes li")[0]
    assert not browser.find_element(By.ID, "block-choice").is_displayed()
    y = browser.execute_script("return document.getElementById('reliability').data[1].y")
    assert y == pytest.approx([each.accuracy for each in plain.bins], abs=0.01)
    select.send_keys(Keys.ARROW_UP)

    button = browser.find_element(By.CSS_SELECTOR, "#classes button[data-column='4']")
    button.send_keys(Keys.ENTER)
    recall = [float(text) for text in texts(browser, "#classes tbody td:nth-child(5)")]
    assert recall == sorted(recall)
    assert browser.execute_script("return document.activeElement.dataset.column") == "4"  # the focus stays
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    recall = [float(text) for text in texts(browser, "#classes tbody td:nth-child(5)")]
    assert recall == sorted(recall, reverse=True)
    assert texts(browser, "#classes th[aria-sort=descending]") == ["recall, %"]

    block = browser.find_element(By.ID, "block")
    assert block.get_property("value") == "SE_4_3"
    block.send_keys("SE_2_1")
    channel, _ = embedded(page)["reports"][0]["mistakes"][0]["gates"]["SE_2_1"]["raised"][0]
    assert f"raised: {channel} (" in texts(browser, "#mistakes li")[0]
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
def test_many_classes_can_be_read(tmp_path, browser):
    from selenium.webdriver.common.by import By

    browser.get(of_many_classes(tmp_path).as_uri())
    shown = texts(browser, "#matrix thead th")
    assert 20 <= len(shown) <= 32  # with the column of the others and the corner
    assert shown[-1] == "another"
    browser.find_element(By.ID, "about").send_keys("class 42")
    assert "class 42 and those" in browser.find_element(By.ID, "matrix-text").text
    row = texts(browser, "#matrix tbody th").index("class 42")
    counts = texts(browser, f"#matrix tbody tr:nth-child({row + 1}) td")
    assert sum(int(count) for count in counts if count != "·") == 10
    z = browser.execute_script("return document.getElementById('overview').data[0].z.length")
    assert z == 100
    assert_named(browser, ("button", "combobox", "image", "region", "DisclosureTriangle"))
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
def test_phones_dark_rooms_and_screen_readers(page, browser):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    prefer(browser, "dark")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    paper = "return document.getElementById('reliability').layout.paper_bgcolor"
    assert browser.execute_script(paper) == "#12161b"
    named = assert_named(browser, ("button", "combobox", "image", "region", "DisclosureTriangle"))
    assert any(name.startswith("How often predictions of a probability are right") for name in named["image"])
    assert sum(name.startswith("an image of class") for name in named["image"]) >= 1


@pytest.mark.slow
def test_long_names_of_classes_and_networks_fit_on_a_phone(found, tmp_path, browser):
    name = "<script>window.ran=1</script>" + "Donaudampfschiff" * 4
    report = found.reports[0]
    renamed = tuple(replace(each, class_name=name, prediction=name) for each in report.mistakes)
    long = replace(report, name=name * 2, mistakes=renamed)
    page = write_evaluation_page(replace(found, reports=(long, found.reports[1])), tmp_path / "long.html")
    for width in (320, 768):
        size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return window.ran") is None


def test_the_command_writes_the_page(digits_run, pictures, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert main(["evaluate", str(digits_run), "--data", str(pictures), "--report", str(page)]) == 0
    sentence, last, _ = capsys.readouterr().out.split("\n")
    assert sentence.startswith("top-1 ")
    assert last == f"{page} is the report; open it in a browser"
    (only,) = embedded(page)["reports"]
    assert only["name"] == str(digits_run)
    assert 3 <= len(only["mistakes"]) < 24
