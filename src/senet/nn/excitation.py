"""What every block that recalibrates channels has in common, and what the rest of the library asks of it."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from senet.errors import SenetError, check_choice
from senet.nn.tracing import is_traced
from senet.ops.function import Excitation
from senet.ops.gates import GATES


def parameter(layer: nn.Module, name: str) -> Any:
    """Return a parameter of a layer, or the tensor that has taken its place, as in the copies of nn.DataParallel."""
    own = layer._parameters  # nn.Module looks attributes up in Python, which is slower
    return own[name] if name in own else getattr(layer, name)


class ExcitationBlock(nn.Module):
    """Scales every channel of a feature map by a gate that it computes from the map: `x * gate(logits(x))`.

    A subclass sets `channels`, builds its layers, computes the logits in `compute_logits`, names the layer that they
    come out of in `logits_layer`, and counts in `multiply_adds`. The rest has defaults. Fusion, recording, insertion,
    and starting from the weights of a plain network use nothing of a block but these methods.

    Args:
        gate: the function from logits to gates, one of `senet.ops.gates.GATES`.

    Attributes:
        channels: C, the channels of the feature map.
        logits_layer: the name of the last layer. It has a `weight` and, if at all, a `bias`; without a `weight`, the
            block cannot start as the identity.
        gate_name: the name of the gate; `set_gate` changes it.
        attached_at: whether `insert_se` has made a layer run the block on its "input" or its "output"; None for a block
            that is part of a network's own code.
        attached_options: the `SEOptions` of an attached block; None for others.

    Raises:
        SenetError: there is no such gate.
    """

    __jit_unused_properties__: ClassVar[Sequence[str]] = ("channels",)
    logits_layer: ClassVar[str]
    channels: int
    attached_at: Literal["input", "output"] | None = None
    attached_options: Any = None

    def __init__(self, gate: str = "sigmoid") -> None:
        super().__init__()
        self.set_gate(gate)

    def set_gate(self, name: str) -> None:
        """Choose the gate.

        Raises:
            SenetError: there is no such gate.
        """
        if name not in GATES:
            check_choice("gate", name, tuple(GATES))
        self.gate_name = name
        self._gate = GATES[name].function  # an attribute, because TorchScript finds no other function

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: without the gate's function, which need not be picklable."""
        return {name: value for name, value in self.__dict__.items() if name != "_gate"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what `__getstate__` returned."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.set_gate(self.gate_name)

    # ---- computation -------------------------------------------------------------------------------------------------

    def compute_logits(self, x: Tensor) -> Tensor:
        """Return the arguments of the gates.

        Args:
            x: (N, C, H, W), any memory format and floating dtype.

        Returns:
            (N, C, 1, 1), or (N, C, H, W) for a gate at each position.
        """
        raise NotImplementedError

    def compute_gate(self, x: Tensor) -> Tensor:
        """Return the gates, before they are applied.

        Args:
            x: (N, C, H, W), any memory format and floating dtype.

        Returns:
            (N, C, 1, 1), or (N, C, H, W) for a gate at each position.

        Raises:
            SenetError: `x` is not (N, C, H, W) with the block's number of channels.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(x)
        return self._gate(self.compute_logits(x))

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel of a feature map by its gate; the shape and dtype stay.

        Args:
            x: (N, C, H, W); an attached block takes (N, C, L) and (N, C, D, H, W) too.
        """
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return x * self.compute_gate(x).to(x.dtype)
        else:  # noqa: RET505  # TorchScript compiles whatever follows such an `if`
            return self.scale(x)

    def scale(self, x: Tensor) -> Tensor:
        """Compute `forward` outside TorchScript."""
        if self.attached_at is not None and not is_traced(x) and x.dim() in (3, 5):
            flat = x.flatten(2).unsqueeze(-1)
            return (flat * self.compute_gate(flat).to(x.dtype)).view(x.shape)
        return x * self.compute_gate(x).to(x.dtype)

    def check_input(self, x: Tensor) -> None:
        """Raise a SenetError unless `x` is (N, C, H, W); while torch.fx traces it has no shape to check."""
        if not is_traced(x) and (x.dim() != 4 or x.shape[1] != self.channels):
            raise SenetError(f"the input is {tuple(x.shape)}; expected (N, {self.channels}, H, W)")

    # ---- what the library uses ---------------------------------------------------------------------------------------

    def logits_from(self, output: Tensor) -> Tensor:
        """Return the logits, as `compute_logits` does, from the output of the layer `logits_layer`."""
        return output

    def gates_from(self, output: Tensor) -> Tensor:
        """Return the gates (N, C) from the output of the layer `logits_layer`: their means over the positions."""
        return self._gate(self.logits_from(output)).mean((2, 3))

    def gate_range(self) -> tuple[float, float]:
        """Return the ends of a gate's values, which may be infinite."""
        gate = GATES[self.gate_name]
        return gate.low, gate.high

    @torch.no_grad()
    def set_logits(self, value: float) -> None:
        """Make all logits exactly `value`, whatever the input: the weights of `logits_layer` become zero.

        Raises:
            SenetError: the layer has no weight, or no bias that could hold the value.
        """
        layer = self.get_submodule(self.logits_layer)
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if not isinstance(weight, Tensor):
            block = f"{type(self).__name__}, whose layer {self.logits_layer!r} has no weight,"
            raise SenetError(f"the gates of a {block} cannot start at 1; choose another excitation")
        if value != 0 and bias is None:
            raise SenetError(f"a {self.gate_name} gate without biases cannot start at 1; choose another gate")
        weight.zero_()
        if bias is not None:
            bias.fill_(value)

    def start_as_identity(self) -> None:
        """Make every gate exactly 1, whatever the input, so that the block returns what it is given.

        Raises:
            SenetError: the gate cannot start there.
        """
        one_at = GATES[self.gate_name].one_at
        if one_at is None:
            raise SenetError(f"a {self.gate_name} gate cannot start at 1; choose another gate")
        self.set_logits(one_at)

    def multiply_adds(self, side: Sequence[int]) -> int:
        """Count the multiply-adds of the block's layers for one image.

        Args:
            side: (H, W) of the feature map, in pixels.
        """
        raise NotImplementedError

    def fused_form(self) -> Excitation | None:
        """Return the excitation as the fused tail takes it; None for a block that always runs unfused."""
        return None
