"""BatchNorm whose statistics are of the images of several processes, on every device: PyTorch's own needs a GPU.

The layers keep their place, parameters, hooks and attached SE blocks; only their class changes. Statistics and
gradients are those of the residual tail's operators, which run fused with what follows where that is faster.
"""

from functools import cache
from types import new_class
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import SenetError
from senet.nn.attached import plain_class
from senet.nn.excitation import parameter
from senet.ops.function import BatchStatistics, Norm
from senet.ops.tail import unchecked_tail


class Synchronized(_BatchNorm):
    """A BatchNorm whose batch is that of a group of processes.

    Attributes:
        group: the group's name; unlike the group it can be copied.
    """

    group: str

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same; N may differ between processes."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        maps = x if x.dim() == 4 else x.reshape(*x.shape[:2], -1, 1)
        result = unchecked_tail(maps, norm_of(self), None, None, None, relu=False)
        assert result.statistics is not None  # a norm in training has those of the batch
        move_statistics(self, result.statistics)
        return result.y if x.dim() == 4 else result.y.reshape(x.shape)


class SynchronizedAct(Synchronized):
    """timm's BatchNorm with an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        out = super().forward(x)
        return cast(Tensor, self.act(self.drop(out))) if self.training else out


@cache
def synchronized_class(plain: Any) -> Any:
    """Return the synchronized form of a class of layers.

    Raises:
        SenetError: it computes something of its own.
    """
    if plain in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        kind: type[nn.Module] = Synchronized
    elif plain.__name__ == "BatchNormAct2d" and plain.__module__.startswith("timm."):
        kind = SynchronizedAct
    else:
        raise SenetError(
            f"the statistics of {plain.__name__} cannot be taken over several processes; start at most as many as the "
            "run started with, and leave out compute.sync_batch_norm"
        )
    name = f"Synchronized{plain.__name__}"
    return new_class(name, (kind, plain), exec_body=lambda body: body.update(__module__=__name__))


def synchronize(model: nn.Module, group: str) -> int:
    """Let every BatchNorm of a model take its statistics over a group of processes while training.

    Args:
        model: changes in place.
        group: the group's name.

    Returns:
        The number of layers.

    Raises:
        SenetError: one of them is of a class that computes something of its own.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    plain: list[Any] = [plain_class(norm) for norm in norms]
    for norm, kind in zip(norms, [*map(synchronized_class, plain)], strict=True):
        norm.__class__ = kind
        norm.__dict__["group"] = group
    return len(norms)


def is_synchronized(norm: nn.Module | None) -> bool:
    """Whether a module takes the statistics of several processes: this library's or PyTorch's."""
    return isinstance(norm, Synchronized | nn.SyncBatchNorm)


def is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm of maps that does nothing else, synchronized or not, but for its SE block."""
    kind = plain_class(module)
    if kind in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return True
    return isinstance(module, Synchronized) and kind is synchronized_class(nn.BatchNorm2d)


def norm_of(norm: nn.Module) -> Norm:
    """Return a BatchNorm as the fused tail takes it, with the statistics that its own `forward` would use."""
    # The dictionary, because nn.Module looks attributes up in Python.
    buffers = norm._buffers
    mean, var = buffers.get("running_mean"), buffers.get("running_var")
    if norm.training or mean is None or var is None:
        mean = var = None
    group = group_of(norm) if norm.training else None
    return Norm(parameter(norm, "weight"), parameter(norm, "bias"), mean, var, cast(float, norm.eps), group)


def group_of(norm: nn.Module) -> str | None:
    """Return the name of the processes whose batches count as one; None for this process alone."""
    if isinstance(norm, Synchronized):
        return norm.group
    if not isinstance(norm, nn.SyncBatchNorm) or not dist.is_available() or not dist.is_initialized():
        return None
    members = norm.process_group or dist.group.WORLD
    return members.group_name if members is not None and members.size() > 1 else None


def move_statistics(norm: nn.Module, statistics: BatchStatistics) -> None:
    """Move a BatchNorm's running statistics towards those of the batch, as its own `forward` does."""
    buffers = norm._buffers
    mean, var, count = (buffers.get(name) for name in ("running_mean", "running_var", "num_batches_tracked"))
    if not norm.training or mean is None or var is None:
        return
    share: float | Tensor = 0.0 if norm.momentum is None else cast(float, norm.momentum)
    if count is not None:
        count.add_(1)
        if norm.momentum is None:
            share = 1.0 / count.to(mean.dtype)
    mean.lerp_(statistics.mean_C.to(mean.dtype), share)
    var.lerp_(statistics.unbiased_C.to(var.dtype), share)
