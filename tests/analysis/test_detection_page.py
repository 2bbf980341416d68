"""The page about a detector, read and clicked in a real browser where there is one; and the gates on objects."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from browsers import assert_named, prefer
from coco_dicts import CATEGORY_IDS, pycocotools_run, random_detections, random_ground_truth
from senet import SenetError
from senet.analysis.detection_page import boxes_of, chosen_images, write_detection_page
from senet.analysis.object_gates import record_object_gates, size_of, square_around
from senet.detection.matching import at_threshold
from senet.detection.report import report_on
from tiny_detectors import tiny_detector


def picture_of(image_id):
    draw = np.random.default_rng(image_id)
    return Image.fromarray(draw.integers(0, 256, (300, 400, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def report():
    truth = random_ground_truth(2)
    for each in truth["categories"]:
        each["name"] = f"<b> {each['id']}"
    for image in truth["images"]:
        image["file_name"] = f"photos/{image['id']}.jpg"
    found = random_detections(truth, 2, crowded=False)
    return report_on(truth, found, name="run", source="/data/set", picture_of=picture_of, model=tiny_detector())


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return write_detection_page(report, tmp_path_factory.mktemp("page") / "detection.html")


def embedded(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_the_page_is_one_file_that_holds_the_report(page, report):
    text = page.read_text()
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert not re.findall(r"(?:src|href)=\"(?!data:)", own)  # nothing from elsewhere
    found, data = report.evaluation, embedded(page)
    for value in (found.ap, found.ap50, found.ap75, found.ap_small, found.ar100):
        assert f"<td>{value:.1f}</td>" in own
    assert [row[0] for row in data["classes"]] == [each.class_name for each in found.classes]
    assert data["classes"][-1][4:] != [None] * 6
    empty = next(row for row in data["classes"] if row[0] == f"<b> {CATEGORY_IDS[-1]}")
    assert empty[1:] == [0, 0, 0, *[None] * 6]


def test_the_curves_are_those_of_pycocotools(page, report):
    drawn = embedded(page)["curves"]
    precision = pycocotools_run(report.ground_truth, report.detections).eval["precision"][:, :, :, 0, -1]
    kept = [k for k, category in enumerate(sorted(CATEGORY_IDS)) if category != CATEGORY_IDS[-1]]
    assert [each["name"] for each in drawn[1:]] == [f"<b> {sorted(CATEGORY_IDS)[k]}" for k in kept]
    for k, each in zip(kept, drawn[1:], strict=True):
        np.testing.assert_allclose(each["lines"]["IoU 0.5"], 100 * precision[0, :, k], atol=0.006)
        np.testing.assert_allclose(each["lines"]["IoU 0.75"], 100 * precision[5, :, k], atol=0.006)
    mean = drawn[0]["lines"]["mean, 0.5 to 0.95"]
    assert np.mean(mean) == pytest.approx(report.evaluation.ap, abs=0.01)


def test_every_object_and_detection_is_drawn_once(page, report):
    boxes = boxes_of(report)
    kinds = [kind for of_image in boxes.values() for kind, _, _ in of_image]
    at = at_threshold(report.ground_truth, report.detections, report.matches, report.threshold)
    assert (kinds.count("right"), kinds.count("wrong"), kinds.count("missed")) == (at.right, at.wrong, at.missed)
    assert min(at.right, at.wrong, at.missed) > 0
    chosen = chosen_images(report, boxes)
    assert len({image_id for _, image_id in chosen}) == len(chosen) > 6
    shown = embedded(page)["examples"]
    missed = [each["missed"] for each in shown if each["why"] == "most objects missed"]
    assert missed == sorted(missed, reverse=True)
    assert all(not each["missed"] + each["wrong"] for each in shown if each["why"] == "no mistake")


def test_the_threshold_may_be_named(report):
    named = report_on(report.ground_truth, report.detections, name="x", source="y", threshold=0.95)
    assert named.threshold == 0.95
    assert named.overall.recall < report.overall.recall
    assert named.to_dict()["ap"] == report.evaluation.ap
    json.dumps(named.to_dict(), allow_nan=False)
    with pytest.raises(SenetError, match=r"threshold is 3; expected 0 to 1"):
        report_on(report.ground_truth, report.detections, name="x", source="y", threshold=3)


def test_without_pictures_gates_or_anything_right(report, tmp_path):
    alone = report_on(report.ground_truth, [], name="none", source="x")
    text = write_detection_page(alone, tmp_path / "page.html").read_text()
    assert "There are no pictures here" in text
    assert "What the gates do" not in text
    assert "none is right" in text
    plain = tiny_detector()
    plain.backbone[2] = torch.nn.Identity()
    text = write_detection_page(replace(report, model=plain), tmp_path / "page.html").read_text()
    assert "What the gates do" not in text
    with pytest.raises(SenetError, match="cannot be written"):
        write_detection_page(alone, tmp_path)


# ---- gates -----------------------------------------------------------------------------------------------------------


def test_the_gates_are_those_of_the_objects_cut_out(report):
    """Computed again by hand: cut, resized, normalized, through the trunk, one object after the other."""
    model = tiny_detector()
    gates = record_object_gates(model, report.ground_truth, picture_of, side=32)
    seen = []
    block = model.backbone[2]
    handle = block.register_forward_hook(lambda block, args, _: seen.append(block.compute_gate(args[0]).flatten()))
    objects = [each for each in report.ground_truth["annotations"] if not each["iscrowd"]]
    with torch.no_grad():
        for each in objects:
            x, y, side, _ = each["bbox"]
            left, top = max(0, round(x)), max(0, round(y))
            box = (left, top, min(400, round(x + side)), min(300, round(y + side)))
            crop = picture_of(each["image_id"]).crop(box).resize((32, 32), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            model.backbone(((pixels - mean) / std)[None])
    handle.remove()
    values = torch.stack(seen).double()
    record = gates.by_class.blocks[0]
    assert record.count.sum() == len(objects)
    for k, name in enumerate(gates.by_class.class_names):
        rows = [i for i, each in enumerate(objects) if f"<b> {each['category_id']}" == name]
        assert record.count[k] == len(rows)
        if rows:
            torch.testing.assert_close(record.mean[k], values[rows].mean(0), atol=1e-4, rtol=0)
    by_size = gates.by_size.blocks[0]
    for k, (low, high) in enumerate([(0, 32**2), (32**2, 96**2), (96**2, 1e10)]):
        rows = [i for i, each in enumerate(objects) if low < each["area"] <= high]
        assert by_size.count[k] == len(rows)
        torch.testing.assert_close(by_size.mean[k], values[rows].mean(0), atol=1e-4, rtol=0)


def test_some_objects_of_each_class_are_enough(report):
    gates = record_object_gates(tiny_detector(), report.ground_truth, picture_of, per_class=3, side=16)
    assert gates.by_class.blocks[0].count.max() == 3


def test_squares_stay_inside_the_picture():
    assert square_around([10, 20, 30, 10], (400, 300)) == (10, 10, 40, 40)
    assert square_around([390, 0, 10, 100], (400, 300)) == (345, 0, 400, 100)
    assert square_around([399.9, 299.9, 0.1, 0.1], (400, 300)) == (399, 299, 400, 300)
    assert size_of({"bbox": [0, 0, 32, 32]}) == 0
    assert size_of({"bbox": [0, 0, 33, 32]}) == 1
    assert size_of({"bbox": [0, 0, 200, 200], "area": 9217}) == 2


# ---- in a browser ----------------------------------------------------------------------------------------------------


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
    return browser.execute_script(script, selector)


@pytest.mark.slow
def test_choosing_curves_gates_and_sorting(page, report, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"
    select = browser.find_element(By.ID, "curve")
    select.send_keys(Keys.ARROW_DOWN)
    chosen = embedded(page)["curves"][1]
    y = browser.execute_script("return document.getElementById('curves').data[0].y")
    assert y == pytest.approx(chosen["lines"]["IoU 0.5"])
    assert chosen["name"] in browser.find_element(By.ID, "curves-text").text

    browser.find_element(By.CSS_SELECTOR, "#classes button[data-column='1']").send_keys(Keys.ENTER)
    objects = [int(text) for text in texts(browser, "#classes tbody td:nth-child(2)")]
    assert objects == sorted(objects)
    assert browser.execute_script("return document.activeElement.dataset.column") == "1"  # the focus stays

    assert len(texts(browser, "#examples li")) == len(embedded(page)["examples"])
    loaded = "return [...document.querySelectorAll('#examples img')].every((image) => image.naturalWidth === 400)"
    assert browser.execute_script(loaded)

    names = "return document.getElementById('gate-figure').data.map((line) => line.name)"
    assert len(browser.execute_script(names)) == 5
    browser.find_element(By.CSS_SELECTOR, "#class-boxes input").click()
    assert len(browser.execute_script(names)) == 4
    browser.find_element(By.ID, "by").send_keys("size")
    assert browser.execute_script(names) == ["all objects", "small", "medium", "large"]
    assert not browser.find_element(By.ID, "class-choice").is_displayed()
    assert "between sizes" in browser.find_element(By.ID, "gate-text").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
def test_phones_dark_rooms_and_screen_readers(page, browser):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    prefer(browser, "dark")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert browser.execute_script("return document.getElementById('curves').layout.paper_bgcolor") == "#12161b"
    named = assert_named(browser, ("button", "combobox", "image", "region", "checkbox", "DisclosureTriangle"))
    assert any(name.startswith("Precision at each recall") for name in named["image"])
    assert sum(" with boxes: " in name for name in named["image"]) == len(embedded(page)["examples"])
