"""Running a model once on inputs that it accepts, to see what it computes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn.modes import eval_mode

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a model is run on: its first argument, such as images (N, C, H, W) or a detector's list of images; a tuple of
all positional arguments; or a dictionary of keyword arguments."""
SIZES: Mapping[type[nn.Module], tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        nn.Conv2d: ((224, 224), (299, 299), (64, 64), (32, 32)),
        nn.Conv1d: ((1024,), (16000,)),
        nn.Conv3d: ((16, 112, 112), (16, 64, 64)),
    }
)
"""Spatial sizes to try for a model that does not state its input size, by the class of its first convolution."""
Result = TypeVar("Result")


class CannotRunError(SenetError):
    """The model does not run on the example inputs."""


def first_convolution(model: nn.Module) -> tuple[type[nn.Module], int]:
    """Return the class of a model's first convolution, a key of `SIZES`, and its input channels."""
    convolutions = ((kind, m.in_channels) for m in model.modules() for kind in SIZES if isinstance(m, kind))
    return next(convolutions, (nn.Conv2d, 3))  # type: ignore[return-value]


def noise_inputs(model: nn.Module) -> Iterator[Tensor]:
    """Yield random images to try, (1, C, ...): of the size that the model states, then of each size in `SIZES`."""
    kind, channels = first_convolution(model)
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    preprocessing = getattr(model, "preprocessing", None)
    sizes = [tuple(config["input_size"][1:])] if "input_size" in config else []
    if preprocessing is not None:
        channels = preprocessing.in_channels
        sizes.append((preprocessing.image_size, preprocessing.image_size))
    like = next(model.parameters())
    for size in (*sizes, *SIZES[kind]):
        noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
        yield noise.to(like.device, like.dtype)


def call_model(model: nn.Module, example_inputs: ExampleInputs) -> Any:
    """Call a model with example inputs and return its outputs."""
    if isinstance(example_inputs, tuple):
        return model(*example_inputs)
    return model(**example_inputs) if isinstance(example_inputs, Mapping) else model(example_inputs)


def shapes_text(example_inputs: Any) -> str:
    """Return the shapes of example inputs, for a message."""
    if isinstance(example_inputs, Tensor):
        return str(tuple(example_inputs.shape))
    if isinstance(example_inputs, Mapping):
        return "{" + ", ".join(f"{key}: {shapes_text(value)}" for key, value in example_inputs.items()) + "}"
    if isinstance(example_inputs, list | tuple):
        inside = ", ".join(map(shapes_text, example_inputs))
        return f"({inside})" if isinstance(example_inputs, tuple) else f"[{inside}]"
    return type(example_inputs).__name__


@torch.no_grad()
def run_on_example(model: nn.Module, example_inputs: Any, compute: Callable[[Any], Result]) -> Result:
    """Call `compute` with the first inputs that the model accepts, in evaluation mode, and return its result.

    Args:
        model: every layer runs by itself, none fused; the model is left as it was.
        example_inputs: see `ExampleInputs`; None to try `noise_inputs` one after another.
        compute: takes the inputs, runs the model, and lets the model's exceptions through.

    Raises:
        SenetError: `example_inputs` is of another kind.
        CannotRunError: the model accepts none of the inputs.
    """
    if example_inputs is not None and not isinstance(example_inputs, Tensor | tuple | list | Mapping):
        kind = type(example_inputs).__name__
        raise SenetError(f"example_inputs is a {kind}; expected a tensor, a list, a tuple or a dictionary")
    first_error: Exception | None = None
    with eval_mode(model, layer_by_layer=True):
        for inputs in noise_inputs(model) if example_inputs is None else (example_inputs,):
            try:
                return compute(inputs)
            except Exception as error:  # whatever somebody's model may raise
                first_error = first_error or error
    lines = str(first_error).strip().splitlines()
    reason = lines[0] if lines else type(first_error).__name__
    sizes = ["x".join(map(str, size)) for size in SIZES[first_convolution(model)[0]]]
    tried, remedy = f"images of {', '.join(sizes[:-1])} or {sizes[-1]}", "pass example_inputs"
    if example_inputs is not None:
        tried = f"example_inputs {shapes_text(example_inputs)}"
        remedy = "pass example_inputs that it accepts"
    raise CannotRunError(f"{type(model).__name__} does not run on {tried} ({reason}); {remedy}") from first_error
