"""The batch size that fits a memory, here of a machine that is pretended."""

import pytest
import torch

from senet.errors import SenetError
from senet.finetuning.memory import fitting_batch_size


@pytest.mark.parametrize(("fits", "tried"), [(128, [128]), (50, [128, 64, 32]), (1, [128, 64, 32, 16, 8, 4, 2, 1])])
def test_a_batch_is_halved_until_it_fits(fits, tried):
    seen = []

    def attempt(batch_size):
        seen.append(batch_size)
        if batch_size > fits:
            raise torch.OutOfMemoryError

    assert fitting_batch_size(128, attempt) == tried[-1]
    assert seen == tried


def test_an_image_that_does_not_fit_is_refused():
    def attempt(_):
        raise torch.OutOfMemoryError

    with pytest.raises(SenetError, match="too little memory for one image"):
        fitting_batch_size(128, attempt)
