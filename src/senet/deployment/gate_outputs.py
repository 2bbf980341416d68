"""The gates of a network's SE blocks as further outputs of what is exported."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from senet.analysis.gates import GATE_MODULES, GateBlock, find_blocks, gate_module
from senet.nn.excitation import ExcitationBlock
from senet.optimization.rewriting import EarlyGate


class WithGates(nn.Module):
    """A network whose further outputs are the gates of its SE blocks.

    Args:
        module: what is exported: the network, or layers before it and the network.
        layers: for each block the layer whose output the gates come from, a submodule of `module`, and the function
            from that output to the gates (N, C).
    """

    def __init__(self, module: nn.Module, layers: list[tuple[nn.Module, Any]]) -> None:
        super().__init__()
        self.module = module
        self.layers = layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, and the gates (N, C) of each block."""
        gates: list[Tensor | None] = [None] * len(self.layers)

        def keep(index: int, convert: Any) -> Any:
            def hook(_: nn.Module, __: object, output: Tensor) -> None:
                gates[index] = convert(output)

            return hook

        with ExitStack() as stack:
            for i, (layer, convert) in enumerate(self.layers):
                stack.callback(layer.register_forward_hook(keep(i, convert)).remove)
            logits = self.module(x)
        return (logits, *(gate for gate in gates if gate is not None))


def mean_gates(output: Tensor) -> Tensor:
    """(N, C, 1, 1) or (N, C, H, W) -> (N, C)."""
    return output.mean((2, 3))


def gate_layers(original: nn.Module, network: nn.Module, blocks: tuple[GateBlock, ...]) -> list[tuple[nn.Module, Any]]:
    """Return for each block the layer of a rewritten network that its gates come from, see `WithGates`.

    Args:
        original: the network.
        network: the same rewritten, or itself.
        blocks: of the original.
    """
    layers: list[tuple[nn.Module, Any]] = []
    for block in blocks:
        own = original.get_submodule(block.module)
        found = network.get_submodule(block.module)
        if isinstance(found, EarlyGate):
            layers.append((found, mean_gates))
        elif isinstance(own, ExcitationBlock):
            layer = gate_module(found)
            assert isinstance(found, ExcitationBlock)
            assert layer is not None
            layers.append((layer, found.gates_from))
        else:  # torch.fx traces through blocks of other libraries, and keeps the names of what is in them
            child = next(
                GATE_MODULES[key]
                for kind in type(own).__mro__
                if (key := (kind.__module__, kind.__qualname__)) in GATE_MODULES
            )
            layers.append((found.get_submodule(child), mean_gates))
    return layers


def blocks_of(model: nn.Module) -> tuple[GateBlock, ...]:
    """Return the SE blocks of a network in the order of computation; none for a network without."""
    if all(gate_module(module) is None for module in model.modules()):
        return ()
    return find_blocks(model)
