"""One of two processes whose BatchNorm is synchronized, for tests/nn/test_synchronized.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from senet.nn.attached import attach_at
from senet.nn.block import SEOptions
from senet.nn.fused import set_fused
from senet.nn.synchronized import synchronize
from tiny_family import TinyNet

SIZES = (5, 3)


class Flat(nn.Module):
    """BatchNorm of every number of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2 = BatchNormAct2d(4, momentum=None)
        self.norm3 = nn.BatchNorm3d(4, affine=False)
        self.long, self.norm1 = nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        """(N, 4, H, W) -> (N, 4)."""
        x = self.norm3(self.norm2(x).unflatten(3, (2, -1)))
        return self.norm1(self.long(x.flatten(2)).square().mean(2))


def networks() -> dict[str, nn.Module]:
    """Return networks in float64, with random weights."""
    torch.manual_seed(0)
    blocks = TinyNet(width=8, in_channels=4, se=SEOptions(reduction=2))
    inserted = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    attach_at(inserted, ["1=8"], SEOptions(reduction=2))
    found = {"flat": Flat(), "blocks": blocks, "inserted": inserted}
    for network in found.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0.5, 0.5)
    return {name: network.double() for name, network in found.items()}


def computed(network: nn.Module, x: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
    """Return outputs, buffers and gradients of a mean over images that counts a share."""
    x = x.clone().requires_grad_()
    out = network(x)
    (out.sin().flatten(1).sum(1).mean() * share).backward()
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()}
    return {"out": out.detach(), "gradient": x.grad, **dict(network.named_buffers()), **gradients}


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), dist.get_rank()
    images = torch.load(folder / "images.pt")
    for fused in (False, None):
        for name, network in networks().items():
            set_fused(network, fused)
            assert synchronize(network, dist.group.WORLD.group_name) > 0
            share = SIZES[rank] / sum(SIZES)
            told = computed(network, images.split(SIZES)[rank], share)
            for key, value in told.items():
                if key.startswith("gradient of"):
                    dist.all_reduce(value)
            torch.save(told, folder / f"{name}.{fused}.{rank}.pt")
    dist.destroy_process_group()
