"""What `senet export --int8` says of the layers of a network."""

from senet.deployment.sensitivity import Sensitivity
from senet.errors import counted
from senet.terminal import Table, console, say

SHOWN = 10
"""Layers in the table, the costliest; the JSON has all."""


def say_costs(costs: Sensitivity) -> None:
    """Print which layers cost the most in int8, and which of them stay in float."""
    labeled = any(cost.accuracy is not None for cost in costs.layers)
    table = Table("layer alone in int8")
    for heading in ("logits change by", "classes change", *(("accuracy",) if labeled else ())):
        table.add_column(heading, justify="right")
    table.add_column("")
    shown = costs.layers[: max(SHOWN, len(costs.kept_float) + 1)]
    for cost in shown:
        accuracy = () if cost.accuracy is None else (f"{cost.accuracy:+.1f}",)
        kept = "stays in float" if cost.name in costs.kept_float else ""
        table.add_row(cost.name, f"{100 * cost.error:.2f} %", f"{cost.changed:.1f} %", *accuracy, kept)
    console().print(table)
    more = len(costs.layers) - len(shown)
    less = f" {counted(more, 'layer')} that cost{'s' * (more == 1)} less {'is' if more == 1 else 'are'} left out."
    say(
        f"On {counted(costs.images, 'calibration image')}.{less if more else ''} --keep-float N leaves the N costliest "
        "layers in float; the gates of SE stay in float anyway."
    )
