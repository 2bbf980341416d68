"""What a model computes from what, observed while it runs once.

The model runs on one image. A `TorchFunctionMode` sees every operation on tensors, hooks see which module is at work.
That works for every model that runs: unlike with torch.fx, control flow, views and in-place operations are what they
were, and unlike with torch.export, modules keep their names and their outputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from senet.surgery.probe import Example, run_on


@dataclass(eq=False)
class Value:
    """A tensor at one moment of the run: an operation in place makes another value of it.

    Args:
        index: in order of computation.
        operation: the function's last name, such as "conv2d", "__add__" or "relu", also of "relu_"; "input" for what
            the model is given; the class of a module that works out of sight.
        inputs: what it was computed from; parameters and constants left out.
        tensor: kept, so that no other takes its id.
        scope: name of the innermost module at work.
        arguments: of the function.
        ancestors: itself and everything it was computed from, one bit each at its index.
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
        """Of the tensor."""
        return tuple(self.tensor.shape)


@dataclass(eq=False)
class Call:
    """One call of a module: what went in first and what came out, where these are tensors."""

    name: str
    module: nn.Module
    input: Value | None
    output: Value | None


@dataclass
class Dataflow:
    """One run: its example, everything that was computed, every module that was called as they ended, its outputs."""

    example: Example
    values: list[Value]
    calls: list[Call]
    outputs: Any


class Recorder(TorchFunctionMode):
    """Notes every operation on tensors while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.scopes: list[str] = [""]
        self.latest: dict[int, Value] = {}
        self.given: list[Value | None] = []  # the first inputs of the modules at work

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note it."""
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
        """Note a value."""
        value = Value(len(self.values), operation, inputs, tensor, self.scopes[-1], arguments)
        self.values.append(value)
        self.latest[id(tensor)] = value
        return value

    def known(self, found: Sequence[Tensor]) -> tuple[Value, ...]:
        """Return the values of those tensors that depend on the model's input, each once."""
        return tuple(dict.fromkeys(self.latest[id(x)] for x in found if id(x) in self.latest))

    def enter(self, name: str, inputs: Any) -> None:
        """Note that a module starts, and the model's own inputs."""
        if not self.values:
            for tensor in tensors(inputs):
                self.add("input", (), tensor, {})
        self.scopes.append(name)
        first = inputs[0][0] if inputs[0] else None
        self.given.append(self.latest.get(id(first)) if isinstance(first, Tensor) else None)

    def leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note that a module ends; what it made out of sight was made from its inputs."""
        self.scopes.pop()
        for tensor in tensors(output):
            if id(tensor) not in self.latest:
                self.add(type(module).__name__, self.known(list(tensors(inputs))), tensor, {})
        result = self.latest.get(id(output)) if isinstance(output, Tensor) else None
        self.calls.append(Call(name, module, self.given.pop(), result))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Note which modules of a model are at work."""
        handles = []
        for name, module in model.named_modules():

            def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                self.enter(name, (args, kwargs))

            def after(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                self.leave(name, module, (args, kwargs), output)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
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
def record(model: nn.Module, example: Example) -> Dataflow:
    """Run a model, in the mode in which it is, and return what it did."""
    recorder = Recorder()
    with recorder.watching(model), recorder:
        outputs = run_on(model, example)
    return Dataflow(example, recorder.values, recorder.calls, outputs)
