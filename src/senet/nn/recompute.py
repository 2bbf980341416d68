"""Gradient checkpointing: a module computed again in the backward pass, without its feature maps being kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

LISTS = (nn.Sequential, nn.ModuleList)
"""What holds the blocks of a network one after another."""


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module and compute it again in the backward pass; BatchNorm's statistics move in the first pass only.

    Under `torch.compile`, which traces no contexts, they move once too: it keeps changes of buffers out of what it
    computes again.
    """
    return cast(Tensor, call_again(module, module, x))


def call_again(function: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a function of a module now and in the backward pass, see `recomputed`."""
    if torch.compiler.is_compiling():
        return checkpoint(function, *args, use_reentrant=False, **kwargs)
    return checkpoint(function, *args, use_reentrant=False, context_fn=partial(contexts, module), **kwargs)


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


# ---- in a model of any library ---------------------------------------------------------------------------------------


def recompute_blocks(model: nn.Module) -> int:
    """Let the blocks of a model be computed again in each backward pass of its training.

    Their `forward` is set on the instances, which copies of the model keep. The checkpointing that timm has for its own
    networks moves BatchNorm's statistics twice in a step; this does not.

    Args:
        model: of any library.

    Returns:
        The number of blocks; 0 for a model that has none.
    """
    blocks = listed_blocks(model) or [child for child in model.children() if is_block(child)]
    if len(blocks) == 1:  # such as the part before a classifier, which is not worth it
        return 0
    for block in blocks:
        block.forward = MethodType(forward_again, block)
    return len(blocks)


def forward_again(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the module's own `forward`, in training a second time in the backward pass."""
    forward = partial(type(self).forward, self)
    if not (self.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return call_again(forward, self, *args, **kwargs)


def listed_blocks(module: nn.Module, listed: bool = False) -> list[nn.Module]:
    """Return the blocks in the lists of a module, such as the residual units of its stages.

    Args:
        module: the model, or a part of it.
        listed: whether it is in such a list itself.
    """
    if listed and is_block(module) and not is_stage(module):
        return [module]
    return [block for child in module.children() for block in listed_blocks(child, type(module) in LISTS)]


def is_block(module: nn.Module) -> bool:
    """Whether a module has several layers with weights, and is no plain list of modules."""
    return type(module) not in LISTS and sum(1 for m in module.modules() if m._parameters) > 1


def is_stage(module: nn.Module) -> bool:
    """Whether a module has a list of blocks that are all of one class, and none that are mere chains of layers."""
    lists = [child for child in module.children() if type(child) in LISTS]
    return any(
        len(blocks) > 1
        and len({type(block) for block in blocks.children()}) == 1
        and all(is_block(block) and not isinstance(block, nn.Sequential) for block in blocks.children())
        for blocks in cast(list[nn.Sequential], lists)
    )
