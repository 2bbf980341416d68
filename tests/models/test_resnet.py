"""The residual networks: the authors' details, initialization, and what PyTorch does with them."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from networks import assert_relatively_close, fresh_on_meta, num_parameters, on_meta, randomize
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.catalog import list_models, model_card
from senet.models.residual import (
    BasicUnit,
    BottleneckUnit,
    PadShortcut,
    PreActivationBasicUnit,
    PreActivationBottleneckUnit,
    ResidualUnit,
)
from senet.models.resnet import ResNet, cifar_resnet, imagenet_resnet, wide_resnet
from senet.nn.block import SEBlock, SEOptions

NO_BIAS = SEOptions(bias=False)
BUILDERS = (imagenet_resnet, cifar_resnet, wide_resnet)
RESNETS = [name for name in list_models() if getattr(model_card(name).build, "func", None) in BUILDERS]

# For each kind of unit a network of one unit a stage, the ImageNet ones cut after two stages, and its images' side.
SMALL = {
    "basic": (lambda **kw: cifar_resnet(8, **kw), 32, BasicUnit),
    "imagenet basic": (lambda **kw: imagenet_resnet((1, 1), bottleneck=False, **kw), 64, BasicUnit),
    "bottleneck": (lambda **kw: imagenet_resnet((1, 1), **kw), 64, BottleneckUnit),
    "senet": (
        lambda **kw: imagenet_resnet(
            (1, 1),
            groups=64,
            width_per_group=4,
            entry_divisor=2,
            projection_kernel=3,
            deep=True,
            stride_on="3x3",
            **kw,
        ),
        64,
        BottleneckUnit,
    ),
    "pre-activation basic": (lambda **kw: cifar_resnet(8, pre_activation=True, **kw), 32, PreActivationBasicUnit),
    "wide": (lambda **kw: wide_resnet(10, 2, **kw), 32, PreActivationBasicUnit),
    "basic with projection": (lambda **kw: cifar_resnet(8, shortcut="projection", **kw), 32, BasicUnit),
    "pre-activation bottleneck": (
        lambda **kw: cifar_resnet(11, pre_activation=True, bottleneck=True, **kw),
        32,
        PreActivationBottleneckUnit,
    ),
}
KINDS = tuple(SMALL)
UNIT_KINDS = ("basic", "bottleneck", "pre-activation basic", "pre-activation bottleneck")


def small(kind: str, **options: object) -> tuple[ResNet, Tensor]:
    """A small network with sane BatchNorm statistics in evaluation mode, and images for it."""
    torch.manual_seed(0)
    build, side, unit = SMALL[kind]
    model = build(**{"num_classes": 10, "se": SEOptions(), **options})
    assert all(isinstance(m, unit) for m in model.modules() if isinstance(m, ResidualUnit))
    randomize(model)
    return model.eval(), torch.randn(2, options.get("in_channels", 3), side, side)


# ---- structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [(2,), (5,), (3, 4), (2, 3, 4, 5)])
def test_se_sits_in_the_chosen_stages_only(stages):
    model = on_meta("se_resnet50", se=SEOptions(stages=stages))
    with_se = {name.split(".")[0] for name, m in model.named_modules() if isinstance(m, SEBlock)}
    assert with_se == {f"layer{stage - 1}" for stage in stages}
    for stage in stages:
        assert all(isinstance(unit.se, SEBlock) for unit in model.get_submodule(f"layer{stage - 1}"))


@pytest.mark.parametrize("name", RESNETS)
def test_number_of_se_blocks(name):
    model = on_meta(name)
    units = [m for m in model.modules() if isinstance(m, ResidualUnit)]
    blocks = [m for m in model.modules() if isinstance(m, SEBlock)]
    assert len(blocks) == (len(units) if "se_" in name or name == "senet154" else 0)


@pytest.mark.parametrize("placement", ["pre", "post", "identity", "3x3"])
@pytest.mark.parametrize("name", ["se_resnet50", "cifar_se_resnet20", "cifar_se_preact_resnet164"])
def test_placement_reaches_every_unit(name, placement):
    model = on_meta(name, se=SEOptions(placement=placement))
    assert {m.placement for m in model.modules() if isinstance(m, ResidualUnit)} == {placement}


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("se_resnet50", {}, (2, 1)),
        ("resnet101", {}, (2, 1)),
        ("se_resnet50", {"stride_on": "3x3"}, (1, 2)),
        ("se_resnext50_32x4d", {}, (1, 2)),
        ("se_resnext50_32x4d", {"stride_on": "1x1"}, (2, 1)),
        ("senet154", {}, (1, 2)),
    ],
)
def test_stride_on(name, options, strides):
    model = on_meta(name, **options)
    for i in (1, 2, 3, 4):
        for j, unit in enumerate(model.get_submodule(f"layer{i}")):
            strided = i > 1 and j == 0
            assert (unit.conv1.stride[0], unit.conv2.stride[0]) == (strides if strided else (1, 1))
            assert unit.conv3.stride[0] == 1
            assert (unit.downsample is None) == (j > 0)
            if j == 0:
                assert unit.downsample[0].stride[0] == (2 if strided else 1)


def test_stem_pool():
    x = torch.arange(36.0).view(1, 1, 6, 6)

    def rows_and_columns(stem_pool: str) -> list[float]:
        return on_meta("resnet18", stem_pool=stem_pool).maxpool(x)

    # windows 0-2, 2-4, 4-5 without padding; 0-1, 1-3, 3-5 with
    for stem_pool, last in (("ceil", (2, 4, 5)), ("pad", (1, 3, 5))):
        expected = torch.tensor([[[[6.0 * row + column for column in last] for row in last]]])
        assert torch.equal(rows_and_columns(stem_pool), expected)
    assert torch.equal(on_meta("resnet18").maxpool(x), rows_and_columns("ceil"))


@pytest.mark.parametrize(
    ("stem_pool", "size", "features"),
    [
        ("ceil", (224, 224), (7, 7)),
        ("pad", (224, 224), (7, 7)),
        # 65 -> 33, then 16 without padding and 17 with
        ("ceil", (65, 97), (2, 3)),
        ("pad", (65, 97), (3, 4)),
    ],
)
def test_feature_map_of_an_imagenet_network(stem_pool, size, features):
    model = fresh_on_meta("resnet18", stem_pool=stem_pool).eval()
    shape = model.forward_features(torch.empty(1, 3, *size, device="meta")).shape
    assert shape == (1, 512, *features)


def test_senet154():
    model = on_meta("senet154")
    stem = [m for m in model.conv1 if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in stem] == [
        (3, 64, 3, 2),
        (64, 64, 3, 1),
        (64, 128, 3, 1),
    ]
    for i, (units, entry, width) in enumerate(
        zip((3, 8, 36, 3), (128, 256, 512, 1024), (256, 512, 1024, 2048), strict=True)
    ):
        stage = model.get_submodule(f"layer{i + 1}")
        assert len(stage) == units
        for unit in stage:
            assert unit.conv1.out_channels == entry
            assert (unit.conv2.in_channels, unit.conv2.out_channels, unit.conv2.groups) == (entry, width, 64)
            assert unit.conv3.out_channels == 256 * 2**i
            assert unit.se.fc1.bias is not None
        kernel = 1 if i == 0 else 3
        assert stage[0].downsample[0].kernel_size == (kernel, kernel)
        assert stage[0].downsample[0].padding == (kernel // 2, kernel // 2)
    assert model.dropout.p == 0.2


def test_wide_resnet():
    """WRN-16-8 by the tables of its paper: widths, projections wherever the shape changes, 11.0 M parameters."""
    model = on_meta("cifar_wrn16_8")
    count, channels = 27 * 16, 16
    for stage, width in ((model.layer1, 128), (model.layer2, 256), (model.layer3, 512)):
        stride = 1 if width == 128 else 2
        first, second = stage
        shapes = [tuple(m.weight.shape) for m in (first.downsample, first.conv1, first.conv2, second.conv1)]
        assert shapes == [(width, channels, 1, 1), (width, channels, 3, 3), *[(width, width, 3, 3)] * 2]
        assert first.downsample.stride == first.conv1.stride == (stride, stride)
        assert first.bn1.num_features == channels
        assert second.downsample is None
        count += channels * width + 9 * channels * width + 3 * 9 * width**2 + 2 * channels + 3 * 2 * width
        channels = width
    count += 2 * 512 + 512 * 10 + 10
    assert num_parameters(model) == count
    assert round(count / 1e6, 1) == 11.0
    added = num_parameters(on_meta("cifar_se_wrn16_8")) - count
    assert added == sum(2 * (2 * c * c // 16 + c + c // 16) for c in (128, 256, 512))
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 16


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_se_resnet56"])
def test_shortcut(name):
    """Option B: 1x1 convolution and BatchNorm where the width doubles, under the keys of senet.pytorch."""
    padded = on_meta(name)
    projected = on_meta(name, shortcut="projection")
    new = set(projected.state_dict()) - set(padded.state_dict())
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert new == {
        f"layer{stage}.0.downsample.{key}"
        for stage in (2, 3)
        for key in ("0.weight", *(f"1.{leaf}" for leaf in leaves))
    }
    assert num_parameters(projected) - num_parameters(padded) == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    for stage in (2, 3):
        assert isinstance(padded.get_submodule(f"layer{stage}")[0].downsample, PadShortcut)
        assert projected.get_submodule(f"layer{stage}")[0].downsample[0].stride == (2, 2)
    assert set(on_meta(name, shortcut="pad").state_dict()) == set(padded.state_dict())


def test_dropout_is_senet154s_alone():
    for name in ("resnet18", "se_resnet50", "se_resnext101_32x4d", "cifar_se_resnet20", "cifar_preact_resnet164"):
        assert on_meta(name).dropout.p == 0
    assert on_meta("resnet18", dropout=0.3).dropout.p == 0.3
    assert on_meta("cifar_resnet20", dropout=0.3).dropout.p == 0.3
    assert on_meta("senet154", dropout=0.0).dropout.p == 0


def test_dropout_acts_on_the_classifiers_input():
    torch.manual_seed(0)
    model = cifar_resnet(8, dropout=0.5)
    features = torch.ones(64, 64, 2, 2)
    nn.init.constant_(model.fc.weight, 1.0)
    assert torch.equal(model.eval().forward_head(features), torch.full((64, 10), 64.0))
    logits = model.train().forward_head(features)
    assert torch.equal(logits % 2, torch.zeros_like(logits))  # each kept feature counts twice
    assert torch.equal(logits, logits[:, :1].expand_as(logits))  # every class sees the same features
    assert ((logits > 32) & (logits < 96)).all()


def test_only_se_and_the_classifier_have_biases():
    for name in ("se_resnet50", "senet154", "cifar_se_resnet20", "cifar_se_preact_resnet164"):
        for key, module in on_meta(name).named_modules():
            if isinstance(module, nn.Conv2d):
                assert (module.bias is not None) == (".se." in key), key
            if isinstance(module, nn.BatchNorm2d):
                assert module.eps == 1e-5


# ---- initialization --------------------------------------------------------------------------------------------------


def branch_of(unit, x):
    """Return what a unit adds to its shortcut, without SE."""
    u, norm = unit.branch(x)
    return u if norm is None else norm(u)


@pytest.mark.parametrize(("kind", "options"), [("basic", {}), ("bottleneck", {}), ("senet", {})])
@pytest.mark.parametrize("placement", ["standard", "pre", "3x3"])
def test_zero_init_last(kind, options, placement):
    torch.manual_seed(0)
    model = SMALL[kind][0](num_classes=10, se=SEOptions(placement=placement), zero_init_last=True, **options)
    plain = SMALL[kind][0](num_classes=10, se=SEOptions(placement=placement), **options)
    units = [m for m in model.modules() if isinstance(m, ResidualUnit)]
    assert len(units) == sum(name.startswith("layer") for name in model.trunk)
    for unit, other in zip(units, (m for m in plain.modules() if isinstance(m, ResidualUnit)), strict=True):
        x = torch.rand(2, unit.conv1.in_channels, 8, 8)
        assert torch.count_nonzero(branch_of(unit, x)) == 0
        assert torch.count_nonzero(branch_of(other, x)) > 0
        shortcut = x if unit.downsample is None else unit.downsample(x)
        torch.testing.assert_close(unit(x), shortcut.relu())


def test_zero_init_last_touches_one_norm_a_unit():
    model = create_model("cifar_se_resnet20", zero_init_last=True)
    zero = {key for key, p in model.named_parameters() if ".bn" in key and key.endswith("weight") and (p == 0).all()}
    assert zero == {f"layer{i}.{j}.bn2.weight" for i in (1, 2, 3) for j in range(3)}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_last_is_refused_without_a_last_norm(bottleneck):
    with pytest.raises(SenetError, match="zero_init_last"):
        cifar_resnet(20, pre_activation=True, bottleneck=bottleneck, zero_init_last=True)
    with pytest.raises(SenetError, match="zero_init_last"):
        create_model("cifar_preact_resnet110", zero_init_last=True)


def test_he_initialization():
    torch.manual_seed(0)
    model = imagenet_resnet((1, 1, 1, 1), se=SEOptions())
    checked = 0
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= 8192:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            std = math.sqrt(2 / fan_out)
            if key.endswith("se.fc1"):
                std = math.sqrt(2 / module.in_channels)
            elif key.endswith("se.fc2"):
                std = math.sqrt(1 / module.in_channels)
            assert module.weight.std().item() == pytest.approx(std, rel=0.04), key
            assert abs(module.weight.mean().item()) < 5 * std / math.sqrt(module.weight.numel()), key
            checked += 1
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert checked >= 20
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert (model.fc.bias == 0).all()


# ---- behavior -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESNETS)
def test_forward(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=7)
    y = model(torch.randn(2, 3, 32, 32))
    assert y.shape == (2, 7)
    assert y.isfinite().all()
    assert (y[0] - y[1]).abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_finite_gradient(kind):
    model, x = small(kind)
    loss = nn.functional.cross_entropy(model.train()(x), torch.tensor([1, 7]))
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if ".se." not in key:  # where the hidden layer has one unit, its ReLU may be shut
            assert torch.count_nonzero(parameter.grad) > 0, key


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("placement", ["standard", "3x3", "identity"])
def test_doubling_in_front_of_se(kind, placement):
    model, x = small(kind, se=SEOptions(placement=placement))
    doubled = 0
    for unit in (m for m in model.modules() if isinstance(m, ResidualUnit)):
        seen = []
        handle = unit.se.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        model(x)
        weights = [p for layer in unit.affine_before_se() for p in layer.parameters()]
        for weight in weights:
            weight *= 2
        model(x)
        for weight in weights:
            weight /= 2
        handle.remove()
        assert seen[0].abs().max() > 0
        assert torch.equal(seen[1], 2 * seen[0] if weights else seen[0])
        doubled += bool(weights)
    shortcuts = [m.downsample for m in model.modules() if isinstance(m, ResidualUnit)]
    with_weights = [m for m in shortcuts if m is not None and not isinstance(m, PadShortcut)]
    assert doubled == len(with_weights if placement == "identity" else shortcuts)


@pytest.mark.parametrize("kind", KINDS)
def test_deepcopy(kind):
    model, x = small(kind)
    twin = copy.deepcopy(model)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    nn.init.zeros_(model.conv1[0].weight if kind == "senet" else model.conv1.weight)
    assert torch.equal(twin(x), expected)
    assert not torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_channels(kind, in_channels):
    model, x = small(kind, in_channels=in_channels)
    assert x.shape[1] == in_channels
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_no_classifier(kind):
    model, x = small(kind)
    features = model.forward_features(x).mean((2, 3))
    bare, _ = small(kind, num_classes=0)
    missing, unexpected = bare.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert unexpected == ["fc.weight", "fc.bias"]
    assert bare(x).shape == (2, bare.num_features)
    assert torch.equal(bare(x), features)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind):
    model, x = small(kind)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
    assert y.dtype == torch.bfloat16
    assert_relatively_close(y, expected, 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last(kind):
    model, x = small(kind)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    first_stage = model.layer1(model.maxpool(model.conv1(x)))
    assert first_stage.is_contiguous(memory_format=torch.channels_last)
    assert_relatively_close(model(x), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_are_odd_and_not_square(kind):
    model, _ = small(kind)
    y = model(torch.randn(1, 3, 51, 38))
    assert y.shape == (1, 10)
    assert y.isfinite().all()


@pytest.mark.parametrize("kind", UNIT_KINDS)
def test_compile_without_graph_breaks(kind):
    model, x = small(kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_relatively_close(compiled(x), model(x), 1e-5)


@pytest.mark.parametrize("kind", UNIT_KINDS)
def test_export_with_dynamic_batch_and_size(kind):
    model, x = small(kind)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic}}).module()
    side = x.shape[-1]
    for shape in ((2, 3, side, side), (1, 3, side + 5, 2 * side), (3, 3, 2 * side - 1, side + 1)):
        images = torch.randn(shape)
        assert_relatively_close(program(images), model(images), 1e-5)


def test_onnx_runtime():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = small("imagenet basic")
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        model, (x,), dynamo=True, dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic}}, verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    side = x.shape[-1]
    for shape in ((2, 3, side, side), (3, 3, side + 5, side + 32)):
        images = torch.randn(shape)
        (y,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        assert_relatively_close(torch.from_numpy(y), model(images), 1e-5)


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet50", {"stride_on": "5x5"}, "stride_on is '5x5'; expected one of 1x1, 3x3"),
        ("resnet50", {"stem_pool": "floor"}, "stem_pool is 'floor'; expected one of ceil, pad"),
        ("cifar_preact_resnet164", {"stride_on": "2x2"}, "stride_on is '2x2'"),
        ("se_resnet50", {"se": SEOptions(stages=(1,))}, r"stages is \(1,\); expected a choice of \(2, 3, 4, 5\)"),
        ("se_resnet50", {"se": SEOptions(stages=(5, 6))}, r"stages is \(5, 6\)"),
        ("se_resnet50", {"se": SEOptions(stages=())}, r"stages is \(\)"),
        ("cifar_se_resnet20", {"se": SEOptions(stages=(5,))}, r"expected a choice of \(2, 3, 4\)"),
        ("cifar_resnet20", {"shortcut": "crop"}, "shortcut is 'crop'; expected one of pad, projection"),
        ("cifar_preact_resnet110", {"shortcut": "pad"}, "has no option 'shortcut'"),
        ("cifar_wrn16_8", {"shortcut": "projection"}, "has no option 'shortcut'"),
        ("cifar_se_wrn16_8", {"se": SEOptions(stages=(5,))}, r"expected a choice of \(2, 3, 4\)"),
        ("resnet50", {"dropout": 1.5}, "dropout is 1.5"),
        ("resnet50", {"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(SenetError, match=message):
        on_meta(name, **arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: cifar_resnet(8, pre_activation=True, shortcut="projection"),
            "shortcut is 'projection'; expected 'pad'",
        ),
        (
            lambda: cifar_resnet(11, pre_activation=True, bottleneck=True, shortcut="projection"),
            "shortcut is 'projection'; expected 'pad'",
        ),
        (lambda: cifar_resnet(16), r"depth is 16; expected 6n \+ 2"),
        (lambda: cifar_resnet(2), r"depth is 2; expected 6n \+ 2"),
        (lambda: wide_resnet(20, 8), r"depth is 20; expected 6n \+ 4"),
        (lambda: wide_resnet(4, 8), r"depth is 4; expected 6n \+ 4"),
        (lambda: wide_resnet(16, 0), "widen is 0; expected at least 1"),
    ],
)
def test_bad_arguments_of_the_builders(build, message):
    with pytest.raises(SenetError, match=message):
        build()
