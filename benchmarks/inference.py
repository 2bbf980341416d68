"""ResNet-50 without and with SE at inference: latency of one image, throughput of a batch, beside every runtime.

Networks: timm's resnet50 (plain) and seresnet50 (SE), the same images, evaluation mode. Runtimes:
eager: PyTorch, channels-last; compiled: torch.compile with frozen weights; ONNX Runtime; OpenVINO: each on the
    network as it is, the whole batch at once;
senet inductor, senet onednn, senet openvino: `senet.optimize_for_inference(model, backend=...)`;
senet in ONNX Runtime: the network that senet.optimize_for_inference has rewritten, exported to ONNX.
bfloat16: the network or the runtime in bfloat16; ONNX Runtime computes in float32 only on the CPU and is left out.

On CUDA the runtimes are eager, compiled, captured (compiled, with the CUDA graphs of mode="reduce-overhead"), senet
inductor and senet eager, which capture CUDA graphs themselves. Also: how far outputs are from eager float32, and how
the times grow with batch, resolution and depth.

Command: python benchmarks/inference.py [--device cuda --batch-sizes 1 16 256]
    python benchmarks/inference.py --parts: where OpenVINO's time goes, by kinds of layers, in two minutes
Cost: half an hour on two CPU cores.
Results: benchmarks/results/inference.json, or inference_cuda.json; inference_parts.json.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import timm
import torch
import tyro
from torch import Tensor, nn

import senet
from report import DTYPES, RESULTS, Device, Precision, bounds, milliseconds, results_file, time_in_turn, write_results
from senet.optimization.inference import Backend
from senet.optimization.runners import openvino_core

Run = Callable[[], Tensor]
NETWORKS = {"plain": "resnet50", "SE": "seresnet50"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        device: cpu or cuda.
        batch_sizes: images.
        image_size: pixels.
        precisions: fp32, bf16.
        rounds: of all contestants in turn.
        growth: also other batches, resolutions and depths.
        parts: instead of all this, the parts of OpenVINO's time.
    """

    device: Device = "cpu"
    batch_sizes: tuple[int, ...] = (1, 16)
    image_size: int = 224
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    rounds: int = 7
    growth: bool = True
    parts: bool = False


def network(name: str) -> nn.Module:
    """Build a network with random weights, and random statistics such as training leaves."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return model.eval()


@torch.no_grad()
def eager(model: nn.Module, x: Tensor, precision: Precision) -> Run:
    """Run PyTorch, layer by layer."""
    run = network_like(model, x, precision)
    x = x.to(DTYPES[precision])
    return lambda: cast(Tensor, run(x))


def network_like(model: nn.Module, x: Tensor, precision: Precision) -> nn.Module:
    """Copy a network to the device of x and a precision, channels-last."""
    like = copy.deepcopy(model)
    return like.to(x.device, DTYPES[precision], memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def compiled(model: nn.Module, x: Tensor, precision: Precision, mode: str | None = None) -> Run:
    """torch.compile with frozen weights; it compiles at the first call, here."""
    run = torch.compile(network_like(model, x, precision), dynamic=False, mode=mode)
    x = x.to(DTYPES[precision])
    with torch._inductor.config.patch(freezing=True):
        run(x)
    return lambda: run(x)


def onnx_runtime(model: nn.Module, x: Tensor, precision: Precision) -> Run:
    """ONNX Runtime on the exported network, with as many threads as PyTorch."""
    import onnxruntime

    exported = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert exported is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name, values = session.get_inputs()[0].name, x.contiguous().numpy()
    return lambda: torch.from_numpy(session.run(None, {name: values})[0])


def openvino(model: nn.Module, x: Tensor, precision: Precision) -> Run:
    """OpenVINO on the exported network, with as many threads as PyTorch."""
    x = x.contiguous()
    run = in_openvino(model, x, precision)
    return lambda: torch.from_numpy(run(x.numpy())[0])


def in_openvino(model: nn.Module, x: Tensor, precision: Precision, **settings: Any) -> Any:
    """Compile a network with OpenVINO."""
    import openvino

    settings |= {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.convert_model(torch.export.export(model, (x,)))
    return openvino_core().compile_model(model, "CPU", settings)


PARTS = {"Convolution": "convolutions", "Multiply": "scale, sum, ReLU", "ReduceMean": "squeeze"}


@torch.no_grad()
def parts(batch: int, precision: Precision, arguments: Arguments) -> dict[str, Any]:
    """Return how many milliseconds OpenVINO spends on each kind of layer of the rewritten networks, in every round."""
    x = torch.randn(batch, 3, arguments.image_size, arguments.image_size)
    milliseconds: dict[str, dict[str, list[float]]] = {}
    requests = {}
    for kind, name in NETWORKS.items():
        rewritten = senet.optimize_for_inference(network(name), backend="eager", micro_batch=batch)
        requests[kind] = in_openvino(rewritten, x, precision, PERF_COUNT=True).create_infer_request()
        milliseconds[kind] = {part: [] for part in (*PARTS.values(), "rest")}
        requests[kind].infer([x.numpy()])
    for _ in range(arguments.rounds * max(1, 8 // batch)):
        for kind, request in requests.items():
            request.infer([x.numpy()])
            spent = dict.fromkeys(milliseconds[kind], 0.0)
            for layer in request.get_profiling_info():
                spent[PARTS.get(layer.node_type, "rest")] += layer.real_time.total_seconds() * 1e3
            for part, ms in spent.items():
                milliseconds[kind][part].append(round(ms, 3))
    return {"batch": batch, "precision": precision, "milliseconds": milliseconds}


def optimized(backend: Backend, model: nn.Module, x: Tensor, precision: Precision) -> Run:
    """`senet.optimize_for_inference`, as a user calls it."""
    run = senet.optimize_for_inference(model.to(x.device), backend=backend, precision=precision)
    return lambda: cast(Tensor, run(x))


def optimized_in_onnx_runtime(model: nn.Module, x: Tensor, precision: Precision) -> Run:
    """ONNX Runtime on the network that `senet.optimize_for_inference` has rewritten."""
    return onnx_runtime(senet.optimize_for_inference(model, backend="eager"), x, precision)


RUNTIMES: dict[str, Callable[[nn.Module, Tensor, Precision], Run]] = {
    "eager": eager,
    "compiled": compiled,
    "captured": partial(compiled, mode="reduce-overhead"),
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    "senet in ONNX Runtime": optimized_in_onnx_runtime,
    "senet inductor": partial(optimized, "inductor"),
    "senet eager": partial(optimized, "eager"),
    "senet onednn": partial(optimized, "onednn"),
    "senet openvino": partial(optimized, "openvino"),
}
ON_CUDA = ("eager", "compiled", "captured", "senet inductor", "senet eager")
ONLY_ON_CUDA = ("captured", "senet eager")


def build(
    names: dict[str, str], runtimes: tuple[str, ...], precision: Precision, batch: int, side: int, device: Device
) -> tuple[dict[str, Run], dict[str, float]]:
    """Return the contestants, and how far the outputs of each are from eager float32, relative to the largest."""
    x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    x = x.to(device, memory_format=torch.channels_last)
    torch._dynamo.reset()  # here alone: it would take from earlier contestants what is compiled
    runs, differences = {}, {}
    for kind, name in names.items():
        model = network(name)
        exact = eager(model, x, "fp32")()
        for runtime in runtimes:
            run = torch.no_grad()(RUNTIMES[runtime](network(name), x, precision))
            difference = (run().float() - exact).abs().max() / exact.abs().max()
            runs[f"{kind}, {runtime}"] = run
            differences[f"{kind}, {runtime}"] = float(f"{difference.item():.2g}")
    return runs, differences


def measure(
    names: dict[str, str], runtimes: tuple[str, ...], precision: Precision, batch: int, side: int, arguments: Arguments
) -> dict[str, Any]:
    """Time contestants in turn."""
    with torch.no_grad():
        runs, differences = build(names, runtimes, precision, batch, side, arguments.device)
        calls = max(1, (64 if arguments.device == "cuda" else 8) // batch)
        seconds = time_in_turn(runs, arguments.rounds, calls, arguments.device)
    medians = {name: round(sorted(s)[len(s) // 2] * 1e3, 3) for name, s in seconds.items()}
    print(batch, side, precision, medians, flush=True)
    return {
        "batch": batch,
        "side": side,
        "precision": precision,
        "milliseconds": milliseconds(seconds),
        "differences": differences,
    }


def main(arguments: Arguments) -> None:
    """Measure latency and throughput, then growth."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    packages = ("torch", "timm", "onnxruntime", "openvino", "triton")
    if arguments.parts:
        settings = [(batch, precision) for precision in arguments.precisions for batch in arguments.batch_sizes]
        found = [parts(batch, precision, arguments) for batch, precision in settings]
        write_results(RESULTS / "inference_parts.json", {"parts": found}, packages)
        return
    on_cuda = arguments.device == "cuda"
    latency: list[dict[str, Any]] = []
    growth: list[dict[str, Any]] = []
    results = {
        "settings": asdict(arguments),
        "bounds": bounds(arguments.device),
        "gflop_per_image": 2 * senet.cost(timm.create_model("resnet50"), arguments.image_size).multiply_adds / 1e9,
        "latency": latency,
        "growth": growth,
    }
    for precision in arguments.precisions:
        runtimes = ON_CUDA if on_cuda else tuple(r for r in RUNTIMES if r not in ONLY_ON_CUDA)
        if precision == "bf16":
            runtimes = tuple(r for r in runtimes if "ONNX" not in r)
        for batch in arguments.batch_sizes:
            latency.append(measure(NETWORKS, runtimes, precision, batch, arguments.image_size, arguments))
            write_results(results_file("inference", arguments.device), results, packages)
    if arguments.growth:
        peer, best = ("captured", "senet inductor") if on_cuda else ("OpenVINO", "senet openvino")
        side = arguments.image_size
        sizes = [(50, batch, side) for batch in (1, 4, 16, 64)] + [(50, 1, side * 5 // 7), (50, 1, side * 10 // 7)]
        for depth, batch, pixels in (*sizes, (101, 1, side), (152, 1, side)):
            names = {"plain": f"resnet{depth}", "SE": f"seresnet{depth}"}
            growth.append(
                {"depth": depth, **measure(names, (peer, best), arguments.precisions[0], batch, pixels, arguments)}
            )
            write_results(results_file("inference", arguments.device), results, packages)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
