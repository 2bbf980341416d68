"""Statistics of a batch that is spread over processes (SyncBatchNorm)."""

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import Tensor

from senet.ops.passes import BatchStatistics


def gather(x: Tensor, group: str) -> Tensor:
    """(L,) of every process -> (processes, L)."""
    members = c10d._resolve_process_group(group)  # type: ignore[attr-defined, arg-type]
    parts = [torch.empty_like(x) for _ in range(members.size())]
    dist.all_gather(parts, x, group=members)
    return torch.stack(parts)


def merged_statistics(own: BatchStatistics, count: int, group: str) -> BatchStatistics:
    """Merge the statistics of the processes' batches (Chan et al., 1979); batches may differ in size.

    Args:
        own: this process's.
        count: of the values of a channel in this process's batch.
        group: name of the process group.
    """
    every = gather(torch.cat((own.mean_C, own.var_C, own.mean_C.new_tensor([float(count)]))), group)
    channels = len(own.mean_C)
    means, variances, counts = every[:, :channels], every[:, channels:-1], every[:, -1:]
    total = counts.sum()
    mean_C = (counts * means).sum(0) / total
    var_C = (counts * (variances + (means - mean_C).square())).sum(0) / total
    return BatchStatistics(mean_C, var_C, var_C * (total / (total - 1)))


def mean_over_batch(sums_C: tuple[Tensor, Tensor], count: int, group: str) -> tuple[Tensor, Tensor]:
    """Divide sums over this process's batch by its `count` of values; sums over all processes if there is a group."""
    if not group:
        return sums_C[0] / count, sums_C[1] / count
    total = gather(torch.cat((*sums_C, sums_C[0].new_tensor([float(count)]))), group).sum(0)
    first, second = (total[:-1] / total[-1]).chunk(2)
    return first, second
