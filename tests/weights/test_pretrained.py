"""The weights in the package."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import senet
from senet.cli import main
from senet.data.preprocessing import CIFAR
from senet.weights.folder import PACKAGED, PACKAGED_DEFAULT, packaged_weights

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TAGGED = sorted((folder.parent.name, folder.name) for folder in PACKAGED.glob("*/*") if folder.is_dir())


def test_the_network_that_answers_by_default_has_weights() -> None:
    assert (PACKAGED_DEFAULT, "cifar10") in TAGGED
    assert packaged_weights("resnet50") == []


@pytest.mark.parametrize(("name", "tag"), TAGGED)
def test_packaged_weights_load_and_are_described(name: str, tag: str) -> None:
    model = senet.create_model(name, weights=tag)
    assert tag in senet.model_card(name).weights
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    folder = PACKAGED / name / tag
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2**21
    card = (folder / "README.md").read_text()
    top1 = json.loads((folder / "config.json").read_text())["metrics"]["top1"]
    assert f"{top1:.2f} %" in card
    assert str(Path.home()) not in card


def test_cifar_se_resnet20() -> None:
    model = senet.create_model("cifar_se_resnet20", weights="cifar10")
    assert model.class_names == CIFAR10_CLASSES
    assert model.preprocessing == CIFAR
    assert json.loads((PACKAGED / "cifar_se_resnet20/cifar10/config.json").read_text())["metrics"]["top1"] >= 87.0
    other = senet.create_model("cifar_se_resnet20", num_classes=100, weights="cifar10")
    assert other.class_names is None
    assert torch.equal(other.layer3[2].conv2.weight, model.layer3[2].conv2.weight)


def test_a_photograph_of_any_size_is_classified_without_naming_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    Image.effect_noise((300, 200), 80).convert("RGB").save(photo)
    assert main(["predict", str(photo), "--top", "10", "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)
    assert {likely["class_name"] for likely in predicted["classes"]} == set(CIFAR10_CLASSES)
    assert sum(likely["probability"] for likely in predicted["classes"]) == pytest.approx(1.0, abs=1e-5)
    assert main(["predict", "--model", "cifar_se_resnet20"]) == 2
    assert "no image" in capsys.readouterr().err


def test_batchnorm_statistics_were_trained() -> None:
    model = senet.create_model("cifar_se_resnet20", weights="cifar10")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.num_batches_tracked > 10_000
            assert not torch.equal(module.running_var, torch.ones_like(module.running_var))
