"""What is frozen stays as it is, bit for bit, costs no backward pass, and is trained from the right epoch on."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import senet
from drivers import run_in_two_processes
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training.freezing import Freezing
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.sections import ComputeConfig, OptimizerConfig, RegularizationConfig
from stopping import stop_at
from tiers import slow_after

SIMPLE = replace(digits(), epochs=3, compute=ComputeConfig(cpu=True))  # three batches of 32 an epoch
STRONG = replace(
    SIMPLE,
    optimizer=OptimizerConfig(name="lamb", lr=0.05, weight_decay=0.5, layer_decay=0.5, clip_norm=1.0),
    regularization=RegularizationConfig(ema_decay=0.8, ema_warmup=True),
)


@pytest.fixture(autouse=True)
def _small(few_digits):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(run, kind="last"):
    return senet.from_pretrained(run / kind).state_dict()


def started(tmp_path):
    """Return a folder with a network for the digits, trained a little, whose classifier is not the recipe's."""
    model = senet.create_model(SIMPLE.model.name, num_classes=7, in_channels=1, **SIMPLE.model.options)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
    model.preprocessing = SIMPLE.data.preprocessing
    model.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def changed(before, after):
    return {name for name, tensor in after.items() if name in before and not torch.equal(before[name], tensor)}


def test_a_frozen_trunk_stays_bit_for_bit_under_decay_averages_and_any_optimizer(tmp_path):
    start = started(tmp_path)
    before = weights(start.parent, "start")
    frozen = replace(STRONG, optimizer=replace(STRONG.optimizer, layer_decay=None), weights=str(start), freeze="trunk")
    run = train(frozen, tmp_path / "run")
    after = weights(run)
    trunk = {name for name in before if not name.startswith("fc.")}
    assert not changed({name: before[name] for name in trunk}, after)
    state = torch.load(run / "last" / "training_state.pt", weights_only=True)
    assert not changed({name: before[name] for name in trunk}, state["model"])
    assert not torch.equal(state["model"]["fc.weight"], state["ema"]["fc.weight"])
    assert sum(len(group["params"]) for group in state["optimizer"]["param_groups"]) == 2  # weight and bias
    losses = [row["train_loss"] for row in read_jsonl(run / "metrics.jsonl")[1:]]
    assert losses[-1] < losses[0]


def test_the_trunk_is_trained_after_the_head_s_epochs(tmp_path):
    start = started(tmp_path)
    config = replace(STRONG, weights=str(start), head_epochs=1)
    before = weights(start.parent, "start")
    one = weights(train(replace(config, epochs=1), tmp_path / "one"))
    assert not changed({name: tensor for name, tensor in before.items() if not name.startswith("fc.")}, one)
    run = train(config, tmp_path / "run")
    assert changed(before, weights(run)) >= {"conv1.weight", "bn1.running_mean", "layer3.2.bn2.weight"}
    groups = torch.load(run / "last" / "training_state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr_scale"] for group in groups] == [1.0, 0.125, 0.25, 0.5]


@pytest.mark.parametrize("stops", slow_after(1, [[(0, 2), (1, 0)], [(0, 1)], [(2, 1)]]))
def test_a_run_with_a_warm_head_resumes_bit_for_bit(tmp_path, monkeypatch, stops):
    """Stopped in the head's epoch, at its end, in the first step of the trunk, and later."""
    config = replace(STRONG, head_epochs=1)
    whole = train(config, tmp_path / "whole")
    run = tmp_path / "run"
    for number, (epoch, batch) in enumerate(stops):
        with monkeypatch.context() as patched:
            stop_at(patched, epoch, batch)
            with pytest.raises(TrainingInterrupted):
                resume(run) if number else train(config, run)
    resume(run)
    states = [torch.load(folder / "last" / "training_state.pt", weights_only=True) for folder in (run, whole)]
    for part in ("model", "ema"):
        assert not changed(states[1][part], states[0][part])
    losses = [[row["loss"] for row in read_jsonl(folder / "metrics.jsonl")] for folder in (run, whole)]
    assert losses[0] == losses[1]


def test_batchnorm_keeps_its_statistics_while_its_weights_train(tmp_path):
    start = started(tmp_path)
    before = weights(start.parent, "start")
    after = weights(train(replace(SIMPLE, weights=str(start), freeze="bn"), tmp_path / "run"))
    moved = changed(before, after)
    assert not [name for name in moved if "running" in name or "num_batches" in name]
    assert {"conv1.weight", "bn1.weight"} <= moved


def test_inserted_blocks_train_in_a_frozen_trunk_and_the_backward_pass_is_cheap():
    model = senet.create_model("torchvision/resnet18", num_classes=3)
    report = senet.insert_se(model)
    freezing = Freezing(replace(SIMPLE, freeze="trunk"), model)
    assert freezing.set_gradients(0)
    assert not freezing.set_gradients(5)
    assert {name for name, _ in freezing.trained()} == {"fc.weight", "fc.bias", *report.parameters}
    assert freezing.set_modes(0, 3) == " with a frozen trunk"
    assert not any(module.training for module in model.modules() if isinstance(module, _BatchNorm))
    assert model.layer1[0].bn2.se.training
    assert model.training
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "fc.weight",
        "fc.bias",
        *report.parameters,
    }


def test_a_frozen_trunk_without_inserted_blocks_takes_no_part_in_the_backward_pass():
    model = senet.create_model("cifar_se_resnet20", num_classes=3)
    freezing = Freezing(replace(SIMPLE, freeze="trunk"), model)
    freezing.set_gradients(0)
    freezing.set_modes(0, 1)
    features = []
    model.layer3.register_forward_hook(lambda module, inputs, output: features.append(output))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert not features[0].requires_grad
    assert not model.layer1[0].conv1.training


def test_a_batchnorm_without_weights_is_frozen_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(4, 5))
    model.num_classes = 5
    freezing = Freezing(replace(SIMPLE, freeze="trunk"), model)
    freezing.set_gradients(0)
    freezing.set_modes(0, 1)
    assert [module.training for module in model] == [False, False, True, True]


def test_after_thawing_everything_is_in_training_mode_but_for_what_freezes_batchnorm():
    model = senet.create_model("cifar_se_resnet20", num_classes=3)
    freezing = Freezing(replace(SIMPLE, head_epochs=1), model)
    assert freezing.set_gradients(0)
    freezing.set_modes(0, 3)
    assert freezing.set_gradients(1)
    assert freezing.set_modes(1, 3) == ""
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"freeze": "all"}, "freeze is 'all'; expected one of none, bn, trunk"),
        ({"freeze": "trunk", "head_epochs": 1}, "head_epochs has no effect with freeze trunk"),
        (
            {"freeze": "bn", "regularization": RegularizationConfig(freeze_bn_epochs=1)},
            "freeze_bn_epochs has no effect",
        ),
        (
            {"freeze": "trunk", "optimizer": OptimizerConfig(layer_decay=0.5)},
            "layer_decay has no effect with freeze tr",
        ),
        ({"head_epochs": 4}, "head_epochs is 4; expected 0 to 3"),
    ],
)
def test_what_has_no_effect_is_refused(values, said):
    with pytest.raises(SenetError, match=said):
        replace(SIMPLE, **values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "head_compiled"])
def test_two_processes_thaw_the_trunk_together_and_go_on(tmp_path, kind):
    """Gradients of the trunk are summed too, once it has some: both processes have the same weights."""
    run_in_two_processes("freezing_in_two_processes.py", tmp_path, kind)
    first, second = (torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2))
    assert not [name for name in first if "running" not in name and not torch.equal(first[name], second[name])]
    states = [torch.load(tmp_path / run / "last" / "training_state.pt") for run in ("whole", "parts")]
    assert not changed(states[0]["model"], states[1]["model"])
    assert changed(torch.load(tmp_path / "before.pt"), first) >= {"conv1.weight", "fc.weight"}


@pytest.mark.slow
def test_a_compiled_run_with_a_warm_head_learns_what_an_uncompiled_one_does(tmp_path, monkeypatch):
    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, dynamic, mode: compile_with(module, backend="aot_eager", dynamic=dynamic)
    )
    losses = []
    for switch in ("on", "off"):
        config = replace(SIMPLE, head_epochs=1, compute=ComputeConfig(cpu=True, compile=switch))
        run = train(config, tmp_path / switch)
        losses.append([row["loss"] for row in read_jsonl(run / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
