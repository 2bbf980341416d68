"""What the host does for a training step: operators dispatched, kernels launched, microseconds.

On a GPU a step of a small network, or of any network in eager PyTorch at a small batch, takes as long as the host needs
to launch its kernels. This measures the host's part on the CPU, without a GPU: the networks are made so narrow and
their images so small that their arithmetic takes next to no time, and the four operators of the residual tail are
replaced by ones that only allocate their results. What is left is Python, autograd, the dispatcher and the allocator,
in microseconds of the processor's time.

Counted are the operators that autograd's forward and backward pass dispatch, without the optimizer. A launch is an
operator that neither makes a view nor only allocates; on CUDA that is one kernel, of convolutions and BatchNorm
sometimes more.

Networks: resnet50 and se_resnet50, cifar_resnet20 and cifar_se_resnet20. Contestants: plain; SE, layer by layer; senet,
small maps: `excited_sum`, as on small maps on the CPU; senet: the operators where there is SE, as in a compiled network
on CUDA; senet, every norm: the operators for every BatchNorm and ReLU, as for large maps in eager PyTorch on CUDA.

Command: python benchmarks/host_overhead.py
Cost: half a minute on one core.
Results: benchmarks/results/host_overhead.json
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import senet
from report import RESULTS, milliseconds, time_in_turn, write_results
from senet.models.residual import ResidualUnit
from senet.nn import fused
from senet.ops import function, operators, plain

NETWORKS = {"resnet50": ("resnet50", "se_resnet50"), "cifar_resnet20": ("cifar_resnet20", "cifar_se_resnet20")}
NOTHING = "senet_nothing"
"""The namespace of the operators that only allocate."""
IsSmall = Callable[[Tensor, nn.Module | None], bool]
IS_SMALL: dict[str, IsSmall] = {
    "senet, small maps": lambda u, se: True,
    "senet": lambda u, se: se is None,
    "senet, every norm": lambda u, se: False,
}
"""What takes the place of `senet.nn.fused.is_small`."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: of all contestants in turn.
        calls: of a contestant in a round.
        narrower: by which the numbers of channels of the large networks are divided.
    """

    rounds: int = 15
    calls: int = 3
    narrower: int = 8


def register() -> torch.library.Library:
    """Register the operators that only allocate; they live as long as what is returned."""
    library = torch.library.Library(NOTHING, "DEF")
    for name in operators.NAMES:
        library.define(name + torch.library.infer_schema(getattr(plain, name), mutates_args=()))
        library.impl(name, getattr(operators, f"shapes_of_{name}"), "CPU")
    return library


def narrow(model: nn.Module, factor: int) -> nn.Module:
    """Keep every layer of a network of convolutions, but only one in `factor` of its channels."""
    for module in model.modules():
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            sizes = [size if size <= 10 else max(1, size // factor) for size in value.shape[:2]]
            kept = value.detach()[tuple(slice(size) for size in sizes)].clone()
            if isinstance(value, nn.Parameter):
                setattr(module, name, nn.Parameter(kept))
            else:
                setattr(module, name, kept)
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
    return model


class Step:
    """Forward and backward of a narrow network on two small images; calling it does one."""

    def __init__(self, name: str, factor: int, is_small: IsSmall | None) -> None:
        torch.manual_seed(0)
        self.is_small = is_small
        model = senet.create_model(name, num_classes=10)
        self.num_blocks = sum(isinstance(module, ResidualUnit) for module in model.modules())
        senet.fuse(model) if is_small else senet.unfuse(model)
        if not name.startswith("cifar"):  # they are narrow
            narrow(model, factor)
        self.model = model.train().to(memory_format=torch.channels_last)
        side = 8 if name.startswith("cifar") else 32
        self.images = torch.randn(2, 3, side, side).to(memory_format=torch.channels_last)
        self.labels = torch.tensor([1, 2])
        self.parameters = list(self.model.parameters())

    def __call__(self) -> None:
        """Do one."""
        fused.is_small = self.is_small or IS_SMALL["senet"]  # type: ignore[assignment]
        F.cross_entropy(self.model(self.images), self.labels).backward()
        for parameter in self.parameters:
            parameter.grad = None


class Counting(TorchDispatchMode):
    """Counts the operators that are dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one and carry it out."""
        self.counts[str(func)] += 1
        self.launches += not (func.is_view or str(func).startswith(("aten.empty", "aten.new_empty", "aten.detach")))
        return func(*args, **(kwargs or {}))


def measure(network: str, arguments: Arguments) -> dict[str, Any]:
    """Count and time the variants of a network."""
    plain_name, se_name = NETWORKS[network]
    names = {"plain": plain_name, "SE": se_name, **dict.fromkeys(IS_SMALL, se_name)}
    variants = {kind: Step(name, arguments.narrower, IS_SMALL.get(kind)) for kind, name in names.items()}
    found = {}
    for name, step in variants.items():
        step()
        with Counting() as counting:
            step()
        of_tail = sum(count for operator, count in counting.counts.items() if operator.startswith(NOTHING))
        operators = counting.counts.total()
        found[name] = {"operators": operators, "launches": counting.launches, "of_tail": of_tail}
    seconds = time_in_turn(variants, arguments.rounds, arguments.calls, clock=time.process_time)
    print(network, found, {name: round(sorted(s)[len(s) // 2] * 1e6) for name, s in seconds.items()}, flush=True)
    blocks = variants["plain"].num_blocks
    return {"network": network, "blocks": blocks, "counts": found, "milliseconds": milliseconds(seconds)}


def main(arguments: Arguments) -> None:
    """Measure both networks."""
    torch.set_num_threads(1)
    library = register()
    with patch.object(function, "namespace_for", lambda *_: NOTHING), patch.object(fused, "is_small"):
        networks = [measure(name, arguments) for name in NETWORKS]
    del library
    write_results(RESULTS / "host_overhead.json", {"settings": asdict(arguments), "networks": networks})


if __name__ == "__main__":
    main(tyro.cli(Arguments))
