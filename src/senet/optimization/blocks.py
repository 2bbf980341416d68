"""Residual blocks of timm and torchvision with their layers fused: the same parameters, the same names.

A block becomes fused by taking the class here that derives from its own, and plain again by going back to that.
"""

# mypy: disable-error-code="arg-type, call-overload, misc, no-any-return, operator, return-value, union-attr"
# timm has no types, so that its attributes are Tensor or Module to mypy and its classes are Any.

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from timm.models import checkpoint_seq, resnet, senet
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from senet.nn.fused import Chain, Fusible, has_hooks


def present(*modules: nn.Module | None) -> list[nn.Module]:
    """Leave out what does nothing."""
    return [m for m in modules if m is not None and (type(m) is not nn.Identity or has_hooks((m,)))]


class FusedSequential(Chain):
    """A sequence of somebody else's network."""


class FusedBlock(Fusible):
    """What the blocks below share: a shortcut that may end in a BatchNorm, a sum and an activation."""

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


class FusedTimmBasicBlock(FusedBlock, resnet.BasicBlock):
    """timm's basic block of ResNet."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        u = self.chain(present(self.bn1, self.drop_block, self.act1, self.aa), self.conv1(x))
        return self.close(x, self.conv2(u), self.bn2, self.se, self.act2, self.drop_path)


class FusedTimmBottleneck(FusedBlock, resnet.Bottleneck):
    """timm's bottleneck of ResNet and ResNeXt."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        u = self.chain(present(self.bn1, self.act1), self.conv1(x))
        u = self.chain(present(self.bn2, self.drop_block, self.act2, self.aa), self.conv2(u))
        return self.close(x, self.conv3(u), self.bn3, self.se, self.act3, self.drop_path)


class LegacyBottleneck(FusedBlock):
    """The forward pass of timm's bottlenecks of the authors' networks."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        u = self.chain((self.bn1, self.relu), self.conv1(x))
        u = self.chain((self.bn2, self.relu), self.conv2(u))
        return self.close(x, self.conv3(u), self.bn3, self.se_module, self.relu, None)


class FusedSEBottleneck(LegacyBottleneck, senet.SEBottleneck):
    """timm's bottleneck of SENet-154."""


class FusedSEResNetBottleneck(LegacyBottleneck, senet.SEResNetBottleneck):
    """timm's bottleneck of the authors' SE-ResNets."""


class FusedSEResNeXtBottleneck(LegacyBottleneck, senet.SEResNeXtBottleneck):
    """timm's bottleneck of the authors' SE-ResNeXts."""


class FusedSEResNetBlock(FusedBlock, senet.SEResNetBlock):
    """timm's basic block of legacy_seresnet18 and 34, with a ReLU before SE."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        u = self.chain((self.bn1, self.relu), self.conv1(x))
        u = self.chain((self.bn2, self.relu), self.conv2(u))
        return self.close(x, u, None, self.se_module, self.relu, None)


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


class FusedTimmResNet(Fusible, resnet.ResNet):
    """timm's ResNet with a fused stem."""

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> the last feature map."""
        x = self.maxpool(self.chain((self.bn1, self.act1), self.conv1(x)))
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        if self.grad_checkpointing:
            return checkpoint_seq(stages, x, flatten=True)
        for stage in stages:
            x = stage(x)
        return x


FUSED: Mapping[type[nn.Module], type[Fusible]] = MappingProxyType(
    {
        resnet.ResNet: FusedTimmResNet,
        resnet.BasicBlock: FusedTimmBasicBlock,
        resnet.Bottleneck: FusedTimmBottleneck,
        senet.SEBottleneck: FusedSEBottleneck,
        senet.SEResNetBottleneck: FusedSEResNetBottleneck,
        senet.SEResNeXtBottleneck: FusedSEResNeXtBottleneck,
        senet.SEResNetBlock: FusedSEResNetBlock,
        torchvision_resnet.BasicBlock: FusedTorchvisionBasicBlock,
        torchvision_resnet.Bottleneck: FusedTorchvisionBottleneck,
        nn.Sequential: FusedSequential,
    }
)
PLAIN: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType({fused: plain for plain, fused in FUSED.items()})
"""The fused class for each class of blocks; for sequences that hold a BatchNorm with a ReLU after it."""
