"""Fused networks against the same networks layer by layer."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from networks import on_cpu_with_random_weights, randomize
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.base import Network
from senet.models.catalog import list_models
from senet.models.resnet import cifar_resnet, imagenet_resnet
from senet.nn.block import SEOptions
from senet.optimization.fusion import fuse, unfuse
from tiers import slow_except

EXACT = 1e-9
NOISE = 1e-13
"""Of the largest gradient: rounding errors of gradients that are zero, as of a convolution's bias before BatchNorm."""

SENET = (
    *("cifar_se_resnet20", "cifar_se_preact_resnet110", "cifar_se_preact_resnet164", "cifar_se_wrn16_8"),
    *("cifar_se_shake_shake26_2x96d", "cifar_se_shake_even29_2x4x64d", "se_resnet18", "se_resnet50"),
    *("se_resnext50_32x4d", "senet154", "se_vgg16_bn", "se_mobilenet_v1", "se_shufflenet_v1_g3", "se_bn_inception"),
    *("se_inception_resnet_v2", "cifar_resnet20", "cifar_preact_resnet110", "mobilenet_v1", "shufflenet_v1_g3"),
    *("cifar_shake_shake26_2x96d", "resnet18", "resnet50", "vgg16_bn"),
)
TIMM: dict[str, tuple[str, dict[str, object]]] = {
    "seresnet18": ("seresnet18", {}),
    "seresnet50": ("seresnet50", {}),
    "seresnext26t_32x4d": ("seresnext26t_32x4d", {}),
    "legacy_seresnet18": ("legacy_seresnet18", {}),
    "legacy_seresnet50": ("legacy_seresnet50", {}),
    "legacy_seresnext26_32x4d": ("legacy_seresnext26_32x4d", {}),
    "legacy_senet154": ("legacy_senet154", {}),
    "resnet50": ("resnet50", {}),
    "dropped_paths": ("seresnet18", {"drop_path_rate": 0.3}),
    "dropped_paths_of_bottlenecks": ("seresnet50", {"drop_path_rate": 0.3}),
    "dropped_blocks": ("seresnet50", {"drop_block_rate": 0.2}),
    "silu": ("seresnet18", {"act_layer": nn.SiLU}),
    "average_downsampling": ("seresnet50", {"block_args": {"attn_layer": "se"}, "avg_down": True}),
    "anti_aliasing": ("seresnet50", {"aa_layer": nn.AvgPool2d}),
    "other_attention": ("resnet18", {"block_args": {"attn_layer": "eca"}}),
    "tanh_gates": ("resnet18", {"block_args": {"attn_layer": partial(timm.layers.SEModule, gate_layer="tanh")}}),
    "two_squeezes": ("resnet18", {"block_args": {"attn_layer": partial(timm.layers.SEModule, add_maxpool=True)}}),
}
TORCHVISION = ("resnet18", "resnet50", "resnext50_32x4d")


def shortened(model: nn.Module) -> nn.Module:
    """Two units in the first stage and one in each of the others; two of four stages; narrow hidden layers for VGG."""
    units = 2
    for name, stage in model.named_children():
        is_stage = isinstance(stage, nn.Sequential) and name not in ("blocks", "features")
        if is_stage and len({type(unit) for unit in stage}) == 1:
            model.set_submodule(name, stage[:units])
            units = 1
    if hasattr(model, "layer4"):
        model.layer3 = model.layer4 = nn.Identity()
        last = [m for m in model.layer2[0].downsample.modules() if isinstance(m, nn.Conv2d)][-1]
        head = "fc" if hasattr(model, "fc") else "last_linear"
        model.set_submodule(head, nn.Linear(last.out_channels, 10))
    classifier = getattr(model, "classifier", None)
    if isinstance(classifier, nn.Sequential) and len(classifier) == 7:
        classifier[0], classifier[3], classifier[6] = nn.Linear(512 * 49, 8), nn.Linear(8, 8), nn.Linear(8, 10)
    return model


def built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return on_cpu_with_random_weights(lambda: shortened(build())).double()


def of_senet(name: str) -> Network:
    return built(lambda: create_model(name, num_classes=10))


def of_timm(name: str) -> nn.Module:
    model, options = TIMM[name]
    return built(lambda: timm.create_model(model, num_classes=10, **options))


def images(side: int) -> Tensor:
    return torch.randn(3, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def side_of(name: str) -> int:
    if "inception_resnet" in name:
        return 75
    if name.startswith("cifar_"):
        return 8 if "shake" in name or "wrn" in name else 16
    return 64 if "bn_inception" in name or "net_v1" in name else 32


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
    """Logits, gradients and buffers of one step."""
    torch.manual_seed(2)  # of what is random: shake, dropped paths
    model.zero_grad()
    y = model(x)
    F.cross_entropy(y, torch.arange(len(x))).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return y.detach(), gradients, {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_close(actual: Tensor, expected: Tensor, name: str, rtol: float, atol: float = 0) -> None:
    assert expected.isfinite().all(), name
    atol += rtol * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")


def assert_same_step(actual: nn.Module, expected: nn.Module, x: Tensor, tolerance: float) -> None:
    (y, found, buffers), (y0, gradients, buffers0) = step(actual, x), step(expected, x)
    assert_close(y, y0, "logits", EXACT)
    assert found.keys() == gradients.keys()
    largest = max(g.abs().max().item() for g in gradients.values() if g is not None)
    assert largest > 0
    for name, gradient in gradients.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            assert_close(found[name], gradient, name, tolerance, NOISE * largest)
    assert buffers.keys() == buffers0.keys()
    for name, buffer in buffers0.items():
        assert_close(buffers[name], buffer, name, EXACT)


def assert_fusing_changes_nothing(model: nn.Module, x: Tensor, tolerance: float = EXACT) -> None:
    plain = copy.deepcopy(model)
    classes = [type(m) for m in model.modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert fuse(model) is model
    again = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert again.keys() == tensors.keys()
    assert all(again[name] is tensor for name, tensor in tensors.items())
    assert list(model.state_dict()) == list(plain.state_dict())
    for training in (True, False):
        assert_same_step(model.train(training), plain.train(training), x, tolerance)
    assert unfuse(model) is model
    assert [type(m) for m in model.modules()] == classes
    model.load_state_dict(plain.state_dict())  # there may be rounding errors
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


pytestmark = pytest.mark.usefixtures("fuse_small_maps")


@pytest.fixture
def calls(fused_calls: list[Tensor]) -> list[Tensor]:
    return fused_calls


# ---- senet ----------------------------------------------------------------------------------------------------


def test_every_kind_is_covered():
    """The names differ in depth, width and groups alone from those in the table."""

    def kind(name: str) -> str:
        return name.removeprefix("cifar_").rstrip("0123456789_x-d")

    covered = {kind(name) for name in SENET} | {kind(name.replace("se_", "")) for name in SENET}
    assert not sorted({kind(name) for name in list_models()} - covered)


QUICK = ("resnet18", "se_resnet50", "se_bn_inception", "cifar_se_shake_shake26_2x96d")


@pytest.mark.parametrize("name", slow_except(QUICK, SENET))
def test_senets_networks(name, calls):
    assert_fusing_changes_nothing(of_senet(name), images(side_of(name)))
    assert len(calls) >= (6 if "_se_" in f"_{name}" else 2)


PLACEMENTS, GATES = (
    ("standard", "pre", "post", "identity", "3x3"),
    ("sigmoid", "tanh", "relu", "hard_sigmoid", "sigmoid_x2"),
)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placements(placement, calls):
    se = SEOptions(placement=placement, reduction=4)
    builds = (
        partial(imagenet_resnet, (2, 1, 1, 1), num_classes=10, se=se),
        partial(cifar_resnet, 14, se=se, shortcut="projection"),
        partial(cifar_resnet, 14, pre_activation=True, se=se),
        partial(cifar_resnet, 20, pre_activation=True, bottleneck=True, se=se),
    )
    for build in builds:
        assert_fusing_changes_nothing(built(build), images(32))
    assert calls


@pytest.mark.parametrize(("gate", "squeeze"), product(GATES, ("avg", "max", "none")))
def test_gates(gate, squeeze):
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(gate=gate, squeeze=squeeze, reduction=4)).double()
    randomize(model)
    tolerance = 1e-6 if gate == "hard_sigmoid" else EXACT  # PyTorch's gradient of it has float32's 1/6
    assert_fusing_changes_nothing(model, images(16), tolerance)


# ---- other libraries ------------------------------------------------------------------------------------------------


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("name", TIMM)
def test_timm(name, calls):
    assert_fusing_changes_nothing(of_timm(name), images(32))
    assert len(calls) >= 6


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, calls):
    model = built(lambda: getattr(torchvision.models, name)(num_classes=10))
    assert_fusing_changes_nothing(model, images(32))
    assert len(calls) >= 12


def test_each_block_is_one_call(calls):
    """Or two with its inner layers; the first is the stem."""
    model = fuse(of_timm("seresnet18"))
    model(images(32))
    blocks = [m for m in model.modules() if isinstance(m, timm.models.resnet.BasicBlock)]
    assert len(calls) == 1 + 2 * len(blocks)


@pytest.mark.parametrize("name", ["bn1", "act1", "drop_block", "bn2", "se", "act2", "downsample", "downsample.1"])
def test_hooks_of_timm_are_called(name):
    model = of_timm("seresnet18")
    expected = copy.deepcopy(model)(images(32))
    seen = []
    block = fuse(model).layer2[0]
    block.get_submodule(name).register_forward_hook(lambda *_: seen.append(name))
    torch.testing.assert_close(model(images(32)), expected)
    assert seen == [name]


@pytest.mark.parametrize("name", ["bn3", "se.fc1", "act3"])
def test_hooks_of_timms_bottlenecks_are_called(name):
    seen = []
    model = fuse(of_timm("seresnet50"))
    model.layer1[1].get_submodule(name).register_forward_hook(lambda *_: seen.append(name))
    model.train()(images(32)).sum().backward()
    assert seen == [name]


def test_copies_and_pickles():
    model = fuse(of_timm("seresnet18")).eval()
    expected = model(images(32))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        assert torch.equal(twin(images(32)), expected)


def test_fusing_and_unfusing_twice():
    model = of_timm("seresnet18").eval()
    x = images(32)
    expected = model(x)
    for value in (False, True, True, False, False):
        assert torch.equal((fuse if value else unfuse)(model)(x), expected) or value
        torch.testing.assert_close(model(x), expected)


def test_a_shortcut_that_does_nothing():
    model = of_timm("seresnet18")
    model.layer1[0].downsample = nn.Sequential()
    assert_fusing_changes_nothing(model, images(32))


def test_a_model_without_a_known_block():
    for model in (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(2, 2)):
        classes = [type(m) for m in model.modules()]
        with pytest.raises(SenetError, match=r"has no block that can run fused; known .* senet\.create_model and timm"):
            fuse(model)
        with pytest.raises(SenetError, match="has no block that can run fused"):
            unfuse(model)
        assert [type(m) for m in model.modules()] == classes


@pytest.mark.slow
def test_timms_blocks_are_found_without_importing_timm():
    code = (
        "import sys, torchvision, senet\n"
        "model = senet.fuse(torchvision.models.resnet18())\n"
        "print(type(model.layer1[0]).__name__, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["FusedTorchvisionBasicBlock", "False"]
