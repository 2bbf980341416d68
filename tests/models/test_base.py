"""The base class of the networks: features and head, the feature pyramid, and the protocol of timm's tools."""

import copy
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import timm.data
import timm.optim
import torch
from PIL import Image
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

import senet
from kinds import ONE_OF_EACH_FAMILY
from networks import fresh_on_meta, on_cpu_with_random_weights, on_meta
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.base import Network
from senet.models.catalog import list_models
from senet.models.resnet import cifar_resnet
from tiers import slow_except

NAMES = ("cifar_se_resnet20", "se_mobilenet_v1", "se_shufflenet_v1_g3", "se_bn_inception")
SIDE = 64


def small(name: str = "cifar_se_resnet20") -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    return on_cpu_with_random_weights(lambda: create_model(name, num_classes=10)), torch.randn(2, 3, SIDE, SIDE)


def outputs_by_hooks(model: Network, x: Tensor) -> list[Tensor]:
    """What the modules that `feature_info` names put out."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: seen.update({name: output})

    names = [info["module"] for info in model.feature_info]
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    model(x)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def count_calls(module: nn.Module) -> list[int]:
    """A list that grows by one with each call of the module."""
    calls: list[int] = []
    module.register_forward_pre_hook(lambda module, inputs: calls.append(1))  # recomputation may end before the output
    return calls


def assert_all_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


# ---- features and head -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", [*NAMES, "se_vgg16_bn"])
def test_features_pooling_and_classifier_make_the_logits(name):
    model, x = small(name)
    features = model.forward_features(x)
    seen = model.forward_head(features, pre_logits=True)
    classifier = model.get_classifier()
    assert features.shape[:2] == (2, model.num_features)
    assert seen.shape == (2, model.head_hidden_size)
    assert torch.equal(seen @ classifier.weight.T + classifier.bias, model.forward_head(features))
    assert torch.equal(model(x), model.forward_head(features))
    if name != "se_vgg16_bn":  # whose hidden layers tests/models/test_vgg.py checks
        torch.testing.assert_close(seen, features.flatten(2).sum(2) / features[0, 0].numel())


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", slow_except(ONE_OF_EACH_FAMILY, list_models()))
def test_the_classifier_is_the_last_linear_layer(name):
    model = on_meta(name, num_classes=13)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert model.get_classifier() is linear[-1]
    assert linear[-1].weight.shape == (13, model.head_hidden_size)
    assert model.default_cfg["classifier"] in dict(model.named_modules())
    assert isinstance(on_meta(name, num_classes=0).get_classifier(), nn.Identity)


def test_dropout_out_of_its_range():
    for dropout in (-0.1, 1.1):
        with pytest.raises(SenetError, match=f"dropout is {dropout}; expected 0 to 1"):
            create_model("cifar_resnet20", dropout=dropout)


# ---- the feature pyramid ---------------------------------------------------------------------------------------------


@pytest.mark.quick_every(4)
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("indices", "chosen"),
    [
        (None, slice(None)),
        (1, [-1]),
        (2, [-2, -1]),
        ([0, 2], [0, 2]),
        ((1,), [1]),
        ([-1], [-1]),
        ([-3, -1], [-3, -1]),
        ([1, 1], [1, 1]),
    ],
)
def test_intermediates_are_the_modules_outputs(name, indices, chosen):
    model, x = small(name)
    expected = outputs_by_hooks(model, x)
    expected = expected[chosen] if isinstance(chosen, slice) else [expected[i] for i in chosen]
    last, maps = model.forward_intermediates(x, indices)
    assert_all_equal(maps, expected)
    assert torch.equal(last, model.forward_features(x))
    assert_all_equal(model.forward_intermediates(x, indices, intermediates_only=True), expected)
    assert_all_equal(model.forward_intermediates(x, indices, stop_early=True, intermediates_only=True), expected)


@torch.no_grad()
def test_as_many_levels_as_there_are():
    model, x = small()
    number = len(model.feature_info)
    assert_all_equal(model.forward_intermediates(x, number, intermediates_only=True), outputs_by_hooks(model, x))


@torch.no_grad()
def test_stopping_early_computes_nothing_after_the_last_level():
    model, x = small()
    expected = outputs_by_hooks(model, x)
    calls = [count_calls(m) for m in (model.layer1, model.layer2, model.layer3, model.fc)]
    last, maps = model.forward_intermediates(x, [0, 1], stop_early=True)
    assert [len(c) for c in calls] == [1, 1, 0, 0]
    assert_all_equal(maps, expected[:2])
    assert torch.equal(last, expected[1])
    model.forward_intermediates(x, [0, 1])
    assert [len(c) for c in calls] == [2, 2, 1, 0]


@pytest.mark.parametrize("indices", [0, -1, 4, 7, [], [3], [-4], [0, 5]])
def test_levels_that_do_not_exist(indices):
    model = on_meta("cifar_se_resnet20")
    x = torch.empty(1, 3, 32, 32, device="meta")
    message = f"indices is {indices}; expected some of the 3 levels of feature_info"
    with pytest.raises(SenetError, match=re.escape(message)):
        model.forward_intermediates(x, indices)


@pytest.mark.parametrize("output_fmt", ["NHWC", "NLC"])
def test_other_formats_are_refused(output_fmt):
    with pytest.raises(SenetError, match=f"output_fmt is '{output_fmt}'; expected 'NCHW'"):
        on_meta("cifar_resnet20").forward_intermediates(torch.empty(1, 3, 32, 32), output_fmt=output_fmt)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", slow_except(ONE_OF_EACH_FAMILY, list_models()))
def test_feature_info_says_what_the_maps_are(name):
    """Channels, and the stride: how much a map grows with the image, and but for the convolutions without padding of
    Inception-ResNet, its side."""
    model = on_meta(name)
    side = model.preprocessing.image_size
    more = 2 * model.feature_info[-1]["reduction"]

    maps = model.forward_intermediates(torch.empty(1, 3, side + more, side, device="meta"), intermediates_only=True)
    reductions = [info["reduction"] for info in model.feature_info]
    assert reductions == sorted(set(reductions))
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert [m.shape[2] - m.shape[3] for m in maps] == [more // reduction for reduction in reductions]
    if "inception_resnet" not in name:
        for m, reduction in zip(maps, reductions, strict=True):
            assert m.shape[3] in (side // reduction, -(-side // reduction))
    assert model.num_features == model.feature_info[-1]["num_chs"]


@torch.no_grad()
@pytest.mark.parametrize(("indices", "front"), [([0], [0]), ([1, 0], [1, 0]), (2, [1, 2]), ([-2], [1])])
def test_pruning_keeps_what_the_levels_need(indices, front):
    model, x = small()
    expected = [outputs_by_hooks(model, x)[i] for i in front]
    kept = ["conv1", "bn1", "act1", "layer1", "layer2", "layer3"][: 4 + max(front)]
    assert model.prune_intermediate_layers(indices) == front
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == set(kept) - {"act1"}
    assert_all_equal(model.forward_intermediates(x, front, intermediates_only=True), expected)
    assert torch.equal(model(x), expected[front.index(max(front))])
    assert model.num_classes == 0


@torch.no_grad()
def test_a_pruned_network_knows_its_levels():
    model, x = small()
    expected = outputs_by_hooks(model, x)
    model.prune_intermediate_layers([1])
    last, maps = model.forward_intermediates(x)
    assert_all_equal(maps, expected[:2])
    assert last.shape[1] == model.num_features == 32
    with pytest.raises(SenetError, match=r"indices is \[2\]; expected some of the 2 levels"):
        model.prune_intermediate_layers([2])
    model.reset_classifier(5, "avg")
    assert model(x).shape == (2, 5)


def test_pruning_without_the_head():
    model, _ = small()
    classifier = model.get_classifier()
    assert model.prune_intermediate_layers(prune_head=False) == [2]
    assert model.get_classifier() is classifier
    assert model.global_pool == "avg"


@torch.no_grad()
def test_timms_feature_extractor():
    model, x = small("se_mobilenet_v1")
    expected = outputs_by_hooks(model, x)
    extractor = FeatureGetterNet(model, out_indices=(1, -2))
    assert extractor.feature_info.channels() == [128, 512]
    assert extractor.feature_info.reduction() == [4, 16]
    assert_all_equal(extractor(x), [expected[1], expected[3]])
    assert not any("blocks.4" in name for name, _ in extractor.named_parameters())


# ---- the classifier --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar_se_resnet20", "se_mobilenet_v1", "se_vgg16_bn"])
def test_a_new_classifier(name):
    model, x = small(name)
    model.class_names = tuple("abcdefghij")
    old = model.get_classifier()
    kept = {key: tensor.clone() for key, tensor in model.state_dict().items() if model.classifier_name not in key}
    model.reset_classifier(7)
    classifier = model.get_classifier()
    assert classifier is not old
    assert isinstance(classifier, nn.Linear)
    assert model(x).shape == (2, 7)
    assert (model.num_classes, model.config.num_classes, model.default_cfg["num_classes"]) == (7, 7, 7)
    assert model.class_names is None
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not classifier.bias.any()
    assert classifier.weight.requires_grad
    for key, tensor in kept.items():
        assert torch.equal(model.state_dict()[key], tensor)
    with torch.device("meta"):
        again = senet.models.build.build(model.config)
    again.load_state_dict(model.state_dict(), assign=True)


@torch.no_grad()
def test_no_classifier_and_back():
    model, x = small()
    features = model.forward_features(x)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert (model.num_classes, model.config.num_classes, model.global_pool) == (0, 0, "avg")
    assert torch.equal(model(x), features.mean((2, 3)))
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)
    assert torch.equal(model.forward_head(features, pre_logits=True), features)
    with pytest.raises(SenetError, match="num_classes is 7 and global_pool ''"):
        model.reset_classifier(7)  # the pooling stays as it is
    model.reset_classifier(7, "avg")
    assert model(x).shape == (2, 7)


@pytest.mark.parametrize("arguments", [(-1,), (7, ""), (7, "max"), (0, "avgmax"), (0, "fast")])
def test_bad_classifiers_change_nothing(arguments):
    model, x = small()
    model.class_names = tuple("abcdefghij")
    expected = model(x)
    with pytest.raises(SenetError, match=f"num_classes is {arguments[0]} and global_pool"):
        model.reset_classifier(*arguments)
    assert torch.equal(model(x), expected)
    assert (model.num_classes, model.config.num_classes, model.global_pool) == (10, 10, "avg")
    assert model.class_names == tuple("abcdefghij")


def test_a_new_classifier_has_the_networks_dtype_and_device():
    double = small()[0].double()
    double.reset_classifier(7)
    assert double.get_classifier().weight.dtype == torch.float64
    bfloat16 = small()[0].bfloat16()
    bfloat16.reset_classifier(7)
    assert bfloat16.get_classifier().bias.dtype == torch.bfloat16
    meta = fresh_on_meta("cifar_resnet20")
    meta.reset_classifier(7)
    assert {p.device.type for p in meta.parameters()} == {"meta"}


def test_a_new_classifier_where_there_is_no_configuration():
    model = cifar_resnet(8)
    model.reset_classifier(3)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)


# ---- checkpointing ---------------------------------------------------------------------------------------------------


def step(model: Network, x: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
    """The outputs and the gradients of one step in training mode."""
    model.train().zero_grad()
    y = model(x) if forward is None else forward(x)
    y.square().sum().backward()
    return y.detach(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", slow_except(NAMES[:2], NAMES))
def test_checkpointing_changes_nothing_but_memory(name, momentum):
    """Neither outputs nor gradients, nor the statistics of BatchNorm: they move once a step."""
    model, x = small(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = momentum
        norm.num_batches_tracked.zero_()
    means = [norm.running_mean.clone() for norm in norms]
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    for _ in range(2):
        y, gradients = step(model, x)
        y_twin, gradients_twin = step(twin, x)
        assert torch.equal(y, y_twin)
        assert_all_equal(gradients_twin, gradients)
    assert_all_equal(list(twin.buffers()), list(model.buffers()))
    norms = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means, strict=True))
    assert {norm.num_batches_tracked.item() for norm in norms} == {2}
    assert {norm.momentum for norm in norms} == {momentum}


def test_checkpointing_computes_the_trunk_twice_in_training_only():
    model, x = small()
    calls = count_calls(model.layer2)
    model.set_grad_checkpointing()
    step(model, x)
    assert len(calls) == 2
    model.eval()(x).sum().backward()
    assert len(calls) == 3
    model.set_grad_checkpointing(False)
    step(model, x)
    assert len(calls) == 4


@pytest.mark.slow
def test_checkpointing_under_compile():
    model, x = small()  # in double precision: compiled, small maps run layer by layer, which rounds otherwise
    model, x = model.double(), x.double()
    twin = copy.deepcopy(model)
    expected, gradients = step(twin, x)
    model.set_grad_checkpointing()
    y, compiled_gradients = step(model, x, torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(y, expected)
    for gradient, other in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-11 * other.abs().max().item() + 1e-12)
    for buffer, other in zip(model.buffers(), twin.buffers(), strict=True):  # statistics have moved once
        torch.testing.assert_close(buffer, other)


# ---- preprocessing and optimizers of timm ----------------------------------------------------------------------------


def photograph(width: int, height: int) -> Image.Image:
    """A smooth picture with noise on it: a shift by a pixel shows."""
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8) * 200
    pixels = nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0] + 40 * torch.rand(3, height, width)
    return Image.fromarray(pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy())


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("size", [(500, 375), (256, 480), (40, 33)])
@pytest.mark.parametrize(
    "name",
    ["se_resnet50", "se_inception_resnet_v2", "cifar_se_resnet20", "cifar_shake_even29_2x4x64d", "bicubic"],
)
def test_timms_transform_is_this_librarys(name, size):
    model = fresh_on_meta("resnet18" if name == "bicubic" else name)
    if name == "bicubic":
        model.preprocessing = replace(model.preprocessing, interpolation="bicubic", std=(0.2, 0.25, 0.3))
    config = timm.data.resolve_data_config({}, model=model)
    theirs = timm.data.create_transform(**config, is_training=False)
    ours = senet.create_transform(model)
    image = photograph(*size)
    expected = theirs(image)
    assert expected.shape == (3, *2 * (model.preprocessing.image_size,))
    assert expected.std() > 0
    torch.testing.assert_close(ours(image), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_default_cfg(in_channels):
    model = fresh_on_meta("se_inception_resnet_v2", num_classes=9, in_channels=in_channels)
    cfg = model.default_cfg
    assert model.pretrained_cfg == cfg
    assert model.in_chans == in_channels
    assert cfg["architecture"] == "se_inception_resnet_v2"
    assert cfg["num_classes"] == 9
    assert cfg["input_size"] == (in_channels, 299, 299)
    assert cfg["crop_pct"] == pytest.approx(299 / 352)
    assert len(cfg["mean"]) == len(cfg["std"]) == in_channels


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("name", slow_except(ONE_OF_EACH_FAMILY, list_models()))
def test_layer_decay_grows_along_the_network(name):
    """Every parameter is in one group of the optimizer; the earlier it is used, the smaller is its learning rate."""
    model = on_meta(name)
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.75)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    counts = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    assert set(counts) == {id(p) for p in model.parameters()}
    assert set(counts.values()) == {1}
    modules = [model.get_submodule(part) for part in model.trunk]
    trunk = [[scales[id(p)] for p in module.parameters()] for module in modules]
    trunk = [values for values in trunk if values]
    head = [scale for key, scale in scales.items() if key not in {id(p) for m in modules for p in m.parameters()}]
    assert set(head) == {1.0}
    ordered = [scale for values in trunk for scale in sorted(set(values))]
    assert ordered == sorted(ordered)
    assert len(set(ordered)) >= len(trunk) - 1
    assert ordered[0] < 0.75 ** (len(trunk) - 1.5)
    assert ordered[-1] < 1.0
