"""Networks computed again from one of their layers on, where what comes before has been computed once and kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, fx, nn


class Continued:
    """The values inside a network for a batch, and its logits from any of its layers on.

    Only a graph of torch.fx has them; other networks are computed from the beginning.

    Args:
        network: in evaluation mode; without gradients, and inside `nothing_in_place`.
        batch: images (N, C, H, W).
    """

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        self.network, self.batch = network, batch
        self.values: dict[fx.Node, Any] = {}
        if not isinstance(network, fx.GraphModule):
            self.logits: Tensor = network(batch)
            return
        keeper = Keeper(network)
        self.logits = keeper.run(batch)
        if not keeper.has_changed():  # a value that was changed later is not what the next node was given
            self.values = keeper.env

    def logits_from(self, layer: str) -> Tensor:
        """Return the logits (N, classes) after a change of a layer, named as in the network."""
        if self.values:
            assert isinstance(self.network, fx.GraphModule)
            before: dict[fx.Node, Any] = {}
            for node in self.network.graph.nodes:
                if node.op == "call_module" and f"{layer}.".startswith(f"{node.target}."):
                    return cast(Tensor, fx.Interpreter(self.network).run(self.batch, initial_env=before))
                before[node] = self.values[node]
        return cast(Tensor, self.network(self.batch))


class Keeper(fx.Interpreter):
    """Computes a graph and keeps the value of every node.

    Args:
        network: the graph.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network, garbage_collect_values=False)
        self.versions: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node, and note how often its value has been changed till then."""
        found = super().run_node(n)
        if isinstance(found, Tensor):
            self.versions[n] = found._version
        return found

    def has_changed(self) -> bool:
        """Return whether a value was changed after it had been computed."""
        return any(self.env[node]._version != version for node, version in self.versions.items())


@contextmanager
def nothing_in_place(network: nn.Module) -> Iterator[None]:
    """Let non-linearities leave their inputs as they are for a while."""
    changing = [module for module in network.modules() if getattr(module, "inplace", False)]
    try:
        for module in changing:
            module.inplace = False  # type: ignore[assignment]
        yield
    finally:
        for module in changing:
            module.inplace = True  # type: ignore[assignment]
