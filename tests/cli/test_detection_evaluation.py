"""`senet evaluate` of a network that detects: figures, page, saved detections, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_dicts import pycocotools_run
from senet.cli import main
from senet.detection import opening
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_split
from senet.detection.evaluation import detections_of
from senet.detection.loading import build_detection_loader
from senet.detection.prediction import detect
from senet.detection.report import report_detector
from senet.errors import SenetError
from tiny_detectors import tiny_detector


def learned_by_heart():
    """A detector whose boxes are drawn as the objects below: some of them are right."""
    return tiny_detector(box_score_thresh=0.2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that detects, whose data are photos with the boxes that its detector finds, some of them moved."""
    monkeypatch.chdir(tmp_path)
    Path("photos/images").mkdir(parents=True)
    draw, detector = np.random.default_rng(0), learned_by_heart()
    images, annotations = [], []
    for i in range(6):
        width, height = (80, 60) if i % 2 else (60, 80)
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/images/{i}.png")
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": width, "height": height})
        found = detect(detector, [Image.fromarray(pixels)], threshold=0)[0]
        for each in found[:: 1 + i % 2]:
            x1, y1, x2, y2 = each.box
            box = [x1, y1, max(1.0, (x2 - x1) * draw.uniform(0.6, 1)), max(1.0, y2 - y1)]
            annotations.append(
                {"image_id": 10 + i, "category_id": [7, 4][each.label - 1], "bbox": box, "area": box[2] * box[3]}
            )
    annotations = [{"id": i + 1, "iscrowd": int(i == 3), **each} for i, each in enumerate(annotations)]
    categories = [{"id": 7, "name": "cat"}, {"id": 4, "name": "dog"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    for name in ("train", "val"):
        Path(f"photos/{name}.json").write_text(json.dumps(truth))
    Path("run/best").mkdir(parents=True)
    config = {"task": "detection", "data": {"dataset": str(tmp_path / "photos"), "num_workers": 0}}
    Path("run/config.json").write_text(json.dumps(config))
    monkeypatch.setattr(opening, "open_any", lambda source: learned_by_heart())
    return "run"


def test_figures_are_those_of_pycocotools(run, capsys):
    assert main(["evaluate", run, "--json", "--detections", "found.json"]) == 0
    found = json.loads(capsys.readouterr().out)
    split = open_detection_split(DetectionDataConfig(dataset="photos"), "eval")
    stats = pycocotools_run(split.ground_truth(), json.loads(Path("found.json").read_text())).stats
    assert 0 < stats[0] < stats[1]
    assert found["ap"] / 100 == pytest.approx(stats[0], abs=1e-12)
    assert found["ap50"] / 100 == pytest.approx(stats[1], abs=1e-12)
    assert found["ar100"] / 100 == pytest.approx(stats[8], abs=1e-12)
    assert [each["class_name"] for each in found["classes"]] == ["dog", "cat"]
    assert found["at_threshold"]["right"] > 0
    assert main(["evaluate", run, "--detections", "found.json"]) == 2
    assert "found.json exists already; name another file by --detections" in capsys.readouterr().err


def test_sentence_table_and_page(run, capsys):
    assert main(["evaluate", run, "--report", "new/page.html", "--threshold", "0.3"]) == 0
    sentence, headings, *rows, last = capsys.readouterr().out.splitlines()
    report = report_detector(run, threshold=0.3)
    assert sentence.startswith(f"AP {report.evaluation.ap:.1f} %, AP50 {report.evaluation.ap50:.1f} %, ")
    assert "from a score of 0.30 on precision " in sentence
    assert headings.split()[:3] == ["class", "objects", "detections"]
    assert [row.split()[0] for row in rows] == ["dog", "cat"]
    assert last == "new/page.html is the report; open it in a browser"
    text = Path("new/page.html").read_text()
    assert "How well run detects" in text
    assert "What the gates do on objects" in text
    assert text.count("data:image/webp") >= 3


def test_batches_and_order_change_nothing(run):
    one, all_at_once = (report_detector(run, batch_size=number) for number in (1, 6))
    assert one.evaluation.ap == pytest.approx(all_at_once.evaluation.ap)
    config = DetectionDataConfig(dataset="photos", num_workers=0)
    split = open_detection_split(config, "eval", ("cat", "dog"))
    loader = build_detection_loader(config, split, "eval", 4, opening.device_of(learned_by_heart()))
    found = detections_of(learned_by_heart(), loader.batches(0), split.category_ids)
    np.testing.assert_allclose(
        [each["score"] for each in found], [each["score"] for each in one.detections], atol=1e-5, rtol=0
    )


def test_other_data_and_what_is_refused(run, capsys):
    assert main(["evaluate", run, "--data.val", "train.json"]) == 0
    assert "train.json" in capsys.readouterr().out
    truth = json.loads(Path("photos/val.json").read_text())
    truth["categories"][0]["name"] = "horse"
    for name in ("train", "val"):
        Path(f"photos/{name}.json").write_text(json.dumps(truth))
    assert main(["evaluate", run]) == 2
    assert "the category 'horse', which is not among" in capsys.readouterr().err
    for words, message in (
        (["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (["--ten-crop"], "--ten-crop"),
        (["--report", "page.txt"], "page.txt does not end in .html"),
    ):
        assert main(["evaluate", run, *words]) == 2
        assert message in capsys.readouterr().err
    assert not Path("page.txt").exists()
    with pytest.raises(SenetError, match=r"data is missing: name a folder of images with boxes"):
        report_detector(learned_by_heart())


def test_help_is_of_what_the_run_does(run, capsys):
    assert main(["evaluate", run, "--help"]) == 0
    assert "--detections" in capsys.readouterr().out
    assert main(["evaluate", "--help"]) == 0
    assert "--ten-crop" in capsys.readouterr().out


def test_a_damaged_configuration_is_said(run, capsys):
    Path("run/config.json").write_text('{"task": "detection", "data": {"dataset": 3}}')
    assert main(["evaluate", run]) == 2
    assert "run/config.json is not the configuration of a run or model" in capsys.readouterr().err


def test_options_of_other_programs_and_of_training_are_answered(run, capsys):
    for words, message in (
        (["--data.augmentation.photometric"], "no option is called --data.augmentation.photometric; the nearest are"),
        (["--data.no-group-by-shape"], "no option is called --data.no-group-by-shape"),
        (["--data.train", "val.json"], "--data.train has no effect without --data.val-fraction"),
        (["--split", "test"], "no option is called --split; here that is --data.val"),
        (["--conf", "0.3"], "no option is called --conf; here that is --threshold"),
        (["imgsz=640"], "no option is written 'imgsz=640'; here that is --model.min-size of `senet train`"),
        (["--device", "gpu"], "--device is 'gpu', which is not there"),
        ([run], f"{run} comes after {run}, but networks that detect are evaluated one by one; name one"),
    ):
        assert main(["evaluate", run, *words]) == 2
        assert message in capsys.readouterr().err


def test_help_shows_the_data_of_the_run_and_nothing_about_training(run, tmp_path, capsys):
    assert main(["evaluate", run, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--detections" in out
    assert "augmentation" not in out
    assert str(tmp_path)[:20] in out.replace("default: ''", "")


def test_the_share_that_a_run_held_out_is_not_that_of_other_data(run, tmp_path, capsys):
    config = json.loads(Path("run/config.json").read_text())
    config["data"].update(val_fraction=0.5, split_seed=3)
    Path("run/config.json").write_text(json.dumps(config))
    Path("photos/val.json").unlink()
    assert main(["evaluate", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 3
    Path("other").symlink_to("photos")
    assert main(["evaluate", run, "--data", "other"]) == 2
    assert "--data.val" in capsys.readouterr().err
    assert main(["evaluate", run, "--data", "other", "--data.val", "train.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 6
    assert main(["evaluate", run, "--data", "other", "--data.val-fraction", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 3
