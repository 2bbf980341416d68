"""Write the table of a small network and its SE twin in docs/results.md from benchmarks/results/cifar_twins.json."""

import statistics

from pages.measured import Result, read, table

NETWORKS = ("cifar_resnet20", "cifar_se_resnet20")
FIGURES = {"top1": ("top-1, %", 2), "top5": ("top-5, %", 2), "loss": ("loss", 4), "train_loss": ("training loss", 4)}
"""Headings, and digits after the point."""
COMMAND = "python benchmarks/cifar_twins.py --data FOLDER"
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""The 97.5 % points of Student's distribution, by degrees of freedom."""


def cifar_tables() -> str:
    """Return the table and what it says, or that nothing has been measured."""
    result = read("cifar_twins")
    if result is None:
        return f"\nNot measured yet: `{COMMAND}`.\n"
    runs = result["runs"]
    lines = []
    for network in NETWORKS:
        own = [run for run in runs if run["network"] == network]
        figures = [
            shown([run[name] for run in own if run[name] is not None], digits) for name, (_, digits) in FIGURES.items()
        ]
        lines.append((f"`{network}`", str(len(own)), *figures))
    text = table(("network", "seeds", *(heading for heading, _ in FIGURES.values())), lines)
    return text + difference(result) + provenance(result)


def shown(values: list[float], digits: int) -> str:
    """Format a mean and a standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def difference(result: Result) -> str:
    """Say by how much the twins differ, seed by seed."""
    by_seed: dict[int, dict[str, float]] = {}
    for run in result["runs"]:
        by_seed.setdefault(run["seed"], {})[run["network"]] = run["top1"]
    pairs = {seed: found for seed, found in sorted(by_seed.items()) if len(found) == 2}
    gains = [found[NETWORKS[1]] - found[NETWORKS[0]] for found in pairs.values()]
    text = table(
        ("top-1, %", *(f"seed {seed}" for seed in pairs)),
        [(f"`{network}`", *(f"{found[network]:.2f}" for found in pairs.values())) for network in NETWORKS],
    )
    mean, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    half = T_95[len(gains) - 1] * error
    verdict = "SE helps here" if mean > half else "this does not show that SE helps here"
    return (
        f"{text}\nWith SE {mean:+.2f} points, 95 % interval {mean - half:+.2f} to {mean + half:+.2f} (Student's, of "
        f"{len(gains)} pairs with the same seed): {verdict}.\n"
    )


def provenance(result: Result) -> str:
    """Say which command and machines the runs come from."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for run in result["runs"]:
        seeds = places.setdefault((run["processor"], run["torch"], run["date"]), [])
        if run["seed"] not in seeds:
            seeds.append(run["seed"])
    where = [
        f"seed {' and '.join(map(str, sorted(seeds)))} on {processor}, PyTorch {torch}, {day}"
        for (processor, torch, day), seeds in places.items()
    ]
    return f"\n`{COMMAND}`, each run on one core: {'; '.join(where)}.\n"
