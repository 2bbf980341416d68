"""Models with inserted blocks on disk: saved, read back, trained on, evaluated; by name from timm and torchvision."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import senet
from senet import SenetError, SEOptions, create_model, from_pretrained, insert_se, remove_se, save_pretrained
from senet.cli import main
from senet.models.build import surgery_of
from senet.nn.attached import attached_blocks
from senet.recipes import get_recipe

FOREIGN = {"timm/resnet18": "layer1.0.bn2=64", "torchvision/resnet18": "layer1.0.bn2=64", "timm/convnext_atto": None}


def excite(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for block in model.modules():
        if getattr(block, "attached_at", None):
            for x in block.parameters():
                x.data = torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_other_libraries_by_name(name):
    model = create_model(name, num_classes=7)
    assert type(model).__module__.split(".")[0] == name.split("/")[0]
    assert (model.num_classes, model.config.name, model.class_names) == (7, name, None)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert model.preprocessing.image_size in (224, 288)
    assert senet.create_transform(model)


@pytest.mark.parametrize("name", [*FOREIGN, "cifar_resnet20", "cifar_se_resnet20"])
def test_a_folder_gives_the_same_network_back(name, tmp_path: Path):
    model = create_model(name, num_classes=7)
    report = insert_se(model, SEOptions(reduction=4, gate="hard_sigmoid"), existing="add" if "_se_" in name else "skip")
    excite(model)
    surgery = surgery_of(model)
    assert len(surgery.inserted) == len(report.sites)
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert surgery_of(again) == surgery
    assert json.loads((tmp_path / "config.json").read_text())["surgery"]["inserted"] == list(surgery.inserted)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model.eval()(x))
    assert len(remove_se(again).sites) == len(report.sites)
    assert not surgery_of(again)


def test_a_run_without_se_goes_on_with_it(tmp_path: Path, capsys):
    """Train, insert, fine-tune, evaluate, predict: the way of the guide."""
    plain = replace(get_recipe("digits"), epochs=2)
    plain = replace(plain, model=replace(plain.model, name="cifar_resnet20"))
    first = senet.train(plain, tmp_path / "plain")
    capsys.readouterr()
    assert main(["evaluate", str(first), "--json"]) == 0
    before = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["insert", str(first), "--output", str(tmp_path / "with_se")]) == 0
    assert "9 SE blocks" in capsys.readouterr().out
    model = from_pretrained(tmp_path / "with_se")
    assert senet.evaluate(model, plain.data).top1 == before["top1"]
    tuned = replace(plain, epochs=1, weights=str(tmp_path / "with_se"))
    second = senet.train(tuned, tmp_path / "tuned")
    after = from_pretrained(second)
    assert len(surgery_of(after).inserted) == 9
    blocks = list(attached_blocks(after).values())
    assert any(block.fc2.weight.abs().max() > 0 for block in blocks)


def test_fine_tuning_with_other_classes_starts_a_new_classifier(tmp_path: Path):
    model = create_model("timm/resnet18", num_classes=7)
    insert_se(model)
    save_pretrained(model, tmp_path)
    again = create_model("timm/resnet18", num_classes=3, weights=tmp_path)
    assert again.num_classes == 3
    own, original = again.state_dict(), model.state_dict()
    assert {key for key in own if own[key].shape != original[key].shape} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[key], original[key]) for key in own if not key.startswith("fc."))


BAD = {
    "unknown": (["timm/resnet5000"], "timm has no network 'resnet5000'; the nearest are"),
    "absent": (["nothing_there"], "no network is called 'nothing_there'"),
    "no site": (["cifar_se_resnet20"], "every branch of ResNet has a gate already"),
    "where": (["timm/resnet18", "--no-pretrained", "--where", "nothing*"], "where matches none of the 8 sites"),
    "placement": (["timm/resnet18", "--no-pretrained", "--placement", "identity"], "placement is 'identity'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_on_the_command_line(case, tmp_path: Path, capsys):
    arguments, said = BAD[case]
    assert main(["insert", *arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_folder_is_not_overwritten(tmp_path: Path, capsys):
    assert main(["insert", "timm/resnet18", "--output", str(tmp_path), "--no-pretrained"]) == 2
    assert "exists already; name another folder" in capsys.readouterr().err


def test_json(tmp_path: Path, capsys):
    arguments = [
        "insert",
        "timm/resnet18",
        "--output",
        str(tmp_path / "out"),
        "--no-pretrained",
        "--stages",
        "5",
        "--json",
    ]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert [site["module"] for site in report["sites"]] == ["layer4.0.bn2", "layer4.1.bn2"]


def test_what_cannot_be_saved_says_how(tmp_path: Path):
    with pytest.raises(SenetError, match=r"create_model\('timm/resnet50'\)"):
        save_pretrained(timm.create_model("resnet18"), tmp_path)
