"""The SE blocks of a model, whichever library wrote them: found, named as in the paper, recorded, held constant."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError, nearest
from senet.nn.excitation import ExcitationBlock
from senet.surgery.probe import ExampleInputs, call_model, run_on_example

GATE_MODULES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("timm.layers.squeeze_excite", "SEModule"): "gate",
        ("timm.layers.squeeze_excite", "EffectiveSEModule"): "gate",
        ("timm.models._efficientnet_blocks", "SqueezeExcite"): "gate",
        ("timm.models.senet", "SEModule"): "sigmoid",
        ("torchvision.ops.misc", "SqueezeExcitation"): "scale_activation",
    }
)
"""Other libraries' SE blocks, by module and class, and their child whose output is the gate. All end in [0, 1]."""
UNBOUNDED = 4.0
"""Where histograms of gates without an upper end stop, such as those of a ReLU; below zero likewise."""


@dataclass(frozen=True)
class GateBlock:
    """One SE block of a model.

    Args:
        name: "SE_stage_index" as in the paper's Figure 6, such as SE_4_6: the sixth block of stage 4. The
            stage is N + 1 where the module's name contains "layerN"; otherwise resolutions are numbered, from 2 on.
        module: its name in the model.
        channels: C of its feature map.
        side: spatial size of its feature map: (H, W) in two dimensions.
        low: the smallest value of its gate; `-UNBOUNDED` if there is none.
        high: the largest; `UNBOUNDED` if there is none.
    """

    name: str
    module: str
    channels: int
    side: tuple[int, ...]
    low: float
    high: float


def gate_module(block: nn.Module) -> nn.Module | None:
    """Return the submodule of an SE block to hook: its output is the gate, or for an `ExcitationBlock` the logits.

    None for a module that is not an SE block.
    """
    if isinstance(block, ExcitationBlock):
        return block.get_submodule(block.logits_layer)
    for kind in type(block).__mro__:
        child = GATE_MODULES.get((kind.__module__, kind.__qualname__))
        if child is not None:
            return block.get_submodule(child)
    return None


def gates_of(block: nn.Module, output: Tensor) -> Tensor:
    """Return the gates (N, C) that an SE block applies, averaged over positions if each position has a gate.

    Args:
        block: the SE block.
        output: of its `gate_module`; (N, C, 1, 1) or (N, C, H, W) unless the block knows another shape.
    """
    return block.gates_from(output) if isinstance(block, ExcitationBlock) else output.mean((2, 3))


def gate_range(block: nn.Module) -> tuple[float, float]:
    """Return the smallest and the largest value of a gate, limited to `UNBOUNDED`."""
    low, high = block.gate_range() if isinstance(block, ExcitationBlock) else (0.0, 1.0)
    return (-UNBOUNDED if low == -math.inf else low), (UNBOUNDED if high == math.inf else high)


def find_blocks(model: nn.Module, example_inputs: ExampleInputs | None = None) -> tuple[GateBlock, ...]:
    """Return the SE blocks of a model in the order of computation; the model stays as it is.

    It runs once, in evaluation mode, to see the order and the sizes. Blocks that do not run exactly once are left out.

    Args:
        model: from this library, timm or torchvision, with inserted blocks or its own.
        example_inputs: images to run it on, (N, C, H, W), or see `senet.surgery.probe.ExampleInputs`; None for
            random images of the size that the model states.

    Raises:
        SenetError: it has no SE blocks, or does not run.
    """
    found = {name: block for name, block in model.named_modules() if gate_module(block) is not None}
    if not found:
        raise SenetError(
            f"{type(model).__name__} has no gates: no SE block of this library, timm or torchvision; "
            "senet.insert_se puts blocks in"
        )
    shapes = shapes_of_calls(model, found, example_inputs)
    once = {name: calls[0] for name, calls in shapes.items() if len(calls) == 1}
    maps = {name: (channels, tuple(side)) for name, (_, channels, *side) in once.items()}
    sides = sorted({side for _, side in maps.values()}, reverse=True)
    counts: dict[int, int] = defaultdict(int)
    places, counted = [], []
    for name, (_, side) in maps.items():
        numbered = re.search(r"(?:^|\.)layer(\d+)\.(\d+)\.", name)
        stage = int(numbered[1]) + 1 if numbered else 2 + sides.index(side)
        counts[stage] += 1
        counted.append((stage, counts[stage]))
        places.append((stage, int(numbered[2]) + 1) if numbered else counted[-1])
    if len(set(places)) < len(places):  # several blocks in one unit
        places = counted
    return tuple(
        GateBlock(f"SE_{stage}_{index}", name, *maps[name], *gate_range(found[name]))
        for (stage, index), name in zip(places, maps, strict=True)
    )


def shapes_of_calls(
    model: nn.Module, modules: Mapping[str, nn.Module], example_inputs: ExampleInputs | None
) -> dict[str, list[tuple[int, ...]]]:
    """Run a model once and return the input shapes of some of its modules, in the order of their first calls."""
    seen: dict[str, list[tuple[int, ...]]] = {}

    def record_shape(name: str) -> Callable[..., None]:
        return lambda _, args, __: seen.setdefault(name, []).append(tuple(args[0].shape))

    def run(images: ExampleInputs) -> None:
        seen.clear()
        call_model(model, images)

    handles = [module.register_forward_hook(record_shape(name)) for name, module in modules.items()]
    try:
        run_on_example(model, example_inputs, run)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def choose_blocks(blocks: tuple[GateBlock, ...], names: Any) -> tuple[GateBlock, ...]:
    """Return the blocks of these names, the paper's or the modules'; None for all.

    Raises:
        SenetError: there is no such block, or no name.
    """
    if names is None:
        return blocks
    if not names:
        raise SenetError("blocks is empty; name at least one")
    by_name = {name: block for block in blocks for name in (block.module, block.name)}
    for name in names:
        if name not in by_name:
            raise SenetError(f"there is no block {name!r}; the nearest are {nearest(name, by_name)}")
    return tuple(dict.fromkeys(by_name[name] for name in names))


@contextmanager
def gate_hooks(
    model: nn.Module, blocks: tuple[GateBlock, ...], on_gates: Callable[[GateBlock, Tensor], None]
) -> Iterator[None]:
    """Call `on_gates` with each block and its gates (N, C) whenever the block runs; outputs do not change."""

    def hook_of(block: GateBlock, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            on_gates(block, gates_of(module, output.detach()))  # a value returned here would replace the output

        return hook

    handles = []
    for block in blocks:
        module = model.get_submodule(block.module)
        layer = gate_module(module)
        assert layer is not None
        handles.append(layer.register_forward_hook(hook_of(block, module)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(model: nn.Module, block: GateBlock, gate: Tensor | float) -> Iterator[None]:
    """Make a block scale by a constant gate, one number or one for each channel (C,)."""

    def scale(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factor = torch.as_tensor(gate, dtype=output.dtype, device=output.device)
        return args[0] * (factor.view(-1, 1, 1) if factor.dim() else factor)

    handle = model.get_submodule(block.module).register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()
