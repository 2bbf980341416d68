"""What the tests of insertion share: images, and models whose every branch has an effect."""

import torch
from torch import Tensor, nn


def image(side: int = 64, images: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(0))


def randomize(model: nn.Module) -> nn.Module:
    """Weights, statistics and LayerScales that leave no branch without effect."""
    generator = torch.Generator().manual_seed(1)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if not x.is_floating_point():
            continue
        noise = torch.rand(x.shape, generator=generator)
        if "running_var" in name:
            x.data = 0.5 + noise
        elif x.dim() < 2 or "gamma" in name:
            x.data += 0.1 + 0.2 * noise
    return model


def excite(model: nn.Module, seed: int = 2) -> None:
    """Give every block a gate that is far from constant."""
    generator = torch.Generator().manual_seed(seed)
    for block in model.modules():
        if getattr(block, "attached_at", None):
            for x in block.parameters():
                x.data = torch.randn(x.shape, generator=generator).to(x)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
