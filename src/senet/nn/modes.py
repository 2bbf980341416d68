"""Using a model for a while and restoring it: its mode, its device, its memory format."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from senet.nn.fused import Fusible


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


LOCK = threading.Lock()
IN_USE: WeakKeyDictionary[nn.Module, dict[int, dict[nn.Module, bool]]] = WeakKeyDictionary()
"""Models that are in evaluation mode for a while: by thread, the modes that their modules had before the first one."""


@contextmanager
def eval_mode(model: nn.Module, *, layer_by_layer: bool = False) -> Iterator[None]:
    """Put a model into evaluation mode, and afterwards every module back into the mode it was in.

    Several threads may do so with one model: it is put back when the last of them is done.

    Args:
        model: parts of it that were frozen in evaluation mode stay so.
        layer_by_layer: fuse no layers meanwhile, so that every layer is called and hooks see its output.
    """
    thread = threading.get_ident()
    with LOCK:
        users = IN_USE.setdefault(model, {})
        nested = thread in users
        modes = {module: module.training for module in model.modules()}
        if not nested:
            users[thread] = modes = next(iter(users.values()), modes)
        model.eval()
    fused = {module: module.fused for module in modes if layer_by_layer and isinstance(module, Fusible)}
    try:
        for fusible in fused:
            fusible.fused = False
        yield
    finally:
        with LOCK:
            if not nested:
                del users[thread]
            if nested or not users:
                for module, mode in modes.items():
                    module.training = mode
        for fusible, value in fused.items():
            fusible.fused = value


@contextmanager
def borrowed(
    model: nn.Module, device: torch.device | None = None, memory_format: torch.memory_format | None = None
) -> Iterator[None]:
    """Put a model into evaluation mode, on a device and in a memory format, and afterwards restore it.

    Its parameters and buffers are the same tensors afterwards, and every module is back in the mode it was in.

    Args:
        model: its values must not change meanwhile.
        device: None for where it is.
        memory_format: None for the one it has.
    """
    tensors: list[tuple[Any, str, torch.Tensor, torch.Tensor]] = [
        (holder, name, tensor, tensor.data)
        for module in model.modules()
        for holder in (module._parameters, module._buffers)
        for name, tensor in holder.items()
        if tensor is not None
    ]
    try:
        with eval_mode(model):
            if device is not None:
                model.to(device)
            if memory_format is not None:
                model.to(memory_format=memory_format)
            yield
    finally:
        for holder, name, tensor, data in tensors:  # parameters were given other data, buffers were replaced
            holder[name] = tensor
            if tensor.data_ptr() != data.data_ptr():
                tensor.data = data
