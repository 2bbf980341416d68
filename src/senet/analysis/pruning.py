"""Removing SE blocks for good: the mean gate of each is multiplied into the layer before or after it."""

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.analysis.gates import GateBlock, choose_blocks, find_blocks
from senet.analysis.measures import CONSTANT, spread
from senet.analysis.recording import Recording, mean_gates
from senet.costs import cost
from senet.errors import SenetError, check_choice
from senet.evaluation.accuracy import Evaluation
from senet.evaluation.batches import DataSource
from senet.evaluation.scores import evaluate
from senet.nn.attached import attached_blocks, detach
from senet.nn.modes import eval_mode
from senet.surgery.dataflow import Value, trace_dataflow
from senet.surgery.probe import run_on_example
from senet.surgery.structure import at_or_within
from senet.terminal import Table, text_of

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu", "max_pool2d", "dropout", "dropout2d", "clone"})
"""Functions with f(a x) = a f(x) for a >= 0 in each channel."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The cost and accuracy of a network before or after pruning.

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
    """What `prune_se` removed, and what that changed; printing it shows a table.

    Args:
        blocks: the names of the removed blocks, such as SE_4_6.
        folded_into: for each block, the layer whose weights its mean gate was multiplied into.
        spreads: for each block, how much its gate varied from image to image, as a fraction of its range. Pruning
            loses this variation.
        before: the network with the blocks.
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
            f"{name} is folded into {layer}; its gate varied by {moved:.3f} of its range\n"
            for name, layer, moved in zip(self.blocks, self.folded_into, self.spreads, strict=True)
        ]
        return "".join(removed) + text_of(table).rstrip()


def prune_se(
    model: nn.Module,
    recording: Recording,
    blocks: Sequence[str] | Literal["constant"] = "constant",
    *,
    data: DataSource | None = None,
    example_inputs: Tensor | None = None,
    batch_size: int = 64,
) -> PruningReport:
    """Remove SE blocks, and multiply the mean gate of each into the layer before or after it.

    The outputs stay equal to rounding if the gates are constant (bit for bit if they are powers of two); a gate that
    varies is replaced by its mean, which costs accuracy: `senet.knock_out_blocks` measures how much. The model changes
    in place: all of the blocks are removed or, after an error, none. It can be saved and loaded.

    Args:
        model: any with SE blocks.
        recording: of its gates, from `senet.record_excitations`.
        blocks: names, such as SE_4_6 or a module's; "constant" for those whose gate has a spread below 0.01, see
            `senet.analysis.measures.spread`.
        data: what to measure the accuracy on, see `senet.evaluate`; None to measure none.
        example_inputs: images (N, C, H, W) to find the layers and the latency with; None for random images of the size
            that the model states.
        batch_size: of the evaluation.

    Returns:
        The report: what was removed, and parameters, multiply-adds, latency and accuracy before and after.

    Raises:
        SenetError: an unknown block, one without a layer to fold its gate into, or no block to remove.
    """
    found = find_blocks(model, example_inputs)
    if isinstance(blocks, str):
        check_choice("blocks", blocks, ("constant",))
        blocks = [r.block.name for r in recording.blocks if spread(r) < CONSTANT]
        if not blocks:
            least = min(recording.blocks, key=spread)
            raise SenetError(
                f"no gate is constant: the one that varies least, {least.block.name}, has a spread of "
                f"{spread(least):.3f} (constant is below {CONSTANT}); name the blocks to remove"
            )
    chosen = choose_blocks(found, blocks)
    gates = {block: mean_gates(recording, block) for block in chosen}
    layers = find_layers(model, gates, example_inputs)

    def accuracy() -> Evaluation | None:
        return None if data is None else evaluate(model, data, batch_size=batch_size)

    evaluations = [accuracy()]  # before any change: data that do not fit must leave the model as it is
    whole = copy.deepcopy(model)
    for block, (module, is_after) in layers.items():
        scale_layer(model.get_submodule(module), gates[block], is_after)
    remove_blocks(model, [block.module for block in chosen])
    evaluations.append(accuracy())
    before, after = measured((whole, model), evaluations, example_inputs)
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
"""A module's name, and whether it comes after the block: then its input is scaled, else its output."""


def find_layers(
    model: nn.Module, gates: Mapping[GateBlock, Tensor], example_inputs: Tensor | None
) -> dict[GateBlock, Layer]:
    """Return for each block the layer to fold its gate into.

    Raises:
        SenetError: there is none.
    """
    flow = run_on_example(model, example_inputs, lambda inputs: trace_dataflow(model, inputs))
    calls = {call.name: call for call in flow.calls}
    times = Counter(call.name for call in flow.calls)
    layers: dict[GateBlock, Layer] = {}
    for block, gate in gates.items():
        call = calls[block.module]
        positive = bool((gate >= 0).all())
        name = None
        if call.input is not None and all(at_or_within(user.scope, block.module) for user in call.input.users):
            name = layer_before(model, call.input, positive)
        is_after = name is None and call.output is not None
        if is_after and call.output is not None:
            name = layer_after(model, call.output, positive)
        if name is None or times[name] != 1:
            raise SenetError(
                f"{block.name} ({block.module}) cannot be removed: no convolution or BatchNorm before or after it can "
                "take its gate into its weights"
            )
        layers[block] = name, is_after
    return layers


def layer_before(model: nn.Module, value: Value, positive: bool) -> str | None:
    """Return the layer whose output is a value, directly or through functions with f(a x) = a f(x).

    Args:
        model: the model.
        value: the input of an SE block, which nothing else reads.
        positive: whether all gates are at least 0; if not, such functions are not passed through.
    """
    while value.operation not in ("conv2d", "batch_norm", "group_norm"):
        if not positive or value.operation not in HOMOGENEOUS or [len(v.users) for v in value.inputs] != [1]:
            return None
        (value,) = value.inputs
    layer = model.get_submodule(value.scope)
    affine = isinstance(layer, nn.Conv2d | _BatchNorm | nn.GroupNorm) and isinstance(layer.weight, nn.Parameter)
    return value.scope if affine else None


def layer_after(model: nn.Module, value: Value, positive: bool) -> str | None:
    """Return the only convolution that reads a value, directly or through functions with f(a x) = a f(x)."""
    while len(value.users) == 1:
        (user,) = value.users
        if user.operation == "conv2d" and isinstance(model.get_submodule(user.scope), nn.Conv2d):
            return user.scope
        if not positive or user.operation not in HOMOGENEOUS:
            return None
        value = user
    return None


@torch.no_grad()
def scale_layer(layer: nn.Module, gate: Tensor, is_after: bool) -> None:
    """Multiply the output channels of a layer before the block by gates (C,), or the input channels of one after it."""
    parameters = [layer.weight] if is_after or layer.bias is None else [layer.weight, layer.bias]
    for parameter in cast(list[nn.Parameter], parameters):
        factor = gate.to(parameter.device)
        if is_after:
            groups = cast(nn.Conv2d, layer).groups
            by_output = parameter.double().unflatten(0, (groups, -1))
            scaled = (by_output * factor.view(groups, 1, -1, 1, 1)).flatten(0, 1)
        else:
            scaled = parameter.double() * factor.view(-1, *[1] * (parameter.dim() - 1))
        parameter.copy_(scaled)


def measured(
    models: Sequence[nn.Module], evaluations: Sequence[Evaluation | None], example_inputs: Tensor | None
) -> list[Measured]:
    """Return the cost of networks together with their accuracies."""
    images = run_on_example(models[0], example_inputs, lambda images: images[:1])
    channels, height, width = images.shape[1:]
    times = latencies_ms(models, images)
    measurements = []
    for model, latency_ms, evaluation in zip(models, times, evaluations, strict=True):
        counted = cost(model, (height, width), channels)
        measurements.append(
            Measured(
                parameters=counted.parameters,
                multiply_adds=counted.multiply_adds,
                latency_ms=latency_ms,
                evaluation=evaluation,
            )
        )
    return measurements


@torch.no_grad()
def latencies_ms(models: Sequence[nn.Module], images: Tensor, rounds: int = 15) -> list[float]:
    """Return the median time of a forward pass of each model in evaluation mode, in ms, from interleaved runs."""
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
