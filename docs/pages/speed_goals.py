"""What the goals of speed are, whether the measurements reach them, and the bounds."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pages.measured import Result, ratios, read, spread, table


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal, and what was measured of it.

    Args:
        title: what is compared.
        limit: the most that is allowed, as a multiple of the other's time or memory.
        cases: the ratios of all rounds, by setting, such as a shape.
        bounds: the ratio that would be measured if nothing but what is inevitable took time, by setting.
    """

    title: str
    limit: float
    cases: Mapping[str, Sequence[float]]
    bounds: Mapping[str, float]

    def reached(self) -> list[bool]:
        """Whether each case is within the limit, to two digits."""
        return [statistics.median(values) <= self.limit + 0.004 for values in self.cases.values()]

    def row(self) -> list[str]:
        """Return the row of the table of all goals."""
        reached = self.reached()
        every = "yes" if all(reached) else f"{sum(reached)} of {len(reached)}" if any(reached) else "no"
        medians = " / ".join(f"{statistics.median(values):.2f}" for values in self.cases.values())
        return [self.title, f"{self.limit:.2f}", medians, every]

    def rows_of_cases(self) -> list[list[str]]:
        """Return a row for each case, with its spread and bound."""
        return [
            [
                f"{self.title}: {case}" if case else self.title,
                f"{self.limit:.2f}",
                spread(values),
                "yes" if reached else "no",
                f"{self.bounds[case]:.2f}" if case in self.bounds else "",
            ]
            for (case, values), reached in zip(self.cases.items(), self.reached(), strict=True)
        ]


def over(times: Mapping[str, Sequence[float]], base: str, least: float) -> float:
    """Return a bound in milliseconds as a multiple of the median of a contestant."""
    return least / statistics.median(times[base])


def goals_of_the_operator(result: Result) -> Iterable[Goal]:
    """Yield a goal for each precision and peer, with the four stages as cases."""
    for precision in ("fp32", "bf16"):
        stages = {f"{o['channels']}x{o['side']}": o for o in result["stages"] if o["precision"] == precision}
        for base, limit in (("plain", 0.75), ("SE", 0.5), ("SE, compiled", 0.6)):
            cases = {case: ratios(one["milliseconds"], "senet", base) for case, one in stages.items()}
            bounds = {
                case: over(one["milliseconds"], base, least_of_the_operator(result, one))
                for case, one in stages.items()
            }
            title = f"operator beside {base}, four stages, {precision}"
            yield Goal(title=title, limit=limit, cases=cases, bounds=bounds)


def least_of_the_operator(result: Result, one: Result) -> float:
    """Return in how many milliseconds a copy would move the operator's bytes."""
    return float(one["least_mb_moved"] / result["bounds"]["copy_gb_per_s"])


def goals_of_training(result: Result) -> Iterable[Goal]:
    """Yield the goals of a training step, and of its memory."""
    precisions = {one["precision"]: one for one in result["steps"]}
    for base, limit in (("timm resnet50", 1.0), ("timm seresnet50", 0.92)):
        yield of_steps(f"training step beside {base}, fp32 / bf16", limit, result, precisions, base)
    kept = read("training_step_kept")
    if kept:
        title = "the same beside timm resnet50, with memory kept, fp32 / bf16"
        of_kept = {one["precision"]: one for one in kept["steps"]}
        yield of_steps(title, 1.0, kept, of_kept, "timm resnet50")
    peaks = {
        precision: [peak["senet se_resnet50"] / peak["timm resnet50"]] for precision, peak in result["peak_mb"].items()
    }
    if peaks:
        title = "peak memory of a training step beside timm resnet50, fp32 / bf16"
        yield Goal(title=title, limit=1.0, cases=peaks, bounds={})


def of_steps(title: str, limit: float, result: Result, steps: Mapping[str, Result], base: str) -> Goal:
    """Return the goal of a training step beside a peer's, by precision."""
    cases = {name: ratios(one["milliseconds"], "senet se_resnet50", base) for name, one in steps.items()}
    bounds = {name: over(one["milliseconds"], base, least_of_training(result, one)) for name, one in steps.items()}
    return Goal(title=title, limit=limit, cases=cases, bounds=bounds)


def least_of_training(result: Result, one: Result) -> float:
    """Return in how many milliseconds a step's multiplications would be done at the speed of a matrix product."""
    return float(result["gflop"] / result["bounds"][f"{one['precision']}_gflops"] * 1e3)


def least_of_inference(result: Result, one: Result) -> float:
    """Return the same for a batch at inference."""
    return float(result["gflop_per_image"] * one["batch"] / result["bounds"][f"{one['precision']}_gflops"] * 1e3)


def goals_of_inference(result: Result) -> Iterable[Goal]:
    """Yield two goals for each precision: beside the plain network, and beside the fastest peer, by batch."""
    for precision in dict.fromkeys(one["precision"] for one in result["latency"]):
        batches = {f"batch {one['batch']}": one for one in result["latency"] if one["precision"] == precision}
        where = f"{' / '.join(batches)}, {precision}"
        for title, limit, peer_of in (
            ("inference beside the plain network, optimized alike", 1.02, plain_twin),
            ("inference beside the fastest peer", 1.0, lambda times: fastest_peer(times, "SE,")),
        ):
            cases, bounds = {}, {}
            for batch, one in batches.items():
                times = one["milliseconds"]
                peer = peer_of(times)
                cases[batch] = ratios(times, fastest_of_ours(times), peer)
                bounds[batch] = over(times, peer, least_of_inference(result, one))
            yield Goal(title=f"{title}, {where}", limit=limit, cases=cases, bounds=bounds)


def plain_twin(times: Mapping[str, Sequence[float]]) -> str:
    """Return the plain network in the backend of `senet.optimize_for_inference` that is fastest on SE-ResNet-50."""
    return fastest_of_ours(times).replace("SE,", "plain,")


def fastest_of_ours(times: Mapping[str, Sequence[float]]) -> str:
    """Return the backend of `senet.optimize_for_inference` with the least median on SE-ResNet-50."""
    return fastest(times, [name for name in times if name.startswith("SE, senet") and "ONNX" not in name])


def fastest_peer(times: Mapping[str, Sequence[float]], kind: str) -> str:
    """Return the runtime of others with the least median on a network."""
    return fastest(times, [name for name in times if name.startswith(kind) and "senet" not in name])


def fastest(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Return the contestant with the least median."""
    return min(names, key=lambda name: statistics.median(times[name]))


def goals_of_small_networks(result: Result) -> Iterable[Goal]:
    """Yield the goals of the demo's training step and of the tail on its largest map."""
    step, tail = result["steps"][0]["milliseconds"], result["tails"][0]["milliseconds"]
    for title, limit, times, name in (
        ("training step of `senet demo`, SE beside plain", 1.2, step, "as built"),
        ("operator beside plain, 32 x 16 x 8 x 8, fp32", 1.67, tail, "senet"),
    ):
        yield Goal(title=title, limit=limit, cases={"": ratios(times, name, "plain")}, bounds={})


GOALS: Mapping[str, Callable[[Result], Iterable[Goal]]] = {
    "residual_tail": goals_of_the_operator,
    "small_networks": goals_of_small_networks,
    "training_step": goals_of_training,
    "inference": goals_of_inference,
}
"""By the name of the result."""


def all_goals() -> list[Goal]:
    """Return the goals of everything that was measured on the CPU."""
    results = {name: read(name) for name in GOALS}
    return [goal for name, result in results.items() if result is not None for goal in GOALS[name](result)]


def table_of_goals(goals: Iterable[Goal]) -> str:
    """Return the table of all goals, a line each."""
    return table(("", "at most", "measured", "reached"), [goal.row() for goal in goals])


def table_of_cases(goals: Iterable[Goal]) -> str:
    """Return the table of all goals, case by case, with spread and bound."""
    rows = [row for goal in goals for row in goal.rows_of_cases()]
    return table(("", "at most", "measured", "reached", "bound"), rows)
