"""Gradient checkpointing: a module computed again in the backward pass, without its feature maps being kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module and compute it again in the backward pass; BatchNorm's statistics move in the first pass only.

    Under `torch.compile` they move in both, as in timm: it does not trace contexts.
    """
    if torch.compiler.is_compiling():
        return cast(Tensor, checkpoint(module, x, use_reentrant=False))
    return cast(Tensor, checkpoint(module, x, use_reentrant=False, context_fn=partial(contexts, module)))


def contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and the second computation of a module, for `checkpoint`."""
    return nullcontext(), frozen_statistics(module)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's moving statistics and counts as they are."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    tracked = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [count.clone() for count in tracked]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, before in zip(tracked, counts, strict=True):
            count.copy_(before)
