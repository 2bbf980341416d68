"""What a model computes from what, recorded while it runs once.

A `TorchFunctionMode` sees every operation on tensors, and hooks see which module is running. That works for every model
that runs: torch.fx would not follow control flow that depends on values, and torch.export would lose the modules.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from senet.surgery.probe import ExampleInputs, call_model


@dataclass(eq=False)
class Value:
    """A tensor at one moment of the run: an in-place operation on the tensor makes a new value.

    Args:
        index: its position in the order of computation.
        operation: the name of the function that computed it, such as "conv2d", "__add__" or "relu" (also for "relu_");
            "input" for the model's inputs; the class of the module if no function was seen.
        inputs: the values that it was computed from, without parameters and constants.
        tensor: kept alive, so that no other tensor gets the same id.
        scope: the name of the innermost module that was running.
        arguments: of the function.
        ancestors: a bit mask with one bit for itself and one for every value that it depends on, each at its index.
        users: the values that were computed from it.
    """

    index: int
    operation: str
    inputs: tuple["Value", ...]
    tensor: Tensor
    scope: str
    arguments: dict[str, Any] = field(default_factory=dict)
    ancestors: int = 0
    users: list["Value"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ancestors = 1 << self.index
        for value in self.inputs:
            self.ancestors |= value.ancestors
            value.users.append(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.tensor.shape)


@dataclass(eq=False)
class Call:
    """One call of a module, with its first input and its output where these are tensors."""

    name: str
    module: nn.Module
    input: Value | None
    output: Value | None


@dataclass
class Dataflow:
    """One run of a model.

    Args:
        example_inputs: what it was run on.
        values: everything that was computed, in that order.
        calls: of modules, in the order in which they ended.
        outputs: what the model returned.
    """

    example_inputs: ExampleInputs
    values: list[Value]
    calls: list[Call]
    outputs: Any


class DataflowTracer(TorchFunctionMode):
    """Records every operation on tensors while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.scopes: list[str] = [""]
        self.latest: dict[int, Value] = {}
        self.given: list[Value | None] = []  # the first inputs of the running modules

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        given = list(tensors((args, kwargs)))
        versions = [x._version for x in given]
        out = func(*args, **kwargs)
        for tensor in tensors(out):
            changed = any(x is tensor and x._version != v for x, v in zip(given, versions, strict=True))
            if changed or not any(x is tensor for x in given):
                name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
                name = name if name.endswith("__") else name.rstrip("_")
                numbers = {str(i): x for i, x in enumerate(args) if not isinstance(x, Tensor)} | kwargs
                self.add(name, self.known(given), tensor, numbers)
        return out

    def add(self, operation: str, inputs: tuple[Value, ...], tensor: Tensor, arguments: dict[str, Any]) -> Value:
        """Record a value."""
        value = Value(len(self.values), operation, inputs, tensor, self.scopes[-1], arguments)
        self.values.append(value)
        self.latest[id(tensor)] = value
        return value

    def known(self, candidates: Sequence[Tensor]) -> tuple[Value, ...]:
        """Return the values of those tensors that depend on the model's inputs, each once."""
        return tuple(dict.fromkeys(self.latest[id(x)] for x in candidates if id(x) in self.latest))

    def enter(self, name: str, inputs: Any) -> None:
        """Record that a module starts, and with the first one the model's inputs."""
        if not self.values:
            for tensor in tensors(inputs):
                self.add("input", (), tensor, {})
        self.scopes.append(name)
        first = inputs[0][0] if inputs[0] else None
        self.given.append(self.latest.get(id(first)) if isinstance(first, Tensor) else None)

    def leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Record that a module ends; an output of unknown origin counts as computed from the module's inputs."""
        self.scopes.pop()
        for tensor in tensors(output):
            if id(tensor) not in self.latest:
                self.add(type(module).__name__, self.known(list(tensors(inputs))), tensor, {})
        result = self.latest.get(id(output)) if isinstance(output, Tensor) else None
        self.calls.append(Call(name, module, self.given.pop(), result))

    @contextmanager
    def module_hooks(self, model: nn.Module) -> Iterator[None]:
        """Record which modules of a model run, by hooks."""
        handles = []
        for name, module in model.named_modules():

            def pre_hook(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                self.enter(name, (args, kwargs))

            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                self.leave(name, module, (args, kwargs), output)

            handles.append(module.register_forward_pre_hook(pre_hook, with_kwargs=True))
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def tensors(x: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        for part in x.values():
            yield from tensors(part)
    elif isinstance(x, list | tuple):
        for part in x:
            yield from tensors(part)


@torch.no_grad()
def trace_dataflow(model: nn.Module, example_inputs: ExampleInputs) -> Dataflow:
    """Run a model in its current mode and return what it computed from what."""
    tracer = DataflowTracer()
    with tracer.module_hooks(model), tracer:
        outputs = call_model(model, example_inputs)
    return Dataflow(example_inputs, tracer.values, tracer.calls, outputs)
