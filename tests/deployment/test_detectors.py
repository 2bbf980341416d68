"""Detectors as files: what ONNX Runtime and OpenVINO find is what PyTorch finds, in pictures of any size."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import senet
from senet.deployment.boxes import compare_boxes
from senet.deployment.detection_parity import compare_detectors
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


def assert_same(found: dict[str, torch.Tensor], model: torch.nn.Module, picture: torch.Tensor) -> None:
    """Scores agree in order; boxes by matching, for those of equal scores may come in another order."""
    with torch.no_grad():
        wanted = model([picture])[0]
        torch.testing.assert_close(found["scores"], wanted["scores"], rtol=0, atol=1e-4)
        of = compare_boxes(wanted, found, model, picture)
    assert of.lone == ((), ())
    assert len(of.pairs) > 0
    assert float(of.pixels.max()) < 0.01
    assert float(of.scores.max()) < 1e-4


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (100, 30), (1, 1), (120, 160)])
def test_onnxruntime_alone_finds_the_same(file: Path, original: torch.nn.Module, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((3, *size), np.float32)
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, map(torch.from_numpy, session.run(None, {"image": image})), strict=True))
    assert_same(found, original, torch.from_numpy(image))
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["senet"])
    assert metadata["class_names"] == ["ball", "box"]
    assert metadata["transform"]["max_size"] == 96


def test_loaded_it_is_a_detector(file: Path, original: torch.nn.Module) -> None:
    loaded = senet.load_exported(file)
    images = [torch.rand(3, 40, 60), torch.rand(3, 60, 50)]
    for found, image in zip(loaded(images), images, strict=True):
        assert_same(found, original, image)
    assert detects(file)
    assert loaded.class_names == ("ball", "box")
    picture = (255 * images[0]).to(torch.uint8)
    (found,), (wanted,) = (senet.detect(each, picture, threshold=0.0) for each in (str(file), original))
    assert [round(each.score, 3) for each in found] == [round(each.score, 3) for each in wanted]


def test_the_report_is_beside_the_file(file: Path) -> None:
    report = json.loads(file.with_name("shapes.onnx.parity.json").read_text())
    assert report["within_tolerance"]
    assert report["pairs"] > 0
    assert report["unscored"] == "there are no data"
    assert report["largest_score"] < 1e-4


@pytest.mark.slow
def test_pixels_retinanet_and_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = detector("retinanet", score_thresh=0.0)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=300.0)  # else all scores are the same
    made = senet.export(model, tmp_path / "shapes.xml", to="openvino", preprocess=True)
    assert made.parity.within_tolerance
    assert made.parity.pairs > 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["shapes.bin", "shapes.xml", "shapes.xml.parity.json"]
    image = (255 * torch.rand(3, 50, 70)).round() / 255
    assert_same(senet.load_exported(tmp_path / "shapes.xml")([image])[0], model, image)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("faster_rcnn", {"box_score_thresh": 0.999}), pytest.param("retinanet", {}, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("to", "suffix"), [("onnx", ".onnx"), pytest.param("openvino", ".xml", marks=pytest.mark.slow)]
)
def test_no_objects(kind: str, options: dict, to: str, suffix: str, tmp_path: Path) -> None:
    """OpenVINO computes a branch that returns nothing as one that returns something."""
    pytest.importorskip(to)
    made = senet.export(detector(kind, **options), tmp_path / f"none{suffix}", to=to, rewrite=False)
    assert made.parity.agreement is None
    assert made.parity.within_tolerance
    (found,) = senet.load_exported(made.path)([torch.rand(3, 20, 30)])
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].shape == (0,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp16", "to": "onnx"}, "fp16"),
        ({"resize": True, "preprocess": True}, "resize=True has no effect on a detector, whose file .* any size"),
        ({"image_size": 64}, "image_size=64 64 has no effect on a detector"),
        ({"dynamic": ["batch"]}, "dynamic=batch has no effect on a detector"),
        ({"calibration": "photos"}, "calibration has no effect"),
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


# ---- what is wrong with a file is found ------------------------------------------------------------------------------


def shifted(model: torch.nn.Module) -> None:
    """The boxes lie a little to the right."""
    with torch.no_grad():
        model.roi_heads.box_predictor.bbox_pred.bias[0::4] += 1.0


def exchanged(model: torch.nn.Module) -> None:
    """The logits of two classes are exchanged."""
    last = model.roi_heads.box_predictor.cls_score
    with torch.no_grad():
        last.weight.copy_(last.weight[[0, 2, 1]])


def other_scale(model: torch.nn.Module) -> None:
    """Pictures are scaled to another size."""
    model.transform.min_size = (48,)


def other_mean(model: torch.nn.Module) -> None:
    """The mean that is subtracted is another one."""
    model.transform.image_mean = [0.0, 0.0, 0.0]


def more_overlap(model: torch.nn.Module) -> None:
    """Boxes that overlap more are kept."""
    model.roi_heads.nms_thresh = 0.7


@pytest.mark.parametrize(
    "damage",
    [
        shifted,
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (None, exchanged, other_scale, other_mean, more_overlap)
        ),
    ],
)
def test_a_damaged_export(damage: Callable[[torch.nn.Module], None] | None, tmp_path: Path) -> None:
    model = detector()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=1.0)  # scores as a trained one's
    whole = deepcopy(model)
    if damage is not None:
        damage(model)
    made = senet.export(model, tmp_path / "a.onnx", rewrite=False)
    assert made.parity.within_tolerance
    assert compare_detectors(whole, made.path, timed=False).within_tolerance == (damage is None)


# ---- detectors of all kinds ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rewrite", [True, False])
def test_inserted_blocks(rewrite: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {**SMALL, "weights": None, "pyramid_channels": 16, "box_features": 32}
    model = senet.faster_rcnn("cifar_resnet20", **options, se=senet.SEOptions(reduction=4)).eval()
    made = senet.export(model, tmp_path / "a.onnx", rewrite=rewrite)
    assert made.parity.problems == ()
    assert made.parity.pairs > 100
    model = senet.faster_rcnn("cifar_resnet20", **options).eval()
    senet.insert_se(model)
    made = senet.export(model, tmp_path / "b.onnx", rewrite=rewrite)
    assert made.parity.problems == ()
    assert made.parity.pairs > 100


@pytest.mark.slow
def test_a_trunk_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {**SMALL, "weights": None, "pyramid_channels": 16, "box_features": 32}
    model = senet.faster_rcnn("timm/seresnext26t_32x4d", **options).eval()
    made = senet.export(model, tmp_path / "a.onnx")
    assert made.parity.problems == ()
    assert made.parity.pairs > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_detectors_of_torchvision(name: str, to: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(to)
    torch.manual_seed(0)
    options = {"min_size": 160, "max_size": 240, "num_classes": 6}
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **options).eval()
    if name.startswith("retinanet"):
        model.score_thresh = 0.0
    with pytest.raises(SenetError, match="add rewrite=False"):
        senet.export(model, tmp_path / f"a{suffix}", to=to)
    made = senet.export(model, tmp_path / f"a{suffix}", to=to, rewrite=False)
    assert made.parity.problems == ()
    assert made.parity.pairs + made.parity.tied > 50
    assert made.metadata["class_names"] is None


@pytest.mark.slow
def test_openvino_alone_finds_the_same(original: torch.nn.Module, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    made = senet.export(original, tmp_path / "a.xml", to="openvino")
    assert made.parity.problems == ()
    network = openvino.compile_model(made.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in [(48, 64), (100, 30), (1, 1), (120, 160)]:
        image = np.random.default_rng(0).random((3, *size), np.float32)
        outputs = network(image)
        found = {name: torch.from_numpy(outputs[name].copy()) for name in ("boxes", "labels", "scores")}
        assert_same(found, original, torch.from_numpy(image))
