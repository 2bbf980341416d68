"""Equality with the networks of timm and torchvision, the same weights in both."""

import math

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from networks import assert_relatively_close, fresh_on_meta, on_meta, randomise, relative_difference


def on_cpu_with_random_weights(build) -> nn.Module:
    """A network in evaluation mode with weights of our own, without the cost of its own initialisation."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, math.sqrt(2 / module.weight[0].numel()))
    randomise(model)
    return model.eval()


def loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The meta network with exactly these tensors."""
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


@torch.no_grad()
def assert_same_outputs(ours: nn.Module, theirs: nn.Module, side: int) -> None:
    x = torch.randn(2, 3, side, side)
    assert_relatively_close(ours(x), theirs(x), 1e-5)


AS_IN_TORCHVISION = {"stride_on": "3x3", "stem_pool": "pad"}


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("se_resnet50", AS_IN_TORCHVISION, lambda: timm.create_model("seresnet50", pretrained=False)),
        ("resnet18", {"stem_pool": "pad"}, torchvision.models.resnet18),
        ("resnet50", AS_IN_TORCHVISION, torchvision.models.resnet50),
        ("resnext50_32x4d", AS_IN_TORCHVISION, torchvision.models.resnext50_32x4d),
    ],
)
def test_equals_the_network_with_the_same_keys(name, options, reference):
    torch.manual_seed(0)
    theirs = on_cpu_with_random_weights(reference)
    ours = fresh_on_meta(name, **options)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours = loaded(ours, theirs.state_dict())
    for side in (64, 75):
        assert_same_outputs(ours, theirs, side)


def from_legacy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of timm's legacy networks, which are those of the authors' first PyTorch port."""
    deep = "layer0.conv3.weight" in state
    convolutions = {"conv1": "conv1.0", "conv2": "conv1.3", "conv3": "conv1.6"}
    stem = convolutions | {"bn1": "conv1.1", "bn2": "conv1.4", "bn3": "bn1"}
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("layer0."):
            module, leaf = key.removeprefix("layer0.").split(".")
            key = f"{stem[module] if deep else module}.{leaf}"
        renamed[key.replace("last_linear", "fc").replace("se_module", "se")] = tensor
    return renamed


@pytest.mark.parametrize(
    ("name", "legacy"),
    [
        ("se_resnet50", "legacy_seresnet50"),
        ("se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
        ("senet154", "legacy_senet154"),
    ],
)
def test_equals_the_release_as_timm_has_it(name, legacy):
    torch.manual_seed(0)
    theirs = on_cpu_with_random_weights(lambda: timm.create_model(legacy, pretrained=False))
    ours = loaded(fresh_on_meta(name), from_legacy(theirs.state_dict()))
    for side in (64, 75):
        assert_same_outputs(ours, theirs, side)


def test_senet154_has_the_keys_and_shapes_of_timms():
    with torch.device("meta"):
        theirs = timm.create_model("senet154", pretrained=False)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in on_meta("senet154").state_dict().items()} == shapes


@pytest.mark.parametrize("options", [{}, {"stride_on": "3x3"}, {"stem_pool": "pad"}])
def test_stride_and_pooling_matter(options):
    """The comparisons above can fail: with the wrong stride or pooling the same weights give other outputs."""
    torch.manual_seed(0)
    theirs = on_cpu_with_random_weights(lambda: timm.create_model("seresnet50", pretrained=False))
    ours = loaded(fresh_on_meta("se_resnet50", **options), theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_difference(ours(x), theirs(x)) > 1e-2
