"""What runs a rewritten network: PyTorch's compiler, oneDNN or OpenVINO, compiled for each shape of images."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import numpy
import torch
import torch._inductor.config
from torch import Tensor, fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from senet.errors import SenetError, first_line, needed_for
from senet.nn.precision import Precision
from senet.ops.gate import MAX_IMAGES
from senet.optimization.capturing import Outputs
from senet.optimization.lowering import lower
from senet.quiet import root_logger_kept

NamedBackend = Literal["inductor", "onednn", "openvino", "eager"]
Runner = Callable[[Tensor], Outputs]
"""Takes images (N, C, H, W) of any type and memory format."""


class EagerRunner:
    """Runs a graph layer by layer.

    Args:
        graph: the network.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph.to(memory_format=torch.channels_last)

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        return cast(Outputs, self.graph(as_weights(x, self.graph)))


def as_weights(x: Tensor, graph: fx.GraphModule) -> Tensor:
    """Return images in the type of a network's weights, channels-last."""
    return x.to(next(graph.parameters()).dtype).contiguous(memory_format=torch.channels_last)


class InductorRunner:
    """Runs a graph with torch.compile and frozen weights, compiled for each new shape.

    Args:
        graph: the network.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph.to(memory_format=torch.channels_last)
        self.compiled = torch.compile(graph, dynamic=False)
        self.seen: set[tuple[int, ...]] = set()

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        x = as_weights(x, self.graph)
        if tuple(x.shape) in self.seen:
            return cast(Outputs, self.compiled(x))
        # torch.compile(options={"freezing": True}) does not reach the tracer: a third slower (torch 2.15).
        with torch._inductor.config.patch(freezing=True):
            output = cast(Outputs, self.compiled(x))
        self.seen.add(tuple(x.shape))
        return output


class BatchRunner:
    """Runs a graph on a GPU as suits the number of images: small batches with the operators of `senet.ops.gate`.

    Args:
        graph: the network.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.small, self.large = InductorRunner(lower(graph)), InductorRunner(graph)

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        return self.small(x) if len(x) <= MAX_IMAGES else self.large(x)


# ---- oneDNN ----------------------------------------------------------------------------------------------------------

SWITCH = threading.Lock()
"""Held while oneDNN's fusion is on, which is a setting of the whole process."""
PROFILED_CALLS = 3
"""The first records shapes and types, the second is optimized for them."""


class OneDNNRunner:
    """Runs a graph with the fusions of oneDNN Graph, by TorchScript, compiled in about a second for each new shape.

    oneDNN computes a convolution, the product with the gates, the sum with the shortcut and the ReLU in one pass:
    nothing else that PyTorch has does, for `torch.ops.mkldnn` takes one product or one sum.

    Args:
        graph: the network.

    Raises:
        SenetError: this PyTorch has no oneDNN, or cannot compile the network so.

    Source: torch/csrc/jit/codegen/onednn in PyTorch, which lists the operators that are taken.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        if not hasattr(torch._C, "_jit_set_llga_enabled"):
            raise SenetError(f"backend 'onednn' is not part of PyTorch {torch.__version__}; choose 'auto'")
        self.graph = graph
        self.compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        # Another memory format would not be what was compiled for, and run without fusions.
        x = x.detach().to(next(self.graph.parameters()).dtype)
        x = torch.empty(x.shape, dtype=x.dtype).copy_(x) if x.stride() != torch.empty(x.shape).stride() else x
        if tuple(x.shape) not in self.compiled:
            try:
                self.compiled[tuple(x.shape)] = self.compile(x)
            except RuntimeError as error:
                raise SenetError(
                    f"backend 'onednn' cannot run this network: {first_line(error)}; choose 'auto'"
                ) from error
        return cast(Outputs, self.compiled[tuple(x.shape)](x))

    def compile(self, x: Tensor) -> Any:
        """Compile for the shape of x."""
        jit: Any = torch.jit
        with SWITCH, onednn_fusion(), warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and sizes become constants, as is meant
            example = torch.zeros_like(x)
            with PoolsOfFixedSize():
                traced = jit.trace(self.graph, example, check_trace=False)
            compiled = jit.freeze(traced.eval())
            for _ in range(PROFILED_CALLS):
                compiled(example)
        return compiled


@contextmanager
def onednn_fusion() -> Iterator[None]:
    """Have TorchScript use oneDNN Graph for what it optimizes in the meantime."""
    jit: Any = torch.jit
    before = jit.onednn_fusion_enabled()
    jit.enable_onednn_fusion(True)
    try:
        yield
    finally:
        jit.enable_onednn_fusion(before)


class PoolsOfFixedSize(TorchFunctionMode):
    """Makes means over positions poolings with windows of fixed size, which oneDNN Graph takes.

    A mean is computed by PyTorch between two groups of oneDNN's, and the map reordered for it: 0.3 ms of 20 in
    SE-ResNet-50.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or pool in its place."""
        kwargs = kwargs or {}
        means = func in (torch.Tensor.mean, torch.mean) and len(args) == 2 and kwargs == {"keepdim": True}
        means = means and tuple(args[1]) in ((2, 3), (-2, -1))
        pools = func is F.adaptive_avg_pool2d and len(args) == 2 and args[1] in (1, (1, 1), [1, 1])
        if (means or pools) and args[0].dim() == 4:
            window = [int(side) for side in args[0].shape[2:]]
            return F.avg_pool2d(args[0], window, window)
        return func(*args, **kwargs)


# ---- OpenVINO --------------------------------------------------------------------------------------------------------


@cache
def openvino_core() -> Any:
    """Return the process-wide OpenVINO core.

    Every `Core` installs an alternate signal stack and restores the previous one when it is destroyed. If two are
    destroyed in the order of their creation, the second restores a freed stack and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


def compile_openvino(model: Any, precision: Precision = "fp32") -> Any:
    """Compile an openvino.Model for the CPU, with PyTorch's number of threads."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino_core().compile_model(model, "CPU", settings)


def converted_to_openvino(source: Any, **options: Any) -> Any:
    """Return a network as an openvino.Model, and leave Python's root logger as it was.

    openvino.convert_model hides all warnings of the whole program while it runs, and for good when it fails.

    Args:
        source: an exported program, a module or the path of an ONNX file.
        options: further arguments of openvino.convert_model.
    """
    import openvino

    with root_logger_kept():
        return openvino.convert_model(source, **options)


class OpenVINORunner:
    """Runs a graph with OpenVINO on the CPU, compiled for each new shape, or once for all of them.

    For all of them it computes as fast, to some percent: 167 ms instead of 170 ms for the pyramid of SE-ResNet-50 on
    448 x 608 pixels, where each new shape takes 0.2 s instead of 3.6 s. In TorchScript's form, for torch.export cannot
    solve the inequalities of a pyramid's sizes.

    Args:
        graph: the network in float32.
        precision: of OpenVINO's arithmetic.
        any_size: compile once for all shapes.

    Raises:
        MissingExtraError: openvino is not installed.
    """

    def __init__(self, graph: fx.GraphModule, precision: Precision, *, any_size: bool = False) -> None:
        with needed_for("backend 'openvino'"):
            import openvino  # noqa: F401
        self.network, self.precision, self.any_size = graph, precision, any_size
        self.compiled: dict[tuple[int, ...], Any] = {}
        self.lock = threading.Lock()

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        x = x.detach().to(next(self.network.parameters()).dtype)
        shape = () if self.any_size else tuple(x.shape)
        if shape not in self.compiled:
            with self.lock:
                self.compiled[shape] = self.compiled.get(shape) or self.compile(x)
        # Copy with NumPy: after a PyTorch copy its OpenMP threads spin and take cores from OpenVINO (10 % of batch-1
        # latency).
        outputs = self.compiled[shape](numpy.ascontiguousarray(x.numpy()))
        maps = tuple(torch.from_numpy(outputs[i].copy()) for i in range(len(outputs)))
        return maps[0] if len(maps) == 1 else maps

    def compile(self, x: Tensor) -> Any:
        """Compile for the shape of x, or for all."""
        example = x.new_zeros(x.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about numbers of positions in means
            if self.any_size:
                model = converted_to_openvino(self.network, example_input=example)
            else:
                model = converted_to_openvino(torch.export.export(self.network, (example,)))
        return compile_openvino(model, self.precision)
