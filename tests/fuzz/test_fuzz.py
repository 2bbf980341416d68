"""A hundred of the cases in every run of the tests."""

import pytest

from fuzz import MAKERS, finding

NUMBER = 100


@pytest.mark.parametrize("kind", MAKERS)
def test_no_command_ends_otherwise_than_documented(kind: str) -> None:
    numbers = range(list(MAKERS).index(kind), NUMBER, len(MAKERS))
    assert [line for line in (finding(0, number) for number in numbers) if line] == []
