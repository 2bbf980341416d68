"""Inference with the rewritten graph, by whichever of PyTorch, oneDNN and OpenVINO is fastest."""

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, fx, nn
from torch.utils._device import DeviceContext

from senet.errors import SenetError, check_choice
from senet.nn.modes import device_of
from senet.nn.precision import Precision, check_precision, fast_precision, float32_products
from senet.optimization.capturing import GraphRunner, Outputs
from senet.optimization.choosing import AutoRunner, runner_of
from senet.optimization.lowering import lower
from senet.optimization.rewriting import rewrite
from senet.optimization.runners import BatchRunner, NamedBackend, as_weights

Backend = Literal["auto", "inductor", "onednn", "openvino", "eager"]
Switch = Literal["auto", "on", "off"]
KEPT = ("config", "preprocessing", "class_names", "num_classes", "pretrained_cfg", "default_cfg")
"""Attributes that the optimized model takes over."""


class InferenceModel(nn.Module):
    """A network that can only infer: the same outputs, without gradients.

    Exporting it (torch.export, ONNX, OpenVINO) exports the rewritten graph.

    Args:
        graph: the rewritten network.
        requested: what runs it, or "auto" for the fastest.
        precision: of the arithmetic, "fp32", "tf32" or "bf16"; the outputs are float32.
        micro_batch: largest number of images computed at once; None for no limit.
        cuda_graphs: whether CUDA graphs start the launches: "auto" or "on" on a GPU, "off".
        any_size: whether images have many sizes; OpenVINO then compiles once for all of them.

    Attributes:
        network: the rewritten network, a torch.fx.GraphModule; with PyTorch's backends its parameters have the dtype of
            the precision.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        requested: Backend,
        precision: Precision,
        micro_batch: int | None,
        cuda_graphs: Switch = "auto",
        any_size: bool = False,
    ) -> None:
        super().__init__()
        self.network = graph
        self.requested, self.precision, self.micro_batch = requested, precision, micro_batch
        self.cuda_graphs, self.any_size = cuda_graphs, any_size
        self.run: Callable[[Tensor], Outputs] = self.runner()
        self.eval()

    @property
    def backend(self) -> Backend:
        """What runs it: with "auto" the backend of the latest call, and "auto" before the first."""
        if isinstance(self.run, AutoRunner):
            return self.run.latest or "auto"
        return "inductor" if self.requested == "auto" else self.requested

    def extra_repr(self) -> str:
        """Return what a printed model tells of itself."""
        chosen = f" ({self.run.described()})" if isinstance(self.run, AutoRunner) else ""
        return f"backend={self.requested}{chosen}, precision={self.precision}, micro_batch={self.micro_batch}"

    def runner(self) -> Callable[[Tensor], Outputs]:
        """Return the function that runs a micro-batch; it compiles for each new shape."""
        device = device_of(self.network)
        if self.requested == "auto" and device.type == "cpu":
            return AutoRunner(self.network, self.precision, any_size=self.any_size)
        backend: NamedBackend = "inductor" if self.requested == "auto" else self.requested
        if device.type != "cuda":
            return runner_of(self.network, backend, self.precision, any_size=self.any_size)
        if self.precision == "bf16":  # moved here from the CPU, where OpenVINO takes it in float32
            self.network.to(torch.bfloat16)
        self.network.to(memory_format=torch.channels_last)
        launches = BatchRunner(self.network) if backend == "inductor" else lower(self.network).forward

        def run(x: Tensor) -> Outputs:
            with float32_products(device, self.precision):
                return launches(as_weights(x, self.network))

        if self.cuda_graphs == "off":
            return run
        return GraphRunner(run, device, next(self.network.parameters()), required=self.cuda_graphs == "on")

    def forward(self, x: Tensor) -> Any:
        """Return what the model returned for images (N, C, H, W)."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or torch.compiler.is_exporting() or is_watched():
            return self.network(x)
        with torch.no_grad():
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


def is_watched() -> bool:
    """Whether something sees each operator as it is called, as NNCF does to quantize it: no compiler can run within."""
    modes = torch.overrides._get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes)  # that of torch.set_default_device


def optimize_for_inference(
    model: nn.Module,
    *,
    backend: Backend = "auto",
    precision: Precision = "fp32",
    micro_batch: int | None = None,
    cuda_graphs: Switch = "auto",
) -> nn.Module:
    """Return a faster copy of a network for inference: BatchNorm folded, SE computed from smaller maps, compiled.

    Cost: the copy cannot be trained, and compiles at the first batch of each shape, so it does not pay for few images
    or many image sizes; backend "eager" skips that. On a CPU "auto" then times the backends, which takes some seconds,
    once for each network and shape: the choice is kept in `~/.cache/senet` (`SENET_CACHE` names another folder). On a
    GPU the first 8 shapes are captured in CUDA graphs, which keep the memory of the largest batch for as long as the
    copy lives.

    Args:
        model: any network that torch.fx can trace; it is copied. Of a detector of this library the trunk and the
            feature pyramid are rewritten.
        backend: "auto" (the fastest for each shape of images; `backend` and the printed copy tell which one runs),
            "inductor" (torch.compile with frozen weights, which takes up to a minute), or on the CPU "onednn" (oneDNN's
            fusions in PyTorch, compiled in about a second), "openvino" (needs `pip install "senet[openvino]"`) or
            "eager" (no compiler). Outputs of different backends differ by rounding: name one to get the same on every
            machine. On a GPU "auto" is "inductor". For a detector, whose images have many sizes, "auto" chooses once
            between "eager" and "openvino", which then compiles for all sizes at once.
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
    if backend in ("onednn", "openvino") and device.type != "cpu":
        raise SenetError(
            f"backend is {backend!r}, but the model is on {device.type}; move it to the CPU or choose 'inductor'"
        )
    if cuda_graphs == "on" and device.type != "cuda":
        raise SenetError(f"cuda_graphs is 'on', but the model is on {device.type}; move it to a GPU or choose 'auto'")
    precision = fast_precision(device) if precision == "auto" else precision
    if micro_batch is None and device.type == "cpu":
        micro_batch = 4
    more: dict[str, Any] = {"micro_batch": micro_batch, "cuda_graphs": cuda_graphs}
    with_maps: Any = getattr(model, "with_maps", None)  # of detectors
    if with_maps is None:
        return optimized(model, backend, precision, **more)
    return cast(nn.Module, with_maps(lambda maps: optimized(maps, backend, precision, any_size=True, **more)))


def optimized(model: nn.Module, backend: Backend, precision: Precision, **options: Any) -> InferenceModel:
    """Return a network for inference, see `optimize_for_inference` and `InferenceModel`."""
    graph = rewrite(model)
    if precision == "bf16" and backend != "openvino" and (backend != "auto" or device_of(model).type != "cpu"):
        graph = graph.to(torch.bfloat16)
    found = InferenceModel(graph, backend, precision, **options)
    for name in KEPT:
        if hasattr(model, name):
            setattr(found, name, getattr(model, name))
    return found
