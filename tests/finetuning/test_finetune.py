"""From a folder of pictures and a network to a run: every kind of network, and any number of channels."""

import json
import logging
import math
import re
import shutil
from dataclasses import replace
from itertools import product

import pytest
import timm
import torch
from torch import nn

import senet
from senet.cli import main
from senet.configs import to_dict
from senet.errors import SenetError
from senet.files import read_jsonl, write_json
from senet.finetuning import plan
from senet.finetuning.run import finetune, prepare, summary
from senet.nn.attached import attached_blocks
from senet.training.selection import Selection
from small_pictures import QUICK, SIZES, write_pictures
from tiers import slow_after


def tuned(pictures, output, model, **changes):
    settings = {**QUICK, **changes.pop("settings", {})}
    return finetune(pictures, output, **{"model": model, "epochs": 1, "settings": settings, **changes})


def stored(run):
    return json.loads((run / "config.json").read_text())


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Weights of every kind of network: of this library, of timm, of torchvision, with inserted SE."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(0)
    timm = senet.create_model("timm/test_resnet", num_classes=4)
    timm.preprocessing = replace(timm.preprocessing, image_size=32, resize=36)
    senet.save_pretrained(timm, folder / "timm")
    senet.insert_se(timm)
    senet.save_pretrained(timm, folder / "inserted")
    torchvision = senet.create_model("torchvision/shufflenet_v2_x0_5", num_classes=4)
    torchvision.preprocessing = timm.preprocessing
    senet.save_pretrained(torchvision, folder / "torchvision")
    senet.save_pretrained(senet.from_pretrained("cifar_se_resnet20"), folder / "own")
    return folder


ONCE = [("own", 3), ("timm", 4), ("torchvision", 1), ("inserted", 5)]
OTHERS = sorted({*product(("own", "timm", "torchvision", "inserted"), (1, 3, 4, 5))} - {*ONCE})


@pytest.mark.parametrize(("kind", "channels"), slow_after(len(ONCE), [*ONCE, *OTHERS]))
def test_every_kind_of_network_and_any_number_of_channels(kind, channels, starts, tmp_path):
    """Gray pictures are shown to a network of three channels as they are; others convert its first convolution."""
    if channels in (1, 5) and kind == "timm":
        pytest.skip("inserted has the same network")
    pictures = write_pictures(tmp_path / "pictures", channels)
    asked = {"channels": channels} if channels == 4 else {}
    run = tuned(pictures, tmp_path / "run", str(starts / kind), **asked)
    start, model = senet.from_pretrained(starts / kind), senet.from_pretrained(run)
    expected = 3 if channels == 1 else channels
    assert model.preprocessing == start.preprocessing.with_channels(expected)
    assert (model.config.name, model.class_names) == (start.config.name, tuple(SIZES))
    assert model(torch.zeros(1, expected, 32, 32)).shape == (1, 3)
    assert len(attached_blocks(model)) == len(attached_blocks(start))
    assert [row["epoch"] for row in read_jsonl(run / "metrics.jsonl")] == [0, 1]
    assert senet.evaluate(run, device="cpu").num_images == 5


def test_a_run_goes_on_without_the_weights_and_can_be_tuned_again(starts, pictures, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(starts / "inserted", weights)
    whole = tuned(pictures, tmp_path / "whole", str(weights), epochs=2)
    part = tuned(pictures, tmp_path / "part", str(weights), epochs=2, settings={"max_seconds": None})
    shutil.rmtree(weights)
    assert stored(whole) == stored(part)
    longer = senet.resume(part, epochs=3)
    assert len(read_jsonl(longer / "metrics.jsonl")) == 4
    again = tuned(pictures, tmp_path / "again", str(whole))
    first, _ = read_jsonl(again / "metrics.jsonl")
    assert first["top1"] == senet.evaluate(whole, device="cpu").top1  # the classes are the same: the head is kept


def test_random_weights_train_the_same_network(starts, pictures, tmp_path):
    run = tuned(pictures, tmp_path / "run", str(starts / "torchvision"), pretrained=False)
    config = stored(run)
    assert (config["weights"], config["model"]["name"]) == (None, "torchvision/shufflenet_v2_x0_5")
    assert config["data"]["preprocessing"]["image_size"] == 32
    assert len(read_jsonl(run / "metrics.jsonl")) == 1
    with pytest.raises(SenetError, match="whose blocks were inserted into trained weights"):
        tuned(pictures, tmp_path / "other", str(starts / "inserted"), pretrained=False)


def test_a_library_s_own_weights_are_loaded_by_it(pictures, tmp_path, monkeypatch):
    published = senet.create_model("torchvision/squeezenet1_1")
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: published.state_dict())
    run = tuned(pictures, tmp_path / "run", "torchvision/squeezenet1_1", image_size=32, freeze="bn")
    assert stored(run)["weights"] == "torchvision/squeezenet1_1"
    assert stored(run)["data"]["preprocessing"]["resize"] == 37  # as 256 to 224
    model = senet.from_pretrained(run)
    assert isinstance(model.classifier[1], nn.Conv2d)
    assert model.classifier[1].out_channels == 3


# ---- what is chosen, and said ----------------------------------------------------------------------------------------


def test_what_is_asked_for_wins_and_the_rest_is_chosen(pictures, tmp_path, caplog):
    given = {"model": "cifar_se_resnet20", "pretrained": True}
    asked = {**QUICK, "optimizer.lr": 0.5, "data.preprocessing.image_size": 24, "data.augmentation.flip": False}
    found = prepare(pictures, tmp_path / "run", asked=asked, **given).config
    assert (found.optimizer.lr, found.optimizer.name, found.data.augmentation.flip) == (0.5, "adamw", False)
    assert (found.data.preprocessing.image_size, found.data.preprocessing.resize) == (24, 24)
    assert (found.selection.metric, found.freeze, found.data.val_fraction) == ("epoch", "bn", 0.2)
    assert found.data.in_memory is False
    assert not (tmp_path / "run").exists()


def test_it_says_what_it_found_and_what_came_of_it(pictures, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run = tuned(pictures, tmp_path / "run", "cifar_se_resnet20", epochs=2, time="10m")
    said = caplog.text
    for part in (
        "3 classes, 20 training images, 5 evaluation images (held out)",
        "always predicting cat would reach 60.0 % top-1 and 33.3 % balanced accuracy",
        "cifar_se_resnet20 from cifar10, 0.3 million weights, images of 32 pixels and 3 channels",
        "at most 10 min",
        "frozen: the statistics of BatchNorm: there are few images",
    ):
        assert part in said
    assert said.count("the classifier of 3 classes starts at random") == 1
    assert stored(run)["max_seconds"] == 600


def test_a_test_folder_that_chooses_the_best_epoch_is_no_test(tmp_path):
    for name in ("train", "test"):
        write_pictures(tmp_path / name)
    asked = {**QUICK, "selection.metric": "top1"}
    given = {"model": "cifar_se_resnet20", "pretrained": True}
    said = "\n".join(prepare(tmp_path, tmp_path / "run", asked=asked, **given).lines)
    assert f"{tmp_path / 'test'} chooses the best epoch" in said
    by_number = prepare(tmp_path, tmp_path / "run", asked={**QUICK, "selection.metric": "epoch"}, **given)
    assert "chooses the best epoch" not in "\n".join(by_number.lines)
    (tmp_path / "test").rename(tmp_path.parent / f"{tmp_path.name}-test")  # as the sentence says
    moved = "\n".join(prepare(tmp_path, tmp_path / "run", asked=asked, **given).lines)
    assert "held out" in moved
    assert "chooses the best epoch" not in moved


def test_what_came_of_a_run_is_the_epoch_in_best(tmp_path, pictures):
    """Of epochs with the same accuracy the one with the lower loss is kept."""
    made = prepare(
        pictures,
        tmp_path / "run",
        model="cifar_se_resnet20",
        pretrained=True,
        asked={**QUICK, "selection.metric": "top1"},
    )
    rows = [
        {"epoch": epoch, "loss": loss, "top1": top1, "balanced_accuracy": top1}
        for epoch, loss, top1 in ((1, 0.9, 50.0), (2, 0.7, 80.0), (3, 0.6, 80.0), (4, math.nan, 80.0))
    ]
    chosen = Selection(made.config.selection)
    assert [chosen.take(row) for row in rows] == [True, True, True, False]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(tmp_path / "config.json", to_dict(made.config))
    assert summary(tmp_path, made.baseline).startswith(f"{tmp_path.name}: the best of 4 epochs is 3, ")


def test_a_file_of_timm_s_trainer_is_a_start_under_its_network_s_name(tmp_path, pictures, capsys):
    """It has the average of the weights beside the weights, and says nothing of pictures."""
    torch.manual_seed(0)
    ours, average = (timm.create_model("test_resnet", num_classes=4).state_dict() for _ in range(2))
    torch.save({"arch": "test_resnet", "state_dict": ours, "state_dict_ema": average}, tmp_path / "model_best.pth.tar")
    model = str(tmp_path / "model_best.pth.tar")
    with pytest.raises(SenetError, match=r"holds several networks: .*; say which by weights_key='state_dict'"):
        tuned(pictures, tmp_path / "run", model)
    asked = {"model.name": "timm/test_resnet", "weights_key": "state_dict_ema", "optimizer.lr": 1e-12}
    run = tuned(pictures, tmp_path / "run", model, image_size=32, settings=asked)
    found, key = senet.from_pretrained(run / "last"), "layer1.0.conv1.weight"
    torch.testing.assert_close(found.state_dict()[key], average[key])
    assert found.preprocessing.mean == senet.create_model("timm/test_resnet").preprocessing.mean
    folder = str(tmp_path / "folder")
    argv = ["convert", "timm/test_resnet", model, "--key", "state_dict", "--output", folder, "--num-classes"]
    assert main([*argv, "7"]) == 0
    assert "holds timm/test_resnet with 7 classes" in capsys.readouterr().out


# ---- bad input -------------------------------------------------------------------------------------------------------


def refused(tmp_path, pictures, said, model="cifar_se_resnet20", **changes):
    with pytest.raises(SenetError, match=said) as caught:
        tuned(pictures, tmp_path / "run", model, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_pictures_that_make_no_data_set_are_refused(tmp_path):
    single = write_pictures(tmp_path / "single", sizes={"cat": 4, "dog": 1})
    refused(tmp_path, single, "is the only image of its class")
    for split in ("train", "val"):
        write_pictures(tmp_path / "equal" / split, sizes={"cat": 2, "dog": 2})
    for copy in (tmp_path / "equal").rglob("*.png"):
        copy.write_bytes((single / "dog" / "0.png").read_bytes())
    refused(tmp_path, tmp_path / "equal", "all 4 training images of .* are the same picture")
    (single / "dog" / "1.png").write_bytes((single / "cat" / "0.png").read_bytes()[:200])
    refused(tmp_path, single, "1 image cannot be used: .*1.png")
    refused(tmp_path, write_pictures(tmp_path / "one", sizes={"cat": 4}), r"has only one class \(cat")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "has no folders of images")
    refused(tmp_path, tmp_path / "absent", "the folder of pictures .*absent does not exist")
    refused(tmp_path, single / "cat", "has no folders of images")


def test_objects_in_place_of_paths_are_refused(tmp_path, pictures):
    table = [("a.png", "cat")]
    for arguments, said in (
        ((table, tmp_path / "run", "cifar_se_resnet20"), "data is of class list; expected the path of a folder or CSV"),
        ((pictures, None, "cifar_se_resnet20"), "output is of class NoneType; expected the path of the run folder"),
        ((pictures, tmp_path / "run", nn.Linear(2, 2)), "model is of class Linear; .*save the network by senet.save"),
    ):
        data, output, model = arguments
        with pytest.raises(SenetError, match=said):
            senet.finetune(data, output, model=model)


def test_networks_that_do_not_fit_are_refused(tmp_path, pictures, starts):
    refused(tmp_path, pictures, "no network is called 'cifar_se_resnet2'", model="cifar_se_resnet2")
    elsewhere = "convnext_tiny is no network of this library; name it timm/convnext_tiny or torchvision/convnext_tiny"
    refused(tmp_path, pictures, elsewhere, model="convnext_tiny")
    refused(tmp_path, pictures, "name it timm/vit_tiny_patch16_224.augreg", model="vit_tiny_patch16_224.augreg")
    vit = {"model": "timm/test_vit", "pretrained": False, "image_size": 100}
    refused(tmp_path, pictures, "timm/test_vit does not take images of 100 pixels", **vit)
    state = senet.create_model("cifar_se_resnet20", 10).state_dict()
    wider = {key: tensor.repeat(*(2,) * tensor.dim()) for key, tensor in state.items() if tensor.dim()}
    torch.save(wider, tmp_path / "wider.pth")
    refused(tmp_path, pictures, "does not say what network it is of", model=str(tmp_path / "wider.pth"))
    named = {"model": str(tmp_path / "wider.pth"), "settings": {"model.name": "cifar_se_resnet20"}}
    refused(tmp_path, pictures, "wider.pth has SE on 32 channels at layer1.0.se, the model on 16", **named)
    layout = {"model": str(starts / "timm" / "model.safetensors"), "settings": {"model.name": "cifar_se_resnet20"}}
    refused(tmp_path, pictures, "model.name is 'cifar_se_resnet20', but .* holds timm/test_resnet", **layout)


def test_a_network_that_is_no_classifier_is_refused(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x[:, :2])
    refused(tmp_path, pictures, r"cifar_se_resnet20 is no classifier: .* returns \(1, 2\), not \(1, 3\)")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": "20"}, "time is '20'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": -3}, "epochs is -3; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"channels": 5}, "channels is 5, but the pictures of .* have 3 channels; leave it out"),
        ({"settings": {"optimizer.name": "adamww"}}, "the nearest are adamw"),
        ({"settings": {"optimizer.name": "lamb"}}, "optimizer.lr is missing: .* not for lamb; set it too"),
        ({"settings": {"weights": "x"}}, "weights cannot be set here: it follows from model"),
        ({"settings": {"lr": 0.1}}, "no setting is called lr; the nearest are optimizer.lr"),
        ({"settings": {"optimizer.lrate": 0.1}}, "no setting is called optimizer.lrate; the nearest are optimizer.lr"),
        ({"settings": {"optimizer.lr": "0.1"}}, "optimizer.lr is '0.1'; expected"),
        ({"image_size": (64, 64)}, "data.preprocessing.image_size is .*; expected an integer"),
        ({"settings": {"optimizer.nesterov": True}}, "optimizer.nesterov has no effect on adamw"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, pictures, changes, said):
    refused(tmp_path, pictures, said, **changes)


def test_a_full_disk_and_a_taken_folder_are_refused(tmp_path, pictures, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    refused(tmp_path, pictures, r"has too little space: the run needs about 1[45] MB, and 1 MB are free")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(SenetError, match=re.escape("exists and is not a run folder; choose another --output")):
        tuned(pictures, tmp_path / "run", "cifar_se_resnet20")


def test_an_output_among_the_pictures_is_refused_and_a_folder_is_called_by_its_name(
    pictures, tmp_path, capsys, monkeypatch
):
    """A run would be one of the classes; and "mixed" is also the name of an option."""
    shutil.copytree(pictures / "train" if (pictures / "train").is_dir() else pictures, tmp_path / "flat")
    with pytest.raises(SenetError, match=r"is inside .*, whose folders are classes; name an output elsewhere"):
        senet.finetune(tmp_path / "flat", tmp_path / "flat" / "run", model="cifar_se_resnet20")
    assert not (tmp_path / "flat" / "run").exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed" / "val").mkdir(parents=True)
    assert main(["finetune", "mixed", "--model", "cifar_se_resnet20", "--output", "run"]) == 2
    assert capsys.readouterr().err.startswith("senet: mixed has no ")
