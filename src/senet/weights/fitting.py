"""Making a state dict fit a network: exactly where that is possible, by name where it is asked for."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from senet.errors import NotFiniteError, SenetError
from senet.models.base import Network
from senet.models.description import block_class, usual_block
from senet.models.initialization import convert_input
from senet.nn.attached import attached_blocks
from senet.weights.checkpoint import Checkpoint
from senet.weights.fitting_se import drop_factors, fit_se, gate_of
from senet.weights.layouts import State
from senet.weights.matching import Adapt, has_se
from senet.weights.tensors import COUNTERS


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A state dict that fits a network.

    Args:
        state: the tensors, one for each of the network's.
        notes: what was changed to make them fit, a phrase each.
        new_classifier: whether the classifier is the network's own.
        gate: of the network's own SE blocks; None for another library's network.
    """

    state: State
    notes: tuple[str, ...]
    new_classifier: bool
    gate: str | None = None


@torch.no_grad()
def fit(checkpoint: Checkpoint, model: nn.Module, adapt: Collection[Adapt] = ()) -> Fitted:
    """Make the tensors of a checkpoint fit a network; neither of them changes.

    Args:
        checkpoint: the weights.
        model: this library's network, or a module whose keys the weights have.
        adapt: see `load_weights`.

    Raises:
        SenetError: they do not fit.
    """
    source, expected = checkpoint.source, dict(model.state_dict())
    state, notes = plain_state(checkpoint.state, expected, source)
    factor, gate = drop_factors(state, model), None
    notes += keep_inserted(state, model)
    if isinstance(model, Network):
        check_blocks(model, checkpoint)
        check_trunk(state, model, source)
        classifier = fit_classifier(state, model, source, "classifier" in adapt)
        notes += classifier + fit_input(state, model, source, "input" in adapt)
        fitted, gate = fit_se(state, model, checkpoint)
        gate = gate or gate_of(checkpoint, model, factor)
        notes += fitted
    else:
        classifier = fit_classifier_by_shape(state, model, source, "classifier" in adapt)
        notes += classifier + fit_input_by_shape(state, model, source, "input" in adapt)
    check_fit(state, expected, source)
    notes += rounded(state, expected, source)
    return Fitted(state=state, notes=tuple(notes), new_classifier=bool(classifier), gate=gate)


def check_blocks(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for weights that are known to be of SE blocks of another class than the model's."""
    own, stored, config = block_class(model), checkpoint.block, checkpoint.config
    if config is not None and has_se(checkpoint) and own != stored:
        own, stored = (name or usual_block(config).__name__ for name in (own, stored))
        raise SenetError(
            f"{checkpoint.source} has weights of SE blocks of class {stored}, the model has {own}; create the network "
            f"with {stored} and call load_weights"
        )


def check_trunk(state: Mapping[str, Tensor], model: Network, source: str) -> None:
    """Raise a SenetError for a state that lacks more than the classifier, before the classifier is checked."""
    if f"{model.classifier_name}.weight" not in state:
        optional = re.compile(rf"^{re.escape(model.classifier_name)}\.|\.se\.|\.num_batches_tracked$")
        trunk, given = (
            {key: tensor for key, tensor in each.items() if not optional.search(key)}
            for each in (model.state_dict(), state)
        )
        check_fit(given, trunk, source)


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise a SenetError with the first difference in keys or shapes."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        said = [
            f"{len(keys)} {what} ({keys[0]}, ...)"
            for what, keys in (("missing", missing), ("unexpected", extra))
            if keys
        ]
        raise SenetError(
            f"{source} is of another architecture: {' and '.join(said)} keys; create the network it was saved from"
        )
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise SenetError(
                f"{source} does not fit: {key} is {tuple(state[key].shape)} there, {tuple(tensor.shape)} in the model"
            )


# ---- values ----------------------------------------------------------------------------------------------------------


def plain_state(state: State, expected: Mapping[str, Tensor], source: str) -> tuple[State, list[str]]:
    """Return a state as dense tensors of the kinds that the model has, floating-point numbers of at least 32 bits.

    Args:
        state: the model's keys, or other ones too.
        expected: the model's state.
        source: for messages.

    Returns:
        The tensors, with counts of zero where BatchNorm has none, and what was left out.

    Raises:
        SenetError: a tensor without values, quantized, of integers where the model has none, or not finite.
    """
    counters = [key for key in state if COUNTERS.search(key) and key not in expected]
    plain = {key: plain_tensor(key, tensor, expected.get(key), source) for key, tensor in state.items()}
    for key in counters:
        del plain[key]
    counts = {key: torch.zeros_like(tensor) for key, tensor in expected.items() if key.endswith("num_batches_tracked")}
    plain = counts | plain
    return plain, [f"{len(counters)} counters of other tools are left out"] if counters else []


def plain_tensor(key: str, tensor: Tensor, expected: Tensor | None, source: str) -> Tensor:
    """Return one tensor of a state, see `plain_state`."""
    kind = "quantized" if tensor.is_quantized else "without values (on the meta device)" if tensor.is_meta else ""
    kind = "a nested tensor" if tensor.is_nested else "of more than 64 dimensions" if tensor.dim() > 64 else kind
    tensor = tensor.detach()
    if not kind and tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if expected is not None and expected.is_floating_point() and not tensor.is_floating_point():
        kind = kind or f"{str(tensor.dtype).removeprefix('torch.')}, not floating-point"
    if kind:
        raise SenetError(f"{source} cannot be loaded: {key} is {kind}; save the network as it was trained")
    if tensor.is_floating_point():
        tensor = tensor.float() if tensor.itemsize < 4 else tensor
        if not tensor.isfinite().all():
            raise NotFiniteError(
                f"{source} cannot be loaded: {key} has values that are infinite or not a number; "
                "its training diverged or the file is damaged, use an earlier one"
            )
    if expected is not None and not expected.is_floating_point() and tensor.numel() == expected.numel() == 1:
        tensor = tensor.to(expected.dtype).reshape(expected.shape)
    return tensor


def rounded(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> list[str]:
    """Return notes about tensors that the model's precision cannot represent exactly.

    Raises:
        SenetError: a value is beyond the range of the model's precision.
    """
    inexact = []
    for key, tensor in state.items():
        held = tensor.to(expected[key].dtype)
        if held.dtype != tensor.dtype and not torch.equal(held.to(tensor.dtype), tensor):
            inexact.append(key)
            if not held.isfinite().all():
                precision = str(held.dtype).removeprefix("torch.")
                raise SenetError(f"{source} cannot be loaded: {key} has values beyond {precision}; call model.float()")
    dtypes = " and ".join(sorted({str(expected[key].dtype).removeprefix("torch.") for key in inexact}))
    return [f"{len(inexact)} tensors are rounded to the model's {dtypes}"] if inexact else []


def keep_inserted(state: State, model: nn.Module) -> list[str]:
    """Add the model's own inserted blocks to a state that has none of them.

    Args:
        state: the model's keys; changed in place.
        model: the network.

    Returns:
        What was done.
    """
    names = list(attached_blocks(model))
    inside = tuple(f"{name}." for name in names)
    if not names or any(key.startswith(inside) for key in state):
        return []
    state.update({key: tensor for key, tensor in model.state_dict().items() if key.startswith(inside)})
    return [f"{len(names)} inserted SE blocks keep their gates: the weights have none of them"]


def fit_classifier(state: State, model: Network, source: str, start_new: bool) -> list[str]:
    """Drop the classifier of the weights, or replace it by the model's own, where their classes differ in number.

    Args:
        state: under this library's keys; changed in place.
        model: the network.
        source: for messages.
        start_new: whether the model's own may take its place.

    Returns:
        What was done.

    Raises:
        SenetError: the numbers of classes differ, and `start_new` is False.
    """
    weight, bias = (f"{model.classifier_name}.{leaf}" for leaf in ("weight", "bias"))
    if weight in state and not state[weight].dim():
        return []  # refused by `check_fit`
    classes = len(state[weight]) if weight in state else 0
    if classes == model.num_classes:
        return []
    if model.num_classes == 0:
        state.pop(weight)
        state.pop(bias, None)
        return [f"the classifier of {classes} classes is left out"]
    if not start_new:
        said = f"has {classes} classes" if classes else "has no classifier"
        raise other_classes(said, classes, model.num_classes, source)
    own = model.state_dict()
    state[weight], state[bias] = own[weight], own[bias]
    return [f"the classifier of {model.num_classes} classes starts at random"]


def fit_classifier_by_shape(state: State, model: nn.Module, source: str, start_new: bool) -> list[str]:
    """Keep the classifier of another library's module where it and that of the weights differ in number of classes.

    See `fit_classifier`; the classifier is what differs in its first dimension alone, which is the number of classes.
    """
    expected, number = model.state_dict(), getattr(model, "num_classes", None)
    new = [key for key, x in expected.items() if key in state and is_classifier(x, state[key], number)]
    if not new:
        return []
    if not start_new:
        raise other_classes(f"has {len(state[new[0]])} classes", len(state[new[0]]), number, source)
    state |= {key: expected[key] for key in new}
    return [f"the classifier of {number} classes starts at random"]


def other_classes(said: str, classes: int, own: int | None, source: str) -> SenetError:
    """Return the error about weights of another number of classes."""
    return SenetError(
        f"{source} {said}, the model {own}; create the model with num_classes={classes}, or start a new classifier, in "
        f"Python: `create_model(num_classes={own})`, `load_weights(adapt=('classifier',))`"
    )


def is_classifier(own: Tensor, stored: Tensor, number: int | None) -> bool:
    """Whether two tensors differ in the number of classes alone, and the model's is `number`."""
    if own.dim() == 0 or stored.dim() == 0 or len(own) == len(stored) or own.shape[1:] != stored.shape[1:]:
        return False
    return len(own) == number


def fit_input(state: State, model: Network, source: str, convert: bool) -> list[str]:
    """Convert the first convolution to the model's number of input channels.

    Args:
        state: under this library's keys; changed in place.
        model: the network.
        source: for messages.
        convert: whether this is wanted.

    Returns:
        What was done.

    Raises:
        SenetError: the numbers of channels differ, and `convert` is False.
    """
    key, channels = f"{model.first_conv}.weight", model.config.in_channels
    if key not in state or state[key].dim() != 4 or state[key].shape[1] == channels:
        return []
    weight = state[key]
    stored = weight.shape[1]
    if not convert:
        raise other_channels(stored, channels, source)
    state[key] = convert_input(weight, channels)
    return [f"the first convolution is converted from {stored} to {channels} channels"]


def fit_input_by_shape(state: State, model: nn.Module, source: str, convert: bool) -> list[str]:
    """Convert what sees the image in another library's module: convolutions that differ in their input channels alone.

    See `fit_input`; some networks have several such convolutions, one for each scale.
    """
    expected = model.state_dict()
    others = [
        key
        for key, own in expected.items()
        if key in state and own.dim() == state[key].dim() == 4 and own.shape != state[key].shape
        if (own.shape[0], *own.shape[2:]) == (state[key].shape[0], *state[key].shape[2:])
    ]
    first = next((key for key, own in expected.items() if own.dim() == 4), None)
    if first not in others:
        return []
    stored, channels = state[first].shape[1], expected[first].shape[1]
    if not convert:
        raise other_channels(stored, channels, source)
    state |= {key: convert_input(state[key], channels) for key in others if expected[key].shape[1] == channels}
    return [f"the first convolution is converted from {stored} to {channels} channels"]


def other_channels(stored: int, own: int, source: str) -> SenetError:
    """Return the error about weights for images of another number of channels."""
    return SenetError(
        f"{source} is for images of {stored} channels, the model for {own}; "
        f"create the model with in_channels={stored}, or convert it, in Python: `load_weights(adapt=('input',))`"
    )
