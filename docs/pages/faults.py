"""Write the tables of docs/reliability.md from benchmarks/results/reliability.json, which may hold a part of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pages.measured import Result, read, table

Trials = Mapping[str, Sequence[Mapping[str, Any]]]
"""The trials of a part, by kind."""
NOT_YET = "\nNot measured yet: `python benchmarks/reliability.py --parts {part}`.\n"
VERBS = {
    "replace": "renaming a file",
    "rename": "renaming a file",
    "fsync": "synchronizing with the disk",
    "open": "writing a file",
    "write": "writing a file",
    "unlink": "removing a file",
    "remove": "removing a file",
    "rmdir": "removing a file",
    "mkdir": "making a folder",
    "link": "linking a file",
}
OUTCOMES = ("named", "named, state before taken", "refused", "harmless", "missed", "other")


def fault_tables() -> str:
    """Return the tables of all parts, or that nothing has been measured."""
    result = read("reliability")
    if result is None:
        return NOT_YET.format(part="kills disks locks bits long")
    return "".join(section(result, part, write) for part, write in PARTS.items()) + provenance(result)


def section(result: Result, part: str, write: Callable[[Trials], str]) -> str:
    """Return the heading and the table of a part, with what went wrong."""
    heading, text = f"\n### {HEADINGS[part]}\n", TEXTS[part]
    trials = {kind: found for kind, found in result["parts"].get(part, {}).items() if found}
    if not trials:
        reason = result["facts"].get(part)
        return heading + (f"\nNot measured: {reason}.\n" if reason else NOT_YET.format(part=part))
    return heading + text + write(trials) + problems(trials)


def problems(trials: Trials) -> str:
    """Return what went wrong in single trials; that nothing did if so."""
    wrong = [(kind, one["trial"], one["problems"]) for kind, found in trials.items() for one in found]
    lines = [f"- {kind}, trial {number}: {'; '.join(what)}\n" for kind, number, what in wrong if what]
    if lines:
        return f"\n{len(lines)} of {len(wrong)} trials went wrong:\n\n" + "".join(lines)
    return f"\nNone of {len(wrong)} trials went wrong.\n"


def good(found: Iterable[Mapping[str, Any]]) -> int:
    """Count the trials in which nothing went wrong."""
    return sum(not one["problems"] for one in found)


def count(number: int) -> str:
    """Format a number, empty for none."""
    return str(number) if number else ""


def kills(trials: Trials) -> str:
    """Return the tables of what was killed, how often, and where."""
    hows = ("moment", "operation", "write")
    rows = []
    for kind, found in trials.items():
        how = Counter(kill["how"] for one in found for kill in one["kills"])
        again = sum(len(one["kills"]) > 1 for one in found)
        rows.append((kind, str(len(found)), *(count(how[name]) for name in hows), count(again), str(good(found))))
    headings = (
        "command",
        "runs",
        "kills at a moment",
        "at an operation on files",
        "in a write",
        "killed again",
        "same",
    )
    text = table(headings, rows)
    own = [kill for kind in ("train", "train, workers") for one in trials.get(kind, ()) for kill in one["kills"]]
    phases = Counter(map(phase_of, own))
    if own:
        text += f"\nWhat `senet train` was at in these {len(own)} kills:\n"
        text += table(("at", "kills"), [(phase, str(number)) for phase, number in sorted(phases.items())])
    return text


def phase_of(kill: Mapping[str, Any]) -> str:
    """Return in words what a process was at when it was killed."""
    words = kill["operation"].removeprefix("before ").removeprefix("after ").split()
    return f"{kill['phase']}: {VERBS.get(words[0], words[0])}" if words else kill["phase"]


def disks(trials: Trials) -> str:
    """Return the table of disks that filled up."""
    rows = []
    for kind, found in trials.items():
        full = [one for one in found if one["status"]]
        sizes = [one["kilobytes"] for one in found]
        row = (str(len(found)), f"{min(sizes):,} to {max(sizes):,}", str(len(full)), str(good(full)), str(good(found)))
        rows.append((kind, *row))
    headings = ("command", "disks", "kB", "filled up", "of them in one sentence, nothing harmed", "same in the end")
    return table(headings, rows)


def locks(trials: Trials) -> str:
    """Return the table of two processes in one folder."""
    rows = [
        (kind, str(len(found)), count(sum(one["killed"] for one in found)), str(good(found)))
        for kind, found in trials.items()
    ]
    return table(("command", "started twice", "of them the one at work was killed", "one worked, same result"), rows)


def bits(trials: Trials) -> str:
    """Return the table of flipped bits."""
    rows = []
    for kind, found in trials.items():
        outcomes = Counter(one["outcome"] for one in found)
        rows.append((f"`{kind}`", str(len(found)), *(count(outcomes[name]) for name in OUTCOMES)))
    return table(("file", "bits", *OUTCOMES), rows)


def long(trials: Trials) -> str:
    """Return the table of ten thousand steps."""
    rows = []
    for kind, (found, *_) in trials.items():
        slope = f"{found['slope_kb']:+.3f} ± {found['error_kb']:.3f}"
        memory = " to ".join(f"{value:.0f}" for value in found["megabytes"])
        ranges = (" to ".join(map(str, sorted({*found[name]}))) for name in ("files", "threads"))
        rows.append((kind, f"{found['steps']:,}", slope, memory, *ranges))
    return table(("run", "steps", "kB a step", "MB", "open files", "threads"), rows)


def provenance(result: Result) -> str:
    """Say which command, machine and versions the tables come from."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    where = f"{result['machine']['processor']}, one thread"
    return f"\n`{result['command']}`: {where}; {versions}; {result['date']}; seed {result['seed']}.\n"


HEADINGS = {
    "kills": "Killed processes",
    "disks": "Full disks",
    "locks": "Two processes in one folder",
    "bits": "Flipped bits",
    "long": "Ten thousand steps",
}
TEXTS = {
    "kills": """
Each process was killed by SIGKILL at a random moment, or before or after a random one of its operations on files, or by
the system in the middle of a write, once to three times; then the command was repeated (`--resume` for a run) until it
ended. *Same*: the weights, `best/` and `last/`, the training state, `metrics.jsonl` and `steps.jsonl`, or what else the
command writes, are equal bit for bit to those of an untouched process, but for times; and nothing is left over, but for
empty files of locks, which hold nobody up.
""",
    "disks": """
A tmpfs of random size, on which somebody else's file lies too. Then the disk is made larger and the command repeated.
""",
    "locks": """
Both start at once, or the second one up to the end of the first. In every other trial the process that works is killed
when the other one has been refused, and a third one starts.
""",
    "bits": """
One random bit in a file of a run that was stopped. *Named*: the command that reads the file stops in one sentence that
names it. *Named, state before taken*: it is named in a warning, and the run ends with the same weights, bit for bit.
*Harmless*: the result is the same, and nothing is said. *Missed*: it is another one, and nothing is said.
""",
    "long": """
A day of training, condensed: the slope of the memory that the process and its workers take together, by least squares
over the last four fifths of the steps, with its standard error.
""",
}
PARTS: Mapping[str, Callable[[Trials], str]] = {
    "kills": kills,
    "disks": disks,
    "locks": locks,
    "bits": bits,
    "long": long,
}
