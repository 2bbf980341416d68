"""What tests of several files assert in the same words."""

import pytest
import torch
from torch import nn

from senet.errors import SenetError


def assert_same_weights(actual: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert actual.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in actual.state_dict().items())


def assert_one_sentence(error: pytest.ExceptionInfo[SenetError], *said: object) -> None:
    for words in said:
        assert str(words) in str(error.value)
    assert "\n" not in str(error.value)
