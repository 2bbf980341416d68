"""`senet predict` of a network that detects: pictures with boxes, tables, and what is refused."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import senet
from senet.cli import main
from senet.cli.detection import EvaluateDetectorCommand
from senet.cli.evaluation import EvaluateCommand
from senet.cli.export import ExportCommand
from senet.cli.names import CLASSIFYING, DETECTING, EVALUATING, EXPORTING, PREDICTING
from senet.cli.options import options
from senet.cli.prediction import PredictCommand
from senet.cli.training import TrainDetector
from senet.detection import opening, prediction
from senet.detection.opening import detects
from senet.detection.prediction import detect
from tiny_detectors import tiny_detector


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder whose config.json says that it detects, opened as a tiny detector; the current folder has photos."""
    monkeypatch.chdir(tmp_path)
    Path("run/best").mkdir(parents=True)
    Path("run/best/config.json").write_text('{"task": "detection"}')
    Path("run/best/model.safetensors").touch()
    Path("photos/more").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, (width, height) in {"a.jpg": (80, 60), "b.png": (60, 80), "more/a.jpg": (80, 60)}.items():
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(f"photos/{name}")
    monkeypatch.setattr(opening, "open_any", lambda source: tiny_detector())
    return "run"


PHOTOS = ["photos/a.jpg", "photos/b.png", "photos/more/a.jpg"]


def expected(threshold):
    found = detect(tiny_detector(), PHOTOS, threshold=threshold)
    assert sum(map(len, found)) > 8
    return [[(each.class_name, pytest.approx(each.score, abs=1e-4)) for each in objects] for objects in found]


def test_boxes_are_drawn_into_a_folder(run, capsys):
    assert main(["predict", run, "photos", "--output", "drawn/", "--threshold", "0.2"]) == 0
    out = capsys.readouterr().out
    found = json.loads(Path("drawn/objects.json").read_text())
    assert [row["image"] for row in found] == PHOTOS
    assert [[(each["class_name"], each["score"]) for each in row["objects"]] for row in found] == expected(0.2)
    number = sum(len(row["objects"]) for row in found)
    assert out == f"drawn holds pictures with boxes, and drawn/objects.json {number} objects in 3 images\n"
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a-2.jpg", "a.jpg", "b.png", "objects.json"]
    assert [row["drawn"] for row in found] == ["a.jpg", "b.png", "a-2.jpg"]
    for name, row in zip(("a.jpg", "b.png", "a-2.jpg"), found, strict=True):
        drawn = Image.open(f"drawn/{name}").convert("RGB")
        assert drawn.size == (row["width"], row["height"])
        change = np.abs(np.asarray(drawn).astype(int) - np.asarray(Image.open(row["image"]).convert("RGB")))
        assert (change.max(2) > 60).mean() > 0.02
    assert main(["predict", run, "photos", "--output", "drawn"]) == 2
    assert "drawn exists already; name another folder by --output" in capsys.readouterr().err
    Path("drawn/objects.json").rename("drawn/objects.json.part")  # as a killed process leaves it
    assert main(["predict", run, "photos", "--output", "drawn"]) == 0
    assert len(json.loads(Path("drawn/objects.json").read_text())) == 3
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a-2.jpg", "a.jpg", "b.png", "objects.json"]


def test_objects_are_written_in_every_format(run, capsys):
    command, pairs = ["predict", "photos", "--model", run, "--threshold", "0.2"], expected(0.2)
    for form in (["--json"], ["--format", "jsonl"]):
        assert main([*command, *form]) == 0
        out = capsys.readouterr().out
        found = json.loads(out) if "--json" in form else [json.loads(line) for line in out.splitlines()]
        assert [[(each["class_name"], each["score"]) for each in row["objects"]] for row in found] == pairs
        assert all(set(row) == {"image", "width", "height", "objects"} for row in found)
        assert all(len(each["box"]) == 4 for row in found for each in row["objects"])
    assert main([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["class"], float(row["score"])) for row in rows] == [pair for of_image in pairs for pair in of_image]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[1].startswith("photos/a.jpg ")
    assert main([*command, "--output", "found.csv"]) == 0
    assert list(csv.DictReader(Path("found.csv").read_text().splitlines())) == rows


def test_images_without_objects_are_told(run, capsys):
    command = ["predict", run, "photos/a.jpg", "--threshold", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("(no objects)")
    assert main([*command, "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "photos/a.jpg,,,,,,"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["objects"] == []


def test_the_threshold_is_a_half_unless_named(run, monkeypatch):
    seen = []
    each = prediction.objects_in
    monkeypatch.setattr(prediction, "objects_in", lambda *given: seen.append(given[2]) or each(*given))
    assert main(["predict", run, "photos"]) == 0
    assert main(["predict", run, "photos", "--threshold", "0"]) == 0
    assert seen == [0.5, 0]


def test_a_damaged_photo_is_told_at_the_end(run, capsys):
    Path("photos/c.jpg").write_bytes(b"none")
    assert main(["predict", run, "photos/*.jpg", "--output", "drawn"]) == 1
    assert "1 of 2 images are left out" in capsys.readouterr().err
    assert [row["image"] for row in json.loads(Path("drawn/objects.json").read_text())] == ["photos/a.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "3"], "--top has no effect on run, which detects objects; leave it out"),
        (["--ten-crop"], "ten_crop"),
        (["--classes", "a", "b"], "--classes has no effect"),
        (["--model", "cifar_se_resnet20"], "names 2 networks, of which at least one detects objects"),
        (["--threshold", "2"], "--threshold is 2.0; expected 0 to 1"),
    ],
)
def test_what_has_no_effect_is_refused(run, options, message, capsys):
    assert main(["predict", "photos", "--model", run, *options]) == 2
    assert message.replace("ten_crop", "--ten-crop has no effect") in capsys.readouterr().err


def test_a_run_that_classifies_may_come_first_too(digits_run, tmp_path, capsys):
    Image.effect_noise((8, 8), 40).save(tmp_path / "one.png")
    assert main(["predict", str(digits_run), str(tmp_path / "one.png"), "--json", "--top", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["classes"][0]["class_name"] == senet.predict(digits_run, tmp_path / "one.png", top=1)[0][0].class_name


def test_a_saved_detector_is_opened_by_its_folder(tmp_path, monkeypatch, capsys):
    """Without a stand-in: save_pretrained, the command, and senet.predict agree."""
    monkeypatch.chdir(tmp_path)
    sizes = {"min_size": (64,), "max_size": 96}
    model = senet.faster_rcnn("cifar_se_resnet20", num_classes=2, frozen_stages=0, norm="train", **sizes)
    model.class_names = ("cat", "dog")
    senet.save_pretrained(model, "model")
    Image.effect_noise((90, 60), 80).convert("RGB").save("a.png")
    assert main(["predict", "model", "a.png", "--threshold", "0.05", "--output", "drawn"]) == 0
    (found,) = json.loads(Path("drawn/objects.json").read_text())
    objects = detect(model.eval(), ["a.png"], threshold=0.05)[0]
    assert len(objects) > 0
    assert [each["score"] for each in found["objects"]] == pytest.approx([each.score for each in objects], abs=1e-5)
    assert senet.predict("model", ["a.png"]) == [[each for each in objects if each.score >= 0.5]]
    capsys.readouterr()
    outputs = []
    for named in ("model", "model/model.safetensors"):  # its file describes itself
        assert main(["predict", named, "a.png", "--threshold", "0.05", "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert detects("model/model.safetensors")
    assert not detects("a.png")


def test_options_of_other_programs_are_answered(run, capsys):
    for words, message in (
        (["--conf", "0.3"], "no option is called --conf; here that is --threshold"),
        (["conf=0.3"], "no option is written 'conf=0.3'; here that is --threshold"),
        (["--source", "photos"], "no option is called --source; here that is the images, which are named without an"),
        (["--save_txt"], "no option is called --save_txt; here that is --output FILE.csv or FILE.json"),
        (["--thresold", "0.3"], "no option is called --thresold; the nearest are --threshold"),
    ):
        assert main(["predict", run, "photos", *words]) == 2
        assert message in capsys.readouterr().err
    Path("top=3").write_bytes(Path("photos/b.png").read_bytes())
    assert main(["predict", run, "top=3", "photos/a.jpg"]) == 0


def test_help_for_a_detector_lists_what_it_takes(run, capsys):
    for words in ([run, "--help"], ["photos", "--model", run, "--help"]):
        assert main(["predict", *words]) == 0
        out = capsys.readouterr().out
        assert "--threshold" in out
        assert not any(option in out for option in ("--top", "--crop-size", "--ten-crop", "--mapping", "--classes"))
    assert main(["predict", "--help"]) == 0
    assert "--ten-crop" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--imgsz", "640"], "no option is called --imgsz; here that is --model.min-size and --model.max-size"),
        (["--model", "resnet50"], "no option is called --model; here that is --model.trunk, with --weights for"),
        (["--lr", "0.1"], "no option is called --lr; the nearest are --optimizer.lr"),
        (["epochs=3"], "no option is written 'epochs=3'; here that is --epochs 3"),
        (["--trainable_backbone_layers", "3"], "here that is --model.frozen-stages"),
        (["--model.se.redaction", "8"], "Unrecognized options: --model.se.redaction"),
        ([], "would be kept at random; pass --weights SOURCE, or --model.frozen-stages 0"),
    ],
)
def test_habits_of_other_programs_that_train_are_answered(words, message, tmp_path, capsys):
    command = ["train", "coco_faster_rcnn", "--data", str(tmp_path), "--output", str(tmp_path / "run"), *words]
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "elsewhere"),
    [
        (TrainDetector, DETECTING),
        (PredictCommand, PREDICTING),
        (EvaluateDetectorCommand, EVALUATING),
        (EvaluateCommand, CLASSIFYING),
        (ExportCommand, EXPORTING),
    ],
    ids=["train", "predict", "evaluate a detector", "evaluate", "export"],
)
def test_names_of_other_programs_lead_to_options_that_exist(kind, elsewhere):
    known, trained = ({option.flag for _, option in options(each)} for each in (kind, TrainDetector))
    assert not known & set(elsewhere)
    for here in elsewhere.values():
        for word in re.findall(r"--[\w.-]+", here.replace("--nproc-per-node", "")):
            assert word in (trained if "of `senet train`" in here and word.startswith("--model.") else known)


@pytest.mark.parametrize("command", ["explain", "record", "prune"])
def test_commands_about_classifiers_say_what_takes_a_detector(command, run, capsys):
    assert main([command, run, "--output", "out"]) == 2
    err = capsys.readouterr().err
    assert f"run detects objects, and `senet {command}` takes networks that classify" in err
    assert "`senet evaluate run --report page.html` shows what its gates do" in err
