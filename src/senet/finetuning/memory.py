"""The largest batch that fits a GPU's memory, found by trying."""

from collections.abc import Callable

import torch
from torch import nn

from senet.errors import SenetError
from senet.nn.precision import computing, fast_precision

ROOM = 2
"""Times the batch that is tried: the optimizer's numbers, the average of the weights and evaluation need room too."""


def fitting_batch_size(batch_size: int, attempt: Callable[[int], None]) -> int:
    """Return the batch size, halved until a training step fits the memory.

    Args:
        batch_size: the largest.
        attempt: takes a step with so many images, or raises `torch.OutOfMemoryError`.

    Raises:
        SenetError: not even one image fits.
    """
    while batch_size:
        try:
            attempt(batch_size)
            return batch_size
        except torch.OutOfMemoryError:
            batch_size //= 2
    raise SenetError("the GPU has too little memory for one image; take a smaller network or image_size")


def step_on_gpu(model: nn.Module, shape: tuple[int, int, int]) -> Callable[[int], None]:
    """Return a function that takes a step on the GPU with images of a shape (C, H, W), for `fitting_batch_size`."""
    device = torch.device("cuda")
    model = model.to(device).train()

    def attempt(batch_size: int) -> None:
        try:
            images = torch.zeros(ROOM * batch_size, *shape, device=device)
            with computing(device, fast_precision(device)):
                loss = model(images).float().square().mean()
            loss.backward()
        finally:
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    return attempt
