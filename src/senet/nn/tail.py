"""The end of a residual branch as a layer."""

from torch import Tensor, nn

from senet.nn.fused import Fusible


class ResidualTail(Fusible):
    """The end of a residual branch: `relu(se(norm(u)) + shortcut_norm(shortcut))`, fused where that is possible.

    Fused means two passes over the feature map forward and two backward or, for a small map, few operations. The layers
    run one after another where that cannot be: another kind of block, hooks, a small feature map without SE. Either way
    the running statistics of the norms move, and outputs and gradients are the same up to rounding.

    Args:
        norm: BatchNorm of the branch.
        se: an SE block, (N, C, H, W) -> (N, C, H, W); None for none.
        shortcut_norm: BatchNorm of the shortcut; None for none.
        relu: whether a ReLU follows the sum.
        fused: True, False, or None: in training, where it is faster. On the CPU the first fused call of a large map
            compiles for some seconds. `senet.fuse` and `senet.unfuse` set it too.

    Source: arXiv:1709.01507v4, Figure 3.

    >>> tail = ResidualTail(nn.BatchNorm2d(64), SEBlock(64))
    >>> tail(torch.randn(2, 64, 7, 7), torch.randn(2, 64, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    """

    def __init__(
        self,
        norm: nn.Module,
        se: nn.Module | None = None,
        shortcut_norm: nn.Module | None = None,
        *,
        relu: bool = True,
        fused: bool | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.se, self.shortcut_norm = norm, se, shortcut_norm
        self.relu, self.fused = relu, fused

    def forward(self, u: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Apply the layers.

        Args:
            u: (N, C, H, W), the branch up to its last convolution; channels-last is fastest.
            shortcut: what is added, like u; None for nothing.
        """
        shortcut_norm = None if shortcut is None else self.shortcut_norm
        return self.tail(u, self.norm, self.se, shortcut, shortcut_norm=shortcut_norm, relu=self.relu)

    def extra_repr(self) -> str:
        """Show the settings that the layers do not show."""
        return f"relu={self.relu}, fused={self.fused}"
