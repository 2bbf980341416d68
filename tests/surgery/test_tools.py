"""Inserted blocks and the tools that replace, fold, freeze or trace layers: a block acts, or the tool is stopped."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.ao.quantization as quantization
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from timm.utils import freeze, reparameterize_model, unfreeze
from torch import Tensor, fx, nn
from torch.ao.quantization import quantize_fx
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import fuse_conv_bn_eval, parametrizations, parametrize, prune
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

from senet import SenetError, SEOptions, insert_se, remove_se
from senet.nn.attached import attached, attached_blocks, attached_sites

pytestmark = pytest.mark.filterwarnings("ignore")


class Residual(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.bn1, self.bn2, self.relu = norm(16), norm(16), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class Small(nn.Module):
    """Two residual blocks whose layers are in plain sight."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 16, 3), norm(16), nn.ReLU()
        self.layer = nn.Sequential(Residual(norm), Residual(norm))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(self.relu(self.bn(self.conv(x)))).mean((2, 3)))


IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
SITES = ("layer.0.bn2=16", "layer.1.bn2=16")


@torch.no_grad()
def excited(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorms statistics, and blocks gates, that leave their mark."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(len(module.running_mean), generator=generator) / 5)
            module.running_var.copy_(0.5 + torch.rand(len(module.running_var), generator=generator))
        if getattr(module, "attached_at", None):
            for x in module.parameters():
                x.copy_(torch.randn(x.shape, generator=generator))
    return model.eval()


def with_blocks(model: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = Small() if model is None else model
    insert_se(model, SEOptions(reduction=4))
    return excited(model)


def blocks_of(model: nn.Module) -> int:
    return len(attached_blocks(model))


def assert_same(actual: Tensor, expected: Tensor, without: Tensor) -> None:
    """What a model with blocks computes, which is not what it computes without them."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, without, rtol=1e-2, atol=1e-2)


def without_blocks(model: nn.Module) -> Tensor:
    model = copy.deepcopy(model)
    remove_se(model)
    return model(IMAGES)


def replace_norms(model: nn.Module, how: str, new: Callable[[nn.BatchNorm2d], nn.Module]) -> nn.Module:
    """Replace every BatchNorm by recursion, as people write it."""
    for name, child in list(model.named_children()):
        if not isinstance(child, nn.BatchNorm2d):
            replace_norms(child, how, new)
        elif how == "setattr":
            setattr(model, name, new(child))
        elif how == "add_module":
            model.add_module(name, new(child))
        elif how == "_modules":
            model._modules[name] = new(child)
        elif how == "update":
            model._modules.update({name: new(child)})
        else:
            model.set_submodule(name, new(child))
    return model


WAYS = ("setattr", "add_module", "_modules", "update", "set_submodule")


def frozen(norm: nn.BatchNorm2d) -> nn.Module:
    new = FrozenBatchNorm2d(norm.num_features)
    new.load_state_dict({key: norm.state_dict()[key] for key in new.state_dict()})
    return new


def group_norm(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.GroupNorm(4, norm.num_features)


def plain_batchnorm(model: nn.Module) -> nn.Module:
    """PyTorch's recipe for the way back from SyncBatchNorm."""
    result = model
    if isinstance(model, nn.SyncBatchNorm):
        result = nn.BatchNorm2d(model.num_features)
        result.weight, result.bias = model.weight, model.bias
        result.running_mean, result.running_var, result.training = model.running_mean, model.running_var, False
    for name, child in model.named_children():
        result.add_module(name, plain_batchnorm(child))
    return result


def folded_by_hand(model: nn.Module) -> nn.Module:
    for block in model.layer:
        block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
    return model


def in_place(function: Callable[..., object]) -> Callable[[nn.Module], nn.Module]:
    def run(model: nn.Module) -> nn.Module:
        function(model)
        return model.eval()

    return run


def on_convolutions(function: Callable[..., object]) -> Callable[[nn.Module], nn.Module]:
    return in_place(lambda model: [function(m) for m in list(model.modules()) if isinstance(m, nn.Conv2d)])


def prepared(model: nn.Module) -> nn.Module:
    observed = quantize_fx.prepare_fx(model, quantization.get_default_qconfig_mapping("x86"), (IMAGES,))
    observed(IMAGES)
    return observed


KEEPING = {
    "fx fuse": fuse,
    "symbolic_trace": fx.symbolic_trace,
    "fuse_fx": quantize_fx.fuse_fx,
    "prepare_fx": prepared,
    "fuse_modules elsewhere": lambda model: quantization.fuse_modules(model, [["conv", "bn", "relu"]]),
    "quantize_dynamic": lambda model: quantization.quantize_dynamic(model, {nn.LSTM}),
    "freeze_batch_norm_2d": freeze_batch_norm_2d,
    "freeze": in_place(partial(freeze, submodules=["layer", "bn"])),
    "freeze, unfreeze": in_place(lambda model: (freeze(model), unfreeze(model))),
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm's SyncBatchNorm": convert_sync_batchnorm,
    "and back": lambda model: plain_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(model)),
    "fuse_conv_bn_eval": folded_by_hand,
    "prune": on_convolutions(partial(prune.l1_unstructured, name="weight", amount=0.0)),
    "weight_norm": on_convolutions(parametrizations.weight_norm),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "jit.trace": lambda model: torch.jit.trace(model, (IMAGES,)),
    "frozen after tracing": lambda model: freeze_batch_norm_2d(fx.symbolic_trace(model)),
    "frozen after a copy": lambda model: replace_norms(copy.deepcopy(model), "_modules", frozen),
    "frozen after a pickle": lambda model: replace_norms(pickle.loads(pickle.dumps(model)), "_modules", frozen),
} | {f"frozen by {how}": partial(replace_norms, how=how, new=frozen) for how in WAYS}


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("tool", KEEPING)
def test_a_tool_that_keeps_the_outputs_keeps_the_blocks(tool):
    model = with_blocks()
    before, without = model(IMAGES), without_blocks(model)
    assert_same(KEEPING[tool](model)(IMAGES), before, without)


@pytest.mark.parametrize("how", WAYS)
def test_blocks_go_over_to_another_norm_under_their_names(how):
    model = with_blocks()
    state = {key: x for key, x in model.state_dict().items() if ".se." in key}
    replace_norms(model, how, group_norm)
    expected = Small(partial(nn.GroupNorm, 4))  # a network that had this norm from the start
    insert_se(expected, SEOptions(reduction=4))
    expected.load_state_dict(model.state_dict())
    assert {key: x for key, x in model.state_dict().items() if ".se." in key}.keys() == state.keys()
    assert all(torch.equal(model.state_dict()[key], x) for key, x in state.items())
    assert_same(model(IMAGES), expected(IMAGES), without_blocks(model))
    assert attached_sites(model) == SITES
    assert len(remove_se(model).sites) == 2


def test_quantized_networks_keep_their_blocks():
    model = with_blocks()
    before, without = model(IMAGES), without_blocks(model)
    after = quantize_fx.convert_fx(prepared(model))(IMAGES)
    assert (after - before).abs().max() < 0.1 * (without - before).abs().max()


def test_quantization_aware_training_reaches_the_blocks():
    model = with_blocks().train()
    mapping = quantization.get_default_qat_qconfig_mapping("x86")
    prepared = quantize_fx.prepare_qat_fx(model, mapping, (IMAGES,))
    prepared(IMAGES).sum().backward()
    assert all(block.fc2.weight.grad is not None for block in attached_blocks(prepared).values())
    assert blocks_of(prepared) == 2


def test_a_feature_extractor_sees_what_the_blocks_make():
    model = with_blocks()
    extractor = create_feature_extractor(model, {"layer.0": "features", "fc": "logits"})
    found = extractor(IMAGES)
    assert torch.equal(found["logits"], model(IMAGES))
    assert torch.equal(found["features"], model.layer[0](model.relu(model.bn(model.conv(IMAGES)))))


def test_blocks_inserted_into_a_traced_network():
    traced = fx.symbolic_trace(Small())
    model = with_blocks(traced)
    assert attached_sites(model) == SITES
    assert torch.equal(copy.deepcopy(model)(IMAGES), model(IMAGES))


class OwnNorm(nn.GroupNorm):
    """A norm that torch.fx traces through, for its class is not of PyTorch."""

    def __init__(self, channels: int) -> None:
        super().__init__(4, channels)


def test_a_trace_through_a_layer_of_ones_own_has_its_block_or_is_refused():
    model = with_blocks(Small(OwnNorm))
    assert attached_sites(model) == SITES
    try:
        traced = fx.symbolic_trace(model)
    except fx.proxy.TraceError:
        return
    assert_same(traced(IMAGES), model(IMAGES), without_blocks(model))


def drop(model: nn.Module) -> None:
    """Fold a BatchNorm away as detectors of the YOLO family do."""
    block = model.layer[0]
    block.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
    del block.bn2


def share(model: nn.Module) -> None:
    """Put one layer into the places of several, where it could run one of their blocks only."""
    identity = nn.Identity()
    for block in reversed(model.layer):
        block.bn2 = identity


STOPPED = {
    "one for several": share,
    "deleted": drop,
    "popped": lambda model: model.layer[0]._modules.pop("bn2"),
    "none": lambda model: setattr(model.layer[0], "bn2", None),
    "a sequence": lambda model: setattr(model.layer[0], "bn2", nn.Sequential(nn.BatchNorm2d(16))),
    "the unit": lambda model: model.layer.__setitem__(0, nn.Conv2d(16, 16, 3, padding=1)),
    "all of them": lambda model: setattr(model, "layer", nn.Conv2d(16, 16, 3, padding=1)),
}


@pytest.mark.parametrize("case", STOPPED)
def test_a_change_that_loses_a_block_is_an_error_and_its_remedy_works(case):
    model = with_blocks()
    with pytest.raises(SenetError, match="from insert_se, which this change would lose") as raised:
        STOPPED[case](model)
    assert "\n" not in str(raised.value)
    assert blocks_of(model) == len(attached_sites(model)) == 2
    remove_se(model)
    STOPPED[case](model)


@pytest.mark.parametrize("name", ["repvit_m1", "repghostnet_050"])
def test_reparameterization_stops_where_it_would_lose_blocks(name):
    model = timm.create_model(name, num_classes=4)
    insert_se(model)
    with pytest.raises(SenetError, match="would lose"):
        reparameterize_model(model)


def test_layers_may_move_with_their_blocks():
    model = with_blocks()
    before = model(IMAGES)
    norm = model.layer[0].bn2
    model.layer[0].bn2 = nn.Sequential(norm, nn.Identity())
    assert torch.equal(model(IMAGES), before)
    model.layer[0].bn2 = norm
    model.layer = nn.Sequential(*model.layer)
    model.layer.insert(0, nn.Identity())
    model.layer[1] = copy.deepcopy(model.layer[1])
    assert torch.equal(model(IMAGES), before)
    assert blocks_of(model) == 2


def test_a_block_returns_with_the_layer_that_was_away():
    model = with_blocks()
    before, norm = model(IMAGES), model.layer[0].bn2
    model.layer[0].bn2 = nn.Identity()
    assert attached(model.layer[0].bn2) is norm.se
    model.layer[0].bn2 = norm
    assert torch.equal(model(IMAGES), before)


def test_folding_by_lists_of_modules_is_an_error():
    with pytest.raises((AssertionError, NotImplementedError), match="BatchNorm2dWithSE"):
        quantization.fuse_modules(with_blocks(), [["layer.0.conv2", "layer.0.bn2"]])


def test_scripting_is_refused_by_name_and_both_remedies_work():
    model = with_blocks()
    with pytest.raises(SenetError, match=r"use torch\.jit\.trace\(model, example\) or torch\.export\.export") as raised:
        torch.jit.script(model)
    assert "\n" not in str(raised.value)
    before = model(IMAGES)
    assert torch.equal(torch.jit.trace(model, (IMAGES,))(IMAGES), before)
    torch.testing.assert_close(torch.export.export(model, (IMAGES,)).module()(IMAGES), before)


def test_parametrized_layers_with_blocks():
    model = Small()
    insert_se(model, SEOptions(placement="pre", reduction=4))
    before, layer = excited(model)(IMAGES), model.layer[0].conv1
    parametrizations.weight_norm(layer)
    torch.testing.assert_close(model(IMAGES), before)
    assert torch.equal(copy.deepcopy(model)(IMAGES), model(IMAGES))
    with pytest.raises(SenetError, match=r"the class of layer\.0\.conv1 was changed to ParametrizedConv2dWithSE"):
        remove_se(model)
    assert blocks_of(model) == 2
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(model(IMAGES), before)
    assert len(remove_se(model).sites) == 2


@pytest.mark.parametrize("placement", ["standard", "pre"])
def test_a_layer_that_is_given_another_class_runs_its_block(placement):
    class OwnNorm2d(nn.BatchNorm2d):
        pass

    class OwnConv2d(nn.Conv2d):
        pass

    model = Small()
    insert_se(model, SEOptions(placement=placement, reduction=4))
    before = excited(model)(IMAGES)
    for layer in [m for m in model.modules() if attached(m)]:
        layer.__class__ = OwnConv2d if isinstance(layer, nn.Conv2d) else OwnNorm2d
        assert isinstance(layer, OwnConv2d | OwnNorm2d)
    assert torch.equal(model(IMAGES), before)
    assert len(remove_se(model).sites) == 2
    assert any(type(m) in (OwnConv2d, OwnNorm2d) for m in model.modules())


def test_classes_and_children_are_as_before_after_removal():
    model = Small()
    kinds, children = [type(m) for m in model.modules()], [type(m._modules) for m in model.modules()]
    insert_se(model, SEOptions(reduction=4))
    assert isinstance(model.layer[0].bn2, nn.BatchNorm2d)
    assert type(model.layer[0].bn2) is not nn.BatchNorm2d
    remove_se(model)
    assert [type(m) for m in model.modules()] == kinds
    assert [type(m._modules) for m in model.modules()] == children


def test_a_layer_with_a_forward_of_its_own_gets_no_block():
    """What is set on the object itself would go before the class, and the block would never run."""
    model = Small()
    norm = model.layer[0].bn2
    norm.forward = norm.forward
    report = insert_se(model, SEOptions(reduction=4))
    assert "layer.0.bn2" not in [site.module for site in report.sites]
    excited(model)
    assert blocks_of(model) == len(report.sites)


def test_scripted_modules_take_part_in_a_network_with_blocks():
    model = with_blocks()
    before, without = model(IMAGES), without_blocks(model)
    model.relu = torch.jit.script(model.relu)
    assert_same(nn.Sequential(model, torch.jit.script(nn.Identity()))(IMAGES), before, without)
    with pytest.raises(SenetError, match="would lose"):
        model.layer[0].bn2 = torch.jit.script(nn.BatchNorm2d(16))
