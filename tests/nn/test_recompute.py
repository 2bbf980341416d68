"""Gradient checkpointing in networks of other libraries: the same step, BatchNorm's statistics moved once."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from checks import assert_one_sentence
from senet.errors import SenetError
from senet.models.build import build, checkpoint_gradients
from senet.models.config import ModelConfig
from senet.nn.recompute import listed_blocks, recompute_blocks
from senet.surgery.insertion import insert_se

CASES = {
    "timm resnet with everything": lambda: timm.create_model(
        "resnet10t", num_classes=3, drop_path_rate=0.5, drop_rate=0.5
    ),
    "timm seresnet": lambda: timm.create_model("resnet10t", num_classes=3, block_args={"attn_layer": "se"}),
    "torchvision resnet": lambda: resnet10(),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=3),
    "with inserted SE": lambda: with_se(resnet10()),
}


def resnet10():
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3)


def with_se(model):
    insert_se(model)
    return model


def step(model, x):
    """Output, gradients and buffers of a training step, whose random numbers are seeded, and what is drawn after it."""
    model.zero_grad()
    torch.manual_seed(3)
    y = model(x)
    y.square().sum().backward()
    found = {"y": y.detach(), "drawn after": torch.rand(4)}
    found |= {name: parameter.grad for name, parameter in model.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = 1e-9 * value.double().abs().max().item() + 1e-13
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_same_in_double_precision(case):
    torch.manual_seed(0)
    model, x = CASES[case]().double().train(), torch.randn(4, 3, 40, 40).double()
    twin = copy.deepcopy(model)
    assert recompute_blocks(twin) > 3
    calls = []
    block = listed_blocks(twin)[-1]
    next(m for m in block.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(lambda *_: calls.append(None))
    for number in (1, 2):
        assert_same(step(twin, x), step(model, x))
        assert len(calls) == 2 * number  # computed again in the backward pass
    assert twin.state_dict().keys() == model.state_dict().keys()


def test_it_keeps_fewer_feature_maps():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            model(torch.randn(4, 3, 64, 64))
        return sum(sizes) - sum(p.numel() for p in model.parameters())

    torch.manual_seed(0)
    model = resnet10()
    usual = kept(model)
    recompute_blocks(model)
    assert kept(model) < 0.6 * usual


def test_evaluation_and_copies_are_their_own():
    model = resnet10()
    expected = model.eval()(torch.ones(1, 3, 32, 32))
    recompute_blocks(model)
    assert torch.equal(model(torch.ones(1, 3, 32, 32)), expected)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(torch.ones(1, 3, 32, 32)), expected)
    assert listed_blocks(twin)[0].forward.__self__ is listed_blocks(twin)[0]


@pytest.mark.parametrize(
    ("name", "number", "kind"),
    [
        ("convnext_tiny", 19, "CNBlock"),
        ("vit_b_16", 12, "EncoderBlock"),
        ("densenet121", 7, "_DenseBlock"),
        ("swin_t", 15, "SwinTransformerBlock"),
    ],
)
def test_the_blocks_are_neither_stages_nor_layers(name, number, kind):
    with torch.device("meta"):
        blocks = listed_blocks(torchvision.models.get_model(name))
    assert len(blocks) == number
    assert kind in {type(block).__name__ for block in blocks}


@pytest.mark.parametrize("name", ["torchvision/vgg11", "timm/vgg11", "torchvision/alexnet"])
def test_a_network_without_blocks_is_refused_in_one_sentence(name):
    with torch.device("meta"):
        model = build(ModelConfig(name=name))
    with pytest.raises(SenetError) as error:
        checkpoint_gradients(model)
    assert_one_sentence(error, f"compute.grad_checkpointing has no effect on {name}", "leave it out")


@pytest.mark.slow
def test_compiled_blocks_are_recomputed_too():
    torch.manual_seed(0)
    model, x = resnet10().double(), torch.randn(4, 3, 40, 40).double()
    twin = copy.deepcopy(model)
    recompute_blocks(twin)
    expected = step(model, x)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    y = compiled(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected["y"])
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-7, atol=1e-10)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(buffer, expected[name])
