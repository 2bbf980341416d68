"""Times of a network and its exported form, taken in turn, so that a change of the machine's speed meets both."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

BATCH_SIZES = (1, 16)
MIN_ROUNDS, MAX_ROUNDS = 3, 50
SECONDS = 3.0
"""For all rounds of a batch size, once `MIN_ROUNDS` are done."""
PAUSE = 0.005
"""Seconds between two contestants: the threads of the one before spin for some milliseconds, and take cores."""
SHORT = 200.0
"""Milliseconds below which waking threads and filling the cache would count: an untimed call comes first."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long a batch takes.

    Args:
        name: "original", "exported" or "optimized".
        batch_size: images.
        rounds: in which all were timed in turn.
        median_ms: the median time, in milliseconds.
        low_ms: the first quartile.
        high_ms: the third quartile.
        ratio: the median over the rounds of this time to that of the original.
        ratio_low: the first quartile of the ratios.
        ratio_high: the third quartile.
    """

    name: str
    batch_size: int
    rounds: int
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


def latencies(
    contestants: Mapping[str, Callable[[], object]],
    batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
    seconds: float | None = None,
) -> tuple[Latency, ...]:
    """Time every contestant once a round, every other round backwards, after a call that is not timed.

    Args:
        contestants: by name, the original first; each computes one batch.
        batch_size: of which the batch is, for the report.
        clock: in seconds.
        seconds: after which no round is started, if `MIN_ROUNDS` are done; None for `SECONDS`.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order, start = list(contestants), clock()
    limit = SECONDS if seconds is None else seconds

    def timed(name: str) -> float:
        before = clock()
        contestants[name]()
        return 1000 * (clock() - before)

    latest = {name: timed(name) for name in order}
    while (done := len(times[order[0]])) < MIN_ROUNDS or (done < MAX_ROUNDS and clock() - start < limit):
        for name in order if done % 2 == 0 else reversed(order):
            time.sleep(PAUSE)
            if latest[name] < SHORT:
                contestants[name]()
            latest[name] = timed(name)
            times[name].append(latest[name])
    first = times[order[0]]
    return tuple(latency(name, batch_size, own, first) for name, own in times.items())


def latency(name: str, batch_size: int, times: Sequence[float], first: Sequence[float]) -> Latency:
    """Return what is told of a contestant's times; `first` are those of the original in the same rounds, all in ms."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    ratios = [own / original for own, original in zip(times, first, strict=True)]
    ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Latency(
        name=name,
        batch_size=batch_size,
        rounds=len(times),
        median_ms=median,
        low_ms=low,
        high_ms=high,
        ratio=ratio,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
    )
