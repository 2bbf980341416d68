"""Fixtures that several test files share."""

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor

if not torch.cuda.is_available():  # Triton reads it once, when it is first imported
    os.environ["TRITON_INTERPRET"] = "1"

import senet
from senet.data import loading
from senet.evaluation import batches
from senet.nn import fused
from senet.recipes import get_recipe


@pytest.hookimpl(tryfirst=True)  # before pytest looks at `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `quick_every` leaves out of a test's cases."""
    seen = Counter[str]()
    for item in items:
        every = item.get_closest_marker("quick_every")
        if every is None or item.get_closest_marker("slow"):
            continue
        test = item.nodeid.partition("[")[0]
        if seen[test] % every.args[0]:
            item.add_marker(pytest.mark.slow)
        seen[test] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test random numbers of its own, the same in any order, selection and process."""
    seed = crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what scikit-learn and others draw from
    torch.manual_seed(seed)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A run folder of the digits recipe, cut to three epochs: good enough to be right mostly.

    The first of pytest-xdist's processes that needs it trains it for all of them.
    """
    base = tmp_path_factory.getbasetemp()
    run = (base if worker_id == "master" else base.parent) / "digits"
    with FileLock(f"{run}.lock"):
        if not run.exists():
            senet.train(replace(get_recipe("digits"), epochs=3), run)
    return run


@pytest.fixture(autouse=True)
def logging_stays() -> Iterator[None]:
    """What a test calls may not silence the program that calls it, nor the tests after it."""
    root = logging.getLogger()
    before = root.level, root.manager.disable
    yield
    after = root.level, root.manager.disable
    root.setLevel(before[0])
    logging.disable(before[1])
    assert after == before


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the digits to 96 images to train on and 60 to evaluate on."""
    sizes = {"train": 96, "eval": 60}
    for module in (loading, batches):
        open_all = module.open_split
        few = lambda data, split, open_all=open_all: replace(open_all(data, split), size=sizes[split])  # noqa: E731
        monkeypatch.setattr(module, "open_split", few)


@pytest.fixture
def fuse_small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run fused also what is too small to be worth it, as the maps of most tests are."""
    for name in ("MIN_FUSED_NUMEL", "MIN_FUSED_NUMEL_SE"):
        monkeypatch.setattr(fused, name, {})


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The feature maps that have run fused."""
    seen: list[Tensor] = []
    run = fused.unchecked_tail

    def counting(u: Tensor, *rest: object) -> object:
        seen.append(u)
        return run(u, *rest)

    monkeypatch.setattr(fused, "unchecked_tail", counting)
    return seen
