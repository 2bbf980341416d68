"""Write the tables of docs/reliability.md on fuzzed inputs (fuzzing.json) and on kept copies (kept_copy.json)."""

from typing import Any

from pages.measured import Result, number, read, table


def fuzzing_tables() -> str:
    """Return a line for each reader: how many damaged files, what came of them, the slowest and the largest."""
    result = read("fuzzing")
    if result is None:
        return "Not measured yet.\n"
    readers = result["readers"]
    every = [*readers.values(), *(each["guided"] for each in readers.values() if "guided" in each)]
    inputs, findings = sum(each["inputs"] for each in every), sum(len(each["findings"]) for each in every)
    rows = [row(name, each) for name, each in readers.items()]
    headings = ("read", "files", "by atheris", "refused", "findings", "slowest (s)", "most memory (MB)")
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    text = (
        f"{inputs:,} files, {findings} findings. Times are those of the processor; memory is what a file takes at most "
        "besides what the process has.\n"
    )
    command = f"python -m fuzz --damaged {result['damaged']} --guided {result['guided']} --json FILE"
    where = f"\n`{command}` with `PYTHONPATH=tests:benchmarks`"
    return text + table(headings, rows) + f"{where}: {machine(result)}; {versions}; {result['date']}.\n"


def machine(result: Result) -> str:
    """Return the machine of a result in words."""
    return f"{result['machine']['processor']}, {result['machine']['cores']} cores"


def row(name: str, reader: Any) -> tuple[str, ...]:
    """Return the line of a reader."""
    guided = reader.get("guided", {"inputs": 0, "refused": 0, "findings": [], "seconds": 0.0, "bytes": 0})
    inputs, refused = reader["inputs"] + guided["inputs"], reader["refused"] + guided["refused"]
    return (
        name,
        f"{reader['inputs']:,}",
        f"{guided['inputs']:,}",
        f"{100 * refused / inputs:.0f}%",
        str(len(reader["findings"]) + len(guided["findings"])),
        f"{max(reader['seconds'], guided['seconds']):.1f}",
        f"{max(reader['bytes'], guided['bytes']) / 1e6:,.0f}",
    )


def kept_copy() -> str:
    """Return what a kept copy costs."""
    result = read("kept_copy")
    if result is None:
        return "Not measured yet.\n"
    lines = []
    for name in ("SGD", "AdamW"):
        took = result[name]["milliseconds"]["median"]
        share = 100 * took / 1000 / result["every_s"]
        lines.append((name, f"{result[name]['bytes'] / 1e6:,.0f}", number(took), f"{share:.2f}%"))
    headings = ("SE-ResNet-50 with", "memory (MB)", "time of a copy (ms)", f"of {result['every_s']:.0f} s")
    versions = f"PyTorch {result['versions']['torch']}"
    where = f"\n`python benchmarks/kept_copy.py`: {machine(result)}, one of them; {versions}; {result['date']}.\n"
    return table(headings, lines) + where
