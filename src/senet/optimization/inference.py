"""Inference with the rewritten graph, compiled by PyTorch or OpenVINO."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, cast, get_args

import numpy
import torch
import torch._inductor.config
from torch import Tensor, fx, nn

from senet.errors import SenetError, check_choice, needed_for
from senet.nn.modes import device_of
from senet.nn.precision import Precision, check_precision, fast_precision, float32_products
from senet.ops.gate import MAX_IMAGES
from senet.optimization.capturing import GraphRunner, Outputs
from senet.optimization.lowering import lower
from senet.optimization.rewriting import rewrite

Backend = Literal["inductor", "openvino", "eager"]
Switch = Literal["auto", "on", "off"]
KEPT = ("config", "preprocessing", "class_names", "num_classes", "pretrained_cfg", "default_cfg")
"""Attributes that the optimized model takes over."""


class InferenceModel(nn.Module):
    """A network that can only infer: the same outputs, without gradients.

    Exporting it (torch.export, ONNX, OpenVINO) exports the rewritten graph.

    Args:
        graph: the rewritten network.
        backend: what runs it.
        precision: of the arithmetic, "fp32", "tf32" or "bf16"; the outputs are float32.
        micro_batch: largest number of images computed at once; None for no limit.
        cuda_graphs: whether CUDA graphs start the launches: "auto" or "on" on a GPU, "off".

    Attributes:
        network: the rewritten network, a torch.fx.GraphModule whose parameters have the dtype of the precision.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        backend: Backend,
        precision: Precision,
        micro_batch: int | None,
        cuda_graphs: Switch = "auto",
    ) -> None:
        super().__init__()
        self.network = graph
        self.backend, self.precision, self.micro_batch = backend, precision, micro_batch
        self.cuda_graphs = cuda_graphs
        self.run: Callable[[Tensor], Outputs] = self.runner()
        self.eval()

    def runner(self) -> Callable[[Tensor], Outputs]:
        """Return the function that runs a micro-batch; it compiles for each new shape."""
        if self.backend == "openvino":
            return OpenVINORunner(self.network, self.precision)
        self.network.to(memory_format=torch.channels_last)
        device = device_of(self.network)
        if device.type != "cuda":
            return InductorRunner(self.network) if self.backend == "inductor" else self.network
        # A function, for a module would become a part of this one.
        launches = BatchRunner(self.network) if self.backend == "inductor" else lower(self.network).forward

        def run(x: Tensor) -> Outputs:
            with float32_products(device, self.precision):
                return launches(x)

        if self.cuda_graphs == "off":
            return run
        return GraphRunner(run, device, next(self.network.parameters()), required=self.cuda_graphs == "on")

    def forward(self, x: Tensor) -> Any:
        """Return what the model returned for images (N, C, H, W)."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or torch.compiler.is_exporting():
            return self.network(x)
        with torch.no_grad():
            if not isinstance(self.run, GraphRunner):  # which converts as it copies
                x = x.to(next(self.network.parameters()).dtype)
                if self.backend != "openvino":
                    x = x.contiguous(memory_format=torch.channels_last)
            parts = [x] if self.micro_batch is None else x.split(self.micro_batch)
            outputs = [self.run(part) for part in parts]
            return joined(outputs)

    def train(self, mode: bool = True) -> "InferenceModel":
        """Refuse training mode: BatchNorm is folded into the convolutions and cannot be restored."""
        if mode:
            raise SenetError("this model is optimized for inference; train the model that it was made from")
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InferenceModel":
        """Move or convert the weights; what a GPU had captured would read them where they were."""
        before = self.addresses()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.addresses()
        if before != after and "cuda" in (before[0], after[0]):
            self.run = self.runner()
        return self

    def addresses(self) -> list[object]:
        """Return the type of device of the weights, and where they are."""
        return [device_of(self.network).type, *(weight.data_ptr() for weight in self.network.parameters())]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is compiled, for copies and pickles."""
        return {key: value for key, value in self.__dict__.items() if key != "run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state; it compiles again at the first call."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.run = self.runner()


def joined(outputs: list[Outputs]) -> Outputs:
    """Return the outputs of several micro-batches as those of one batch, in float32."""
    if isinstance(outputs[0], Tensor):
        parts = cast(list[Tensor], outputs)
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).float()
    return tuple(cast(Tensor, joined(list(maps))) for maps in zip(*outputs, strict=True))


class InductorRunner:
    """Runs a graph with torch.compile and frozen weights, compiled for each new shape.

    Args:
        graph: the network.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.compiled = torch.compile(graph, dynamic=False)
        self.seen: set[tuple[int, ...]] = set()

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
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


@cache
def openvino_core() -> Any:
    """Return the process-wide OpenVINO core.

    Every `Core` installs an alternate signal stack and restores the previous one when it is destroyed. If two are
    destroyed in the order of their creation, the second restores a freed stack and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


class OpenVINORunner:
    """Runs a graph with OpenVINO on the CPU, compiled for each new shape.

    Args:
        graph: the network in float32.
        precision: of OpenVINO's arithmetic.

    Raises:
        MissingExtraError: openvino is not installed.
    """

    def __init__(self, graph: fx.GraphModule, precision: Precision) -> None:
        with needed_for("backend 'openvino'"):
            import openvino  # noqa: F401
        self.network, self.precision = graph, precision
        self.compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Outputs:
        """Run one micro-batch."""
        if tuple(x.shape) not in self.compiled:
            self.compiled[tuple(x.shape)] = self.compile(x)
        # Copy with NumPy: after a PyTorch copy its OpenMP threads spin and take cores from OpenVINO (10 % of batch-1
        # latency).
        outputs = self.compiled[tuple(x.shape)](numpy.ascontiguousarray(x.numpy()))
        maps = tuple(torch.from_numpy(outputs[i].copy()) for i in range(len(outputs)))
        return maps[0] if len(maps) == 1 else maps

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
    cuda_graphs: Switch = "auto",
) -> nn.Module:
    """Return a faster copy of a network for inference: BatchNorm folded, SE computed from smaller maps, compiled.

    Cost: the copy cannot be trained, and compiles at the first batch of each shape (seconds to minutes), so it does not
    pay for few images or many image sizes; backend "eager" skips that. On a GPU the first 8 shapes are captured in CUDA
    graphs, which keep the memory of the largest batch for as long as the copy lives. One image through SE-ResNet-50 on
    a CPU in fp32 takes 85.6 ms in PyTorch, 61.7 ms with "inductor" and 49.7 ms with "openvino" (docs/speed.md).

    Args:
        model: any network that torch.fx can trace; it is copied. Of a detector of this library the trunk and the
            feature pyramid are rewritten. Its images have many sizes, so "eager" suits it.
        backend: "inductor" (torch.compile with frozen weights), "openvino" (the fastest on Intel and AMD processors;
            needs `pip install "senet[openvino]"`) or "eager" (no compiler).
        precision: "fp32", "tf32" (on NVIDIA's GPUs since Ampere, with about three correct digits), "bf16" (faster where
            the hardware computes it, with about two) or "auto" (bf16 where the hardware computes it, else fp32).
        micro_batch: largest number of images computed at once, at least 1. None for 4 on the CPU, where a block's
            feature maps then stay in the cache, and for no limit elsewhere.
        cuda_graphs: "auto" (on a GPU, where it can be done), "on" (an error where it cannot) or "off" (less memory, but
            one image takes several times as long).

    Returns:
        A module with the same outputs, to rounding: an `InferenceModel`, or a detector.

    Raises:
        SenetError: the model cannot be traced, or an option is out of its range.
        MissingExtraError: backend is "openvino", which is not installed.

    >>> import senet
    >>> fast = optimize_for_inference(senet.create_model("cifar_se_resnet20"), backend="eager")
    >>> fast(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("precision", precision, ("auto", "fp32", "tf32", "bf16"))
    check_choice("cuda_graphs", cuda_graphs, get_args(Switch))
    if micro_batch is not None and micro_batch < 1:
        raise SenetError(f"micro_batch is {micro_batch}; expected at least 1")
    device = device_of(model)
    check_precision("precision", precision, device)
    if backend == "openvino" and device.type != "cpu":
        raise SenetError(
            f"backend is 'openvino', but the model is on {device.type}; move it to the CPU or choose 'inductor'"
        )
    if cuda_graphs == "on" and device.type != "cuda":
        raise SenetError(f"cuda_graphs is 'on', but the model is on {device.type}; move it to a GPU or choose 'auto'")
    precision = fast_precision(device) if precision == "auto" else precision
    if micro_batch is None and device.type == "cpu":
        micro_batch = 4
    with_maps: Any = getattr(model, "with_maps", None)  # of detectors
    if with_maps is not None:
        options: Any = {"backend": backend, "precision": precision, "cuda_graphs": cuda_graphs}
        return cast(nn.Module, with_maps(partial(optimize_for_inference, micro_batch=micro_batch, **options)))
    graph = rewrite(model)
    if precision == "bf16" and backend != "openvino":
        graph = graph.to(torch.bfloat16)
    optimized = InferenceModel(graph, backend, precision, micro_batch, cuda_graphs)
    for name in KEPT:
        if hasattr(model, name):
            setattr(optimized, name, getattr(model, name))
    return optimized
