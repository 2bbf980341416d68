"""int8 of networks with SE: accuracy on all images of a test set, by runtime and by what is done to the gates.

How much does int8 cost, in OpenVINO (NNCF) and ONNX Runtime? The network of the package on the 10,000 test images of
CIFAR-10, calibrated on 300 of its training images. Contestants: float32; NNCF's defaults; NNCF with its preset for
mixed signs; NNCF as `senet.export` uses it (ranges from least to largest value, all biases corrected in turn, gates in
float), and the same with the gates in int8; ONNX Runtime's static quantization with its default types for x86 (uint8
activations, all operations), with weights of 7 bits, with int8 activations, and as `senet.export` uses it (uint8
activations, weights of 7 bits, only layers with weights, gates in float), and the same with the gates in int8; float16
and int8 weights alone.

The accuracy of these differs by less than its standard error (0.33 points); the relative change of the logits and the
share of images whose class changes tell them apart.

Latency is that of one image, in turn with float32, on one thread. It says something about int8 only on a processor that
multiplies 8-bit integers (VNNI, AMX, ARM's dot product), which the results name.

Command: python benchmarks/quantization.py --cifar FOLDER, where FOLDER has CIFAR-10's parquet files
Cost: 20 minutes on two CPU cores that others use too; needs nncf (`pip install senet[int8]`).
Results: benchmarks/results/quantization.json
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import senet
from report import RESULTS, milliseconds, time_in_turn, write_results
from senet.data.datasets import open_split
from senet.deployment import quantization, static_quantization
from senet.deployment.calibration import calibration_images, normalized
from senet.deployment.config import ExportConfig
from senet.deployment.graph import build_graph
from senet.deployment.machine import processor
from senet.deployment.to_onnx import to_proto
from senet.deployment.to_openvino import to_model

NETWORK, WEIGHTS = "cifar_se_resnet20", "cifar10"
BATCH = 500
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command."""

    cifar: Path = Path("../shared/data/cifar10")
    """folder of CIFAR-10's parquet files"""
    images: int = 10_000
    """of the test set"""
    rounds: int = 30
    """of the latency"""
    only: tuple[str, ...] = ()
    """contestants, such as "ONNX Runtime: int8", that replace those in the file of results; all by default"""
    output: Path = RESULTS / "quantization.json"
    """JSON file of the results"""


def run_openvino(model: Any) -> Run:
    """Return what computes logits in OpenVINO."""
    from senet.optimization.runners import openvino_core

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino_core().compile_model(model, "CPU", settings)
    return lambda images: np.array(compiled(images)[0])


def run_onnx(model: Any) -> Run:
    """Return what computes logits in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.array(session.run(None, {name: images})[0])


def by_nncf(model: Any, inputs: list[np.ndarray], **options: Any) -> Any:
    """Quantize with NNCF's own defaults and some options."""
    import nncf

    return nncf.quantize(model.clone(), nncf.Dataset(inputs), subset_size=len(inputs), **options)


def openvino_contestants(model: Any, inputs: list[np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Return what makes the models of OpenVINO, by name."""
    import nncf

    ours = partial(quantization.quantize, model, inputs)
    return {
        "float32": lambda: model,
        "int8 weights": lambda: quantization.quantize_weights(model),
        "NNCF's defaults": lambda: by_nncf(model, inputs),
        "NNCF, mixed": lambda: by_nncf(model, inputs, preset=nncf.QuantizationPreset.MIXED),
        "int8": ours,
        "int8, gates too": partial(ours, float_gates=False),
        "int8, biases estimated": partial(ours, thorough=False),
    }


def onnx_contestants(model: Any, inputs: list[np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Return what makes the models of ONNX Runtime, by name."""
    ours = partial(static_quantization.quantize, model, inputs)
    everything = partial(ours, float_gates=False, only_layers=False)
    signed = partial(ours, seven_bits=False, activations="int8")
    return {
        "float32": lambda: model,
        "float16 weights": lambda: static_quantization.float16_weights(model),
        "int8 weights": lambda: static_quantization.quantize_weights(model),
        "all operations, gates too, 8-bit weights": partial(everything, seven_bits=False),
        "all operations, gates too": everything,
        "all operations, gates too, 8-bit weights, int8 activations": partial(
            everything, seven_bits=False, activations="int8"
        ),
        "8-bit weights, int8 activations": signed,
        "gates too, 8-bit weights, int8 activations": partial(signed, float_gates=False),
        "int8": ours,
        "int8, products and sums too": partial(ours, float_products=False),
        "int8, gates too": partial(ours, float_gates=False),
    }


def logits_of(run: Run, images: np.ndarray) -> np.ndarray:
    """Return the logits of all images, (N, classes)."""
    return np.concatenate([run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def compare(logits: np.ndarray, exact: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracy in %, and the differences from float32: of the logits, relative, and of the classes in %."""
    return {
        "top1": round(100 * float((logits.argmax(1) == labels).mean()), 2),
        "error": float(f"{np.linalg.norm(logits - exact) / np.linalg.norm(exact):.3g}"),
        "changed": round(100 * float((logits.argmax(1) != exact.argmax(1)).mean()), 2),
    }


def measure(
    makers: dict[str, Callable[[], Any]],
    runner: Callable[[Any], Run],
    images: np.ndarray,
    labels: np.ndarray,
    exact: np.ndarray,
    rounds: int,
) -> list[dict[str, Any]]:
    """Make and measure the contestants of a runtime."""
    rows: list[dict[str, Any]] = []
    runs = {}
    for name, make in makers.items():
        start = time.perf_counter()
        model = make()
        seconds = time.perf_counter() - start
        runs[name] = runner(model)
        row: dict[str, Any] = {
            "name": name,
            "seconds": round(seconds, 1),
            **compare(logits_of(runs[name], images), exact, labels),
        }
        rows.append(row)
        print(row, flush=True)
    timed = time_in_turn({name: partial(run, images[:1]) for name, run in runs.items()}, rounds, calls=10)
    medians = {name: sorted(times)[rounds // 2] for name, times in milliseconds(timed).items()}
    for row in rows:
        row["latency_ms"], row["float32_latency_ms"] = medians[row["name"]], medians["float32"]
    return rows


def chosen(makers: dict[str, Callable[[], Any]], runtime: str, only: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    """Return the contestants that are asked for, and float32 beside them."""
    names = {name for name in makers if not only or f"{runtime}: {name}" in only}
    return {name: make for name, make in makers.items() if names and name in {*names, "float32"}}


def with_kept(rows: list[dict[str, Any]], runtime: str, options: Options) -> list[dict[str, Any]]:
    """Return the rows of a runtime with those of the file of results that were not measured again."""
    if not options.only or not options.output.exists():
        return rows
    before = {row["name"]: row for row in json.loads(options.output.read_text())["runtimes"][runtime]}
    again = {row["name"]: row for row in rows if f"{runtime}: {row['name']}" in options.only}
    return list((before | again).values())


def main(options: Options) -> None:
    """Measure all, and write the results."""
    torch.set_num_threads(1)
    model = senet.create_model(NETWORK, weights=WEIGHTS).eval()
    graph = build_graph(model, ExportConfig())
    data = senet.DataConfig(dataset=str(options.cifar), preprocessing=graph.preprocessing)
    calibration = calibration_images(data, graph.preprocessing)
    split = open_split(data, "eval")
    read = [split.prepared(i, graph.preprocessing.build()) for i in range(min(options.images, len(split)))]
    images = torch.stack([image for image, _ in read])
    labels = np.array([label for _, label in read])
    with torch.no_grad():
        exact = torch.cat([model(batch) for batch in images.split(BATCH)]).numpy()
    inputs, pixels = calibration.inputs(), images.numpy()
    assert np.allclose(inputs[0], normalized(calibration.pixels[:1], graph.preprocessing).numpy())
    contestants: dict[str, tuple[dict[str, Callable[[], Any]], Callable[[Any], Run]]] = {
        "ONNX Runtime": (onnx_contestants(to_proto(graph, 18), inputs), run_onnx),
        "OpenVINO": (openvino_contestants(to_model(graph), inputs), run_openvino),
    }
    tables = {}
    for runtime, (makers, runner) in contestants.items():
        asked = chosen(makers, runtime, options.only)
        rows = measure(asked, runner, pixels, labels, exact, options.rounds) if asked else []
        tables[runtime] = with_kept(rows, runtime, options)
    results = {
        "network": NETWORK,
        "weights": WEIGHTS,
        "images": len(labels),
        "calibration": len(calibration),
        "top1_eager": round(100 * float((exact.argmax(1) == labels).mean()), 2),
        "processor": asdict(processor()),
        "runtimes": tables,
    }
    write_results(options.output, results, packages=("torch", "onnx", "onnxruntime", "openvino", "nncf"))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
