"""Residual blocks of torchvision with their layers fused, and what they share with timm's.

To fuse a block, its `__class__` is replaced by the subclass here; to unfuse it, by its own class again. Parameters and
names stay.
"""

# mypy: disable-error-code="arg-type, call-overload, misc, no-any-return, operator, return-value, union-attr"
# attributes are Tensor or Module to mypy

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from senet.nn.fused import Chain, Fusible, has_hooks


def present(*modules: nn.Module | None) -> list[nn.Module]:
    """Return the modules that do something: neither None nor an Identity without hooks."""
    return [m for m in modules if m is not None and (type(m) is not nn.Identity or has_hooks((m,)))]


class FusedSequential(Chain):
    """A sequence of a network of timm or torchvision."""


class FusedBlock(Fusible):
    """What the fused blocks share: a shortcut that may end in a BatchNorm, a sum and an activation."""

    downsample: nn.Module | None

    def close(
        self, x: Tensor, u: Tensor, norm: nn.Module | None, se: nn.Module | None, act: nn.Module, drop: nn.Module | None
    ) -> Tensor:
        """Compute `act(drop(se(norm(u))) + shortcut(x))`."""
        shortcut, shortcut_norm = x, None
        if type(self.downsample) in (nn.Sequential, FusedSequential) and not has_hooks((self.downsample,)):
            layers = list(self.downsample)
            if layers and isinstance(layers[-1], nn.BatchNorm2d | nn.SyncBatchNorm):
                shortcut_norm = layers.pop()
            shortcut = self.chain(layers, x)
        elif self.downsample is not None:
            shortcut = self.downsample(x)
        if drop is not None:
            u, norm, se = drop(self.tail(u, norm, se, relu=False)), None, None
        relu = type(act) is nn.ReLU and not has_hooks((act,))
        out = self.tail(u, norm, se, shortcut, shortcut_norm=shortcut_norm, relu=relu)
        return out if relu else cast(Tensor, act(out))


class FusedTorchvisionBasicBlock(FusedBlock, torchvision_resnet.BasicBlock):
    """torchvision's basic block of ResNet."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        u = self.chain((self.bn1, self.relu), self.conv1(x))
        return self.close(x, self.conv2(u), self.bn2, None, self.relu, None)


class FusedTorchvisionBottleneck(FusedBlock, torchvision_resnet.Bottleneck):
    """torchvision's bottleneck of ResNet and ResNeXt."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        u = self.chain((self.bn1, self.relu), self.conv1(x))
        u = self.chain((self.bn2, self.relu), self.conv2(u))
        return self.close(x, self.conv3(u), self.bn3, None, self.relu, None)


FUSED: Mapping[type[nn.Module], type[Fusible]] = MappingProxyType(
    {
        torchvision_resnet.BasicBlock: FusedTorchvisionBasicBlock,
        torchvision_resnet.Bottleneck: FusedTorchvisionBottleneck,
        nn.Sequential: FusedSequential,
    }
)
"""The fused class for each class of blocks, and for sequences in which a ReLU follows a BatchNorm."""
