"""A model used for a while, and given back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn


def default_device() -> torch.device:
    """Return the device of a model that is loaded by name: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU if it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the type of a model's first floating-point parameter; float32 if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, then every module back into its own: parts that were frozen stay so."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def borrowed(
    model: nn.Module, device: torch.device | None = None, memory_format: torch.memory_format | None = None
) -> Iterator[None]:
    """Put a model into evaluation mode, on a device and in a memory format; then give it back as it was.

    Its parameters and buffers are the same tensors afterwards, and every module is in its own mode: parts that were
    frozen stay so.

    Args:
        model: its values must not change meanwhile.
        device: None for where it is.
        memory_format: None for the one it has.
    """
    tensors: list[tuple[Any, str, torch.Tensor, torch.Tensor]] = [
        (of_module, name, tensor, tensor.data)
        for module in model.modules()
        for of_module in (module._parameters, module._buffers)
        for name, tensor in of_module.items()
        if tensor is not None
    ]
    try:
        with evaluating(model):
            if device is not None:
                model.to(device)
            if memory_format is not None:
                model.to(memory_format=memory_format)
            yield
    finally:
        for of_module, name, tensor, data in tensors:  # parameters were given other data, buffers were replaced
            of_module[name] = tensor
            if tensor.data_ptr() != data.data_ptr():
                tensor.data = data
