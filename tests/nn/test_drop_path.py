"""Stochastic depth beside timm's: the draws, the rates, the units with every layer of them fused or not."""

import copy
import math
from dataclasses import replace

import pytest
import timm
import torch
from timm.layers import DropPath as TimmDropPath
from timm.layers import drop_path as timm_drop_path
from torch import fx, nn

from checks import assert_one_sentence
from networks import randomize
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained
from senet.models.config import ModelConfig
from senet.models.residual import (
    BasicUnit,
    BottleneckUnit,
    PreActivationBasicUnit,
    PreActivationBottleneckUnit,
    ResidualUnit,
    Wiring,
    bare_projection,
    projection,
)
from senet.models.resnet import cifar_resnet, wide_resnet
from senet.models.stochastic_depth import with_drop_path
from senet.nn.block import SEOptions
from senet.nn.drop_path import DropPath
from senet.nn.fused import set_fused
from senet.weights.folder import save_pretrained


def rates_of(model):
    return [m.drop_path.rate for m in model.modules() if isinstance(m, ResidualUnit) and m.drop_path is not None]


def step(model, x, seed):
    """Output, gradients and buffers of a training step."""
    model.zero_grad()
    torch.manual_seed(seed)
    y = model(x)
    y.square().sum().backward()
    found = {"y": y.detach()} | {name: p.grad for name, p in model.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * value.double().abs().max().item() + 1e-13
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


# ---- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_draws_what_timm_draws(dtype):
    x = torch.randn(16, 3, 2, 2).to(dtype)
    torch.manual_seed(0)
    found = DropPath(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(found, timm_drop_path(x, 0.3, training=True))


def test_the_mean_over_many_draws_is_the_branch():
    torch.manual_seed(0)
    x, layer, count = torch.randn(1, 3, 1, 1).double().expand(40_000, 3, 1, 1), DropPath(0.2), 40_000
    y = layer(x)
    dropped = (y == 0).all(1).double().mean().item()
    assert abs(dropped - 0.2) < 5 * math.sqrt(0.2 * 0.8 / count)
    torch.testing.assert_close(y.mean(0), x[0], rtol=5 * math.sqrt(0.25 / count), atol=0)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_out_of_its_range_is_refused(rate):
    with pytest.raises(SenetError) as error:
        create_model("cifar_resnet20", drop_path=rate)
    assert_one_sentence(error, f"drop_path is {rate}; expected at least 0 and below 1")


# ---- units -----------------------------------------------------------------------------------------------------------

PLACEMENTS = ("standard", "pre", "post", "identity", "3x3")
UNITS = {
    "basic": (BasicUnit, projection),
    "bottleneck": (BottleneckUnit, projection),
    "preactivated basic": (PreActivationBasicUnit, bare_projection),
    "preactivated bottleneck": (PreActivationBottleneckUnit, bare_projection),
}


@pytest.mark.usefixtures("fuse_small_maps")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("placement", [None, *PLACEMENTS])
@pytest.mark.parametrize("kind", UNITS)
def test_a_fused_unit_drops_as_its_layers_do_and_as_two_units_would(kind, placement, stride):
    """With the same draws; and the images that keep their branch have it doubled, the others have none."""
    torch.manual_seed(0)
    build, shortcut = UNITS[kind]
    build_se = None if placement is None else SEOptions(reduction=2, placement=placement).in_stage(2)
    channels = 8 if stride == 2 or "bottleneck" not in kind else 4 * 8
    unit = build(
        channels, 8, stride, Wiring(build_shortcut=shortcut, build_se=build_se, placement=placement or "standard")
    )
    randomize(unit)
    unit = unit.double().train()
    unit.drop_path = DropPath(0.5)
    x = torch.randn(6, channels, 6, 4).double()
    twin = copy.deepcopy(unit)
    set_fused(unit, True)
    set_fused(twin, False)
    found = step(unit, x, 3)
    assert_same(found, step(twin, x, 3))
    torch.manual_seed(3)
    mask = torch.empty(6, 1, 1, 1, dtype=torch.float64).bernoulli_(0.5)
    assert 0 < mask.sum() < 6
    twin.drop_path = Scaled(mask / 0.5)
    torch.testing.assert_close(found["y"], twin(x), rtol=1e-10, atol=1e-10)
    if placement != "post":
        twin.drop_path = Scaled(torch.zeros(6, 1, 1, 1, dtype=torch.float64))
        without = twin(x)  # the shortcut alone
        for y, alone, kept in zip(found["y"], without, mask.flatten().bool().tolist(), strict=True):
            assert kept or torch.allclose(y, alone, rtol=1e-10, atol=1e-10)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("name", ["cifar_se_resnet20", "cifar_preact_resnet110", "cifar_wrn16_8"])
def test_evaluation_does_not_know_of_it(name):
    options = {"drop_path": 0.5}
    torch.manual_seed(0)
    model = create_model(name, **options).eval()
    plain = create_model(name)
    assert model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x), plain.eval()(x))


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), pytest.param("resnet50", {"stride_on": "3x3"}, marks=pytest.mark.slow)],
)
def test_a_network_is_timms_draw_for_draw(name, options):
    torch.manual_seed(0)
    model = create_model(name, 5, drop_path=0.4, stem_pool="pad", **options).double().train()
    theirs = timm.create_model(name, num_classes=5, drop_path_rate=0.4).double().train()
    theirs.load_state_dict(model.state_dict())
    rates = [m.drop_prob for m in theirs.modules() if isinstance(m, TimmDropPath)]
    assert rates_of(model) == pytest.approx(rates)
    x = torch.randn(4, 3, 40, 40).double()
    assert_same(step(model, x, 1), step(theirs, x, 1), 1e-7)
    assert not torch.equal(step(model, x, 2)["y"], step(model, x, 3)["y"])


@pytest.mark.parametrize(
    "model",
    [cifar_resnet(20, drop_path=0.3), wide_resnet(16, 1, drop_path=0.3), create_model("senet154", drop_path=0.3)],
    ids=["cifar", "wide", "senet154"],
)
def test_the_rates_rise_from_nothing_to_the_rate(model):
    units = [module for module in model.modules() if isinstance(module, ResidualUnit)]
    assert units[0].drop_path is None
    assert rates_of(model) == pytest.approx([0.3 * i / (len(units) - 1) for i in range(1, len(units))])


def test_a_network_is_read_back_with_it(tmp_path):
    model = create_model("cifar_se_resnet20", drop_path=0.25)
    save_pretrained(model, tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert rates_of(again) == rates_of(model)
    assert rates_of(create_model("cifar_se_resnet20", weights=tmp_path / "model", drop_path=0.5))[-1] == 0.5
    assert not rates_of(create_model("cifar_se_resnet20", weights=tmp_path / "model", drop_path=0.0))


def test_torchscript_and_fx_know_it():
    torch.manual_seed(0)
    model = create_model("cifar_se_resnet20", drop_path=0.5)
    x = torch.randn(4, 3, 16, 16)
    scripted, graph = torch.jit.script(copy.deepcopy(model)), fx.symbolic_trace(copy.deepcopy(model))
    set_fused(model, False)
    torch.manual_seed(5)
    expected = model(x)
    for form in (scripted, graph):
        torch.manual_seed(5)
        torch.testing.assert_close(form(x), expected, rtol=1e-4, atol=1e-5)
    expected = model.eval()(x)
    torch.testing.assert_close(scripted.eval()(x), scripted.eval()(x))
    model.load_state_dict(scripted.state_dict())
    torch.testing.assert_close(scripted.eval()(x), model(x), rtol=1e-4, atol=1e-5)


# ---- any library's ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cifar_se_resnet20", "drop_path"),
        ("timm/resnet18.a1_in1k", "drop_path_rate"),
        ("timm/convnext_atto", "drop_path_rate"),
        ("torchvision/convnext_tiny", "stochastic_depth_prob"),
    ],
)
def test_one_rate_is_each_librarys_option(name, option):
    config = ModelConfig(name=name, options={"x": 1} if name == "cifar_se_resnet20" else {})
    assert with_drop_path(config, 0.2) == replace(config, options={**config.options, option: 0.2})
    assert with_drop_path(config, 0.0) is config


@pytest.mark.parametrize("name", ["vgg16_bn", "cifar_shake_shake26_2x96d", "torchvision/resnet18", "timm/vgg11"])
def test_networks_without_it_refuse_in_one_sentence(name):
    with pytest.raises(SenetError) as error:
        with_drop_path(ModelConfig(name=name), 0.2)
    assert_one_sentence(error, f"regularization.drop_path is 0.2, but {name} has no stochastic depth", "leave it out")


def test_a_network_that_does_not_exist_is_said_to_be_that():
    with pytest.raises(SenetError) as error:
        with_drop_path(ModelConfig(name="timm/resnet999"), 0.2)
    assert_one_sentence(error, "timm has no network 'resnet999'")
