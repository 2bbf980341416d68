"""Seeds: one for everything random, the same numbers whichever device is named."""

import random

import numpy as np
import pytest
import torch

from senet.training.seeding import seed_everything


def drawn():
    return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_numbers_are_a_function_of_the_parts(device):
    seed_everything(1, 2, 3)
    expected = drawn()
    assert drawn() != expected
    seed_everything(1, 2, 3, device=torch.device(device))
    assert drawn() == expected
    seed_everything(1, 2, 4, device=torch.device(device))
    other = drawn()
    assert all(number != before for number, before in zip(other, expected, strict=True))


def test_the_generator_of_the_run_s_gpu_is_seeded_alone(monkeypatch):
    generators = [torch.Generator() for _ in range(2)]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    untouched = generators[0].initial_seed()
    seed_everything(1, 2, device=torch.device("cuda", 1))
    assert generators[0].initial_seed() == untouched
    assert generators[1].initial_seed() == torch.initial_seed()
    seed_everything(1, 3, device=torch.device("cuda"))
    assert generators[0].initial_seed() == torch.initial_seed() != generators[1].initial_seed()
