"""A time limit in words, such as "20m"."""

import re

from senet.errors import SenetError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FORM = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_time(time: str | float) -> float:
    """Return a time limit in seconds.

    Args:
        time: seconds; or a text with units, such as "90s", "20m" or "1h30m".

    Raises:
        SenetError: it is no positive time.
    """
    if isinstance(time, str):
        found = FORM.fullmatch(time.strip().replace(" ", "").lower())
        parts = [] if found is None else found.groups()
        seconds = sum(float(part) * SECONDS[unit] for part, unit in zip(parts, "dhms", strict=False) if part)
        if not any(parts):
            raise SenetError(f"time is {time!r}; expected a time with its unit, such as 90s, 20m or 1h30m")
    else:
        seconds = float(time)
    if not 0 < seconds < float("inf"):
        raise SenetError(f"time is {time!r}; expected a positive time, such as 90s, 20m or 1h30m")
    return seconds


def in_words(seconds: float) -> str:
    """Return a time in words.

    >>> in_words(5400), in_words(90)
    ('1 h 30 min', '1 min 30 s')
    """
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or f"{seconds:.2g} s"
