"""Statistics of a batch that is spread over processes (SyncBatchNorm)."""

from typing import Any

import torch
import torch.distributed._functional_collectives as collectives  # which torch.compile traces
from torch import Tensor

all_gather: Any = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor  # before 2.14


def gather(x: Tensor, group: str) -> Tensor:
    """(L,) of every process -> (processes, L)."""
    gathered: Tensor = all_gather(x[None], 0, group)
    return gathered


def merged_statistics(mean_C: Tensor, var_C: Tensor, count: int, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the statistics of the processes' batches (Chan et al., 1979); batches may differ in size.

    Args:
        mean_C: of this process's batch.
        var_C: of this process's batch.
        count: of the values of a channel in this process's batch.
        group: name of the process group.

    Returns:
        Mean, variance and unbiased variance.
    """
    every = gather(torch.cat((mean_C, var_C, mean_C.new_full((1,), count))), group)
    channels = len(mean_C)
    means, variances, counts = every[:, :channels], every[:, channels:-1], every[:, -1:]
    total = counts.sum()
    mean_C = (counts * means).sum(0) / total
    var_C = (counts * (variances + (means - mean_C).square())).sum(0) / total
    return mean_C, var_C, var_C * (total / (total - 1))


def mean_over_batch(sums_C: tuple[Tensor, Tensor], count: int, group: str) -> tuple[Tensor, Tensor]:
    """Divide the sums over all processes by their number of values.

    Args:
        sums_C: over this process's batch.
        count: of the values of a channel in this process's batch.
        group: name of the process group.
    """
    total = gather(torch.cat((*sums_C, sums_C[0].new_full((1,), count))), group).sum(0)
    first, second = (total[:-1] / total[-1]).chunk(2)
    return first, second
