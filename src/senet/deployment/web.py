"""A folder for any static host: a page that classifies pictures in the browser, and shows the gates of each."""

import html
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import PIL
from torch import Tensor, nn

from senet.analysis.gates import GATE_MODULES, GateBlock, find_blocks, gate_module
from senet.data.preprocessing import Preprocessing
from senet.deployment.onnxruntime_web import Runtime
from senet.errors import SenetError, counted
from senet.nn.excitation import ExcitationBlock
from senet.optimization.rewriting import EarlyGate

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("png.js", "pixels.js", "gates.js", "page.js")
"""The parts of the page's one script."""
NETWORK, RUNTIME_SCRIPT, RUNTIME_WASM = "model.onnx", "onnxruntime/ort.js", "onnxruntime/ort.wasm"
TOP = 5
"""How many classes the page shows."""


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


def check_shown(preprocessing: Preprocessing) -> None:
    """Check that a page can show a network's pictures.

    Raises:
        SenetError: the network takes neither gray pictures nor RGB.
    """
    if preprocessing.in_channels not in (1, 3):
        raise SenetError(
            f"the network takes {counted(preprocessing.in_channels, 'channel')}, but pictures in a browser have 3 or, "
            "in gray, 1; export to onnx instead"
        )


def write_page(
    folder: Path,
    *,
    title: str,
    facts: list[str],
    computed: str,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    blocks: tuple[GateBlock, ...],
    runtime: Runtime,
) -> None:
    """Write all files of the folder but `model.onnx`, which is there.

    Args:
        folder: where; its name is in the page's advice on how to serve it.
        title: of the page.
        facts: what its first line says.
        computed: what the page computes, in sentences.
        class_names: of all outputs.
        preprocessing: of the pictures.
        blocks: the SE blocks, whose gates are outputs of these names.
        runtime: the files of onnxruntime-web.
    """
    (folder / RUNTIME_SCRIPT).parent.mkdir(exist_ok=True)
    (folder / RUNTIME_SCRIPT).write_bytes(runtime.script)
    (folder / RUNTIME_WASM).write_bytes(runtime.wasm)
    for name in ("page.css", "icon.svg"):
        (folder / name).write_bytes((PAGE / name).read_bytes())
    (folder / "page.js").write_text("".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS))
    described = description(class_names, preprocessing, blocks, (folder / NETWORK).stat().st_size, len(runtime.wasm))
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n")
    provenance = [f"senet {version('senet')}", f"ONNX Runtime Web {runtime.version} (MIT license)"]
    texts = {
        "title": title,
        "facts": " · ".join(facts),
        "computed": computed,
        "folder": folder.name,
        "provenance": " · ".join(provenance),
    }
    page = Template((PAGE / "index.html").read_text()).substitute(
        {name: html.escape(text) for name, text in texts.items()}, gates_hidden="" if blocks else "hidden"
    )
    (folder / "index.html").write_text(page)


def is_vertical_first() -> bool:
    """Whether the Pillow that is installed scales tall pictures vertically first, as it does from 13.0 on."""
    return int(PIL.__version__.partition(".")[0]) >= 13


def description(
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    blocks: tuple[GateBlock, ...],
    network_bytes: int,
    runtime_bytes: int,
) -> Mapping[str, Any]:
    """Return what the page's script reads from `model.json`."""
    return {
        "class_names": list(class_names),
        "top": min(TOP, len(class_names)),
        "preprocessing": {
            "image_size": preprocessing.image_size,
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
            "channels": preprocessing.in_channels,
            "vertical_first": is_vertical_first(),
        },
        "input": "pixels",
        "output": "logits",
        "gates": [{**asdict(block), "output": block.name} for block in blocks],
        "files": {
            "network": {"name": NETWORK, "bytes": network_bytes},
            "runtime": {"name": RUNTIME_WASM, "bytes": runtime_bytes},
            "script": {"name": RUNTIME_SCRIPT},
        },
    }
