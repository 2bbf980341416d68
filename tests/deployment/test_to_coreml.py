"""Core ML's packages: what their description says, and what their operators compute in PyTorch: Core ML is not here."""

import json
import logging

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import senet
from kinds import images, side_of, with_sane_outputs
from mil_programs import computed
from networks import assert_relatively_close
from senet.cli import main
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError

NAME = "cifar_se_resnet20"
KINDS = (
    *("se_resnet18", "se_resnet50", "se_resnext50_32x4d", "senet154", "se_vgg16_bn", "se_bn_inception"),
    *("se_inception_resnet_v2", "se_mobilenet_v1", "se_shufflenet_v1_g3", "cifar_se_preact_resnet110"),
    *("cifar_se_wrn16_8", "cifar_se_shake_shake26_2x96d", "cifar_se_shake_even29_2x4x64d"),
)
"""A network of each family; test_arrays has the family of the packaged one."""


@pytest.fixture(scope="module", autouse=True)
def coremltools():
    """Imported by the process that runs these tests alone: it takes seconds."""
    return pytest.importorskip("coremltools", reason="coremltools, which writes .mlpackage, is not installed")


def opened(path):
    import coremltools

    return coremltools.models.MLModel(str(path), skip_model_load=True)


@pytest.fixture(scope="module")
def network():
    return senet.from_pretrained(NAME)


@pytest.fixture(scope="module")
def arrays(network, tmp_path_factory):
    return senet.export(network, tmp_path_factory.mktemp("a") / "a.mlpackage", to="coreml")


@pytest.fixture(scope="module")
def classifier(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("b") / "b.mlpackage"
    return senet.export(network, path, to="coreml", preprocess=True)


@pytest.mark.slow
@torch.no_grad()
def test_arrays(arrays, network):
    model = opened(arrays.path)
    takes, gives = model.get_spec().description.input[0], model.get_spec().description.output[0]
    assert (takes.name, list(takes.type.multiArrayType.shape)) == ("images", [1, 3, 32, 32])
    assert (gives.name, list(gives.type.multiArrayType.shape)) == ("logits", [1, 10])
    x = images(1, 32)
    assert_relatively_close(computed(model, x)["logits"], network(x), 1e-5)


@torch.no_grad()
def test_a_picture_gives_classes_and_probabilities(classifier, network):
    model = opened(classifier.path)
    about = model.get_spec().description
    picture = about.input[0].type.imageType
    assert (about.input[0].name, picture.width, picture.height) == ("images", 32, 32)
    assert picture.colorSpace == picture.RGB
    assert (about.predictedFeatureName, about.predictedProbabilitiesName) == ("classLabel", "classLabel_probs")
    assert {output.name for output in about.output} == {"classLabel", "classLabel_probs", "logits"}

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    wanted = network(network.preprocessing.build()(v2.functional.to_pil_image(pixels))[None])
    found = computed(model, torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    assert_relatively_close(found["logits"], wanted, 1e-5)
    assert_relatively_close(found["classLabel_probs"], wanted.softmax(1), 1e-4)
    assert list(found["classLabel"]) == list(network.class_names)


def test_metadata(classifier, network, coremltools):
    stated = json.loads(opened(classifier.path).user_defined_metadata["senet"])
    assert stated == json.loads(json.dumps(dict(classifier.metadata)))
    assert stated["class_names"] == list(network.class_names)
    assert stated["input"]["layout"] == "picture"
    assert stated["versions"]["coremltools"] == coremltools.__version__


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("precision", "tolerance", "share"), [("fp16", 0.02, 0.6), ("int8_weights", 0.1, 0.4)])
def test_smaller_weights(network, arrays, tmp_path, precision, tolerance, share):
    path = tmp_path / "a.mlpackage"
    made = senet.export(network, path, to="coreml", precision=precision)
    x = images(1, 32)
    if precision == "int8_weights":  # arithmetic in half precision is Core ML's own
        assert_relatively_close(computed(opened(path), x)["logits"], network(x), tolerance)
    sizes = [sum(file.stat().st_size for file in each.files) for each in (made, arrays)]
    assert sizes[0] < share * sizes[1]
    for feature in (*opened(path).get_spec().description.input, *opened(path).get_spec().description.output):
        assert feature.type.multiArrayType.dataType == feature.type.multiArrayType.FLOAT32


@pytest.mark.slow
def test_nothing_is_printed_meanwhile(network, tmp_path, capfd, caplog):
    senet.export(network, tmp_path / "a.mlpackage", to="coreml")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err in (
        "",
        f"{tmp_path / 'a.mlpackage'} was not compared with the network: Core ML computes on Apple's systems only\n",
    )
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} <= {"senet"}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_every_family(name, tmp_path):
    network, x = with_sane_outputs(name, short=True), images(1, side_of(name))
    network.preprocessing = Preprocessing(image_size=x.shape[2], resize=x.shape[2], mean=(0.5,) * 3, std=(0.5,) * 3)
    made = senet.export(network, tmp_path / "a.mlpackage", to="coreml")
    assert_relatively_close(computed(opened(made.path), x)["logits"], network(x), 1e-5)


@pytest.mark.slow
def test_where_it_is_computed_is_said(arrays, tmp_path, capsys):
    with pytest.raises(SenetError, match="is computed by Core ML, on Apple's systems only"):
        senet.load_exported(arrays.path)
    assert arrays.parity is None
    with pytest.raises(SenetError, match="report has no effect on coreml, for Core ML computes on Apple's"):
        senet.export(NAME, tmp_path / "a.mlpackage", to="coreml", report=tmp_path / "a.html")
    assert main(["export", NAME, str(tmp_path / "a.mlpackage"), "--to", "coreml", "--resize", "--preprocess"]) == 2
    assert "--resize has no effect on coreml" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
