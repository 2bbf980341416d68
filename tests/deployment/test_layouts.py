"""Model repositories: what the servers' own schemas accept, and files in them that compute."""

import importlib.util
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import openvino
import pytest
import torch

import senet
from senet.deployment.config import ExportConfig
from senet.deployment.layouts import place_of_model, write_settings
from senet.detection.opening import detects
from senet.errors import SenetError
from senet.weights.exported import exported_file

NAME = "cifar_se_resnet20"

# The members that OpenVINO Model Server allows in an entry of model_config_list, with their JSON types, and those that
# it requires; no others are allowed. Source: openvinotoolkit/model_server, MODELS_CONFIG_SCHEMA in src/schema.cpp.
ALLOWED = {
    "name": str,
    "base_path": str,
    "batch_size": (int, str),
    "model_version_policy": dict,
    "shape": (dict, str),
    "nireq": int,
    "target_device": str,
    "plugin_config": dict,
}
REQUIRED = {"name", "base_path"}


@pytest.fixture(scope="module")
def model_config():
    """Triton's own protobuf messages, from a file in its client's package: to import that takes gRPC's packages too."""
    try:
        package = distribution("tritonclient")
    except PackageNotFoundError:
        pytest.skip("tritonclient, which has Triton's schema, is not installed")
    path = package.locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(model_config, path):
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(), model_config.ModelConfig())


def metadata(shape, names=("cat", "dog"), **changes):
    return {
        "class_names": list(names),
        "input": {"name": "images", "dtype": "float32", "shape": shape} | changes,
        "outputs": [{"name": "logits", "dtype": "float32"}],
        "source": {"network": "timm/seresnet50.a1"},
    }


def settings_of(folder, config, described, classes=2):
    place_of_model(folder, described, ".onnx").touch()
    write_settings("triton", folder, config, described, classes)
    (model,) = folder.iterdir()
    return model


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    path = tmp_path_factory.mktemp("triton") / "repository"
    return senet.export(NAME, path, to="openvino", layout="triton")


def test_tritons_schema_accepts_the_configuration(triton, model_config):
    found = parsed(model_config, triton.path / NAME / "config.pbtxt")
    assert (found.name, found.backend, found.default_model_filename) == (NAME, "openvino", "model.xml")
    assert found.max_batch_size > 1
    assert found.HasField("dynamic_batching")
    (takes,), (gives,) = found.input, found.output
    served = openvino.Core().read_model(triton.path / NAME / "1" / found.default_model_filename)
    assert (takes.name, gives.name) == (served.input().any_name, served.output().any_name)
    assert takes.data_type == gives.data_type == model_config.TYPE_FP32
    assert served.input().partial_shape == openvino.PartialShape([-1, *takes.dims])  # Triton's are without the batch
    assert served.output().partial_shape == openvino.PartialShape([-1, *gives.dims])
    names = (triton.path / NAME / gives.label_filename).read_text().splitlines()
    assert tuple(names) == senet.from_pretrained(NAME).class_names


def test_a_repository_holds_what_the_server_reads_and_nothing_else(triton):
    inside = [file.relative_to(triton.path).as_posix() for file in triton.path.rglob("*") if file.is_file()]
    places = ["1/model.bin", "1/model.xml", "config.pbtxt", "labels.txt"]
    assert sorted(inside) == [f"{NAME}/{place}" for place in places]
    assert sorted(path.name for path in triton.path.parent.iterdir()) == ["repository", "repository.parity.json"]
    assert {triton.path / place for place in inside} == {*triton.files} - {triton.path.with_suffix(".parity.json")}


@torch.no_grad()
def test_the_file_in_a_repository_is_opened_as_any_other(triton):
    images = torch.randn(3, 3, 32, 32)
    network = senet.from_pretrained(NAME)
    for path in (triton.model, triton.path):
        assert torch.allclose(senet.load_exported(path)(images), network(images), atol=1e-4)
        assert not detects(path)


def test_pixels_of_any_size_in_fixed_numbers(tmp_path, model_config):
    config = ExportConfig(layout="triton", preprocess=True, resize=True, dynamic=(), batch_size=2)
    described = metadata([2, "height", "width", 3], dtype="uint8")
    found = parsed(model_config, settings_of(tmp_path, config, described) / "config.pbtxt")
    assert (found.backend, found.default_model_filename) == ("onnxruntime", "model.onnx")
    assert found.max_batch_size == 0
    assert not found.HasField("dynamic_batching")
    assert found.input[0].data_type == model_config.TYPE_UINT8
    assert (list(found.input[0].dims), list(found.output[0].dims)) == ([2, -1, -1, 3], [2, 2])


def test_names_are_what_paths_and_protobuf_take(tmp_path, model_config):
    names = ('a "b"', "café", "c\\d")
    folder = settings_of(tmp_path, ExportConfig(layout="triton"), metadata(["batch", 3, 8, 8], names), classes=3)
    assert folder.name == parsed(model_config, folder / "config.pbtxt").name == "timm_seresnet50.a1"
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(names)


@pytest.mark.parametrize(
    ("name", "fault"), [("a\nb", "has a line break"), ("a\n", "has a line break"), ("", "is empty")]
)
def test_labels_are_one_line_each(name, fault, tmp_path):
    with pytest.raises(SenetError, match=f"{fault}, but Triton's labels are lines"):
        settings_of(tmp_path, ExportConfig(layout="triton"), metadata(["batch", 3, 8, 8], (name, "b")))


@pytest.mark.slow
def test_openvino_model_servers_schema_accepts_the_configuration(tmp_path):
    made = senet.export(NAME, tmp_path / "a", to="openvino", layout="ovms")
    settings = json.loads((tmp_path / "a" / "config.json").read_text())
    assert list(settings) == ["model_config_list"]
    (model,) = settings["model_config_list"]
    assert list(model) == ["config"]
    assert REQUIRED <= set(model["config"]) <= set(ALLOWED)
    assert all(isinstance(value, ALLOWED[key]) for key, value in model["config"].items())
    (version,) = (tmp_path / "a" / model["config"]["base_path"]).iterdir()  # relative to config.json
    assert int(version.name) > 0
    assert sorted(file.name for file in version.iterdir()) == ["model.bin", "model.xml"]
    senet.load_exported(made.model)


def test_what_cannot_be_served_is_said(tmp_path):
    with pytest.raises(SenetError, match="layout='triton' is for files of onnx and openvino"):
        senet.export(NAME, tmp_path / "a", to="torch_export", layout="triton")
    with pytest.raises(SenetError, match=r"a.onnx ends in .onnx, but layout='ovms' writes a folder"):
        senet.export(NAME, tmp_path / "a.onnx", layout="ovms")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(SenetError, match="exists already"):
        senet.export(NAME, tmp_path / "a", layout="triton")


def test_a_repository_is_opened_as_its_network_if_it_has_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ExportConfig(layout="ovms")
    for name in ("a", "b"):
        place = place_of_model(tmp_path / "served", {"source": {"network": name}}, ".onnx")
        place.write_bytes(b"a network")
        write_settings("ovms", tmp_path / "served", settings, metadata([1, 3, 8, 8]) | {"source": {"network": name}}, 2)
        if name == "a":
            assert exported_file("served") == Path("served/a/1/model.onnx")
    with pytest.raises(SenetError, match=r"served has 2 exported networks; name one of them, such as served/a/1/model"):
        exported_file("served")
    (tmp_path / "photos" / "1").mkdir(parents=True)
    assert exported_file("photos") is None
    assert exported_file("other.onnx") == Path("other.onnx")
