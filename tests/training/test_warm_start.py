"""Runs that start from weights: network and preprocessing come with them, except for what somebody asked for."""

import json
import logging
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import senet
from senet.cli import main
from senet.data import loading
from senet.data.config import DataConfig
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.factory import from_pretrained
from senet.files import read_jsonl
from senet.models.config import ModelConfig
from senet.nn.attached import attached_blocks
from senet.nn.block import SEOptions
from senet.recipes import get_recipe
from senet.training.config import TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import Trainer, resume, train
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig
from senet.training.warm_start import start_from_weights
from senet.weights.folder import save_pretrained
from tiers import slow_after

OWN = Preprocessing(image_size=12, resize=14, mean=(0.2,), std=(0.01,), interpolation="bicubic")
"""The weights' preprocessing; the recipe's would feed values 37 times smaller."""
RUN = replace(get_recipe("digits"), epochs=1, batch_size=32, compute=ComputeConfig(cpu=True))


@pytest.fixture(autouse=True)
def _few_digits_on_one_thread(monkeypatch):
    sizes, open_all = {"train": 64, "eval": 40}, loading.open_split
    few = lambda data, split: replace(open_all(data, split), size=sizes[split])  # noqa: E731
    monkeypatch.setattr(loading, "open_split", few)
    monkeypatch.setattr("senet.evaluation.batches.open_split", few)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def unlike_random(model):
    """Give the statistics and the gates of a network values that tell weights that were loaded from random ones."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory):
    """A network of this package with options and a preprocessing of its own."""
    folder = tmp_path_factory.mktemp("weights") / "own"
    model = senet.create_model("cifar_se_resnet20", 10, 1, se=SEOptions(reduction=8, gate="hard_sigmoid", bias=False))
    model.preprocessing = OWN
    save_pretrained(unlike_random(model), folder)
    return folder


@pytest.fixture(scope="module")
def other_library(tmp_path_factory):
    """A network of timm's with inserted blocks, for 3 channels."""
    folder = tmp_path_factory.mktemp("weights") / "timm"
    model = senet.create_model("timm/test_resnet", num_classes=10)
    senet.insert_se(model)
    model.preprocessing = replace(OWN.with_channels(3), image_size=32, resize=36)
    save_pretrained(unlike_random(model), folder)
    return folder


def stored(run):
    return json.loads((run / "config.json").read_text())


@pytest.mark.parametrize("kind", ["own_weights", "other_library"])
def test_the_loss_before_the_first_step_is_that_of_the_weights(tmp_path, request, kind, capsys):
    weights = request.getfixturevalue(kind)
    run = train(replace(RUN, weights=str(weights)), tmp_path / "run")
    start, _ = read_jsonl(run / "metrics.jsonl")
    expected = senet.evaluate(weights, RUN.data, device="cpu")
    assert (start["epoch"], start["step"]) == (0, 0)
    assert (start["loss"], start["top1"], start["top5"]) == pytest.approx(
        (expected.loss, expected.top1, expected.top5), rel=1e-4
    )
    model = from_pretrained(weights)
    assert from_pretrained(run).preprocessing == model.preprocessing
    assert stored(run)["data"]["preprocessing"]["resize"] == model.preprocessing.resize
    assert stored(run)["model"]["name"] == model.config.name
    assert f"starts as {model.config.name} from {weights}" in capsys.readouterr().err


def started(weights, config=RUN, **changes):
    """Return the network and the configuration with which a run starts."""
    config, start = start_from_weights(replace(config, weights=str(weights), **changes))
    return start.build(replace(config.model, num_classes=config.model.num_classes or 10)).eval(), config


def test_a_file_of_several_networks_is_read_as_it_is_said_to_be(tmp_path):
    first, second = (
        dict(unlike_random(senet.create_model("cifar_se_resnet20", 10, 1)).state_dict().items()) for _ in range(2)
    )
    torch.save({"student": first, "teacher": second}, tmp_path / "both.pth")
    with pytest.raises(senet.SenetError, match="several networks"):
        started(tmp_path / "both.pth")
    model, _ = started(tmp_path / "both.pth", weights_key="teacher", weights_layout="senet")
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, second[key], rtol=0, atol=0)
    with pytest.raises(senet.SenetError, match="weights_key has no effect without weights"):
        replace(RUN, weights_key="teacher")


def network(**changes):
    return {"model": replace(RUN.model, **changes)}


def preprocessing(**changes):
    return {"data": replace(RUN.data, preprocessing=replace(RUN.data.preprocessing, **changes))}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, OWN),
        (preprocessing(image_size=6, resize=9), replace(OWN, image_size=6, resize=9)),
        (preprocessing(image_size=6), replace(OWN, image_size=6, resize=7)),  # in the proportion of the weights
        (preprocessing(std=(0.5,)), replace(OWN, std=(0.5,))),
        ({"data": DataConfig(dataset="digits")}, OWN),  # what is left out is not asked for
    ],
    ids=["nothing", "both sizes", "size", "std", "other data"],
)
def test_the_preprocessing_of_the_weights_wins_unless_asked_otherwise(own_weights, changes, expected):
    assert started(own_weights, **changes)[1].data.preprocessing == expected


def test_what_adapts_to_the_weights_works(own_weights):
    loaded = from_pretrained(own_weights)
    model, config = started(own_weights, **network(num_classes=7))
    assert (model.num_classes, model.config.se) == (7, loaded.config.se)
    assert torch.equal(model.conv1.weight, loaded.conv1.weight)
    model, _ = started(own_weights, **network(options={"dropout": 0.5}))
    assert model.config.options["dropout"] == 0.5

    model, config = started(own_weights, **network(in_channels=2))
    created = senet.create_model("cifar_se_resnet20", 10, 2, weights=own_weights)
    assert torch.equal(model.conv1.weight, created.conv1.weight)
    assert config.data.preprocessing == created.preprocessing == OWN.with_channels(2)

    model, _ = started(own_weights, **network(se=replace(RUN.model.se, reduction=4)))  # wider: units that do nothing
    assert model.config.se == replace(loaded.config.se, reduction=4)
    x = torch.randn(2, 1, 12, 12)
    torch.testing.assert_close(model.eval()(x), loaded(x))


def test_weights_of_the_plain_network_start_se_as_the_identity_if_it_is_asked_for(tmp_path):
    plain = unlike_random(senet.create_model("cifar_resnet20", 10, 1))
    save_pretrained(plain, tmp_path)
    assert started(tmp_path)[0].config.name == "cifar_resnet20"
    asked = replace(get_recipe("digits"), suggested={}, model=replace(RUN.model, se=SEOptions(reduction=4)))
    model, _ = started(tmp_path, asked)
    assert (model.config.name, model.config.se.reduction) == ("cifar_se_resnet20", 4)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), plain.eval()(x))


REFUSED = {
    "name": (network(name="cifar_se_resnet32"), "model.name is 'cifar_se_resnet32', but {} holds cifar_se_resnet20"),
    "gate": (network(se=SEOptions(gate="tanh")), "model.se.gate is 'tanh', but {} has 'hard_sigmoid'"),
    "placement": (network(se=SEOptions(placement="pre")), "model.se.placement is 'pre', but {} has 'standard'"),
    "narrower": (network(se=SEOptions(reduction=32)), "model.se.reduction is 32, but {} has 8"),
    "channels": (
        preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
        "model.in_channels is 1, but data.preprocessing gives 3",
    ),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_the_weights_is_refused_by_its_name(tmp_path, own_weights, changes, said):
    with pytest.raises(SenetError) as caught:
        train(replace(RUN, weights=str(own_weights), **changes), tmp_path / "run")
    assert str(caught.value).startswith(said.format(own_weights))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_options_of_the_computation_are_compared_with_the_weights(tmp_path):
    save_pretrained(senet.create_model("resnet18", 10, 1), tmp_path)
    asked = {"name": "resnet18", "options": {"stem_pool": "pad"}}
    with pytest.raises(SenetError, match=r"model\.options\.stem_pool is 'pad', but .* has 'ceil'; leave it out"):
        started(tmp_path, **network(**asked))


def test_a_network_with_inserted_blocks_changes_its_classes_and_channels_only(other_library):
    asked = replace(RUN, suggested={}, model=replace(RUN.model, name="timm/test_resnet"))
    gray = replace(asked, data=replace(asked.data, preprocessing=replace(OWN, image_size=32, resize=36)))
    model, config = started(other_library, gray)
    assert (model.config.in_channels, config.data.preprocessing.in_channels) == (1, 1)
    expected = from_pretrained(other_library).conv1[0].weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.conv1[0].weight, expected)
    assert attached_blocks(model)
    tanh = replace(RUN, suggested={k: v for k, v in RUN.suggested.items() if k != "model.se.gate"})
    with pytest.raises(SenetError, match=r"model.se.gate is .*; leave it out or start from other weights"):
        started(other_library, tanh, model=replace(RUN.model, name="timm/test_resnet", se=SEOptions(gate="tanh")))


def test_weights_of_timm_and_torchvision_come_with_their_network(tmp_path, monkeypatch):
    """Each library loads its own: with a new classifier, and here with another number of channels."""
    published = unlike_random(senet.create_model("timm/test_resnet")).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(published))
    model, config = started("timm/test_resnet.r160_in1k", **network(num_classes=7))
    assert (config.model.name, model.num_classes, config.data.preprocessing.image_size) == ("timm/test_resnet", 7, 160)
    assert torch.equal(model.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    gray = TrainConfig(
        model=ModelConfig(name="timm/test_resnet", in_channels=1), data=replace(RUN.data, preprocessing=OWN)
    )
    model, config = started("timm/test_resnet.r160_in1k", gray)
    assert model.conv1[0].weight.shape[1] == config.data.preprocessing.in_channels == 1
    for changes, said in (
        ({"weights_key": "ema"}, "weights_key has no effect on timm/test_resnet.r160_in1k"),
        ({"weights": "timm/test_resnet.r16"}, "timm/test_resnet.r16 cannot be created: .*; its weights are r160_in1k"),
        ({"weights": "timm/test_rsnet"}, "timm has no network 'test_rsnet'; the nearest are test_resnet"),
        ({"weights": "torchvision/alexnet.V9"}, "torchvision/alexnet.V9 cannot be created: .*; its weights are IMAGE"),
    ):
        with pytest.raises(SenetError, match=said):
            start_from_weights(replace(RUN, **{"weights": "timm/test_resnet.r160_in1k", **changes}))


def test_a_configuration_made_by_hand_asks_for_what_it_names(own_weights):
    hand = TrainConfig(model=ModelConfig(name="cifar_se_resnet20"), data=DataConfig(dataset="digits"))
    model, config = started(own_weights, hand)
    assert (model.config.se.reduction, config.data.preprocessing) == (8, OWN)
    with pytest.raises(SenetError, match=r"model\.name is 'cifar_resnet20'"):
        started(own_weights, hand, model=ModelConfig(name="cifar_resnet20"))


def command(weights, output, *options):
    return ["train", "digits", "--weights", str(weights), "--output", str(output), "--epochs", "1", *options]


def test_an_option_on_the_command_line_is_asked_for_even_if_it_is_the_recipe_s(tmp_path, own_weights, capsys):
    """The recipe's reduction is 16, that of the weights 8."""
    assert main(command(own_weights, tmp_path / "run", "--model.se.reduction", "16")) == 2
    assert f"model.se.reduction is 16, but {own_weights} has 8" in capsys.readouterr().err
    options = ("--data.preprocessing.image-size", "8", "--data.preprocessing.resize", "8", "--compute.cpu")
    assert main(command(own_weights, tmp_path / "run", *options)) == 0
    kept = from_pretrained(tmp_path / "run").preprocessing
    assert kept == replace(OWN, image_size=8, resize=8)


@pytest.mark.parametrize(
    ("kind", "stop"),
    slow_after(
        2, [("own_weights", "start"), ("other_library", "step"), ("own_weights", "step"), ("other_library", "start")]
    ),
)
def test_a_run_goes_on_without_the_weights_it_started_from(tmp_path, request, monkeypatch, kind, stop):
    weights = tmp_path / "weights"
    shutil.copytree(request.getfixturevalue(kind), weights)
    config = replace(RUN, epochs=2, weights=str(weights), model=replace(RUN.model, options={}))
    whole = train(config, tmp_path / "whole")

    method = {"start": "evaluate", "step": "train_epoch"}[stop]
    original = getattr(Trainer, method)

    def stopping(trainer, *args):
        trainer.caught.append(signal.SIGTERM)
        return original(trainer, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, method, stopping)
        with pytest.raises(TrainingInterrupted):
            train(config, tmp_path / "parts")
    shutil.rmtree(weights)
    parts = resume(tmp_path / "parts")
    states = [torch.load(run / "last" / "training_state.pt")["model"] for run in (whole, parts)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert stored(parts) == stored(whole)
    losses = [[row["loss"] for row in read_jsonl(run / "metrics.jsonl")] for run in (whole, parts)]
    assert losses[0] == losses[1]
    assert bool(attached_blocks(from_pretrained(parts))) == (kind == "other_library")

    with pytest.raises(SenetError, match="was started with another weights"):
        RunFolder(parts).check_same_config(replace(config, weights="elsewhere"))
    asked = replace(config, model=replace(config.model, se=SEOptions(gate="tanh")))
    with pytest.raises(SenetError, match=r"was started with another model\.se\.gate"):
        RunFolder(parts).check_same_config(asked)


def test_weights_that_say_nothing_of_themselves_take_the_name_of_the_recipe(tmp_path, caplog):
    saved = unlike_random(senet.create_model("cifar_se_resnet20", 10, 3))
    state = {key: tensor.clone() for key, tensor in saved.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    with caplog.at_level(logging.WARNING):
        model, config = started(tmp_path / "weights.pth")
    assert torch.equal(model.fc.weight, saved.fc.weight)
    assert config.data.preprocessing == saved.preprocessing


@pytest.mark.parametrize("names", [None, tuple("0123456789"), tuple("1023456789")])
def test_a_classifier_that_is_kept_for_other_classes_is_said(tmp_path, own_weights, capsys, names):
    model = from_pretrained(own_weights)
    model.class_names = names
    save_pretrained(model, tmp_path / "weights")
    train(replace(RUN, weights=str(tmp_path / "weights")), tmp_path / "run")
    said = f"the classifier of {tmp_path / 'weights'} is kept, for its classes are as many"
    assert (said in capsys.readouterr().err) == (names is not None and names[0] == "1")


@pytest.mark.parametrize("library", ["own_weights", "other_library"])
def test_a_classifier_for_other_classes_starts_at_random_and_the_same_are_kept_by_name(library, request, tmp_path):
    model = from_pretrained(request.getfixturevalue(library))
    names = (*"abcdefghi", "\u00e9")
    model.class_names = names
    save_pretrained(model, tmp_path)
    config, start = start_from_weights(replace(RUN, weights=str(tmp_path)))
    ten = replace(config.model, num_classes=10)
    turned = start.for_classes(names[::-1])
    assert turned.keeps_classifier(names[::-1])
    torch.testing.assert_close(turned.build(ten).fc.weight, model.fc.weight.flip(0), rtol=0, atol=0)
    assert "in the order of the data" in start.classifier_note(names[::-1])
    stored = (*names[:9], "e\u0301")  # as macOS may store it
    torch.testing.assert_close(start.for_classes(stored).build(ten).fc.weight, model.fc.weight, rtol=0, atol=0)
    others = (*names[:9], "z")
    assert not start.keeps_classifier(others)
    found = start.for_classes(others).build(ten)
    assert not torch.equal(found.fc.weight, model.fc.weight)
    assert found.class_names is None
    own = model.state_dict()
    assert all(torch.equal(x, own[key]) for key, x in found.state_dict().items() if not key.startswith("fc."))
    assert "the classifier starts at random" in start.classifier_note(others)
    assert "'\u00e9' where the data has 'z'" in start.classifier_note(others)
