"""Detectors as files: what ONNX Runtime and OpenVINO find is what PyTorch finds, in pictures of any size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import senet
from senet.deployment import detection_parity
from senet.detection.opening import detects
from senet.errors import SenetError

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
SMALL = {"num_classes": 2, "weights": "cifar10", "frozen_stages": 0, "norm": "train", "min_size": 64, "max_size": 96}


def detector(kind: str = "faster_rcnn", **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    more = {"box_features": 32} if kind == "faster_rcnn" else {}
    made = getattr(senet, kind)("cifar_se_resnet20", **SMALL, **more, pyramid_channels=16, **options)
    made.class_names = ("ball", "box")
    return made.eval()


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    return detector()


@pytest.fixture(scope="module")
def file(original: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "shapes.onnx"
    assert senet.export(original, path).parity.within_tolerance
    return path


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Scores agree in order; boxes by matching, for those of equal scores may come in another order."""
    torch.testing.assert_close(found["scores"], wanted["scores"], rtol=0, atol=1e-4)
    pairs = detection_parity.matches(found, wanted)
    assert len(pairs) >= 0.98 * len(wanted["boxes"]) > 0


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (100, 30), (1, 1), (120, 160)])
def test_onnxruntime_alone_finds_the_same(file: Path, original: torch.nn.Module, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((3, *size), np.float32)
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, map(torch.from_numpy, session.run(None, {"image": image})), strict=True))
    with torch.no_grad():
        assert_same(found, original([torch.from_numpy(image)])[0])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["senet"])
    assert metadata["class_names"] == ["ball", "box"]
    assert metadata["transform"]["max_size"] == 96


def test_loaded_it_is_a_detector(file: Path, original: torch.nn.Module) -> None:
    loaded = senet.load_exported(file)
    images = [torch.rand(3, 40, 60), torch.rand(3, 60, 50)]
    with torch.no_grad():
        for found, wanted in zip(loaded(images), [original([each])[0] for each in images], strict=True):
            assert_same(found, wanted)
    assert detects(file)
    assert loaded.class_names == ("ball", "box")
    picture = (255 * images[0]).to(torch.uint8)
    (found,), (wanted,) = (senet.detect(each, picture, threshold=0.0) for each in (str(file), original))
    assert [round(each.score, 3) for each in found] == [round(each.score, 3) for each in wanted]


def test_the_report_is_beside_the_file(file: Path) -> None:
    report = json.loads(file.with_name("shapes.onnx.parity.json").read_text())
    assert report["within_tolerance"]
    assert report["boxes"] > 0
    assert report["largest_score"] < 1e-4


def test_pixels_retinanet_and_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = detector("retinanet", score_thresh=0.0)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=300.0)  # else all scores are the same
    made = senet.export(model, tmp_path / "shapes.xml", to="openvino", preprocess=True)
    assert made.parity.within_tolerance
    assert made.parity.boxes > 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["shapes.bin", "shapes.xml", "shapes.xml.parity.json"]
    image = (255 * torch.rand(3, 50, 70)).round() / 255
    with torch.no_grad():
        assert_same(senet.load_exported(tmp_path / "shapes.xml")([image])[0], model([image])[0])


@pytest.mark.parametrize(("kind", "options"), [("faster_rcnn", {"box_score_thresh": 0.999}), ("retinanet", {})])
@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_no_objects(kind: str, options: dict, to: str, suffix: str, tmp_path: Path) -> None:
    """OpenVINO computes a branch that returns nothing as one that returns something."""
    pytest.importorskip(to)
    made = senet.export(detector(kind, **options), tmp_path / f"none{suffix}", to=to, rewrite=False)
    assert made.parity.matched is None
    (found,) = senet.load_exported(made.path)([torch.rand(3, 20, 30)])
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].shape == (0,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp16", "to": "onnx"}, "fp16"),
        ({"resize": True, "preprocess": True}, "any size"),
        ({"data": "photos"}, "generated pictures"),
        ({"num_images": 7}, "num_images"),
        ({"opset": 23}, "18 to 20"),
    ],
)
def test_options_without_effect(original: torch.nn.Module, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(SenetError, match=words):
        senet.export(original, tmp_path / "shapes.onnx", **options)
    assert not any(tmp_path.iterdir())


def test_formats_that_have_no_detectors(original: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(SenetError, match="selection of boxes"):
        senet.export(original, tmp_path / "shapes.pt2", to="torch_export")


def test_a_difference_is_noticed() -> None:
    one = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    assert len(detection_parity.matches(one, one)) == 1
    assert len(detection_parity.matches(one, {**one, "labels": torch.tensor([2])})) == 0
    assert len(detection_parity.matches(one, {**one, "boxes": one["boxes"] + 5})) == 0
    assert len(detection_parity.problems(0.5, 2.0, 0.1)) == 3
    assert detection_parity.problems(1.0, 0.0, 0.0) == ()
    assert detection_parity.problems(1.0, float("nan"), 0.0)
