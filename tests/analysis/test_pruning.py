"""Blocks removed: the same outputs for a constant gate, bit for bit where it is a power of two."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import senet
from senet import SEBlock, SenetError, prune_se, record_excitations
from senet.analysis.gates import find_blocks, gate_module
from senet.models.build import surgery_of
from tiers import slow_except


def images(number: int = 4, side: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(seed))


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if x.is_floating_point() and x.dim() < 2:
            x.data = 0.5 + torch.rand(x.shape, generator=generator) if "var" in name else x.data + 0.1
    return model.eval()


MODELS = {
    "ours": lambda: senet.create_model("cifar_se_resnet20"),
    "ours, pre-activation": lambda: senet.create_model("cifar_se_preact_resnet110", se=senet.SEOptions(stages=(4,))),
    "ours, 3x3": lambda: senet.create_model("cifar_se_resnet20", se=senet.SEOptions(placement="3x3")),
    "mobilenet": lambda: senet.create_model("se_mobilenet_v1"),
    "timm seresnet": lambda: timm.create_model("seresnet18"),
    "timm efficientnet": lambda: timm.create_model("efficientnet_b0"),
    "timm regnet": lambda: timm.create_model("regnety_002"),
    "efficientnet": lambda: torchvision.models.efficientnet_b0(),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(),
    "regnet": lambda: torchvision.models.regnet_y_400mf(),
}
QUICK = ("ours", "ours, 3x3", "timm regnet", "mobilenet_v3")


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("name", slow_except(QUICK, MODELS))
def test_pruning_a_constant_gate_changes_nothing(name):
    torch.manual_seed(0)
    model = randomized(MODELS[name]()).double()
    for block in find_blocks(model, images(1).double()):  # every gate is that of this one batch
        module = model.get_submodule(block.module)
        layer = gate_module(module)
        with torch.no_grad():
            if isinstance(module, SEBlock):
                layer.weight.zero_()
                layer.bias.uniform_(-2, 2)
            else:
                last = [m for m in module.children() if isinstance(m, nn.Conv2d)][-1]
                last.weight.zero_()
                last.bias.uniform_(-2, 2)
    x = images().double()
    before, number = model(x), sum(p.numel() for p in model.parameters())
    recording = record_excitations(model, [x])
    report = prune_se(model, recording, example_inputs=x)  # every gate is constant, or at least those of a sigmoid
    after = model(x)
    assert len(report.blocks) == len(find_blocks(MODELS[name](), images(1)))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9 * before.abs().max().item())
    assert report.after.parameters == sum(p.numel() for p in model.parameters()) < number
    assert report.before.parameters == number
    assert report.after.multiply_adds < report.before.multiply_adds
    with pytest.raises(SenetError, match="has no gates"):
        find_blocks(model, x)


@pytest.mark.parametrize(("gate", "value"), [("sigmoid", 0.5), ("sigmoid_x2", 1.0), ("relu", 0.25)])
def test_powers_of_two_are_exact(gate, value):
    model = randomized(senet.create_model("cifar_se_resnet20", se=senet.SEOptions(gate=gate)))
    blocks = find_blocks(model)
    for block in blocks:
        module = model.get_submodule(block.module)
        with torch.no_grad():
            module.fc2.weight.zero_()
            module.fc2.bias.fill_(value if gate == "relu" else 0.0)
    x = images(4, 32)
    before = model(x)
    recording = record_excitations(model, [x])
    assert all(torch.equal(r.overall_mean, torch.full_like(r.overall_mean, value)) for r in recording.blocks)
    prune_se(model, recording)
    assert torch.equal(model(x), before)


def test_inserted_blocks_are_pruned_too(tmp_path):
    model = randomized(senet.create_model("timm/resnet18", num_classes=5))
    plain = copy.deepcopy(model)
    senet.insert_se(model)
    x = images()
    recording = record_excitations(model, [x])
    report = prune_se(model, recording, ["SE_2_1", "layer4.1.bn2.se"], example_inputs=x)
    assert report.folded_into == ("layer1.0.bn2", "layer4.1.bn2")
    assert torch.equal(model(x), plain(x))  # they started at one
    assert len(surgery_of(model).inserted) == 6
    senet.save_pretrained(model, tmp_path / "model")
    assert torch.equal(senet.from_pretrained(tmp_path / "model")(x), plain(x))


def test_a_pruned_model_is_saved_and_read_and_trained(tmp_path):
    model = senet.from_pretrained("cifar_se_resnet20")
    recording = record_excitations(model, [images(8, 32)])
    report = prune_se(model, recording, ["SE_4_2", "SE_2_3"])
    assert report.blocks == ("SE_4_2", "SE_2_3")
    senet.save_pretrained(model, tmp_path / "model")
    again = senet.from_pretrained(tmp_path / "model")
    x = images(2, 32)
    assert torch.equal(again(x), model(x))
    assert surgery_of(again).removed == ("layer1.2.se", "layer3.1.se")
    assert len(find_blocks(again)) == 7
    fused = senet.fuse(copy.deepcopy(again)).train()
    again.train()
    torch.testing.assert_close(fused(x), again(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_take_up_a_gate_says_so_and_stays():
    model = senet.create_model("cifar_se_resnet20", se=senet.SEOptions(placement="identity")).eval()
    recording = record_excitations(model, [images(4, 32)])
    keys, weights = list(model.state_dict()), copy.deepcopy(model.state_dict())
    with pytest.raises(
        SenetError, match=r"SE_2_2 \(layer1.1.se\) cannot be removed: no convolution or BatchNorm before"
    ):
        prune_se(model, recording, ["SE_2_2", "SE_3_1"])
    assert list(model.state_dict()) == keys
    assert all(torch.equal(model.state_dict()[key], weights[key]) for key in keys)


def test_data_without_accuracy_leave_the_model_as_it_is():
    model = senet.create_model("cifar_se_resnet20")
    recording = record_excitations(model, [images(4, 32)])
    with pytest.raises(SenetError, match="has no labels; accuracy needs"):
        prune_se(model, recording, ["SE_2_1"], data=[images(4, 32)])
    assert len(find_blocks(model)) == 9


def test_gates_that_move_are_not_pruned_by_themselves():
    model = senet.from_pretrained("cifar_se_resnet20")
    recording = record_excitations(model, [images(8, 32)])
    last = recording.blocks[-1]
    moving = replace(recording, blocks=(replace(last, variance=last.variance + 0.1),))
    with pytest.raises(SenetError, match="no gate is constant: the one that varies least, SE_4_3, has a spread of"):
        prune_se(model, moving)
    with pytest.raises(SenetError, match="there is no block 'SE_9_9'"):
        prune_se(model, recording, ["SE_9_9"])
