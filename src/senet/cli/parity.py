"""What the commands that export print of a parity report."""

from collections.abc import Sequence

from senet.deployment.detection_parity import DetectionParity
from senet.deployment.inner_errors import InnerError, InnerErrors
from senet.deployment.parity import ParityReport
from senet.deployment.timing import Latency
from senet.errors import counted
from senet.evaluation.measures import Interval
from senet.terminal import Table, console, say


def show_parity(report: ParityReport) -> None:
    """Print a report: how far the two networks are apart, how accurate, how fast and how large they are."""
    say(f"{report.exported} against {report.original} on {counted(report.num_images, 'image')} of {report.source}")
    console().print(difference_table(report))
    if report.latencies:
        console().print(latency_table(report.latencies))
        say(report.processor.described(report.precision))
    show_inner(report.inner)
    if report.unscored:
        say(f"no accuracy was measured: {report.unscored}")
    for problem in report.problems:
        say(f"beyond the tolerance of {report.precision}: {problem}")
    if report.within_tolerance:
        say(f"within the tolerance of {report.precision}")
    if report.explanation:
        say(report.explanation)


def difference_table(report: ParityReport) -> Table:
    """Return how far the networks are apart, as a table."""
    table = Table("", "original", "exported", "difference")
    if accuracy := report.accuracy:
        table.add_row(
            "top-1, %",
            f"{accuracy.original:.2f}{between(accuracy.original_interval)}",
            f"{accuracy.exported:.2f}{between(accuracy.exported_interval)}",
            f"{accuracy.difference:+.2f}{between(accuracy.difference_interval)}",
        )
    table.add_row("same class, %", "", "", f"{report.agreement:.2f}")
    of = report.difference
    table.add_row("logits, largest", f"{of.scale:.4g}", "", f"{of.largest:.2g} ({of.relative_largest:.2g} relative)")
    table.add_row("logits, mean", "", "", f"{of.mean:.2g} ({of.relative_mean:.2g} relative)")
    if report.file_size is not None:
        own, other = report.original_size, report.file_size
        table.add_row("size, MB", f"{own / 1e6:.2f}", f"{other / 1e6:.2f}", f"{other / own:.2f} x")
    return table


def latency_table(latencies: Sequence[Latency]) -> Table:
    """Return the times as a table, medians with their quartiles."""
    table = Table("ms per batch")
    names = dict.fromkeys(each.name for each in latencies)
    sizes = dict.fromkeys(each.batch_size for each in latencies)
    for size in sizes:
        table.add_column(f"batch {size}", justify="right")
        table.add_column("of the original", justify="right")
    for name in names:
        cells = []
        for each in (each for each in latencies if each.name == name):
            cells += [
                f"{each.median_ms:.2f} ({each.low_ms:.2f} to {each.high_ms:.2f})",
                f"{each.ratio:.2g} ({each.ratio_low:.2g} to {each.ratio_high:.2g})",
            ]
        table.add_row(name, *cells)
    return table


def show_inner(inner: InnerErrors | None) -> None:
    """Print where in the network the error arises, if that is known."""
    if inner is None:
        return
    for kind, errors in (("block", inner.blocks), ("gate", inner.gates)):
        if errors:
            console().print(inner_table(kind, errors))
    if inner.missing:
        say(f"not compared inside: {inner.missing}")


def inner_table(kind: str, errors: Sequence[InnerError]) -> Table:
    """Return the errors of blocks, or of gates, as a table."""
    table = Table(kind)
    for heading in ("relative error, %", "cosine", "largest difference"):
        table.add_column(heading, justify="right")
    for each in errors:
        table.add_row(each.full_name, f"{100 * each.relative:.3g}", f"{each.cosine:.5f}", f"{each.largest:.3g}")
    return table


def between(interval: Interval) -> str:
    """Return a confidence interval in parentheses."""
    return f" ({interval[0]:.2f} to {interval[1]:.2f})"


def show_detection(report: DetectionParity) -> None:
    """Print how far two detectors are apart, how well they find objects, how fast and how large they are."""
    say(f"{report.exported} against {report.original} on {counted(report.num_images, 'image')} of {report.source}")
    console().print(detection_table(report))
    if report.latencies:
        console().print(latency_table(report.latencies))
        say(report.processor.described("fp32"))
    if report.unscored:
        say(f"no average precision was measured: {report.unscored}")
    if report.agreement is None:
        say("neither found an object, so nothing is proved; name photos that have some by --data")
    for problem in report.problems:
        say(f"beyond the tolerance: {problem}")
    if report.within_tolerance:
        say("within the tolerance")


def detection_table(report: DetectionParity) -> Table:
    """Return how far two detectors are apart, as a table."""
    table = Table("", "original", "exported", "difference")
    if precision := report.precision:
        for name, of in (("AP, %", precision.ap), ("AP50, %", precision.ap50)):
            table.add_row(
                name,
                f"{of.original:.2f}{between(of.original_interval)}",
                f"{of.exported:.2f}{between(of.exported_interval)}",
                f"{of.difference:+.2f}{between(of.difference_interval)}",
            )
    share = "" if report.agreement is None else f" ({report.agreement:.2f} %)"
    table.add_row("boxes of both", "", "", f"{report.pairs:,}{share}")
    table.add_row("boxes of one only", f"{report.only_original:,}", f"{report.only_exported:,}", "")
    if report.tied:
        table.add_row("chosen among equal scores", "", "", f"{report.tied:,}")
    if report.pairs:
        table.add_row("corners, largest, pixels", "", "", f"{report.largest_pixels:.2g}")
        table.add_row("corners, mean, pixels", "", "", f"{report.mean_pixels:.2g}")
        table.add_row("scores, largest", "", "", f"{report.largest_score:.2g}")
    own, other = report.original_size, report.file_size
    table.add_row("size, MB", f"{own / 1e6:.2f}", f"{other / 1e6:.2f}", f"{other / own:.2f} x")
    return table
