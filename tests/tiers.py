"""Which cases of a parametrized test are quick: `make test` runs those alone, `make test-all` every one."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(quick: Iterable[str], cases: Iterable[Any]) -> list[Any]:
    """Mark as slow the cases that are not named in `quick`.

    Args:
        quick: names that `cases` must contain, so that a renamed case cannot leave a test without a quick one.
        cases: names, or tuples of arguments one of which is a name.
    """
    quick, cases = set(quick), list(cases)

    def names(case: Any) -> set[str]:
        return {part for part in (case if isinstance(case, tuple) else (case,)) if isinstance(part, str)}

    missing = quick - {name for case in cases for name in names(case)}
    assert not missing, f"no case is called {', '.join(sorted(missing))}"

    return [case if quick & names(case) else slow(case) for case in cases]


def slow_after(number: int, cases: Iterable[Any]) -> list[Any]:
    """Mark as slow all cases but the first ones, where the others differ from them in a detail."""
    cases = list(cases)
    return [*cases[:number], *map(slow, cases[number:])]


def slow(case: Any) -> Any:
    """Return a case, a value or a tuple of arguments, that is marked as slow."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
