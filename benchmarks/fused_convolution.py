"""One image through SE-ResNet-50, the scale inside of the expanding convolution: every way that a CPU runtime offers.

Networks: timm's resnet50 (plain) and seresnet50, rewritten by `senet.optimization.rewriting`, so that a block ends in
relu(gate * (W h + c) + shortcut) and its gate is known before the convolution runs. Forms of this tail:
as rewritten: convolution, product, sum, ReLU as they are; what of it becomes one pass is up to the runtime;
product inside: the convolution and the product in one call of PyTorch's oneDNN operators
    (`torch.ops.mkldnn._convolution_pointwise` takes one operand: a product with (N, C, 1, 1), or a sum);
weights scaled: gate * W and gate * c, for one image the same; sum and ReLU then fit into the same call;
weights scaled, small: that where W has fewer values than the map, the first two stages, elsewhere as rewritten.
Runtimes: PyTorch (Inductor with frozen weights), oneDNN (oneDNN Graph by TorchScript), OpenVINO.
What fails is in the results, with its message. Also: the milliseconds of oneDNN's own log, by kinds of layers.

Command: python benchmarks/fused_convolution.py
Cost: two minutes on two CPU cores.
Results: benchmarks/results/fused_convolution.json.
"""

import copy
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import tyro
from torch import Tensor, fx, nn
from torch.nn import functional as F

from inference import NETWORKS, network
from report import RESULTS, milliseconds, time_in_turn, write_results
from senet.errors import first_line
from senet.optimization.rewriting import rewrite
from senet.optimization.runners import InductorRunner, OneDNNRunner, OpenVINORunner, Runner

RUNTIMES: dict[str, Callable[[fx.GraphModule], Runner]] = {
    "Inductor": InductorRunner,
    "oneDNN": OneDNNRunner,
    "OpenVINO": lambda graph: OpenVINORunner(graph, "fp32"),
}
FORMS = ("as rewritten", "product inside", "weights scaled", "weights scaled, small")
ONLY_INDUCTOR = ("product inside",)
"""The others take no operators of PyTorch's own."""
ONES = [1, 1]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        image_size: pixels.
        rounds: of all contestants in turn.
        calls: of a contestant in a round.
    """

    image_size: int = 224
    rounds: int = 21
    calls: int = 2


def product_inside(h: Tensor, gate: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute gate * (W h + c) in one call."""
    call = torch.ops.mkldnn._convolution_pointwise.binary
    return cast(Tensor, call(h, gate, weight, bias, [0, 0], ONES, ONES, 1, "mul", None, None, [], None))


def sum_inside(h: Tensor, shortcut: Tensor, gate: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute relu((gate * W) h + gate * c + shortcut), the convolution with sum and ReLU in one call."""
    call = torch.ops.mkldnn._convolution_pointwise.binary
    weight, bias = weight * gate.view(-1, 1, 1, 1), bias * gate.flatten()
    return cast(Tensor, call(h, shortcut, weight, bias, [0, 0], ONES, ONES, 1, "add", 1.0, "relu", [], None))


def scaled(h: Tensor, shortcut: Tensor, gate: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the same in operators that every runtime knows."""
    return (F.conv2d(h, weight * gate.view(-1, 1, 1, 1), bias * gate.flatten()) + shortcut).relu()


fx.wrap("product_inside")
fx.wrap("sum_inside")
fx.wrap("scaled")


def with_form(graph: fx.GraphModule, form: str, runtime: str) -> fx.GraphModule:
    """Return a copy of a rewritten network whose blocks end in a form of the tail."""
    graph = copy.deepcopy(graph)
    if form == "as rewritten":
        return graph
    found = 0
    for product in [node for node in graph.graph.nodes if node.target is torch.mul]:
        conv, gate = product.args
        (total,) = product.users
        (relu,) = total.users
        shortcut = next(arg for arg in total.args if arg is not product)
        layer = cast(nn.Conv2d, graph.get_submodule(conv.target))
        found += 1
        large = layer.weight.numel() > layer.out_channels * positions_of(layer)
        if form == "weights scaled, small" and large:
            continue
        with graph.graph.inserting_before(product if form == "product inside" else relu):
            weight, bias = (graph.graph.get_attr(f"{conv.target}.{name}") for name in ("weight", "bias"))
            if form == "product inside":
                new = graph.graph.call_function(product_inside, (conv.args[0], gate, weight, bias))
                product.replace_all_uses_with(new)
                graph.graph.erase_node(product)
                continue
            tail = sum_inside if runtime == "Inductor" else scaled
            new = graph.graph.call_function(tail, (conv.args[0], shortcut, gate, weight, bias))
            relu.replace_all_uses_with(new)
            graph.graph.erase_node(relu)
    assert found == 16
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def positions_of(layer: nn.Conv2d) -> int:
    """Return the positions of the map after an expanding convolution of ResNet-50, for images of 224 pixels."""
    return {64: 56, 128: 28, 256: 14, 512: 7}[layer.in_channels] ** 2


@torch.no_grad()
def build(arguments: Arguments) -> tuple[dict[str, Callable[[], object]], dict[str, float], dict[str, str]]:
    """Return the contestants, how far each is from eager PyTorch relative to the largest output, and what failed."""
    x = torch.randn(1, 3, arguments.image_size, arguments.image_size, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    runs: dict[str, Callable[[], object]] = {}
    differences: dict[str, float] = {}
    failures: dict[str, str] = {}
    for kind, name in NETWORKS.items():
        model = network(name)
        exact, graph = model(x), rewrite(model)
        for runtime, make in RUNTIMES.items():
            for form in FORMS if kind == "SE" else FORMS[:1]:
                if form in ONLY_INDUCTOR and runtime != "Inductor":
                    continue
                title = f"{kind}, {runtime}, {form}"
                try:
                    run = make(with_form(graph, form, runtime))
                    difference = (cast(Tensor, run(x)) - exact).abs().max() / exact.abs().max()
                except Exception as error:
                    failures[title] = f"{type(error).__name__}: {first_line(error)[:200]}"
                    print(title, failures[title], flush=True)
                    continue
                differences[title] = float(f"{difference.item():.2g}")
                runs[title] = lambda run=run: run(x)  # type: ignore[misc]
    return runs, differences, failures


def kind_of(line: str) -> str:
    """Return the kind of layer that a line of oneDNN's log is of."""
    kind, problem = line.split(",")[5], line.split(",")[-2]
    if kind == "convolution":
        return "excitation" if "_ih1oh1kh1" in problem else "convolutions"
    return "squeeze" if kind == "pooling" and "pooling_avg" in line else "rest"


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Have what libraries print go to a file."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@torch.no_grad()
def parts(arguments: Arguments) -> dict[str, dict[str, list[float]]]:
    """Return the milliseconds of each kind of layer in oneDNN's log, in every round, by network."""
    x = torch.randn(1, 3, arguments.image_size, arguments.image_size)
    runners = {kind: OneDNNRunner(rewrite(network(name))) for kind, name in NETWORKS.items()}
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in runners}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for kind, run in runners.items():
                for _ in range(2):
                    run(x)
                log = Path(folder) / "log"
                with written_to(log), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                    run(x)
                spent: dict[str, float] = dict.fromkeys(("convolutions", "squeeze", "excitation", "rest"), 0.0)
                for line in log.read_text().splitlines():
                    if ",primitive,exec," in line:
                        spent[kind_of(line)] += float(line.split(",")[-1])
                for part, ms in spent.items():
                    found[kind].setdefault(part, []).append(round(ms, 3))
    return found


@torch.no_grad()
def main(arguments: Arguments) -> None:
    """Time every form in every runtime in turn."""
    warnings.filterwarnings("ignore")
    runs, differences, failures = build(arguments)
    seconds = time_in_turn(runs, arguments.rounds, arguments.calls, settle=1)
    for name, times in seconds.items():
        print(name, f"{sorted(times)[len(times) // 2] * 1e3:.2f} ms", differences[name], flush=True)
    results: dict[str, Any] = {
        "settings": asdict(arguments),
        "milliseconds": milliseconds(seconds),
        "differences": differences,
        "failures": failures,
        "parts": parts(arguments),
    }
    write_results(RESULTS / "fused_convolution.json", results, ("torch", "timm", "openvino"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
