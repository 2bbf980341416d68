"""Every backend of `senet.optimize_for_inference` on the CPU: how long it prepares for a shape, and how long it runs.

Contestants: the network as it is in PyTorch (channels-last), and its rewritten copies by backend, as a user calls them,
so that large batches are computed by four images. "auto" chooses with an empty cache, and is not timed, for it runs one
of the others. Detectors: trunk and pyramid of a Faster R-CNN on SE-ResNet-50, on images of sizes that have not come
before and then again.

Command: python benchmarks/backends.py
Cost: three minutes on two CPU cores.
Results: benchmarks/results/backends.json.
"""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import tyro
from torch import Tensor, nn

import senet
from report import RESULTS, Precision, milliseconds, time_in_turn, write_results
from senet.detection.trunk import PyramidMaps
from senet.optimization.inference import Backend, InferenceModel, optimized

BACKENDS: tuple[Backend, ...] = ("eager", "inductor", "onednn", "openvino")
CASES: tuple[tuple[str, int, int, Precision], ...] = (
    ("cifar_se_resnet20", 1, 32, "fp32"),
    ("cifar_se_resnet20", 128, 32, "fp32"),
    ("se_mobilenet_v1", 1, 224, "fp32"),
    ("se_resnet18", 1, 224, "fp32"),
    ("se_resnet50", 1, 224, "fp32"),
    ("se_resnet50", 16, 224, "fp32"),
    ("se_resnet50", 1, 224, "bf16"),
    ("se_resnext50_32x4d", 1, 224, "fp32"),
)
"""Network, images, pixels, precision."""
SIZES = ((256, 320), (320, 256), (448, 608))
"""Of the detector's images."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: of all contestants in turn.
        cases: which of `CASES`, by number; what was measured of the others before is kept.
        detector: whether the detector is measured.
    """

    rounds: int = 15
    cases: tuple[int, ...] = tuple(range(len(CASES)))
    detector: bool = True


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def measure(name: str, batch: int, side: int, precision: Precision, rounds: int) -> dict[str, Any]:
    """Time the backends on one network."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = senet.create_model(name).eval(), torch.randn(batch, 3, side, side)
    plain = senet.create_model(name).eval().to(memory_format=torch.channels_last)
    if precision == "bf16":
        plain = plain.to(torch.bfloat16)
    images = x.to(next(plain.parameters()).dtype, memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {"as it is": lambda: plain(images)}
    prepare = {}
    for backend in BACKENDS:
        fast = senet.optimize_for_inference(model, backend=backend, precision=precision)
        runs[backend] = partial(fast, x)
        prepare[backend] = round(seconds_of(runs[backend]), 2)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SENET_CACHE"] = folder
        auto = cast(InferenceModel, senet.optimize_for_inference(model, precision=precision))
        prepare["auto"] = round(seconds_of(lambda: auto(x)), 2)
        del os.environ["SENET_CACHE"]
    calls = max(1, min(50, int(0.02 / seconds_of(runs["eager"]))))
    times = milliseconds(time_in_turn(runs, rounds, calls, settle=1))
    chosen = auto.backend
    print(name, batch, precision, {key: sorted(ms)[len(ms) // 2] for key, ms in times.items()}, chosen, flush=True)
    case = {"network": name, "batch": batch, "side": side, "precision": precision}
    return {**case, "milliseconds": times, "prepare_s": prepare, "auto": chosen}


@torch.no_grad()
def measure_detector(rounds: int) -> list[dict[str, Any]]:
    """Time the backends that suit images of many sizes on a pyramid, and those that compile for each size."""
    torch.manual_seed(0)
    detector = senet.faster_rcnn("se_resnet50", num_classes=3, frozen_stages=0, norm="train").eval()
    maps: nn.Module = PyramidMaps(detector.backbone)
    models = {
        "eager": optimized(maps, "eager", "fp32", micro_batch=4),
        "openvino, all sizes": optimized(maps, "openvino", "fp32", micro_batch=4, any_size=True),
        "openvino, each size": optimized(maps, "openvino", "fp32", micro_batch=4),
        "onednn, each size": optimized(maps, "onednn", "fp32", micro_batch=4),
    }
    found = []
    for height, width in SIZES:
        x: Tensor = torch.randn(1, 3, height, width)
        runs = {name: partial(model, x) for name, model in models.items()}
        prepare = {name: round(seconds_of(run), 2) for name, run in runs.items()}
        times = milliseconds(time_in_turn(runs, max(5, rounds // 3), settle=1))
        print(height, width, {key: sorted(ms)[len(ms) // 2] for key, ms in times.items()}, prepare, flush=True)
        found.append({"height": height, "width": width, "milliseconds": times, "first_s": prepare})
    return found


def main(arguments: Arguments) -> None:
    """Measure every network, then the detector."""
    warnings.filterwarnings("ignore")
    path = RESULTS / "backends.json"
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    known = {(case["network"], case["batch"], case["precision"]): case for case in before.get("cases", ())}
    for name, batch, side, precision in (CASES[number] for number in arguments.cases):
        known[name, batch, precision] = measure(name, batch, side, precision, arguments.rounds)
    detector = measure_detector(arguments.rounds) if arguments.detector else before.get("detector", [])
    cases = [known[name, batch, precision] for name, batch, _, precision in CASES if (name, batch, precision) in known]
    results = {"settings": {"rounds": arguments.rounds}, "cases": cases, "detector": detector}
    write_results(path, results, ("torch", "openvino"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
