"""Stochastic depth: residual branches that are left out at random while training."""

from torch import Tensor, nn

from senet.errors import SenetError


class DropPath(nn.Module):
    """Leaves the branch of an image out, with a probability, and else scales it up so that its mean stays the same.

    The draws come from PyTorch's generator, one for each image, in training mode alone; they are those of timm's
    `drop_path` under the same seed.

    Args:
        rate: the probability, in [0, 1).

    Raises:
        SenetError: a rate out of its range.

    Source: Huang et al., arXiv:1603.09382, for each image by itself as in timm.
    """

    scripted_whole = True

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_rate(rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        if not self.training or self.rate == 0.0:
            return x
        kept = 1 - self.rate
        return x * x.new_empty([x.shape[0], 1, 1, 1]).bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate:.4g}"


def check_rate(rate: float) -> None:
    """Raise a SenetError for a rate that is out of its range."""
    if not 0 <= rate < 1:
        raise SenetError(f"drop_path is {rate}; expected at least 0 and below 1")
