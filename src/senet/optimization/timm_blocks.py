"""Residual blocks of timm with their layers fused: the same parameters, the same names.

Imported only where timm is already: a model of timm's classes cannot exist otherwise.
"""

# mypy: disable-error-code="arg-type, call-overload, misc, no-any-return, operator, return-value, union-attr"
# timm has no types, so that its attributes are Tensor or Module to mypy and its classes are Any.

from collections.abc import Mapping
from types import MappingProxyType

from timm.models import checkpoint_seq, resnet, senet
from torch import Tensor, nn

from senet.nn.fused import Fusible
from senet.optimization.blocks import FusedBlock, present


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
    """The forward pass of timm's ports of the authors' bottlenecks."""

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
    }
)
"""The fused class for each class of timm's."""
