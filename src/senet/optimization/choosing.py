"""The fastest of the runners of this machine for a network and a shape of images: measured once, and remembered."""

import copy
import hashlib
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any, cast

import torch
from torch import Tensor, fx

from senet.errors import counted, first_line, warn
from senet.files import make_folder, parse_json, write_json
from senet.nn.precision import Precision
from senet.ops.cpu import CompilerError, cache_folder, target
from senet.optimization.capturing import Outputs
from senet.optimization.runners import (
    EagerRunner,
    InductorRunner,
    NamedBackend,
    OneDNNRunner,
    OpenVINORunner,
    Runner,
)

logger = logging.getLogger(__name__)
MAX_SHAPES = 16
"""For which a choice is made: each keeps a compiled network."""
PREPARE_S = 30.0
"""Once compiling has taken this long, no other backend is tried."""
MEASURE_S, ROUNDS, TURN_S = 2.0, 9, 0.01
"""All rounds together take no longer than the first, but one round is always run; a turn has calls for the last."""
TOLERANCE: Mapping[str, float] = {"fp32": 1e-2, "bf16": 0.2}
"""How far outputs may be from those of eager PyTorch, relative to the largest; farther is a defect of a backend.
Rounding is 1e-6 mostly, but 1e-3 in random networks whose gates get logits of hundreds."""
ABOUT_PROCESSOR = ("model name", "flags", "CPU implementer", "CPU part", "Features")
"""Lines of /proc/cpuinfo, of Intel's and AMD's processors and of ARM's."""
Key = tuple[int, ...]
"""A shape of images."""


def candidates(graph: fx.GraphModule, *, any_size: bool = False) -> tuple[NamedBackend, ...]:
    """Return the backends that are tried on the CPU for a network; "eager" is the first.

    "inductor" is not: it compiles for up to a minute, and was slower than "onednn" for every network measured
    (docs/speed.md). For images of many sizes "onednn" is not either, for it compiles again for each.
    """
    if next(graph.parameters()).dtype != torch.float32:  # as its owner wants it
        return ("eager",)
    compiled: tuple[NamedBackend, ...] = () if any_size else ("onednn",)
    return ("eager", *compiled, "openvino") if find_spec("openvino") else ("eager", *compiled)


def runner_of(graph: fx.GraphModule, backend: NamedBackend, precision: Precision, *, any_size: bool = False) -> Runner:
    """Return what runs a network on the CPU.

    Args:
        graph: the network; in float32 for "openvino", otherwise in the type of the precision.
        backend: what runs it.
        precision: of the arithmetic.
        any_size: whether images have many sizes, for which OpenVINO then compiles at once.
    """
    if backend == "openvino":
        return OpenVINORunner(graph, precision, any_size=any_size)
    runners: dict[str, Callable[[fx.GraphModule], Runner]]
    runners = {"eager": EagerRunner, "inductor": InductorRunner, "onednn": OneDNNRunner}
    return runners[backend](graph)


class AutoRunner:
    """Runs a network on the CPU with the backend that is fastest for a shape of images, chosen when it first comes.

    Args:
        graph: the network in float32.
        precision: of the arithmetic, "fp32" or "bf16".
        any_size: whether images have many sizes, so that the choice is made for all of them at the first image.

    Attributes:
        backends: what was chosen, by shape.
        latest: the backend of the latest call; None before the first.
    """

    def __init__(self, graph: fx.GraphModule, precision: Precision, *, any_size: bool = False) -> None:
        self.graph, self.precision, self.any_size = graph, precision, any_size
        self.own = graph if precision == "fp32" else copy.deepcopy(graph).to(torch.bfloat16)
        self.runners: dict[Key, Runner] = {}
        self.backends: dict[Key, NamedBackend] = {}
        self.latest: NamedBackend | None = None
        self.lock = RLock()

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        key = () if self.any_size and x.numel() else tuple(x.shape)
        if key not in self.runners:
            with self.lock:
                if key not in self.runners:
                    self.backends[key], self.runners[key] = self.choose(x)
        self.latest = self.backends[key]
        return self.runners[key](x)

    def runner(self, backend: NamedBackend) -> Runner:
        """Return a runner that has compiled nothing yet."""
        graph = self.graph if backend == "openvino" else self.own
        return runner_of(graph, backend, self.precision, any_size=self.any_size)

    def choose(self, x: Tensor) -> tuple[NamedBackend, Runner]:
        """Return the fastest backend for images of the shape of x, and what runs it."""
        if x.numel() == 0 or len(self.runners) >= MAX_SHAPES:
            if x.numel():
                warn(
                    f"images came in more than {MAX_SHAPES} shapes: backend 'auto' runs the others layer by layer; "
                    "resize or pad the images to a few shapes"
                )
            return "eager", self.runner("eager")
        tried = candidates(self.graph, any_size=self.any_size)
        shape = "any size" if self.any_size else "x".join(map(str, x.shape))
        key = key_of_choice(self.graph, shape, self.precision, tried)
        known = read_choice(key, tried)
        prepared = {} if known is None else self.prepared((known,), x)
        if known in prepared:
            return known, prepared[known]
        prepared = self.prepared(tried, x)
        seconds = time_in_turn(prepared, x)
        best = min(seconds, key=seconds.__getitem__)
        milliseconds = {name: round(1000 * each, 3) for name, each in seconds.items()}
        logger.info("images of %s run with %s; milliseconds: %s", shape, best, milliseconds)
        left_out = [name for name in tried if name not in prepared]
        write_choice(key, {"backend": best, "milliseconds": milliseconds, "left_out": left_out})
        return best, prepared[best]

    def prepared(self, backends: tuple[NamedBackend, ...], x: Tensor) -> dict[NamedBackend, Runner]:
        """Return the runners that have compiled for x and agree with eager PyTorch, which is the first of several."""
        runners: dict[NamedBackend, Runner] = {}
        expected: Outputs | None = None
        start = time.monotonic()
        for backend in backends:
            if time.monotonic() - start > PREPARE_S:
                logger.info("backend %r is not tried: compiling has taken %.0f s already", backend, PREPARE_S)
                continue
            try:
                runner = self.runner(backend)
                output = runner(x)
            except Exception as error:  # whatever another library's compiler says
                if backend == "eager":
                    raise
                logger.warning("backend %r is left out, for it fails: %s", backend, first_line(error))
                continue
            if backend == "eager":
                expected = output
            elif expected is not None and not agree(output, expected, TOLERANCE[self.precision]):
                logger.warning("backend %r is left out, for its outputs differ from PyTorch's", backend)
                continue
            runners[backend] = runner
        return runners

    def described(self) -> str:
        """Return what was chosen, in words."""
        found = dict.fromkeys(self.backends.values())
        if len(found) < 2:
            return next(iter(found), "chosen at the first call")
        return ", ".join(
            f"{name} for {counted(sum(one == name for one in self.backends.values()), 'shape')}" for name in found
        )


def agree(outputs: Outputs, expected: Outputs, tolerance: float) -> bool:
    """Whether outputs are equal up to a difference relative to the largest value of each."""
    pairs = [(outputs, expected)] if isinstance(outputs, Tensor) else list(zip(outputs, expected, strict=True))
    for one, other in cast(list[tuple[Tensor, Tensor]], pairs):
        scale = other.float().abs().max()
        if not bool(scale.isfinite()):  # nothing can be said
            continue
        if not bool((one.float() - other.float()).abs().max() <= tolerance * scale.clamp_min(1e-6)):
            return False
    return True


def time_in_turn(runners: Mapping[NamedBackend, Runner], x: Tensor) -> dict[NamedBackend, float]:
    """Return the median of the seconds that each takes for x, called in turn."""
    calls: dict[NamedBackend, int] = {}
    for name, runner in runners.items():
        seconds_of(runner, x, 1)
        calls[name] = max(1, min(50, int(TURN_S / max(seconds_of(runner, x, 1), 1e-6))))
    found: dict[NamedBackend, list[float]] = {name: [] for name in runners}
    start = time.perf_counter()
    for number in range(ROUNDS):
        if number and time.perf_counter() - start > MEASURE_S:
            break
        for name, runner in runners.items():
            runner(x)  # the threads of the one before it still spin
            found[name].append(seconds_of(runner, x, calls[name]))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def seconds_of(runner: Runner, x: Tensor, calls: int) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        runner(x)
    return (time.perf_counter() - start) / calls


# ---- remembering -----------------------------------------------------------------------------------------------------


@cache
def choices() -> dict[str, NamedBackend]:
    """Return what was chosen in this process, by key."""
    return {}


def path_of_choice(key: str) -> Path:
    """Return the file of a choice."""
    return cache_folder() / "backends" / f"{key}.json"


def key_of_choice(graph: fx.GraphModule, shape: str, precision: Precision, tried: tuple[NamedBackend, ...]) -> str:
    """Return the key of a choice, which follows from all that may change which backend is fastest."""
    layers = [f"{name} {type(layer).__name__} {layer.extra_repr()}" for name, layer in graph.named_modules()]
    weights = [f"{name} {tuple(weight.shape)}" for name, weight in graph.named_parameters()]
    machine = (processor(), compiler(), os.cpu_count(), torch.get_num_threads())
    versions = [f"{package} {version_of(package)}" for package in ("torch", "openvino", "senet")]
    facts = (graph.code, *layers, *weights, shape, precision, *tried, *machine, *versions)
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:24]


@cache
def processor() -> str:
    """Return the name of the processor, its instructions, and what PyTorch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:  # another system than Linux
        return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
    found = [line for line in lines if line.startswith(ABOUT_PROCESSOR)]
    return "\n".join((platform.machine(), *found, torch.backends.cpu.get_cpu_capability()))


def compiler() -> str:
    """Return what the C++ compiler says of itself and the processor; empty without one, which some backends need."""
    try:
        return target()
    except CompilerError:
        return ""


@cache
def version_of(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_choice(key: str, tried: tuple[NamedBackend, ...]) -> NamedBackend | None:
    """Return the backend that was chosen before; None if none was, or the file is damaged."""
    if key in choices():
        return choices()[key]
    try:
        found: Any = parse_json(path_of_choice(key).read_text())
        backend = found["backend"]
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):  # RuntimeError: there is no home
        return None
    return cast(NamedBackend, backend) if backend in tried else None


def write_choice(key: str, choice: Mapping[str, Any]) -> None:
    """Keep a choice, and where a file can be written also for other processes."""
    choices()[key] = choice["backend"]
    try:
        path = path_of_choice(key)
        make_folder(path.parent)
        write_json(path, choice)
    except (OSError, RuntimeError) as error:
        logger.info("the chosen backend is remembered by this process alone: %s", first_line(error))
