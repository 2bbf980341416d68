"""VGG-16 with BatchNorm, SE after the ReLU of each convolution."""

import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.base import Network, SEUnit
from senet.models.initialization import check_se, initialize
from senet.nn.block import SEOptions

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Output channels and convolutions of conv1 to conv5; each ends in a max pooling."""
HIDDEN = 4096
POOLED = 7


class RecalibratedReLU(SEUnit):
    """A ReLU followed by SE; it replaces a plain ReLU in the chain of layers.

    Args:
        chain: the network's layers, where this unit follows a BatchNorm.
        norm_index: of that BatchNorm in `chain`.
        se: SE for its channels.

    Source: arXiv:1709.01507v4, section 3.3.
    """

    def __init__(self, chain: nn.Sequential, norm_index: int, se: nn.Module) -> None:
        super().__init__()
        # The position instead of the BatchNorm itself, which converting to SyncBatchNorm replaces; in a tuple, so that
        # the chain is not registered as a child of this unit.
        self.norm_place = (chain, norm_index)
        self.se: nn.Module = se

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the BatchNorm before the ReLU; see `SEUnit`."""
        chain, index = self.norm_place
        return (chain[index],)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.tail(F.relu(x), se=self.se, relu=False)


class VGG16(Network):
    """Thirteen 3x3 convolutions with biases, BatchNorm and ReLU in five stages, and three linear layers.

    The parameters have the names that torchvision gives them; SE is `features.I.se.fc1` and `fc2`, where I is the index
    of the ReLU.

    Args:
        num_classes: of the last linear layer; 0 leaves it out.
        in_channels: channels of the images.
        se: SE options; None for the plain network. The stages are 1 to 5, conv1 to conv5; the placement is "standard".
        dropout: after each hidden linear layer.

    Raises:
        SenetError: a stage or placement that does not exist, or an option out of its range.

    Source: Simonyan and Zisserman, arXiv:1409.1556, Table 1, D; Ioffe and Szegedy, arXiv:1502.03167 (BatchNorm).
    """

    classifier_name = "classifier.6"
    halvings = (False,) * len(STAGES)

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        se: SEOptions | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_se(se, range(1, 1 + len(STAGES)), ("standard",))
        self.features = nn.Sequential()
        channels = in_channels
        levels = []
        for stage, (width, num_convolutions) in enumerate(STAGES, start=1):
            build_se = None if se is None else se.in_stage(stage)
            for _ in range(num_convolutions):
                self.features.append(nn.Conv2d(channels, width, 3, padding=1))
                self.features.append(nn.BatchNorm2d(width))
                norm_index = len(self.features) - 1
                self.features.append(
                    nn.ReLU() if build_se is None else RecalibratedReLU(self.features, norm_index, build_se(width))
                )
                channels = width
            levels.append((f"features.{len(self.features) - 1}", channels, 2 ** (stage - 1)))
            self.features.append(nn.MaxPool2d(2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(channels * POOLED**2, HIDDEN),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Identity(),
        )
        self.add_head(HIDDEN, num_classes, dropout)
        self.classifier[2], self.classifier[5] = nn.Dropout(dropout), self.dropout
        self.trunk = tuple(f"features.{i}" for i in range(len(self.features)))
        self.set_levels(*levels, (self.trunk[-1], channels, 2 ** len(STAGES)))
        initialize(self)

    @property
    def head_hidden_size(self) -> int:
        """Number of features that the last linear layer sees."""
        return HIDDEN

    def pool(self, x: Tensor) -> Tensor:
        """(N, 512, h, w) -> (N, 4096): average pooling to 7x7, hidden linear layers without the last dropout."""
        x = F.adaptive_avg_pool2d(x, POOLED).flatten(1)
        for layer in self.classifier[:5]:
            x = layer(x)
        return x
