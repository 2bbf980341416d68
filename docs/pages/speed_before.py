"""The section of docs/speed.md about this version beside the one before the cut into four operators."""

import statistics

from pages.measured import Result, median, ratio, ratios, spread, table

BEFORE_HEAD = """
## Before and after the cut into four operators

This version (commit {after}) beside commit {before}, in which one operator computed a block's tail; each in a process
of its own, with memory kept, taking turns. Tails: BatchNorm, SE, sum and ReLU, forward and backward, channels-last.
Steps: SGD with momentum; bf16 is autocast. `fused` is `senet.fuse`, or `ResidualTail(fused=True)`; `as built` is what
users get by default. In milliseconds; the range after a ratio holds the middle half of the rounds.
"""
KINDS = {"SE": "layer by layer", "fused": "fused", "as built": "as built"}


def before_section(result: Result) -> str:
    """Return the table of both versions."""
    rows = []
    for one in result["cases"]:
        times = one["milliseconds"]
        for kind, title in KINDS.items():
            before, after = f"before {kind}", f"after {kind}"
            if {before, after} <= times.keys():
                over = (ratio(times, name, f"{name.split()[0]} plain") for name in (before, after))
                medians = (median(times, before), median(times, after))
                rows.append((f"{one['case']}, {title}", *medians, spread(ratios(times, after, before)), *over))
    headings = ("", "before", "after", "after / before", "SE / plain before", "SE / plain after")
    head = BEFORE_HEAD.format_map({version: f"`{of[:7]}`" for version, of in result["commits"].items()})
    return head + chance(result) + table(headings, rows)


def chance(result: Result) -> str:
    """Say by how much the versions differ where nothing changed; empty if that was not measured."""
    every = (one["milliseconds"] for one in result["cases"])
    plain = [
        statistics.median(ratios(times, "after plain", "before plain"))
        for times in every
        if {"after plain", "before plain"} <= times.keys()
    ]
    if not plain:
        return ""
    return f"Without SE, after / before is {min(plain):.2f} to {max(plain):.2f} in these cases.\n"
