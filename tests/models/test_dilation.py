"""`output_stride`: the dilated networks against those with strides, and against timm's with the same weights."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import SEModule
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmsResNet
from torch import Tensor, nn

import senet
import senet.integrations.timm
from checks import assert_one_sentence
from networks import assert_relatively_close, fresh_on_meta, on_cpu_with_random_weights, randomize
from senet.errors import SenetError
from senet.models.catalog import list_models, model_card
from senet.models.resnet import ResNet, cifar_resnet, imagenet_resnet, wide_resnet
from senet.nn.block import SEOptions
from senet.nn.fused import set_fused
from tiers import slow_except

SENET = {"groups": 64, "width_per_group": 4, "entry_divisor": 2, "projection_kernel": 3, "deep": True}
# For each kind of unit a network of few units a stage, with strides on either convolution.
PLAIN = {
    "basic": partial(imagenet_resnet, (1, 1, 2, 2), bottleneck=False),
    "basic, torchvision's pooling": partial(imagenet_resnet, (1, 1, 2, 2), bottleneck=False, stem_pool="pad"),
    "bottleneck, stride on 1x1": partial(imagenet_resnet, (1, 1, 2, 2), stride_on="1x1"),
    "bottleneck, stride on 3x3": partial(imagenet_resnet, (1, 1, 2, 2), stride_on="3x3"),
    "resnext": partial(imagenet_resnet, (1, 1, 2, 2), groups=32, width_per_group=4, stride_on="3x3"),
    "senet without SE": partial(imagenet_resnet, (1, 1, 2, 2), stride_on="3x3", **SENET),
    "cifar": partial(cifar_resnet, 14),
    "cifar, projection": partial(cifar_resnet, 14, shortcut="projection"),
    "pre-activation": partial(cifar_resnet, 14, pre_activation=True),
    "pre-activation bottleneck, 1x1": partial(cifar_resnet, 20, pre_activation=True, bottleneck=True),
    "pre-activation bottleneck, 3x3": partial(cifar_resnet, 20, pre_activation=True, bottleneck=True, stride_on="3x3"),
    "wide": partial(wide_resnet, 16, 2),
}
WITH_OPTION = [name for name in list_models() if "output_stride" in model_card(name).options]
ODD = (97, 75)


def pyramid(model: nn.Module, x: Tensor) -> list[Tensor]:
    return model.forward_intermediates(x, intermediates_only=True)


def with_weights_of(model: ResNet, build) -> ResNet:
    """Another network with the weights of `model`, in evaluation mode, without the cost of its own initialization."""
    with torch.device("meta"):
        other = build()
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


# ---- against the networks with strides -------------------------------------------------------------------------------


@pytest.mark.quick_every(3)
@torch.no_grad()
@pytest.mark.parametrize("kind", PLAIN)
def test_every_position_with_strides_has_the_same_value_without(kind):
    """Of plain networks, in double precision: what dilation is for. A wrong dilation of one layer shows."""
    torch.manual_seed(0)
    build = PLAIN[kind]
    model = on_cpu_with_random_weights(build).double()
    x = torch.randn(1, 3, *ODD, dtype=torch.float64)
    expected = pyramid(model, x)
    strides = [info["reduction"] for info in model.feature_info]
    for output_stride in (8, 16) if strides[-1] == 32 else (2,):
        dilated = with_weights_of(model, partial(build, output_stride=output_stride))
        for stride, ours, theirs in zip(strides, pyramid(dilated, x), expected, strict=True):
            step = max(1, stride // output_stride)
            assert (ours.shape == theirs.shape) == (step == 1)
            assert_relatively_close(ours[:, :, ::step, ::step], theirs, 1e-12)


@pytest.mark.parametrize("name", slow_except(("se_resnet50", "cifar_se_resnet20"), WITH_OPTION))
def test_the_weights_are_the_same_and_the_levels_as_described(name):
    plain = fresh_on_meta(name)
    default = plain.feature_info[-1]["reduction"]
    shapes = {key: tensor.shape for key, tensor in plain.state_dict().items()}
    for output_stride in (8, 16, 32) if default == 32 else (2, 4):
        model = fresh_on_meta(name, output_stride=output_stride)
        assert {key: tensor.shape for key, tensor in model.state_dict().items()} == shapes
        assert model.config.options == {"output_stride": output_stride}
        assert [info["reduction"] for info in model.feature_info] == [
            min(info["reduction"], output_stride) for info in plain.feature_info
        ]
        x = torch.empty(1, 3, *ODD, device="meta")
        last = model.forward_features(x)
        assert last.shape == (1, model.num_features, model.last_side(ODD[0]), model.last_side(ODD[1]))
        for info, ours in zip(model.feature_info, pyramid(model, x), strict=True):
            assert ours.shape[1] == info["num_chs"]
            assert ours.shape[2] in (ODD[0] // info["reduction"], -(-ODD[0] // info["reduction"]))
        if output_stride == default:
            assert [m.dilation for m in model.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)] == []


# ---- against timm ----------------------------------------------------------------------------------------------------

TIMMS = {
    "basic": ({"bottleneck": False}, {"block": BasicBlock}),
    "bottleneck": ({}, {"block": Bottleneck}),
    "resnext": ({"groups": 32, "width_per_group": 4}, {"block": Bottleneck, "cardinality": 32, "base_width": 4}),
    "senet": (
        SENET,
        {
            **{"block": Bottleneck, "cardinality": 64, "base_width": 4, "block_reduce_first": 2},
            **{"down_kernel_size": 3, "stem_type": "deep", "stem_width": 64},
        },
    ),
}


@pytest.mark.quick_every(3)
@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("se", [True, False])
@pytest.mark.parametrize("kind", TIMMS)
def test_all_levels_are_those_of_timms_network_with_the_same_weights(kind, se, output_stride):
    torch.manual_seed(0)
    layers = (1, 2, 2, 2)
    own, timms = TIMMS[kind]
    block_args = {"attn_layer": partial(SEModule, rd_ratio=1 / 8)} if se else {}
    theirs = TimmsResNet(**timms, layers=layers, block_args=block_args, output_stride=output_stride, num_classes=5)
    randomize(theirs.eval())
    ours = imagenet_resnet(
        layers,
        **own,
        **({} if kind == "basic" else {"stride_on": "3x3"}),
        stem_pool="pad",
        num_classes=5,
        se=SEOptions(reduction=8) if se else None,
        output_stride=output_stride,
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    assert [{k: info[k] for k in ("num_chs", "reduction", "module")} for info in theirs.feature_info] == (
        ours.feature_info
    )
    x = torch.randn(1, 3, *ODD)
    for level, expected in zip(pyramid(ours, x), pyramid(theirs, x), strict=True):
        assert_relatively_close(level, expected, 1e-5)
    assert_relatively_close(ours(x), theirs(x), 1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    ("name", "timms"), [("se_resnet50", "seresnet50"), ("senet154", "senet154"), ("se_resnext50_32x4d", None)]
)
def test_weights_of_timm_in_a_dilated_network(name, timms, output_stride, tmp_path):
    """Through `create_model(weights=)` and through timm's features_only."""
    theirs = timm.create_model(timms or "seresnext50_32x4d", features_only=True, output_stride=output_stride).eval()
    randomize(theirs)
    state = theirs.state_dict() | {"fc.weight": torch.randn(9, 2048), "fc.bias": torch.randn(9)}
    torch.save(state, tmp_path / "weights.pth")
    ours = senet.create_model(name, weights=tmp_path / "weights.pth", output_stride=output_stride).eval()
    x = torch.randn(1, 3, *ODD)
    for level, expected in zip(pyramid(ours, x), theirs(x), strict=True):
        assert_relatively_close(level, expected, 1e-4)


@pytest.mark.quick_every(3)
@torch.no_grad()
@pytest.mark.parametrize("indices", [None, (1, 2, 3, 4), (-1,)])
@pytest.mark.parametrize("wrapper", ["getter", "fx", "list"])
def test_features_only_with_an_output_stride(wrapper, indices):
    asked = {"features_only": True, "out_indices": indices, "feature_cls": wrapper}
    models = []
    for options in ({}, asked):
        torch.manual_seed(0)
        models.append(timm.create_model("se_resnet18", output_stride=8, **options).eval())
    model, features = models
    x = torch.randn(1, 3, *ODD)
    expected = model.forward_intermediates(x, indices, intermediates_only=True)
    for level, ours in zip(features(x), expected, strict=True):
        assert torch.equal(level, ours)
    assert set(features.feature_info.reduction()) <= {2, 4, 8}
    assert features.feature_info.reduction()[-1] == 8


# ---- training, weights, refusals -------------------------------------------------------------------------------------


def test_the_fused_operator_serves_dilated_units(fuse_small_maps, fused_calls):
    torch.manual_seed(0)
    model = imagenet_resnet((1, 1, 1, 1), num_classes=3, se=SEOptions(), output_stride=8).double()
    x = torch.randn(2, 3, 65, 65, dtype=torch.float64)
    gradients = []
    for fused in (True, False):
        set_fused(model, fused)
        model.zero_grad()
        fused_calls.clear()
        loss = model(x).square().sum()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        assert len(fused_calls) == (1 + 4 * 3 if fused else 0)  # the stem's, and three in each unit
    assert {tuple(u.shape[2:]) for u in fused_calls} <= {(33, 33), (16, 16), (8, 8)}
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_weights_without_an_output_stride_are_taken_and_a_folder_keeps_it(tmp_path):
    model = senet.create_model("cifar_se_resnet20", weights="cifar10")
    dilated = senet.create_model("cifar_se_resnet20", weights="cifar10", output_stride=2)
    assert torch.equal(dilated.layer3[2].conv2.weight, model.layer3[2].conv2.weight)
    assert dilated.layer3[2].conv2.dilation == (2, 2)
    senet.save_pretrained(dilated, tmp_path / "dilated")
    again = senet.from_pretrained(tmp_path / "dilated")
    assert again.config == dilated.config
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), dilated.eval()(x))
    undone = senet.create_model("cifar_se_resnet20", weights=tmp_path / "dilated", output_stride=4)
    assert torch.equal(undone.eval()(x), model.eval()(x))


@torch.no_grad()
def test_inserted_blocks_in_a_dilated_network(tmp_path):
    model = on_cpu_with_random_weights(lambda: senet.create_model("resnet18", output_stride=16))
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    senet.insert_se(model)
    assert torch.equal(model(x), before)
    senet.save_pretrained(model, tmp_path / "net")
    assert torch.equal(senet.from_pretrained(tmp_path / "net")(x), before)


@torch.no_grad()
def test_inference_of_a_dilated_network_is_the_same():
    torch.manual_seed(0)
    model = on_cpu_with_random_weights(lambda: senet.create_model("se_resnet18", num_classes=5, output_stride=8))
    x = torch.randn(1, 3, 64, 64)
    fast = senet.optimize_for_inference(model, backend="eager")
    assert_relatively_close(fast(x), model(x), 1e-4)


@pytest.mark.parametrize(
    ("name", "output_stride", "said"),
    [
        ("se_resnet50", 4, ("output_stride is 4", "expected 8 or 16 or 32")),
        ("se_resnet50", 64, ("output_stride is 64", "expected 8 or 16 or 32")),
        ("se_resnet50", 8.0, ("output_stride is 8.0", "expected 8 or 16 or 32")),
        ("cifar_se_resnet20", 8, ("output_stride is 8", "expected 2 or 4")),
        ("se_mobilenet_v1", 8, ("has no option 'output_stride'", "families resnet, resnext, senet, cifar_resnet")),
        ("cifar_shake_shake26_2x96d", 2, ("has no option 'output_stride'", "families resnet, resnext, senet")),
    ],
)
def test_what_a_network_cannot_is_refused(name, output_stride, said):
    for build in (fresh_on_meta, partial(timm.create_model, features_only=True)):
        with pytest.raises(SenetError) as caught:
            build(name, output_stride=output_stride)
        assert_one_sentence(caught, *said)
