"""What PyTorch does with every network: training, memory formats, autocast, compilation, export, ONNX."""

import copy
import io

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from networks import assert_relatively_close, fresh_on_meta, randomise, relative_difference
from senet.models.network import Network
from senet.models.registry import create_model, list_models, model_card

# Compiling and exporting cost seconds a unit: of networks that differ in the number of the same units alone, the
# shallowest stands for all. The units of SENet-154 and of the pre-activation networks are in test_resnet.py.
SHALLOWEST = tuple(
    prefix + se + name
    for prefix, names in (
        (
            "",
            (
                "resnet18",
                "resnet50",
                "resnext50_32x4d",
                "vgg16_bn",
                "bn_inception",
                "inception_resnet_v2",
                "mobilenet_v1",
                "shufflenet_v1_g3",
            ),
        ),
        ("cifar_", ("resnet20", "wrn16_8", "shake_shake26_2x96d", "shake_even29_2x4x64d")),
    )
    for name in names
    for se in ("", "se_")
)


@pytest.fixture(autouse=True)
def _compiled_code_of_its_own():
    """All networks have one `forward`: without this, compiling many of them counts as compiling one too often."""
    torch._dynamo.reset()


def side_of(name: str) -> int:
    """The side of small images for a network."""
    if "inception_resnet" in name:
        return 107
    if "wrn" in name or "shake" in name:
        return 16
    return 32 if name.startswith("cifar_") else 64


def network(name: str, **options: object) -> tuple[Network, Tensor]:
    """A network with sane statistics in evaluation mode, and two images for it."""
    torch.manual_seed(0)
    model = create_model(name, **options)
    randomise(model)
    side = side_of(name)
    return model.eval(), torch.randn(2, options.get("in_channels", 3), side, side)


def test_the_table_names_networks_only():
    assert set(SHALLOWEST) <= set(list_models())
    assert len(SHALLOWEST) == 24


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_gets_a_gradient(name):
    model, x = network(name)
    model.train()
    loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    zero = [key for key, p in model.named_parameters() if not p.grad.any()]
    # a hidden layer of SE may be inactive on two images, and a bias in front of BatchNorm has no effect
    assert not [key for key in zero if ".se." not in key and not key.endswith("bias")]
    assert len(zero) < 0.1 * len(list(model.parameters()))


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_evaluation(name):
    model, x = network(name)
    expected = model(x)
    assert expected.shape == (2, model_card(name).num_classes)
    assert torch.equal(model(x), expected)

    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert_relatively_close(channels_last(x.contiguous(memory_format=torch.channels_last)), expected, 1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(x)
    assert low.isfinite().all()
    assert relative_difference(low.float(), expected) < 0.2

    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), expected)
    next(copied.parameters()).zero_()
    assert not torch.equal(copied(x), expected)
    assert torch.equal(model(x), expected)

    again = fresh_on_meta(name)
    again.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(again.eval()(x), expected)


@pytest.mark.parametrize("name", list_models())
def test_other_sizes_channels_and_classes(name):
    """Shapes alone, on the meta device."""
    side = side_of(name)
    for channels, classes, (height, width) in ((1, 7, (side, side + 13)), (4, 0, (side + 29, side))):
        model = fresh_on_meta(name, in_channels=channels, num_classes=classes).eval()
        out = model(torch.empty(3, channels, height, width, device="meta"))
        assert out.shape == (3, classes or model.head_hidden_size)
        assert model.preprocessing.in_channels == channels


@pytest.mark.parametrize("name", SHALLOWEST)
@torch.no_grad()
def test_compile_and_export(name):
    model, x = network(name)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_relatively_close(compiled(x), expected, 1e-5)

    exported = torch.export.export(model, (x,))
    assert_relatively_close(exported.module()(x), expected, 1e-5)


@pytest.mark.parametrize("name", [name for name in SHALLOWEST if "se_" in name])
@torch.no_grad()
def test_onnx_runtime(name):
    """The graph of a plain network is a part of its SE twin's."""
    model, x = network(name)
    file = io.BytesIO()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False, optimize=False)  # four times faster
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_relatively_close(torch.from_numpy(actual), model(x), 1e-4)


@pytest.mark.parametrize("name", ["se_mobilenet_v1", "cifar_se_resnet20"])
def test_inductor_trains(name):
    model, x = network(name)
    model.train()
    compiled = torch.compile(model, fullgraph=True)
    compiled(x).square().mean().backward()
    gradient = next(model.parameters()).grad.clone()
    model.zero_grad()
    model(x).square().mean().backward()
    assert_relatively_close(gradient, next(model.parameters()).grad, 1e-3)
