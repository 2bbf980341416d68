"""A browser for the pages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsers import started


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    yield from started(tmp_path / "profile")
