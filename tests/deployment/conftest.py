"""A browser for the pages, and no more rounds of timing than there must be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsers import started
from senet.deployment import timing


@pytest.fixture(autouse=True, scope="session")
def few_rounds() -> Iterator[None]:
    """Every export compares its file with the network, and takes the times of both."""
    seconds, timing.SECONDS = timing.SECONDS, 0.0
    yield
    timing.SECONDS = seconds


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    yield from started(tmp_path / "profile")
