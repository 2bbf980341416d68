"""SE blocks removed for good, their mean gates folded into the layers around them."""

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.analysis.gates import GateBlock, choose_blocks, find_blocks
from senet.analysis.measures import CONSTANT, spread
from senet.analysis.recording import Recording, mean_gates
from senet.costs import cost
from senet.errors import SenetError
from senet.evaluation.accuracy import Evaluation, evaluate
from senet.evaluation.batches import DataSource
from senet.nn.attached import attached_blocks, detach
from senet.nn.modes import eval_mode
from senet.surgery.dataflow import Value, trace_dataflow
from senet.surgery.probe import run_on_example
from senet.surgery.structure import at_or_within
from senet.terminal import Table, text_of

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu", "max_pool2d", "dropout", "dropout2d", "clone"})
"""f(a x) = a f(x) for a >= 0, channel by channel."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network before or after blocks were removed.

    Args:
        parameters: of the network.
        multiply_adds: for one image.
        latency_ms: median time of one image, on the model's device, in evaluation mode.
        evaluation: None without data.
    """

    parameters: int
    multiply_adds: int
    latency_ms: float
    evaluation: Evaluation | None


@dataclass(frozen=True, kw_only=True)
class PruningReport:
    """What `prune_se` did.

    Args:
        blocks: the paper's names of the removed ones.
        folded_into: the layer that took up the gate of each.
        spreads: how far each gate moved from image to image, in parts of its range: what was lost.
        before: the network with them.
        after: the network without them.
    """

    blocks: tuple[str, ...]
    folded_into: tuple[str, ...]
    spreads: tuple[float, ...]
    before: Measured
    after: Measured

    def __str__(self) -> str:
        """Return the report as a table."""
        table = Table("", "before", "after")
        rows = [
            ("parameters", f"{self.before.parameters:,}", f"{self.after.parameters:,}"),
            ("multiply-adds (M)", *(f"{m.multiply_adds / 1e6:,.2f}" for m in (self.before, self.after))),
            ("latency (ms)", *(f"{m.latency_ms:.2f}" for m in (self.before, self.after))),
        ]
        if self.before.evaluation is not None and self.after.evaluation is not None:
            both = (self.before.evaluation, self.after.evaluation)
            rows.append(("top-1 (%)", *(f"{e.top1:.2f}" for e in both)))
            rows.append(("loss", *(f"{e.loss:.4f}" for e in both)))
        for row in rows:
            table.add_row(*row)
        removed = [
            f"{name} is in {layer} now; its gate moved by {moved:.3f} of its range\n"
            for name, layer, moved in zip(self.blocks, self.folded_into, self.spreads, strict=True)
        ]
        return "".join(removed) + text_of(table).rstrip()


def prune_se(
    model: nn.Module,
    recording: Recording,
    blocks: Sequence[str] | None = None,
    *,
    data: DataSource | None = None,
    example: Tensor | None = None,
    batch_size: int = 64,
) -> PruningReport:
    """Remove SE blocks, each one's mean gate multiplied into the layer in front of it or behind it.

    Exact for a gate that is constant: to rounding, or bit for bit where it is a power of two. The model changes in
    place, by all of the blocks or none; it can be saved and read again.

    Args:
        model: any with SE blocks.
        recording: of its gates.
        blocks: names; None for those that are constant (`senet.analysis.measures`).
        data: what the accuracy is measured on, see `senet.evaluate`; None measures none.
        example: images for the structure and the latency; None for noise of the model's size.
        batch_size: of the evaluation.

    Raises:
        SenetError: an unknown block, one without a layer that can take up its gate, or no block to remove.
    """
    found = find_blocks(model, example)
    if blocks is None:
        blocks = [r.block.name for r in recording.blocks if spread(r) < CONSTANT]
        if not blocks:
            least = min(recording.blocks, key=spread)
            raise SenetError(
                f"no gate is constant: the steadiest, {least.block.name}, moves by {spread(least):.3f} of its range "
                f"(constant is below {CONSTANT}); name the blocks to remove"
            )
    chosen = choose_blocks(found, blocks)
    gates = {block: mean_gates(recording, block) for block in chosen}
    layers = find_layers(model, gates, example)

    def accuracy() -> Evaluation | None:
        return None if data is None else evaluate(model, data, batch_size=batch_size)

    evaluations = [accuracy()]  # now, for data that do not fit must leave the model as it is
    whole = copy.deepcopy(model)
    for block, (module, behind) in layers.items():
        scale_layer(model.get_submodule(module), gates[block], behind)
    remove_blocks(model, [block.module for block in chosen])
    evaluations.append(accuracy())
    before, after = measured((whole, model), evaluations, example)
    return PruningReport(
        blocks=tuple(block.name for block in chosen),
        folded_into=tuple(layers[block][0] for block in chosen),
        spreads=tuple(spread(recording[block.name]) for block in chosen),
        before=before,
        after=after,
    )


def remove_blocks(model: nn.Module, names: Sequence[str]) -> None:
    """Take SE blocks out of a model."""
    attached = attached_blocks(model)
    for name in names:
        if name in attached:
            detach(model, [name.rpartition(".")[0]])
        else:
            model.set_submodule(name, nn.Identity())


Layer = tuple[str, bool]
"""A module's name, and whether it is behind the block: then its input is scaled, or else its output."""


def find_layers(model: nn.Module, gates: Mapping[GateBlock, Tensor], example: Tensor | None) -> dict[GateBlock, Layer]:
    """Return for each block the layer that can take up its gate.

    Raises:
        SenetError: there is none.
    """
    flow = run_on_example(model, example, lambda inputs: trace_dataflow(model, inputs))
    calls = {call.name: call for call in flow.calls}
    times = Counter(call.name for call in flow.calls)
    layers: dict[GateBlock, Layer] = {}
    for block, gate in gates.items():
        call = calls[block.module]
        positive = bool((gate >= 0).all())
        name = None
        if call.input is not None and all(at_or_within(user.scope, block.module) for user in call.input.users):
            name = layer_in_front(model, call.input, positive)
        behind = name is None and call.output is not None
        if behind and call.output is not None:
            name = layer_behind(model, call.output, positive)
        if name is None or times[name] != 1:
            raise SenetError(
                f"{block.name} ({block.module}) cannot be removed: no convolution or BatchNorm in front of it or "
                "behind it can take up its gate"
            )
        layers[block] = name, behind
    return layers


def layer_in_front(model: nn.Module, value: Value, positive: bool) -> str | None:
    """Return the layer that makes a value, or from which it comes through functions that keep a factor.

    Args:
        model: the model.
        value: read by an SE block alone.
        positive: whether the factors are; or else only the layer itself will do.
    """
    while value.operation not in ("conv2d", "batch_norm", "group_norm"):
        if not positive or value.operation not in HOMOGENEOUS or [len(v.users) for v in value.inputs] != [1]:
            return None
        (value,) = value.inputs
    layer = model.get_submodule(value.scope)
    affine = isinstance(layer, nn.Conv2d | _BatchNorm | nn.GroupNorm) and isinstance(layer.weight, nn.Parameter)
    return value.scope if affine else None


def layer_behind(model: nn.Module, value: Value, positive: bool) -> str | None:
    """Return the convolution that alone reads a value, itself or through functions that keep a factor."""
    while len(value.users) == 1:
        (user,) = value.users
        if user.operation == "conv2d" and isinstance(model.get_submodule(user.scope), nn.Conv2d):
            return user.scope
        if not positive or user.operation not in HOMOGENEOUS:
            return None
        value = user
    return None


@torch.no_grad()
def scale_layer(layer: nn.Module, gate: Tensor, behind: bool) -> None:
    """Multiply the output channels of a layer by gates (C,), or the input channels of a convolution."""
    parameters = [layer.weight] if behind or layer.bias is None else [layer.weight, layer.bias]
    for parameter in cast(list[nn.Parameter], parameters):
        factor = gate.to(parameter.device)
        if behind:
            groups = cast(nn.Conv2d, layer).groups
            by_output = parameter.double().unflatten(0, (groups, -1))
            scaled = (by_output * factor.view(groups, 1, -1, 1, 1)).flatten(0, 1)
        else:
            scaled = parameter.double() * factor.view(-1, *[1] * (parameter.dim() - 1))
        parameter.copy_(scaled)


def measured(
    models: Sequence[nn.Module], evaluations: Sequence[Evaluation | None], example: Tensor | None
) -> list[Measured]:
    """Return what networks cost, timed in turn, beside how well they do."""
    images = run_on_example(models[0], example, lambda images: images[:1])
    channels, height, width = images.shape[1:]
    times = latencies_ms(models, images)
    found = []
    for model, latency_ms, evaluation in zip(models, times, evaluations, strict=True):
        counted = cost(model, (height, width), channels)
        found.append(
            Measured(
                parameters=counted.parameters,
                multiply_adds=counted.multiply_adds,
                latency_ms=latency_ms,
                evaluation=evaluation,
            )
        )
    return found


@torch.no_grad()
def latencies_ms(models: Sequence[nn.Module], images: Tensor, rounds: int = 15) -> list[float]:
    """Return the median time of a forward pass of each model in evaluation mode, in ms; they take turns."""
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(eval_mode(model, layer_by_layer=True))
        for _ in range(rounds + 2):
            for model, spent in zip(models, times, strict=True):
                started = time.perf_counter()
                model(images)
                if images.is_cuda:
                    torch.cuda.synchronize(images.device)
                spent.append(1e3 * (time.perf_counter() - started))
    return [median(spent[2:]) for spent in times]
