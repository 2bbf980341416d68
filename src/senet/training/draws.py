"""Random numbers for a part of a batch: drawn for the whole batch, of which the part takes its share.

So an image meets the same dropout and the same stochastic depth in whatever number of processes its batch is computed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class WholeDraws(TorchDispatchMode):
    """While it is on, whatever PyTorch draws for the images of this part is drawn for those of all parts.

    That is, for every tensor whose first dimension is the number of images here: values that are drawn for the batch as
    a whole have another, and are the same in all parts anyway, whose generators have the same seed. It is on in the
    backward pass too, where some networks draw.

    Args:
        places: of the part's images in the batch.
        num_images: of the batch.
    """

    def __init__(self, places: np.ndarray, num_images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places, self.num_images = torch.from_numpy(places), num_images

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call an operator."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        found = tree_map_only(Tensor, self.part_of, func(*map(self.whole, args), **kwargs))
        if func._schema.is_mutable:  # such as bernoulli_
            return args[0].copy_(found)
        return found

    def whole(self, value: Any) -> Any:
        """Return an argument as it is for the batch: a tensor with rows for the images of all parts, or a shape."""
        count = len(self.places)
        if isinstance(value, Tensor) and value.dim() and len(value) == count:
            rows = value.new_zeros(self.num_images, *value.shape[1:])
            if value.dim() == 4 and not value.is_contiguous():  # numbers are drawn in the order of the memory
                rows = rows.contiguous(memory_format=torch.channels_last)
            return rows.index_copy_(0, self.places.to(value.device), value)
        if isinstance(value, list | tuple) and value and type(value[0]) is int and value[0] == count:
            return [self.num_images, *value[1:]]
        return value

    def part_of(self, value: Tensor) -> Tensor:
        """Return the part's rows of what an operator has computed."""
        if value.dim() and len(value) == self.num_images:
            return value.index_select(0, self.places.to(value.device))
        return value
