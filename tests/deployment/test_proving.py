"""Every export compares its file with the network: on which images, what is written, and which exit status."""

import hashlib
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet import SenetError
from senet.cli import main
from senet.deployment import proving
from senet.deployment.agreement import TOLERANCES, Tolerance
from senet.deployment.parity import compare_exported
from senet.deployment.pictures import usual_number


@pytest.fixture(scope="module")
def network():
    return senet.from_pretrained("cifar_se_resnet20")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty pictures of noise in folders of two of the network's classes."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("cat", "ship"):
        (root / name).mkdir()
        for i in range(10):
            Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def test_of_a_run_its_own_data(digits_run, tmp_path):
    made = senet.export(digits_run, tmp_path / "a.onnx")
    parity = made.parity
    assert parity.accuracy is not None
    assert parity.source == "digits (eval)"
    assert parity.original == str(digits_run)
    assert parity.exported == str(tmp_path / "a.onnx")
    assert parity.difference.relative_largest < 1e-5
    assert parity.agreement == 100
    assert parity.file_size == (tmp_path / "a.onnx").stat().st_size
    digest = hashlib.sha256((tmp_path / "a.onnx").read_bytes()).hexdigest()
    said = json.loads((tmp_path / "a.onnx.parity.json").read_text())
    assert said == {**parity.to_dict(), "sha256": {"a.onnx": digest}}
    assert tmp_path / "a.onnx.parity.json" in made.files
    with pytest.raises(SenetError, match=r"a\.onnx exists already"):
        senet.export(digits_run, tmp_path / "a.onnx")
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(SenetError, match=r"a\.onnx\.parity\.json exists already"):
        senet.export(digits_run, tmp_path / "a.onnx")


@pytest.mark.slow
def test_pictures_that_are_given_and_those_that_are_not(network, pictures, tmp_path):
    made = senet.export(network, tmp_path / "a.pt2", to="torch_export", data=pictures)
    assert made.parity.num_images == made.parity.accuracy.num_images == 20
    assert made.parity.source == str(pictures)
    other = senet.export(network, tmp_path / "b.pt2", to="torch_export", preprocess=True, dynamic=())
    assert other.parity.unscored == "there are no data"
    assert other.parity.num_images == 16
    assert 0 < other.parity.difference.relative_largest < 1e-5  # pixels go to whole numbers and back
    assert {each.batch_size for each in other.parity.latencies} == {1, 16}


@pytest.mark.slow
def test_images_of_another_size_than_data_have(network, pictures, tmp_path):
    wide = senet.export(network, tmp_path / "a.pt2", to="torch_export", data=pictures, image_size=(32, 48), dynamic=())
    assert wide.parity.unscored == "the file takes images of 32x48 pixels, and data are cut to squares"
    large = senet.export(network, tmp_path / "b.pt2", to="torch_export", data=pictures, image_size=(40, 40), dynamic=())
    assert large.parity.accuracy.num_images == 20
    assert large.parity.within_tolerance


def test_data_of_a_run_that_are_gone(digits_run, tmp_path, monkeypatch, caplog):
    gone = tmp_path / "gone"
    monkeypatch.setattr(proving, "run_data", lambda _: senet.DataConfig(dataset=str(gone)))
    with caplog.at_level(logging.WARNING, "senet"):
        made = senet.export(digits_run, tmp_path / "a.pt2", to="torch_export")
    assert made.parity.unscored == "there are no data"
    assert "cannot be used" in caplog.text
    assert str(gone) in caplog.text
    with pytest.raises(SenetError, match="gone"):
        senet.export(digits_run, tmp_path / "b.pt2", to="torch_export", data=gone)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("b")] == []


def test_the_command_says_how_far_they_are_apart(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["export", "cifar_se_resnet20", "--to", "torch_export", "--data", str(pictures)]
    assert main([*command, "a.pt2", "--report", "a.html"]) == 0
    said = capsys.readouterr().out
    assert "a.pt2 against cifar_se_resnet20 on 20 images of" in said
    assert "within the tolerance of fp32" in said
    assert "a.html is the report; open it in a browser" in said
    assert (tmp_path / "a.html").stat().st_size > 100_000
    assert main([*command, "b.pt2", "--report", "b.txt"]) == 2
    assert not (tmp_path / "b.pt2").exists()
    capsys.readouterr()
    changed = {**TOLERANCES, "fp32": Tolerance(relative=1e-12)}
    monkeypatch.setattr("senet.deployment.parity.TOLERANCES", changed)
    monkeypatch.setattr("senet.deployment.agreement.AMPLIFIED", 0.0)  # else rounding explains it
    assert main([*command, "c.pt2", "--json"]) == 3
    printed = capsys.readouterr()
    written = json.loads(printed.out)
    assert printed.err.splitlines() == ["writing c.pt2", "comparing c.pt2 with cifar_se_resnet20"]
    assert written["parity"]["within_tolerance"] is False
    assert (tmp_path / "c.pt2").exists()  # written, and said to be different
    assert main([*command, "d.pt2"]) == 3
    assert "beyond the tolerance of fp32: the largest difference of the logits is" in capsys.readouterr().out


@pytest.mark.slow
def test_a_file_that_exists_and_any_network(network, tmp_path):
    """As `senet.deployment.parity.compare_exported` is used by hand: another network's file is found out."""
    senet.export(network, tmp_path / "a.onnx", preprocess=True, resize=True)
    report = compare_exported("cifar_se_resnet20", tmp_path / "a.onnx", timed=False, blocks=True)
    assert report.within_tolerance
    assert len(report.inner.blocks) == len(report.inner.gates) == 9
    assert max(each.relative for each in (*report.inner.blocks, *report.inner.gates)) < 1e-5
    torch.manual_seed(0)
    other = senet.create_model("cifar_se_resnet20")
    assert not compare_exported(other, tmp_path / "a.onnx", timed=False).within_tolerance


@pytest.mark.parametrize(("side", "number"), [(32, 500), (141, 500), (224, 200), (299, 112), (2000, 16)])
def test_fewer_images_are_compared_where_they_are_large(side, number):
    assert usual_number(side) == number


@pytest.mark.slow
def test_the_usual_number_of_images_is_that_of_the_network(network, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("senet.deployment.pictures.PIXELS", 17 * 40**2)
    made = senet.export(network, tmp_path / "a.pt2", to="torch_export", data=pictures, image_size=40)
    assert made.parity.num_images == 17
