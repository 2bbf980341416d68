"""Write the tables of docs/scale.md: how well two processes train together, and what many GPUs should do."""

from collections.abc import Mapping, Sequence

from pages.measured import Result, number, provenance, read, spread, table

COMMAND = "torchrun --nproc-per-node 2 benchmarks/data_parallel.py"
WAYS: Mapping[str, str] = {
    "alone": "one process",
    "together": "two that train one network",
    "together, bf16": "the same, `--compute.gradient-compression bf16`",
    "apart": "two that never talk, each with a network of its own",
}


def efficiency_table() -> str:
    """Return how long a step takes in each way, or that nothing has been measured."""
    result = read("data_parallel")
    if result is None:
        return f"\nNot measured yet: `{COMMAND}`.\n"
    times: Mapping[str, Sequence[float]] = result["seconds"]
    lines = [
        (
            WAYS[way],
            spread(seconds),
            share(result, way, "of_alone"),
            share(result, way, "of_apart"),
        )
        for way, seconds in times.items()
    ]
    sums = {kind: f"{sorted(each)[len(each) // 2]:.2f} s" for kind, each in result["sum_seconds"].items()}
    text = table(("", "seconds of a step", "of one process", "of those that never talk"), lines)
    text += (
        f"\n{result['model']}, {result['batch_size']} images of {result['image_size']} pixels in each process; medians "
        f"with the middle half. The sum of {result['parameters']:,} numbers by itself takes {sums['fp32']}, in bf16 "
        f"{sums['bf16']}.\n\n"
    )
    return text + provenance(COMMAND, result)


def share(result: Result, way: str, name: str) -> str:
    """Format a share of a way's speed, empty where it is compared with itself or not at all."""
    return f"{result[way][name]:.3f}" if way in result else ""


def model_table() -> str:
    """Return what the model says, or that it has not been computed."""
    result = read("scaling_model")
    if result is None:
        return "\nNot computed yet: `python benchmarks/scaling_model.py`.\n"
    lines = [
        (
            f"{row['gpus']:,} GPUs, {row['network']}" if row["gpus"] > result["machine"]["gpus"] else "8 GPUs, NVLink",
            str(row["images"]),
            f"{row['gpus'] * row['images']:,}",
            number(row["alone"] * 1e3),
            f"{number(row['summing'] * 1e3)} ({number(row['compressed']['summing'] * 1e3)})",
            f"{percent(row['efficiency'])} ({percent(row['compressed']['efficiency'])})",
            f"{row['images_per_s']:,.0f}",
        )
        for row in result["rows"]
    ]
    headings = (
        "",
        "images each",
        "images of a step",
        "step alone, ms",
        "sums, ms (bf16)",
        "efficiency (bf16)",
        "images/s",
    )
    return table(headings, lines)


def percent(value: float) -> str:
    """Format a share."""
    return f"{100 * value:.1f} %"
