"""One network of each kind, as small as can be: what several test files do with all of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import on_cpu_with_random_weights, relative_difference
from senet.factory import create_model
from senet.models.base import Network

# Compilers take seconds for a unit, and a stage is one unit many times: they get one network of each kind, its stages
# cut. `test_every_kind_is_compiled` finds kinds that are missing.
PLAIN = (
    *("resnet18", "resnet50", "resnext50_32x4d", "vgg16_bn", "bn_inception", "inception_resnet_v2"),
    *("mobilenet_v1", "shufflenet_v1_g3", "cifar_resnet20", "cifar_preact_resnet110", "cifar_preact_resnet164"),
    *("cifar_wrn16_8", "cifar_shake_shake26_2x96d", "cifar_shake_even29_2x4x64d"),
)
WITH_SE = (
    *("se_resnet18", "se_resnet50", "se_resnext50_32x4d", "senet154", "se_vgg16_bn", "se_bn_inception"),
    *("se_inception_resnet_v2", "se_mobilenet_v1", "se_shufflenet_v1_g3", "cifar_se_resnet20"),
    *("cifar_se_preact_resnet110", "cifar_se_preact_resnet164", "cifar_se_wrn16_8"),
    *("cifar_se_shake_shake26_2x96d", "cifar_se_shake_even29_2x4x64d"),
)
UNITS_OF_A_STAGE = 2
ONE_OF_EACH_FAMILY = (
    *("resnet18", "se_resnet50", "se_vgg16_bn", "se_bn_inception", "se_inception_resnet_v2", "se_mobilenet_v1"),
    *("se_shufflenet_v1_g3", "cifar_se_resnet20", "cifar_se_preact_resnet164", "cifar_se_wrn16_8"),
    *("cifar_se_shake_shake26_2x96d", "cifar_se_shake_even29_2x4x64d"),
)
CLEARLY = 0.01
"""How much logits differ from one another, relative to the largest, where they are of different images."""


def side_of(name: str) -> int:
    if "inception_resnet" in name:  # its convolutions without padding need 75
        return 107
    if "wrn" in name or "shake" in name:
        return 16
    return 32 if name.startswith("cifar_") else 64


def images(number: int, height: int, width: int | None = None) -> Tensor:
    """Smooth images that differ from one another: what noise looks like, pooling makes alike."""
    coarse = torch.randn(number, 3, 4, 4) + torch.randn(number, 3, 1, 1)
    smooth = F.interpolate(coarse, (height, width or height), mode="bilinear")
    return smooth + 0.1 * torch.randn_like(smooth)


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> None:
    """Set BatchNorm's statistics to those of `x`, and open most of the ReLUs.

    Without the statistics the logits hardly depend on the image (4e-8 in se_mobilenet_v1), and no comparison could
    fail; without the open ReLUs every layer enlarges rounding errors.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.bias += 1
        norm.momentum = 1.0
        norm.num_batches_tracked.zero_()
    model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def shortened(model: Network) -> Network:
    """The network with the first two units of each stage."""
    for name in model.trunk:
        stage = model.get_submodule(name)
        if isinstance(stage, nn.Sequential) and len({type(unit) for unit in stage}) == 1:
            model.set_submodule(name, stage[:UNITS_OF_A_STAGE])
    return model


def short_network(name: str, **options: object) -> Network:
    """A network with the first two units of each stage; VGG's hidden layers, which hold most weights, are narrow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("senet.models.vgg.HIDDEN", 64)
        return shortened(create_model(name, **options))


def with_sane_outputs(name: str, *, short: bool = False, **options: object) -> Network:
    """A network in evaluation mode whose logits clearly depend on the image."""
    torch.manual_seed(0)
    create = short_network if short else create_model
    model = on_cpu_with_random_weights(lambda: create(name, num_classes=10, **options))
    settle(model, images(8, side_of(name)))
    with torch.no_grad():
        first, second = model(images(2, side_of(name)))
    assert relative_difference(first, second) > CLEARLY
    return model
