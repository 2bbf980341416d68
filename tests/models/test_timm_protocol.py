"""What timm's tools ask of a network, and its own tests check: descriptions, heads, pyramids, graphs at full depth."""

import copy

import pytest
import timm
import torch
from timm.layers import apply_test_time_pool
from torch import Tensor, fx, nn

import senet.integrations.timm  # noqa: F401  # registers the networks
from kinds import ONE_OF_EACH_FAMILY, WITH_SE, images, side_of
from networks import fresh_on_meta, on_meta
from senet.errors import SenetError
from senet.models.base import Network
from senet.models.catalog import list_models
from tiers import slow_except

PYRAMIDS = (
    "cifar_se_resnet20",
    "se_resnet18",
    "se_mobilenet_v1",
    "se_shufflenet_v1_g3",
    "cifar_se_shake_shake26_2x96d",
)

FAMILIES = (
    *("se_resnet50", "senet154", "se_vgg16_bn", "se_bn_inception", "se_inception_resnet_v2", "se_mobilenet_v1"),
    *("se_shufflenet_v1_g3", "cifar_se_resnet110", "cifar_se_preact_resnet164", "cifar_se_shake_even29_2x4x64d"),
)


def empty(model: Network, side: int | None = None) -> Tensor:
    channels, height, width = model.default_cfg["input_size"]
    return torch.empty(2, channels, side or height, side or width, device="meta")


# ---- descriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", slow_except(ONE_OF_EACH_FAMILY, list_models()))
def test_the_description_is_what_the_network_does(name):
    model = fresh_on_meta(name, num_classes=13, in_channels=5)
    described = model.default_cfg
    assert described == model.pretrained_cfg
    assert described["input_size"][0] == 5
    assert described["fixed_input_size"] is False

    features = model.forward_features(empty(model))
    assert features.shape[1:] == (model.num_features, *described["pool_size"])
    parameters = dict(model.named_parameters())
    assert parameters[f"{described['first_conv']}.weight"].shape[1] == 5
    assert described["first_conv"] == next(iter(parameters)).removesuffix(".weight")
    assert parameters[f"{described['classifier']}.weight"].shape == (13, model.head_hidden_size)

    seen = model.forward_head(features, pre_logits=True)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model.forward_head(features).shape == seen.shape == (2, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert model.forward_head(features) is features


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", slow_except(ONE_OF_EACH_FAMILY[2:8], [*WITH_SE, "cifar_preact_resnet110"]))
@pytest.mark.parametrize("side", [75, 98, 225])
def test_the_last_map_has_the_side_that_is_said(name, side):
    model = on_meta(name)
    maps = model.forward_intermediates(empty(model, side), intermediates_only=True)
    for number, feature in enumerate(maps):
        cut = copy.copy(model)
        cut.feature_info = model.feature_info[: number + 1]
        assert feature.shape[2:] == (cut.last_side(side), cut.last_side(side))


@pytest.mark.parametrize("side", [225, 226, 227, 228])
def test_the_last_map_depends_on_the_pooling_of_the_stem(side):
    ceil, pad = (on_meta("resnet18", stem_pool=pool) for pool in ("ceil", "pad"))
    for model in (ceil, pad):
        assert model.last_side(side) == model.forward_features(empty(model, side)).shape[2]


@torch.no_grad()
def test_pooling_larger_images_at_test_time():
    """timm's `--test-pool`: the classifier runs on every window that has the size of the last map."""
    torch.manual_seed(0)
    model = timm.create_model("cifar_se_resnet20").eval()
    classifier = model.fc
    pooled, applied = apply_test_time_pool(model, {"input_size": (3, 48, 48)})
    assert applied
    x = images(2, 48)
    windows = nn.functional.avg_pool2d(model.forward_features(x), 8, stride=1)
    logits = classifier(windows.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = 0.5 * (logits.mean((2, 3)) + logits.amax((2, 3)))
    torch.testing.assert_close(pooled(x), expected)


# ---- pyramids --------------------------------------------------------------------------------------------------------


def pyramid_and_whole(name: str, **options: object) -> tuple[nn.Module, Network]:
    """With the same weights."""
    models = []
    for features_only in (options, {}):
        torch.manual_seed(0)
        models.append(timm.create_model(name, **features_only).eval())
    return tuple(models)


@pytest.mark.quick_every(2)
@torch.no_grad()
@pytest.mark.parametrize("wrapper", [None, "getter", "fx", "hook", "list", "dict"])
@pytest.mark.parametrize("name", slow_except(PYRAMIDS[:2], PYRAMIDS))
def test_every_wrapper_of_timm_gives_our_maps(name, wrapper):
    pyramid, whole = pyramid_and_whole(name, features_only=True, feature_cls=wrapper)
    x = images(1, side_of(name))
    expected = whole.forward_intermediates(x, intermediates_only=True)
    found = pyramid(x)
    for actual, ours in zip(found.values() if isinstance(found, dict) else found, expected, strict=True):
        assert torch.equal(actual, ours)
    assert pyramid.feature_info.channels() == [m.shape[1] for m in expected]
    assert pyramid.feature_info.reduction() == [info["reduction"] for info in whole.feature_info]
    assert pyramid.default_cfg == pyramid.pretrained_cfg
    left_out = ("num_classes", "classifier")
    assert pyramid.default_cfg == {key: value for key, value in whole.default_cfg.items() if key not in left_out}


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"out_indices": (0, 2)}, {"feature_cfg": {"feature_cls": "fx"}}])
def test_a_pyramid_becomes_torchscript(options):
    pyramid, whole = pyramid_and_whole(PYRAMIDS[0], features_only=True, **options)
    x = images(1, 32)
    expected = whole.forward_intermediates(x, options.get("out_indices"), intermediates_only=True)
    for actual, ours in zip(torch.jit.script(pyramid)(x), expected, strict=True):
        assert torch.equal(actual, ours)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feature_cls": "tree", "features_only": True}, "feature_cls is 'tree'; expected one of getter, fx, hook"),
        ({"feature_cls": "fx"}, "feature_cls has no effect without features_only=True"),
        ({"out_indices": (0, 1)}, "out_indices has no effect without features_only=True"),
        ({"features_only": True, "out_indices": (0, 9)}, "indices is (0, 9); expected some of the 3 levels"),
    ],
)
def test_pyramids_that_do_not_exist(options, said):
    with pytest.raises(SenetError) as caught:
        timm.create_model(PYRAMIDS[0], **options)
    assert str(caught.value).startswith(said)


# ---- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", slow_except(("se_resnet50", "se_mobilenet_v1", "cifar_se_shake_even29_2x4x64d"), FAMILIES)
)
def test_one_network_of_each_family_is_traced_at_its_full_depth(name):
    """The graph calls every layer that holds parameters, once."""
    model = fresh_on_meta(name, num_classes=7)
    graph = fx.symbolic_trace(model)
    assert graph(empty(model, side_of(name))).shape == (2, 7)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    layers = [path for path, module in model.named_modules() if list(module.parameters(recurse=False))]
    assert sorted(target for target in called if target in layers) == sorted(layers)
