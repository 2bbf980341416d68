"""One batch computed layer by layer, forward and backward, to find the first layer with values that are not finite.

    watched = Layerwise(objective, prefix="network.")
    fault = watched.first_fault(lambda call: call(images, targets), num_images=32)

The layers are those of a copy, uncompiled and not fused, so that nothing of the run changes and every layer is called.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.nn.excitation import ExcitationBlock
from senet.nn.fused import set_fused

Pass = Literal["images", "targets", "forward", "loss", "backward", "step"]
"""Where values stop being finite: before the network, in a layer, the loss, a gradient, or a change of weights."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values of some tensors.

    Args:
        low: of the finite values; None if there are none.
        high: likewise.
        bad: how many are infinite or not a number.
        count: of all.
        dtype: of the first tensor.
    """

    low: float | None
    high: float | None
    bad: int
    count: int
    dtype: str

    def in_words(self) -> str:
        """Return the range for a sentence."""
        if self.low is None:
            return f"none of {self.count:,} values is finite"
        values = f"from {self.low:.3g} to {self.high:.3g}"
        return f"{values}, and {self.bad:,} of {self.count:,} are not finite" if self.bad else values


def tensors_in(value: Any) -> list[Tensor]:
    """Return the floating-point tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@torch.no_grad()
def range_of(value: Any) -> Range | None:
    """Return the range of the tensors in a value; None if it holds none."""
    tensors = [tensor for tensor in tensors_in(value) if tensor.numel()]
    if not tensors:
        return None
    finite = [tensor[tensor.isfinite()] for tensor in tensors]
    ends = [(float(values.min()), float(values.max())) for values in finite if values.numel()]
    count = sum(tensor.numel() for tensor in tensors)
    return Range(
        low=min(low for low, _ in ends) if ends else None,
        high=max(high for _, high in ends) if ends else None,
        bad=count - sum(values.numel() for values in finite),
        count=count,
        dtype=str(tensors[0].dtype).removeprefix("torch."),
    )


@torch.no_grad()
def bad_rows(value: Any, num_images: int) -> list[int]:
    """Return the places in the batch of the images whose values are not finite; none if that cannot be told."""
    found: set[int] = set()
    for tensor in tensors_in(value):
        if tensor.dim() and len(tensor) == num_images:
            bad = ~tensor.reshape(num_images, -1).isfinite().all(dim=1)
            found.update(bad.nonzero().flatten().tolist())
    return sorted(found)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The first place at which values are not finite.

    Args:
        where: the pass.
        layer: its name in the network; empty for what is in none.
        kind: the layer's class; for a gradient also the operation.
        rows: places in the batch of the images that it is so for; empty if that cannot be told.
        values: ranges by what they are of: "input", "output", "weights", "gradient", "gates of NAME".
    """

    where: Pass
    layer: str = ""
    kind: str = ""
    rows: Sequence[int] = ()
    values: Mapping[str, Range] = field(default_factory=dict)


class Layerwise:
    """A copy of an objective whose layers are watched.

    Args:
        objective: images and targets to the loss.
        prefix: of the names of the network's layers in it, left out of what is found.
    """

    def __init__(self, objective: nn.Module, prefix: str = "") -> None:
        self.objective, self.prefix = copy.deepcopy(objective), prefix
        set_fused(self.objective, False)
        self.fault: Fault | None = None
        self.num_images = 0
        self.names = {module: name.removeprefix(prefix) for name, module in self.objective.named_modules()}
        self.running: list[nn.Module] = [self.objective]
        self.inputs: dict[nn.Module, Range] = {}
        self.gates: dict[str, Range] = {}
        blocks = (module for module in self.objective.modules() if isinstance(module, ExcitationBlock))
        self.blocks = {block.get_submodule(block.logits_layer): block for block in blocks}
        self.nodes: dict[Any, nn.Module] = {}

    def first_fault(self, loss_of: Callable[[Any], Tensor], num_images: int, *, backward: bool = True) -> Fault | None:
        """Compute a batch, and return the first place at which its values are not finite; None if all are finite.

        Args:
            loss_of: calls what it is given as the objective, and returns the loss.
            num_images: of the batch.
            backward: whether gradients are computed too.
        """
        self.num_images = num_images
        hooks = [*self.watched()]
        try:
            loss = loss_of(self.objective)
            if self.fault is None and not bool(loss.isfinite().all()):
                self.fault = Fault(where="loss", values=named_ranges(output=loss))
            if self.fault is None and backward:
                self.watch_gradients(loss)
                loss.backward()
        except Exception:  # of what meets values that are not finite, which are then known
            if self.fault is None:
                raise
        finally:
            for hook in hooks:
                hook.remove()
        return self.fault

    def watched(self) -> Iterator[Any]:
        """Watch every layer, and yield what ends that."""
        for module in self.objective.modules():
            yield module.register_forward_pre_hook(self.enter, with_kwargs=True)
            yield module.register_forward_hook(self.leave, with_kwargs=True)

    # ---- the forward pass --------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note what a layer is given; the operations before it belong to the layer that calls it."""
        self.claim([args, kwargs], self.running[-1])
        self.running.append(module)
        values = range_of([args, kwargs])
        if values is None:
            return
        self.inputs[module] = values
        if values.bad and self.fault is None:  # nothing has computed them: of layers, `leave` comes first
            outer = self.running[-2]
            if module is self.objective or outer is self.objective:
                images = args[:1] if module is self.objective else [args, kwargs]
                where: Pass = (
                    "images" if any(not tensor.isfinite().all() for tensor in tensors_in(images)) else "targets"
                )
                rows = bad_rows([args, kwargs], self.num_images)
                self.fault = Fault(where=where, rows=rows, values={"input": values})
            else:
                self.blame(outer, [args, kwargs])

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """See whether a layer's values are finite; the operations that no inner layer has done are its own."""
        self.claim(output, module)
        self.running.pop()
        if self.fault is not None:
            return
        if module in self.blocks:
            block = self.blocks[module]
            if (gates := range_of(block.gates_from(output.detach()))) is not None:
                self.gates[self.names[block]] = gates
        if module is not self.objective and any(not bool(tensor.isfinite().all()) for tensor in tensors_in(output)):
            self.blame(module, output)

    def blame(self, module: nn.Module, output: Any) -> None:
        """Name a layer as the first whose values are not finite."""
        values = {} if module not in self.inputs else {"input": self.inputs[module]}
        values |= named_ranges(output=output, weights=list(module.parameters(recurse=False))) | self.nearest_gates()
        rows = bad_rows(output, self.num_images)
        name, kind = self.names[module], type(module).__name__
        self.fault = Fault(where="forward", layer=name, kind=kind, rows=rows, values=values)

    def nearest_gates(self) -> dict[str, Range]:
        """Return the range of the gates of the SE block that ran last; nothing if none has."""
        name = next(reversed(self.gates), None)
        return {} if name is None else {f"gates of {name}": self.gates[name]}

    # ---- the backward pass -------------------------------------------------------------------------------------------

    def claim(self, value: Any, module: nn.Module) -> None:
        """Give a layer the operations before some tensors that no layer has yet."""
        open_nodes = [tensor.grad_fn for tensor in tensors_in(value)]
        while open_nodes:
            node = open_nodes.pop()
            if node is None or node in self.nodes:
                continue
            self.nodes[node] = module
            open_nodes += [following for following, _ in node.next_functions]

    def watch_gradients(self, loss: Tensor) -> None:
        """See of every operation whether it is the first that makes a gradient that is not finite."""
        self.claim(loss, self.objective)
        for node, module in self.nodes.items():
            node.register_hook(self.seeing(node.name(), module))

    def seeing(self, operation: str, module: nn.Module) -> Callable[[Any, Any], None]:
        """Return what is called with the gradients that an operation has computed and those that it was given."""

        def see(computed: Any, given: Any) -> None:
            if self.fault is not None or all(bool(tensor.isfinite().all()) for tensor in tensors_in(computed)):
                return
            values = {"input": self.inputs[module]} if module in self.inputs else {}
            values |= (
                named_ranges(given=given, gradient=computed, weights=list(module.parameters(recurse=False)))
                | self.nearest_gates()
            )
            kind = f"{type(module).__name__}, {operation}"
            rows = bad_rows(computed, self.num_images)
            self.fault = Fault(where="backward", layer=self.names[module], kind=kind, rows=rows, values=values)

        return see


def named_ranges(**values: Any) -> dict[str, Range]:
    """Return the ranges of those values that hold tensors."""
    found = {name: range_of(value) for name, value in values.items()}
    return {name: each for name, each in found.items() if each is not None}
