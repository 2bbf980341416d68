"""Putting blocks where a folder says that they were, in a model that has changed since."""

import pytest
from torch import nn

from senet.errors import SenetError
from senet.nn.attached import attach_at
from senet.nn.block import SEBlock, SEOptions


def gated() -> nn.Module:
    layer = nn.Conv2d(3, 16, 1)
    layer.se = SEBlock(16)
    return layer


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("2=16", "Sequential has no place '2=16' for an SE block"),
        ("0=many", "Sequential has no place '0=many' for an SE block"),
        ("0=16", "0 of Sequential has an attribute se already"),
        ("1=16", "1 of Sequential, a Sequential, cannot run an SE block"),
    ],
)
def test_a_place_that_cannot_take_a_block_is_named(site: str, said: str) -> None:
    model = nn.Sequential(gated(), nn.Sequential(nn.Conv2d(16, 16, 1)))
    with pytest.raises(SenetError, match=said):
        attach_at(model, [site], SEOptions())
