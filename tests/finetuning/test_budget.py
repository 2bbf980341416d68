"""Times in words."""

import pytest

from senet.errors import SenetError
from senet.finetuning.budget import in_words, parse_time


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400), (" 2 H ", 7200), ("1d", 86400), (5, 5), (0.5, 0.5)],
)
def test_a_time_in_seconds(time, seconds):
    assert parse_time(time) == seconds


@pytest.mark.parametrize("time", ["20", "", "m", "20 minutes", "-5m", "5m1h", "0s", 0, -1, float("inf"), float("nan")])
def test_what_is_no_time_is_refused_with_an_example(time):
    with pytest.raises(SenetError, match=r"time is .*, such as 90s, 20m or 1h30m"):
        parse_time(time)


def test_a_time_in_words():
    assert [in_words(seconds) for seconds in (5400, 90, 60, 0.25)] == ["1 h 30 min", "1 min 30 s", "1 min", "0.25 s"]
