"""Every export of a detector compares both on the run's pictures; the file is evaluated and used as the run is."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from boxed_pictures import NAMES, write_coco
from browsers import assert_named, prefer
from senet.cli import main
from senet.deployment import boxes, detection_parity
from senet.deployment.detection_parity import DetectionParity, LoneBox, compare_detectors
from senet.deployment.detection_parity_page import write_detection_parity_page
from senet.deployment.photos import photos_for
from senet.detection.opening import open_detector
from senet.detection.report import report_detector
from senet.errors import SenetError

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("faster_coco_eval")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a detector and its data, whose boxes are some of those that it finds, some of them moved."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    photos = write_coco(folder / "photos", train=1, val=6)
    torch.manual_seed(0)
    options = {"num_classes": 2, "weights": "cifar10", "frozen_stages": 0, "norm": "train", "min_size": 64}
    model = senet.faster_rcnn("cifar_se_resnet20", **options, max_size=96, pyramid_channels=16, box_features=32)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=3.0)
    model.class_names = NAMES
    truth = json.loads((photos / "val.json").read_text())
    truth["annotations"] = []
    for image in truth["images"]:
        for each in senet.detect(model, photos / "images" / image["file_name"], threshold=0.0)[0][:6:2]:
            x1, y1, x2, y2 = each.box
            bbox = [x1, y1, (x2 - x1) * random.uniform(0.6, 1), y2 - y1]
            number = len(truth["annotations"]) + 1
            where = {"bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}
            truth["annotations"].append(
                {"id": number, "image_id": image["id"], "category_id": [3, 7][each.label - 1], **where}
            )
    (photos / "val.json").write_text(json.dumps(truth))
    senet.save_pretrained(model, folder / "run/best")
    (folder / "run/config.json").write_text(
        json.dumps({"task": "detection", "data": {"dataset": str(photos), "num_workers": 0}})
    )
    return folder / "run"


@pytest.fixture(scope="module")
def photos(run: Path) -> Path:
    return run.parent / "photos"


@pytest.fixture(scope="module")
def made(run: Path) -> Any:
    return senet.export(run, run.parent / "shapes.onnx", report=run.parent / "shapes.html")


def test_of_a_run_its_evaluation_pictures(run: Path, photos: Path, made: Any) -> None:
    parity = made.parity
    assert parity.within_tolerance
    assert (parity.num_images, parity.source) == (6, str(photos / "val.json"))
    assert parity.original == str(run)
    assert parity.pairs > 50
    assert parity.largest_pixels < 1e-3
    assert parity.largest_score < 1e-4
    own = report_detector(run, device="cpu").evaluation
    assert own.ap > 5
    assert parity.precision.ap.original == pytest.approx(own.ap, abs=1e-9)
    assert parity.precision.ap50.exported == pytest.approx(own.ap50, abs=0.01)
    low, high = parity.precision.ap.original_interval
    assert low < own.ap < high
    assert parity.precision.num_objects == own.num_objects
    assert parity.file_size == made.path.stat().st_size
    assert {each.name for each in parity.latencies} == {"original", "exported"}
    said = json.loads(made.path.with_name("shapes.onnx.parity.json").read_text())
    assert list(said.pop("sha256")) == ["shapes.onnx"]
    assert said == json.loads(json.dumps(parity.to_dict()))
    assert (run.parent / "shapes.html").stat().st_size > 100_000


def test_the_file_is_evaluated_as_the_run(
    run: Path, photos: Path, made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--json", "--device", "cpu"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(made.path), "--data", str(photos), "--data.num-workers", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert wanted["ap"] > 5
    for name in ("ap", "ap50", "ap75", "ar100", "num_objects", "num_detections"):
        assert found[name] == pytest.approx(wanted[name], abs=0.01), name


def test_the_file_finds_what_the_run_finds(run: Path, photos: Path, made: Any, tmp_path: Path) -> None:
    pictures = sorted(map(str, (photos / "images").glob("val*.png")))
    tables = []
    for name, network in (("run", run), ("file", made.path)):
        output = tmp_path / f"{name}.csv"
        assert main(["predict", str(network), *pictures, "--threshold", "0", "--output", str(output)]) == 0
        tables.append(list(csv.DictReader(output.open())))
    assert len(tables[0]) == len(tables[1]) > 50
    keys = ("score", "x1", "y1", "x2", "y2")
    for picture in pictures:
        wanted, found = (
            {
                "boxes": torch.tensor([[float(row[key]) for key in keys[1:]] for row in rows]),
                "labels": torch.tensor([NAMES.index(row["class"]) for row in rows]),
                "scores": torch.tensor([float(row["score"]) for row in rows]),
            }
            for rows in ([row for row in table if row["image"] == picture] for table in tables)
        )
        pairs = boxes.matches(wanted, found)
        assert len(pairs) == len(wanted["boxes"])
        torch.testing.assert_close(wanted["scores"][pairs[:, 0]], found["scores"][pairs[:, 1]], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_number_of_pictures_and_pictures_without_boxes(run: Path, photos: Path, made: Any) -> None:
    few = compare_detectors(run, made.path, images=3, timed=False)
    assert (few.num_images, few.precision is not None) == (3, True)
    folder = compare_detectors(run, made.path, photos / "images", timed=False)
    assert folder.num_images == 7
    assert folder.unscored == f"{photos / 'images'} has no boxes"
    assert folder.within_tolerance
    assert folder.pairs > 50
    given = compare_detectors(run, made.path, [np.zeros((40, 50, 3), np.uint8)], timed=False)
    assert given.source == "the pictures given"
    made_up = compare_detectors(open_detector(run, "cpu"), made.path, timed=False)
    assert made_up.unscored == "there are no data"
    assert made_up.num_images == 4


def test_pictures_of_all_kinds(run: Path, made: Any, tmp_path: Path) -> None:
    """Gray, with transparency, turned by EXIF, one pixel, long and high: both read the same and find the same."""
    random = np.random.default_rng(0)
    draw = lambda *shape: Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))  # noqa: E731
    turned = Image.Exif()
    turned[0x0112] = 6
    draw(40, 60).save(tmp_path / "gray.png")
    draw(40, 60, 4).save(tmp_path / "transparent.png")
    draw(40, 90, 3).save(tmp_path / "turned.jpg", exif=turned)
    draw(1, 1, 3).save(tmp_path / "one.png")
    draw(10, 300, 3).save(tmp_path / "long.png")
    draw(250, 12, 3).save(tmp_path / "high.png")
    draw(301, 417, 3).save(tmp_path / "large.png")
    Image.new("RGB", (80, 60), "white").save(tmp_path / "white.png")
    parity = compare_detectors(run, made.path, tmp_path, timed=False)
    assert parity.num_images == 8
    assert parity.problems == ()
    assert parity.pairs > 50
    photos = photos_for(open_detector(run, "cpu"), tmp_path, None)
    assert photos.read([Path(name).name for name in photos.names].index("turned.jpg")).shape == (3, 90, 40)
    draw(2, 400, 3).save(tmp_path / "thread.png")
    with pytest.raises(SenetError, match=r"thread\.png is 400 x 2 pixels"):
        compare_detectors(run, made.path, tmp_path, timed=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [("nowhere", "no file nowhere"), ("nowhere/*.jpg", "matches no images"), ([], "no pictures")],
)
def test_data_that_are_not_there(run: Path, tmp_path: Path, data: Any, words: str) -> None:
    with pytest.raises(SenetError, match=re.escape(words)):
        senet.export(run, tmp_path / "a.onnx", data=data)
    assert not any(tmp_path.iterdir())


def test_a_file_of_annotations_is_no_picture(run: Path, made: Any, photos: Path) -> None:
    with pytest.raises(SenetError, match=r"val\.json is a file of annotations; name its folder"):
        compare_detectors(run, made.path, photos / "val.json")


def test_numbers_that_are_none(run: Path, made: Any) -> None:
    with pytest.raises(SenetError, match="images is 0"):
        compare_detectors(run, made.path, images=0)
    with pytest.raises(SenetError, match="num_images is 'some'"):
        senet.export(run, run.parent / "a.onnx", num_images="some")
    with pytest.raises(SenetError, match="is no exported file"):
        compare_detectors(run, run)


def test_data_of_other_classes_have_no_precision(run: Path, made: Any, tmp_path: Path) -> None:
    other = write_coco(tmp_path / "other", train=1, val=2)
    for name in ("train", "val"):
        truth = json.loads((other / f"{name}.json").read_text())
        truth["categories"][0]["name"] = "oval"
        (other / f"{name}.json").write_text(json.dumps(truth))
    parity = compare_detectors(run, made.path, other, timed=False)
    assert "oval" in parity.unscored
    assert parity.precision is None
    assert parity.num_images == 2


def test_data_of_a_run_that_are_gone(
    run: Path, made: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = senet.detection.data_config.DetectionDataConfig(dataset="gone")
    monkeypatch.setattr(detection_parity, "run_detection_data", lambda _: gone)
    parity = compare_detectors(run, made.path, timed=False)
    assert parity.unscored == "there are no data"
    assert "cannot be used" in caplog.text


@pytest.mark.slow
def test_the_command_says_how_far_they_are_apart(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "a.onnx", "--num-images", "2", "--report", "a.html"]) == 0
    said = capsys.readouterr().out
    for words in ("a.onnx against", "on 2 images of", "AP50, %", "boxes of both", "within the tolerance", "a.html is"):
        assert words in said
    assert main(["export", str(run), "b.onnx", "--report", "b.txt"]) == 2
    assert not Path("b.onnx").exists()
    capsys.readouterr()
    monkeypatch.setattr(detection_parity, "SCORE", -1.0)
    assert main(["export", str(run), "c.onnx", "--data", str(photos / "images"), "--num-images", "all", "--json"]) == 3
    written = json.loads(capsys.readouterr().out)["parity"]
    assert written["within_tolerance"] is False
    assert written["num_images"] == 7
    assert Path("c.onnx").exists()


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def different(made: Any) -> DetectionParity:
    """The report with boxes that only one found, of names that look like HTML."""
    lone = tuple(
        LoneBox(
            image=made.parity.photos.names[i % 2],
            index=i % 2,
            found_by="exported" if i else "original",
            class_name="<b>disk",
            score=0.9 - i / 10,
            box=(5.0, 5.0, 30.0 + i, 30.0),
        )
        for i in range(3)
    )
    return replace(
        made.parity, lone=lone, only_original=1, only_exported=2, problems=("3 boxes <i>",), exported="<i>x.onnx"
    )


@pytest.fixture(scope="module")
def page(different: DetectionParity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detection_parity_page(different, tmp_path_factory.mktemp("page") / "parity.html")


def own_text(page: Path) -> str:
    text = page.read_text()
    return text[: text.index("<script>")] + text[text.rindex("<script>") :]


def test_the_page_is_one_file_that_holds_the_report(page: Path, different: DetectionParity, run: Path) -> None:
    text = own_text(page)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "<i>" not in text.split("<script>")[0]
    assert "No: beyond the tolerance" in text
    for of in (different.precision.ap, different.precision.ap50):
        assert f"{of.original:.2f}" in text
        assert f"{of.difference_interval[1]:.2f}" in text
    same = own_text(run.parent / "shapes.html").split("<script>")[0]
    assert "Yes: within the tolerance" in same
    assert "There are none" in same


@pytest.fixture
def drawn(browser: Any, page: Path) -> Iterator[Any]:
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"
    return browser


@pytest.mark.slow
def test_choosing_a_measure_sorting_and_looking_at_pictures(drawn: Any, different: DetectionParity) -> None:
    from selenium.webdriver.common.by import By

    y = "return document.getElementById('differences').data[0].y"
    assert drawn.execute_script(y) == pytest.approx([each[1] for each in different.differences])
    assert f"{different.pairs} pairs" in drawn.find_element(By.ID, "differences-text").text
    drawn.find_element(By.ID, "measure").send_keys("scores")  # by keyboard
    assert drawn.execute_script(y) == pytest.approx([each[2] for each in different.differences])

    def column(number: int) -> list[str]:
        cells = drawn.find_elements(By.CSS_SELECTOR, f"#lone tbody tr > :nth-child({number})")
        return [cell.text for cell in cells]

    assert column(3) == ["0.900", "0.800", "0.700"]
    assert column(2) == ["<b>disk"] * 3
    drawn.find_element(By.CSS_SELECTOR, "#lone button[data-column='2']").click()
    assert column(3) == ["0.700", "0.800", "0.900"]
    pictures = drawn.find_elements(By.CSS_SELECTOR, "#images img")
    assert len(pictures) == 2
    assert all(drawn.execute_script("return arguments[0].naturalWidth", each) >= 64 for each in pictures)
    bars = drawn.execute_script("return document.getElementById('latency').data.map((each) => each.name)")
    assert bars == ["original", "exported"]
    assert [entry for entry in drawn.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
def test_phones_dark_rooms_and_screen_readers(page: Path, browser: Any) -> None:
    prefer(browser, "dark")
    size = {"width": 320, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
    assert browser.execute_script("return document.getElementById('latency').layout.paper_bgcolor") == "#12161b"
    named = assert_named(browser, ("combobox", "image", "region"))
    assert sum(name.startswith("boxes that only one found in") for name in named["image"]) == 2
