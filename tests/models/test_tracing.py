"""Tools that read our networks, or take them apart: torch.fx, TorchScript, torchvision's extractors, quantization."""

import copy
import gc
import io
from collections.abc import Collection, Iterator

import pytest
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor

from kinds import ONE_OF_EACH_FAMILY, PLAIN, WITH_SE, images, short_network, side_of
from networks import assert_relatively_close, on_cpu_with_random_weights, on_meta
from senet.errors import SenetError
from senet.models.base import Network
from senet.models.catalog import list_models
from senet.models.resnet import cifar_resnet, imagenet_resnet
from senet.models.shake import shake_resnet
from senet.nn.block import SEOptions
from senet.nn.fused import Chain, set_fused
from tiers import slow_except

PLACEMENTS = ("standard", "pre", "post", "identity", "3x3")
ROUNDINGS = 1e-12


QUICK = ("cifar_se_resnet20", "se_vgg16_bn", "se_mobilenet_v1", "se_shufflenet_v1_g3", "cifar_se_shake_shake26_2x96d")


def build(name: str) -> Network:
    """A short network with random weights."""
    torch.manual_seed(0)
    return on_cpu_with_random_weights(lambda: short_network(name, num_classes=10))


@pytest.fixture(scope="module", params=slow_except(QUICK, WITH_SE))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Iterator[Network]:
    """The tests leave it as it is; the cycles of references in their graphs hold copies of it."""
    yield build(name)
    gc.collect()


@pytest.fixture
def x(name: str) -> Tensor:
    torch.manual_seed(1)
    return images(2, side_of(name))


def seeded(module: nn.Module, x: Tensor):
    torch.manual_seed(2)
    return module(x)


def levels_of(model: Network) -> list[str]:
    return [info["module"] for info in model.feature_info]


# ---- torch.fx --------------------------------------------------------------------------------------------------------


@pytest.mark.quick_every(3)
@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_a_trace_computes_the_same(model, x, training):
    twin = copy.deepcopy(model).train(training)
    graph = fx.symbolic_trace(twin)
    expected = seeded(copy.deepcopy(twin), x)
    assert torch.equal(seeded(graph, x), expected)
    assert graph.state_dict().keys() == model.state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_the_extractor_of_torchvision_gives_the_maps_of_the_pyramid(model, x, training):
    extractor = create_feature_extractor(copy.deepcopy(model), levels_of(model)).train(training)
    torch.manual_seed(2)
    expected = copy.deepcopy(model).train(training).forward_intermediates(x, intermediates_only=True)
    for actual, ours in zip(seeded(extractor, x).values(), expected, strict=True):
        assert torch.equal(actual, ours)


@torch.no_grad()
def test_quantization_reads_the_graph(model, x):
    mapping = get_default_qconfig_mapping("x86")
    prepared = prepare_fx(copy.deepcopy(model), mapping, (x,))
    assert_relatively_close(prepared(x), model(x), 1e-5)


@torch.no_grad()
def test_a_quantized_network_still_classifies():
    model = build("cifar_se_resnet20")
    torch.manual_seed(1)
    x = images(16, 32)
    prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    assert_relatively_close(convert_fx(prepared)(x), model(x), 0.1)


@torch.no_grad()
def test_a_fused_network_is_traced_as_its_single_layers():
    model = build("cifar_se_resnet20")
    x = images(2, 32)
    set_fused(model, True)
    graph = fx.symbolic_trace(model)
    called = {type(m) for name, m in graph.named_modules() if any(node.target == name for node in graph.graph.nodes)}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.ReLU} <= called
    assert not [node for node in graph.graph.nodes if "senet" in str(node.target)]
    assert_relatively_close(graph(x), model(x), 2e-5)


def test_checkpointed_gradients_are_no_matter_of_a_graph():
    model = build("cifar_se_resnet20").double().train()
    model.set_grad_checkpointing()
    graph = fx.symbolic_trace(model)
    x = images(2, 32).double()
    torch.testing.assert_close(graph(x), copy.deepcopy(model)(x), rtol=1e-11, atol=1e-11)
    assert not [node for node in graph.graph.nodes if "checkpoint" in str(node.target)]


# ---- TorchScript -----------------------------------------------------------------------------------------------------


@pytest.mark.quick_every(2)
@torch.no_grad()
def test_torchscript_computes_the_same(model, x):
    scripted = torch.jit.script(model)
    assert scripted.state_dict().keys() == model.state_dict().keys()
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for form in (scripted, torch.jit.load(file)):
        assert torch.equal(form(x), model(x))


@pytest.mark.parametrize("name", slow_except(QUICK[:1], [QUICK[0], QUICK[1], QUICK[-1]]), scope="module")
def test_torchscript_trains_as_we_do(model, x):
    """In either mode, whichever the network was in when it was compiled."""
    ours, x = copy.deepcopy(model).double().train(), x.double()
    twin = copy.deepcopy(ours).eval()
    scripted = torch.jit.script(twin).train()
    results = []
    for form, parameters in ((ours, ours.parameters()), (scripted, twin.parameters())):
        y = seeded(form, x)
        y.square().sum().backward()
        results.append((y, *(p.grad for p in parameters), form.eval()(x)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=ROUNDINGS, atol=ROUNDINGS * expected.abs().max().item())


@pytest.mark.parametrize("modes", [("shake", "keep"), ("even", "shake"), ("shake", "even")])
def test_torchscript_mixes_branches_in_every_mode(modes):
    torch.manual_seed(0)
    ours = shake_resnet(8, 8, shake_forward=modes[0], shake_backward=modes[1], se=SEOptions(reduction=4)).double()
    scripted = torch.jit.script(copy.deepcopy(ours))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for form in (ours, scripted):
        seeded(form, x).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in form.parameters()]))
    assert_relatively_close(*gradients, ROUNDINGS)


def test_what_torchscript_cannot_have_is_said_in_one_sentence():
    class Deciding(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(SenetError, match=r"Deciding cannot become TorchScript: .*control flow"):
        torch.jit.script(Deciding(nn.Conv2d(3, 3, 1)))


# ---- the order of the modules ----------------------------------------------------------------------------------------


def children_in_order(model: nn.Module, x: Tensor) -> Iterator[tuple[str, list[str], list[str]]]:
    """For each module its children that run: as registered, and in the order in which they begin."""
    begun: list[str] = []
    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    handles = [m.register_forward_pre_hook(lambda *_, name=name: begun.append(name)) for name, m in leaves.items()]
    model(x)
    for handle in handles:
        handle.remove()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        inside = [leaf.removeprefix(prefix).split(".")[0] for leaf in begun if leaf.startswith(prefix)]
        ran = list(dict.fromkeys(inside))
        yield path, [child for child, _ in module.named_children() if child in ran], ran


@torch.no_grad()
@pytest.mark.parametrize("name", slow_except(QUICK, [*PLAIN, *WITH_SE]), scope="module")
def test_modules_are_registered_in_the_order_in_which_they_run(model, x):
    for path, registered, ran in children_in_order(model, x):
        assert registered == ran, path


@torch.no_grad()
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_block_is_registered_where_it_runs(placement):
    se = SEOptions(placement=placement, reduction=4)
    networks = (
        cifar_resnet(8, se=se),
        cifar_resnet(8, se=se, pre_activation=True),
        cifar_resnet(11, se=se, pre_activation=True, bottleneck=True),
        imagenet_resnet((1, 1, 1, 1), se=se),
    )
    for model in networks:
        for path, registered, ran in children_in_order(model.eval(), images(1, 32)):
            assert registered == ran, path


def backbone_of(model: Network) -> tuple[nn.Module, dict[str, int]]:
    """What torchvision can take for a backbone, its children that end a level, and the number of each level.

    It looks at the children of one module alone, where VGG's levels are those of `features`, and of MobileNet's only
    the last is a child's output, that of `blocks`.
    """
    levels = levels_of(model)
    inside = levels[0].rpartition(".")[0]
    if not inside:
        return model, {level: i for i, level in enumerate(levels)}
    if model.trunk[0].startswith(f"{inside}."):
        return model.get_submodule(inside), {level.rpartition(".")[2]: i for i, level in enumerate(levels)}
    return model, {inside: len(levels) - 1}


@torch.no_grad()
@pytest.mark.parametrize("name", slow_except(QUICK, [*PLAIN, *WITH_SE]), scope="module")
def test_the_backbones_of_torchvision_have_our_maps(model, x):
    """In training too, where what they compute does not depend on BatchNorm's running statistics."""
    twin = copy.deepcopy(model)
    backbone, numbers = backbone_of(twin)
    named = {child: str(number) for child, number in numbers.items()}
    widths = [model.feature_info[number]["num_chs"] for number in numbers.values()]
    pyramid = BackboneWithFPN(backbone, named, widths, out_channels=8)
    for training in (False, True):
        torch.manual_seed(2)
        maps = twin.train(training).forward_intermediates(x, intermediates_only=True)
        for form in (IntermediateLayerGetter(backbone, named), pyramid.body):
            found = seeded(form.train(training), x)
            assert list(found) == list(named.values())
            for number, feature in found.items():
                assert torch.equal(feature, maps[int(number)])


@pytest.mark.parametrize("name", slow_except(ONE_OF_EACH_FAMILY, list_models()))
def test_dropout_and_classifier_come_last(name):
    model = on_meta(name)
    children = [child for child, _ in model.named_children()]
    trunk = {child.split(".")[0] for child in model.trunk}
    assert set(children[: len(trunk)]) == trunk
    assert set(children[len(trunk) :]) == {"dropout", model.classifier_name.split(".")[0]}


# ---- fewer channels --------------------------------------------------------------------------------------------------


@torch.no_grad()
def silence(layer: nn.Module, channels: list[int]) -> None:
    """Have a layer put out zeros in some channels."""
    for tensor in (layer.weight, layer.bias):
        if tensor is not None:
            tensor[channels] = 0


def without(layer: nn.Module, out: Collection[int] = (), into: Collection[int] = ()) -> nn.Module:
    """A narrower convolution or BatchNorm, as tools for structured pruning put in the place of a wide one."""
    keep = [i for i in range(len(layer.weight)) if i not in out]
    state = {key: value[keep] if value.dim() else value for key, value in layer.state_dict().items()}
    if isinstance(layer, nn.BatchNorm2d):
        narrow = nn.BatchNorm2d(len(keep)).eval()
    else:
        state["weight"] = state["weight"][:, [i for i in range(layer.in_channels) if i not in into]]
        size, bias = layer.kernel_size, layer.bias is not None
        narrow = nn.Conv2d(state["weight"].shape[1], len(keep), size, layer.stride, layer.padding, bias=bias)
    narrow.load_state_dict(state)
    return narrow


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_a_network_without_its_silent_channels_computes_the_same(fused):
    """Channels between the convolutions of a unit, the block's among them, and hidden units of a block at the end."""
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(placement="3x3", reduction=4))
    unit = model.layer2[0]
    gone, hidden = [1, 4, 5, 30], [0, 6]
    for layer in (unit.conv1, unit.bn1):
        silence(layer, gone)
    silence(unit.se.fc1, hidden)
    set_fused(model.eval(), fused)
    x = images(2, 32)
    expected = model(x)
    unit.conv1, unit.bn1, unit.conv2 = (
        without(unit.conv1, gone),
        without(unit.bn1, gone),
        without(unit.conv2, into=gone),
    )
    unit.se.fc1, unit.se.fc2 = without(unit.se.fc1, hidden, gone), without(unit.se.fc2, gone, hidden)
    assert (unit.se.channels, unit.se.hidden_channels) == (28, 6)
    for form in (model, fx.symbolic_trace(model), torch.jit.script(model)):
        assert_relatively_close(form(x), expected, 2e-5)
