"""The gates: the functions that close an excitation, in one table with all that is known of each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.errors import SenetError
from senet.registry import Registry, calling_module


@dataclass(frozen=True, kw_only=True)
class Gate:
    """An elementwise function from logits to gates.

    Args:
        name: in options and files, such as "sigmoid".
        function: logits -> gates, of the same shape and type. `torch.jit.script` needs one that it can compile, pickle
            none: a block is pickled with the name alone.
        slope: the derivative of `function`, computed from its value; None where the value does not determine it: blocks
            with this gate then never run fused.
        low: the smallest value of a gate.
        high: the largest.
        one_at: the logit at which the gate is exactly 1, so that a block can start as the identity; None if there is
            none, or only where the slope is zero.
        doubled: the name of the gate that is twice this one, where this one is exactly one half at a logit of 0.
        layers: the names of the classes of PyTorch and timm that compute it.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor] | None = None
    low: float = -math.inf
    high: float = math.inf
    one_at: float | None = None
    doubled: str | None = None
    layers: tuple[str, ...] = ()

    def slope_from(self, value: Tensor) -> Tensor:
        """Return the slope where the gate has these values.

        Raises:
            SenetError: the value does not determine it.
        """
        if self.slope is None:
            raise SenetError(f"the gate {self.name!r} has no slope from its value, which fusing needs")
        return self.slope(value)


# Functions with a name: TorchScript compiles no lambda.


def sigmoid_x2(logits: Tensor) -> Tensor:
    """Return twice the sigmoid: exactly 1 for logits of 0."""
    return 2 * torch.sigmoid(logits)


def hard_sigmoid_x2(logits: Tensor) -> Tensor:
    """Return twice the piecewise linear sigmoid: exactly 1 for logits of 0."""
    return 2 * F.hardsigmoid(logits)


OWN = (
    Gate(
        name="sigmoid",
        function=torch.sigmoid,
        slope=lambda value: torch.addcmul(value, value, value, value=-1),
        low=0,
        high=1,
        doubled="sigmoid_x2",
        layers=("Sigmoid",),
    ),
    Gate(
        name="tanh",
        function=torch.tanh,
        slope=lambda value: 1 - value.square(),
        low=-1,
        high=1,
        layers=("Tanh",),
    ),
    Gate(
        name="relu",
        function=F.relu,
        slope=lambda value: (value > 0).to(value.dtype),
        low=0,
        one_at=1,
        layers=("ReLU",),
    ),
    Gate(
        name="hard_sigmoid",
        function=F.hardsigmoid,
        slope=lambda value: ((value > 0) & (value < 1)).to(value.dtype) / 6,
        low=0,
        high=1,
        doubled="hard_sigmoid_x2",
        layers=("Hardsigmoid", "HardSigmoid"),
    ),
    Gate(
        name="sigmoid_x2",
        function=sigmoid_x2,
        slope=lambda value: value * (1 - value / 2),
        low=0,
        high=2,
        one_at=0,
    ),
    Gate(
        name="hard_sigmoid_x2",
        function=hard_sigmoid_x2,
        slope=lambda value: ((value > 0) & (value < 2)).to(value.dtype) / 3,
        low=0,
        high=2,
        one_at=0,
    ),
)
GATES: Registry[Gate] = Registry("gate", {gate.name: gate for gate in OWN})
GATE_OF_LAYER = {layer: gate.name for gate in OWN for layer in gate.layers}
"""The gates by the names of the classes that compute them elsewhere."""


def hidden_and_gate(z_NC: Tensor, se: Sequence[Any], gate: str) -> tuple[Tensor, Tensor]:
    """Return the hidden layer (N, K) of an excitation, after its ReLU, and its gates (N, C).

    Args:
        z_NC: the squeeze, (N, C).
        se: fc1 (K, C), fc2 (C, K), bias1 and bias2; None for no biases.
        gate: its name.
    """
    fc1, fc2, bias1, bias2 = se
    hidden_NK = F.linear(z_NC, fc1, bias1).relu()  # `relu_` would change what selective checkpointing may keep
    return hidden_NK, GATES[gate].function(F.linear(hidden_NK, fc2, bias2))


def register_gate(gate: Gate) -> None:
    """Register a gate under its name, for options, commands and saved models.

    A model saved with it names the module that calls this function, which must be imported before it is read.

    Args:
        gate: its slope, range and `one_at` are checked against its function.

    Raises:
        SenetError: the name is taken, the function has no derivative, or the record contradicts the function.
    """
    check_gate(gate)
    GATES.register(gate.name, gate, calling_module())
    GATE_OF_LAYER.update({layer: gate.name for layer in gate.layers if layer not in GATE_OF_LAYER})


def check_gate(gate: Gate) -> None:
    """Raise a SenetError for a gate whose record does not say what its function computes."""
    said = f"the gate {gate.name!r}"
    if gate.doubled is not None and gate.doubled not in GATES:
        raise SenetError(f"{said} has doubled={gate.doubled!r}, which is no gate; register that first")
    logits = torch.linspace(-5.01, 5, 64, dtype=torch.float64)  # not 0, where there may be a corner
    values = gate.function(logits.clone())  # a copy, which it may overwrite
    if values.shape != logits.shape or values.dtype != logits.dtype:
        raise SenetError(f"{said} has a function that returns {values.dtype} of shape {tuple(values.shape)}")
    if not values.isfinite().all():
        raise SenetError(f"{said} has a function that is not finite for logits from -5 to 5")
    slopes = slopes_of(gate, logits)
    if not slopes.any():
        raise SenetError(f"{said} has a function without a derivative other than 0, so that nothing could be learned")
    if values.min() < gate.low or values.max() > gate.high:
        ends = f"{values.min():.3g} to {values.max():.3g}"
        raise SenetError(f"{said} has low={gate.low} and high={gate.high}, but its function takes values from {ends}")
    if gate.slope is not None and not torch.allclose(gate.slope(values.detach()), slopes, atol=1e-6):
        raise SenetError(f"{said} has a slope that is not the derivative of its function; correct it or leave it out")
    for argument, at, expected in (
        ("one_at", gate.one_at, 1.0),
        ("doubled", None if gate.doubled is None else 0.0, 0.5),
    ):
        if at is None:
            continue
        if gate.function(torch.tensor(float(at))).item() != expected:
            raise SenetError(f"{said} has {argument}, but is not exactly {expected:g} at a logit of {at:g}")
        if not slopes_of(gate, torch.tensor(float(at))).item():
            raise SenetError(f"{said} has {argument}, but its slope is 0 there, so that a block would never learn")


def slopes_of(gate: Gate, logits: Tensor) -> Tensor:
    """Return the derivative of a gate's function by autograd; zero where it has none."""
    logits = logits.detach().requires_grad_()
    with torch.enable_grad():
        total = gate.function(logits.clone()).sum()
    return torch.autograd.grad(total, logits)[0] if total.requires_grad else torch.zeros_like(logits)
