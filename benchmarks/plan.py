"""A plan of measurements under a time limit: the most important first, each result in the file as soon as it is there.

Measurements of one wave are prepared side by side (compilers take most of the time) and then timed one after another.
What does not fit into the limit is left out and named; what failed is recorded and named.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import about, milliseconds
from seats import Build, Group, Seat

TIMING_S = 15.0
"""Of a wave's time, what is kept for the rounds after its contestants are built."""

LEAST_S = 60.0
"""The least that a wave is waited for: its processes import PyTorch first."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Contestants that are compared in one setting.

    Args:
        kind: what is measured, such as "training step".
        setting: batch, form and what else tells it from others of the kind; goes to JSON.
        builds: the contestants by name.
        rounds: of all contestants in turn; 0 where building is all the measuring.
        calls: of a contestant in a round.
    """

    kind: str
    setting: Mapping[str, Any]
    builds: Mapping[str, Build]
    rounds: int = 0
    calls: int = 1

    @property
    def name(self) -> str:
        """The kind and the setting, in words."""
        return ", ".join((self.kind, *(f"{key} {value}" for key, value in self.setting.items())))


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Measurements that are prepared side by side.

    Args:
        seconds: that all of it takes on an H100 with 16 cores.
        measurements: of the wave.
    """

    seconds: float
    measurements: Sequence[Measurement]


@dataclass
class Results:
    """What has been measured, and the file that always holds all of it.

    Args:
        path: of the JSON file.
        about: date, machine, versions and settings.
        measured: a dictionary for each measurement.
        left_out: why others were not made, by name.
    """

    path: Path
    about: Mapping[str, Any]
    measured: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Replace the file by what is known now."""
        beside = self.path.with_suffix(".part")
        beside.parent.mkdir(parents=True, exist_ok=True)
        content = {**self.about, "measured": self.measured, "left_out": self.left_out}
        beside.write_text(json.dumps(content, indent=1) + "\n")
        beside.replace(self.path)

    def read_again(self) -> None:
        """Take over what the file has without failures, if it is of this machine, these versions and settings.

        What was measured on another day keeps its date.
        """
        if not self.path.exists():
            return
        before = json.loads(self.path.read_text())
        same = ("machine", "versions", "settings")
        if all(before.get(key) == json.loads(json.dumps(self.about.get(key))) for key in same):
            date = before["date"]
            self.measured = [{"date": date, **one} for one in before["measured"] if not one["errors"]]


def start_results(path: Path, settings: Mapping[str, Any], packages: Sequence[str], again: bool) -> Results:
    """Return results with nothing measured, or what the file holds that need not be measured again."""
    results = Results(path, {**about(packages), "settings": dict(settings)})
    if again:
        results.read_again()
    return results


def carry_out(waves: Sequence[Wave], results: Results, minutes: float, patience: float = 3) -> bool:
    """Measure wave after wave until the time is over; return whether everything was measured and nothing failed.

    Args:
        waves: the most important first.
        results: what is in them already is not measured again.
        minutes: for all; a wave that would not end in time is left out, and a shorter one after it may still fit.
        patience: how many times as long as planned a wave may take, before what is not ready is recorded as a failure.
    """
    end = time.monotonic() + minutes * 60
    seats: dict[str, Seat] = {}
    done = {one["name"] for one in results.measured}
    try:
        for number, wave in enumerate(waves):
            measurements = [one for one in wave.measurements if one.name not in done]
            left = end - time.monotonic()
            if wave.seconds > left:
                reason = f"it takes about {wave.seconds:.0f} s, and {left:.0f} s of {minutes:g} minutes were left"
                results.left_out |= {one.name: reason for one in measurements}
                for one in measurements:
                    print(f"left out: {one.name}: {reason}", flush=True)
                results.write()
            elif measurements:
                limit = max(LEAST_S, patience * wave.seconds)
                measure(measurements, results, seats, min(end, time.monotonic() + limit))
            later = [one for wave in waves[number + 1 :] for one in wave.measurements]
            needed = {seat_of(one, name) for one in later for name in one.builds}
            for name in seats.keys() - needed:  # a process holds memory, and on a GPU a context
                seats.pop(name).stop()
    finally:
        for seat in seats.values():
            seat.stop()
    return not results.left_out and not any(one["errors"] for one in results.measured)


def measure(measurements: Sequence[Measurement], results: Results, seats: dict[str, Seat], end: float) -> None:
    """Build all contestants of a wave side by side, time one measurement after another, and write each at once.

    Args:
        measurements: of the wave.
        results: where they go.
        seats: by name; those that are not there yet are added.
        end: by time.monotonic(); who is not ready by then is recorded as a failure.
    """
    started = time.monotonic()
    groups = []
    for one in measurements:
        names = {name: seat_of(one, name) for name in one.builds}
        group = Group({name: seats.setdefault(seat, Seat()) for name, seat in names.items()}, one.builds)
        groups.append(group)
        group.ask()
    timed = any(one.rounds for one in measurements)
    for group in groups:
        group.collect(end - (TIMING_S if timed else 0))
    for one, group in zip(measurements, groups, strict=True):
        if one.rounds:
            group.take_turns(one.rounds, one.calls, end)
        results.measured.append(entry(one, group, time.monotonic() - started))
        print(f"{one.name}: {summary(results.measured[-1])}", flush=True)
        results.write()


def seat_of(one: Measurement, name: str) -> str:
    """Return the name of a contestant's seat: it keeps the network that was compiled there for the next form of it."""
    return f"{one.kind} {one.setting.get('batch')} {name}"


def entry(one: Measurement, group: Group, seconds: float) -> dict[str, Any]:
    """Return what goes to JSON; contestants that failed in some round have no times."""
    times = {name: rounds for name, rounds in group.seconds.items() if name not in group.errors}
    fewest = min(map(len, times.values()), default=0)
    return {
        "name": one.name,
        "kind": one.kind,
        **one.setting,
        "milliseconds": milliseconds({name: rounds[:fewest] for name, rounds in times.items()}),
        "facts": group.facts,
        "errors": group.errors,
        "seconds": round(seconds, 1),
    }


def summary(measured: Mapping[str, Any]) -> str:
    """Return medians in a line, or that it is done."""
    times = {name: sorted(rounds)[len(rounds) // 2] for name, rounds in measured["milliseconds"].items()}
    text = ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items()) or "done"
    return f"{text} ({measured['seconds']:.0f} s)"
