"""The count of operators in benchmarks/host_overhead.py."""

from unittest.mock import patch

import pytest
import torch

import host_overhead
from host_overhead import IS_SMALL, NOTHING, Arguments, Counting, Step, measure


@pytest.fixture(scope="module")  # PyTorch 2.11 confuses operators that are registered again
def kernels_that_do_nothing():
    library = host_overhead.register()
    with (
        patch.object(host_overhead.function, "namespace_for", lambda *_: NOTHING),
        patch.object(host_overhead.fused, "is_small"),
    ):
        yield library


def test_there_are_four_operators_a_block(kernels_that_do_nothing):
    found = measure("cifar_resnet20", Arguments(rounds=1, calls=1))
    counts = found["counts"]
    assert found["blocks"] == 9
    assert {name: of["of_tail"] for name, of in counts.items()} == {
        "plain": 0,
        "SE": 0,
        "senet, small maps": 0,
        "senet": 4 * 9,
        "senet, every norm": 4 * (9 + 10),  # the second norm of each block; the first, and that of the stem
    }
    assert counts["SE"]["operators"] > counts["plain"]["operators"] > counts["plain"]["launches"] > 100
    assert all(len(times) == 1 and times[0] > 0 for times in found["milliseconds"].values())


def test_a_narrow_network_has_every_layer(kernels_that_do_nothing):
    step = Step("se_resnet50", factor=8, is_small=IS_SMALL["senet"])
    assert step.num_blocks == 16
    assert max(parameter.numel() for parameter in step.parameters) < 100_000
    assert sum(isinstance(module, torch.nn.Conv2d) for module in step.model.modules()) == 53 + 2 * 16
    with Counting() as counting:
        step()
    tails = {name.split(".")[1]: count for name, count in counting.counts.items() if name.startswith(NOTHING)}
    assert tails == {"moments": 16 + 4, "apply": 16, "sums": 16, "gradients": 16}  # four shortcuts have a norm
