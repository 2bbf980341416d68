"""Twenty of the cases in `make test`, a hundred in `make test-all`."""

import pytest

from fuzz import MAKERS, finding


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("first", "end"), [(0, 20), pytest.param(20, 100, marks=pytest.mark.slow)])
def test_no_command_ends_otherwise_than_documented(kind: str, first: int, end: int) -> None:
    numbers = range(first + list(MAKERS).index(kind), end, len(MAKERS))
    assert [line for line in (finding(0, number) for number in numbers) if line] == []
