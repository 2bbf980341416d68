"""Inference with the rewritten graph, compiled by PyTorch or OpenVINO."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, cast, get_args

import numpy
import torch
import torch._inductor.config
from torch import Tensor, fx, nn

from senet.errors import SenetError, check_choice, needed_for
from senet.optimization.rewriting import rewrite

Backend = Literal["inductor", "openvino", "eager"]
Precision = Literal["fp32", "bf16"]
KEPT = ("config", "preprocessing", "class_names", "num_classes", "pretrained_cfg", "default_cfg")
"""What a model says of itself, and its optimized form too."""


class InferenceModel(nn.Module):
    """A network for inference alone: the same outputs, without gradients.

    Exporting it (torch.export, ONNX, OpenVINO) exports the rewritten graph.

    Args:
        graph: what is computed.
        backend: what computes it.
        precision: of the arithmetic; the outputs are float32.
        micro_batch: largest number of images computed at once; None for no limit.

    Attributes:
        network: the rewritten network, a torch.fx.GraphModule in the precision's type.
    """

    def __init__(self, graph: fx.GraphModule, backend: Backend, precision: Precision, micro_batch: int | None) -> None:
        super().__init__()
        self.network = graph
        self.backend, self.precision, self.micro_batch = backend, precision, micro_batch
        self.run: Callable[[Tensor], Tensor] = self.runner()
        self.eval()

    def runner(self) -> Callable[[Tensor], Tensor]:
        """Return what computes a micro-batch; it compiles for each new shape."""
        if self.backend == "openvino":
            return OpenVINORunner(self.network, self.precision)
        self.network.to(memory_format=torch.channels_last)
        if self.backend == "inductor":
            return InductorRunner(self.network)
        return self.network

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> what the model returned."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or torch.compiler.is_exporting():
            return cast(Tensor, self.network(x))
        with torch.no_grad():
            x = x.to(next(self.network.parameters()).dtype)
            if self.backend != "openvino":
                x = x.contiguous(memory_format=torch.channels_last)
            parts = [x] if self.micro_batch is None else x.split(self.micro_batch)
            done = [self.run(part) for part in parts]
            return (done[0] if len(done) == 1 else torch.cat(done)).float()

    def train(self, mode: bool = True) -> "InferenceModel":
        """Refuse to train: BatchNorm is folded, there is nothing to return to."""
        if mode:
            raise SenetError("this model is optimized for inference; train the model that it was made from")
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is compiled."""
        return {key: value for key, value in self.__dict__.items() if key != "run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Compile again when it is used."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.run = self.runner()


class InductorRunner:
    """Computes a graph with torch.compile, its weights frozen, compiled for each shape that comes.

    Args:
        graph: the network.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.compiled = torch.compile(graph, dynamic=False)
        self.seen: set[tuple[int, ...]] = set()

    def __call__(self, x: Tensor) -> Tensor:
        """Compute one micro-batch."""
        if tuple(x.shape) in self.seen:
            return cast(Tensor, self.compiled(x))
        # As an option of torch.compile it does not reach the tracer, and the network runs a third slower (torch 2.15).
        with torch._inductor.config.patch(freezing=True):
            done = cast(Tensor, self.compiled(x))
        self.seen.add(tuple(x.shape))
        return done


@cache
def openvino_core() -> Any:
    """Return the one that serves the whole process.

    Each brings a stack for signal handlers and takes it away when it goes, to whichever it found before. Of two that go
    in the order in which they came, the second leaves a stack that is gone, and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


class OpenVINORunner:
    """Computes a graph with OpenVINO on the CPU, compiled for each shape that comes.

    Args:
        graph: the network in float32.
        precision: in which OpenVINO computes.
    """

    def __init__(self, graph: fx.GraphModule, precision: Precision) -> None:
        with needed_for("backend='openvino'"):
            import openvino  # noqa: F401
        self.network, self.precision = graph, precision
        self.compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Compute one micro-batch."""
        if tuple(x.shape) not in self.compiled:
            self.compiled[tuple(x.shape)] = self.compile(x)
        # NumPy copies, if need be: after a copy of its own PyTorch's threads wait actively for more to do, on the cores
        # that OpenVINO's threads need by then, and cost a tenth of the time of one image.
        outputs = self.compiled[tuple(x.shape)](numpy.ascontiguousarray(x.numpy()))
        return torch.from_numpy(outputs[0].copy())

    def compile(self, x: Tensor) -> Any:
        """Compile for the shape of x."""
        import openvino

        exported = torch.export.export(self.network, (x.new_zeros(x.shape),))
        model = openvino.convert_model(exported)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if self.precision == "fp32" else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        return openvino_core().compile_model(model, "CPU", settings)


def optimize_for_inference(
    model: nn.Module,
    *,
    backend: Backend = "inductor",
    precision: Precision = "fp32",
    micro_batch: int | None = None,
) -> InferenceModel:
    """Fold BatchNorm into convolutions, move each squeeze before the expansion, and compile.

    Args:
        model: any network that torch.fx can trace; it is copied.
        backend: "inductor" (torch.compile with frozen weights), "openvino" (the fastest on Intel and AMD processors; an
            optional dependency) or "eager" (no compiler).
        precision: "fp32", or "bf16" for speed at about two digits.
        micro_batch: largest number of images computed at once. None for four on the CPU, where the maps of a block then
            stay in the cache between its layers, and for no limit elsewhere.

    Returns:
        A module with the same outputs, to rounding; it compiles at the first batch of each shape.

    Raises:
        SenetError: the model cannot be traced, or an option is out of its range.
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("precision", precision, get_args(Precision))
    if micro_batch is not None and micro_batch < 1:
        raise SenetError(f"micro_batch is {micro_batch}; expected at least 1")
    device = next(model.parameters()).device.type
    if backend == "openvino" and device != "cpu":
        raise SenetError(
            f"backend is 'openvino', but the model is on {device}; move it to the CPU or choose 'inductor'"
        )
    if micro_batch is None and device == "cpu":
        micro_batch = 4
    graph = rewrite(model)
    if precision == "bf16" and backend != "openvino":
        graph = graph.to(torch.bfloat16)
    optimized = InferenceModel(graph, backend, precision, micro_batch)
    for name in KEPT:
        if hasattr(model, name):
            setattr(optimized, name, getattr(model, name))
    return optimized
