"""Parameters and multiply-adds of a network, in all and by module."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from senet.errors import SenetError
from senet.nn.modes import eval_mode


@dataclass(frozen=True, kw_only=True)
class ModuleCost:
    """The cost of one module, everything inside it included.

    Args:
        parameters: trainable and frozen, buffers left out.
        multiply_adds: for one image.
    """

    parameters: int
    multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class Cost(ModuleCost):
    """The cost of a network and, by name, of each module inside it."""

    by_module: Mapping[str, ModuleCost]


def cost(model: nn.Module, input_size: int | tuple[int, int] | None = None, in_channels: int | None = None) -> Cost:
    """Count parameters, and the multiply-adds of one image.

    Convolutions, linear layers and matrix products count, each product with its addition as one (as in the paper);
    normalization, pooling, activations and the scale do not. Nothing is computed: only shapes are propagated, on the
    meta device, and the model is left as it is.

    Args:
        model: any module that maps (N, C, H, W) to a tensor.
        input_size: side in pixels, or (height, width); None for the model's `preprocessing.image_size`.
        in_channels: None for the model's own, or 3.

    Raises:
        SenetError: no input size is known.

    >>> from senet import create_model
    >>> cost(create_model("se_resnet50")).parameters
    28088024
    """
    preprocessing = getattr(model, "preprocessing", None)
    if input_size is None:
        if preprocessing is None:
            raise SenetError(f"input_size is missing, and {type(model).__name__} has no preprocessing to take it from")
        input_size = int(preprocessing.image_size)
    if in_channels is None:
        in_channels = 3 if preprocessing is None else preprocessing.in_channels
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    with eval_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        image = torch.empty(1, in_channels, height, width, dtype=dtype, device="meta")
        torch.func.functional_call(model, on_meta, (image,))

    root = type(model).__name__
    flops = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    by_module = {
        name: ModuleCost(
            parameters=sum(p.numel() for p in module.parameters()),
            multiply_adds=flops.get(f"{root}.{name}", 0) // 2,
        )
        for name, module in model.named_modules()
        if name
    }
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=flops.get("Global", 0) // 2,
        by_module=by_module,
    )
