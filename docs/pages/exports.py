"""Write the tables of docs/deploy.md from benchmarks/results/deploy.json: exports beside those of others."""

import statistics

from pages.measured import Result, number, provenance, ratios, read, spread, table

COMMAND = "python benchmarks/deploy.py --pictures FOLDER ..."
FILES = """
{network}. *Seconds* go from the network in PyTorch to the file; `senet.export` proves the file then and, for int8, says
what each layer costs, and in brackets are the seconds without that. *Logits change by* is the root mean square of the
difference from PyTorch's beside that of the logits, on {judging} pictures and on the median one of them; *largest* is
the largest difference beside the largest logit; *same class* counts the pictures that keep theirs. int8 has its ranges
from {ranges} other pictures ({source}).
"""
TIMES = """
{precision}: milliseconds, median, and times the first row of the same runtime.
"""
COMMANDS = """
`senet export MODEL network.onnx` from beginning to end, with the start of Python, the proof and its times:
"""
WHERE = """
On {name} with {instructions}, and on {threads} threads where nothing else is said.
"""


def deploy_tables() -> str:
    """Return the tables, or that nothing has been measured."""
    result = read("deploy")
    if result is None:
        return f"\nNot measured yet: `{COMMAND}`.\n"
    processor = result["processor"]
    where = WHERE.format(**processor | {"instructions": ", ".join(processor["instructions"])})
    return files(result) + times(result) + commands(result) + where + "\n" + provenance(COMMAND, result)


def files(result: Result) -> str:
    """Return the table of the files."""
    lines = []
    for row in result["exports"]:
        seconds, written = number(row["seconds"]), row["seconds"] - sum(row["phases"].values())
        seconds += f" ({number(written)})" if row["phases"] else ""
        differs = (percent(row[name]) for name in ("error", "median", "largest"))
        lines.append((key_of(row), seconds, number(row["megabytes"]), *differs, f"{row['same_class']:.1f} %"))
    headings = ("", "seconds", "MB", "logits change by", "median", "largest", "same class")
    return FILES.format(network=result["network"], **result["pictures"]) + table(headings, lines)


def percent(share: float) -> str:
    """Format a share: in %, or one that is rounding alone as a power of ten."""
    return f"{share:.0e}" if share < 1e-4 else f"{100 * share:.2g} %"


def key_of(row: Result) -> str:
    """Return the name of a row's contestant, as the times have it."""
    return f"{row['runtime']}, {row['precision']}: {row['name']}"


def times(result: Result) -> str:
    """Return a table of times for each precision."""
    text, settings = "", result["latency"]
    headings = [f"{named(one['batch'], 'image')}, {named(one['threads'], 'thread')}" for one in settings]
    for precision in ("fp32", "int8"):
        base: dict[str, str] = {}
        lines = [("PyTorch, fp32", *(value for one in settings for value in cell(one, "PyTorch", None)))]
        for row in result["exports"]:
            if row["precision"] == precision:
                first = base.setdefault(row["runtime"], key_of(row))
                values = (value for one in settings for value in cell(one, key_of(row), first))
                lines.append((f"{row['runtime']}: {row['name']}", *values))
        text += TIMES.format(precision=precision)
        text += table(("", *(part for heading in headings for part in (heading, "times"))), lines)
    return text


def cell(one: Result, key: str, base: str | None) -> tuple[str, str]:
    """Return the median time of a contestant, and its ratio to another's with its middle half."""
    measured = one["milliseconds"]
    if key not in measured:
        return "", ""
    beside = "" if base in (None, key) or base not in measured else spread(ratios(measured, key, str(base)))
    return number(statistics.median(measured[key])), beside


def named(count: int, what: str) -> str:
    """Format a number of things."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def commands(result: Result) -> str:
    """Return how long the command takes."""
    lines = [
        (
            "without pictures" if row["data"] is None else f"`--data {row['data']}`",
            str(row["pictures"]),
            f"{statistics.median(row['seconds']):.1f} ({min(row['seconds']):.1f} to {max(row['seconds']):.1f})",
        )
        for row in result["command"]
    ]
    return COMMANDS + table(("", "compared on", "seconds"), lines)
