"""A folder for any static host: a page that classifies pictures in the browser, and shows the gates of each."""

import html
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import PIL
import torch

from senet.analysis.gates import GateBlock
from senet.costs import cost
from senet.data.preprocessing import Preprocessing
from senet.deployment import to_onnx
from senet.deployment.calibration import CalibrationImages
from senet.deployment.config import ExportConfig
from senet.deployment.gate_outputs import WithGates, blocks_of, gate_layers
from senet.deployment.graph import INPUT, OUTPUT, ExportGraph
from senet.deployment.onnxruntime_web import Runtime, find_runtime
from senet.deployment.sensitivity import Sensitivity

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("png.js", "pixels.js", "gates.js", "page.js")
"""The parts of the page's one script."""
NETWORK, RUNTIME_SCRIPT, RUNTIME_WASM = "model.onnx", "onnxruntime/ort.js", "onnxruntime/ort.wasm"
TIMES = "\N{MULTIPLICATION SIGN}"
TOP = 5
"""How many classes the page shows."""
PRECISIONS = {
    "fp32": "in float32",
    "fp16": "in float32, with weights stored in float16",
    "int8": "in int8",
    "int8_weights": "in float32, with weights stored in int8",
}


def write(
    graph: ExportGraph, path: Path, config: ExportConfig, metadata: Any, calibration: CalibrationImages | None
) -> Sensitivity | None:
    """Write a folder, see `senet.deployment.targets.Format`."""
    runtime = find_runtime(config.onnxruntime_web)
    blocks = blocks_of(graph.original)
    layers = gate_layers(graph.original, graph.network, blocks)
    shown = replace(graph, module=WithGates(graph.module, layers), outputs=(OUTPUT, *(block.name for block in blocks)))
    path.mkdir()
    costs = to_onnx.write(shown, path / NETWORK, config, metadata, calibration)
    with torch.no_grad():
        num_classes = graph.module(graph.example).shape[1]
    names = metadata["class_names"] or [f"output {i}" for i in range(num_classes)]
    write_page(path, graph, config, metadata, names, blocks, runtime)
    return costs


def open_file(path: Path) -> tuple[Any, Any]:
    """Open the network of a folder in ONNX Runtime, see `senet.deployment.targets.Format`."""
    return to_onnx.open_file(path / NETWORK)


def write_page(
    folder: Path,
    graph: ExportGraph,
    config: ExportConfig,
    metadata: Mapping[str, Any],
    names: list[str],
    blocks: tuple[GateBlock, ...],
    runtime: Runtime,
) -> None:
    """Write all files of a folder that has the network.

    Args:
        folder: where; its name is in the page's advice on how to serve it.
        graph: what was exported.
        config: of the export.
        metadata: of the network.
        names: of its classes.
        blocks: its SE blocks, whose gates are outputs of these names.
        runtime: the files of onnxruntime-web.
    """
    (folder / RUNTIME_SCRIPT).parent.mkdir(exist_ok=True)
    (folder / RUNTIME_SCRIPT).write_bytes(runtime.script)
    (folder / RUNTIME_WASM).write_bytes(runtime.wasm)
    for name in ("page.css", "icon.svg"):
        (folder / name).write_bytes((PAGE / name).read_bytes())
    script = "".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    (folder / "page.js").write_text(script, encoding="utf-8")
    described = {
        "class_names": names,
        "top": min(TOP, len(names)),
        "preprocessing": picture_steps(graph.preprocessing),
        "input": INPUT,
        "output": OUTPUT,
        "gates": [{**asdict(block), "output": block.name} for block in blocks],
        "files": {
            "network": {"name": NETWORK, "bytes": (folder / NETWORK).stat().st_size},
            "runtime": {"name": RUNTIME_WASM, "bytes": len(runtime.wasm)},
            "script": {"name": RUNTIME_SCRIPT},
        },
    }
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    texts = page_texts(graph, config, metadata, len(names), runtime) | {"folder": shlex.quote(folder.name)}
    escaped = {name: html.escape(text) for name, text in texts.items()}
    template = Template((PAGE / "index.html").read_text(encoding="utf-8"))
    page = template.substitute(escaped, gates_hidden="" if blocks else "hidden")
    (folder / "index.html").write_text(page, encoding="utf-8")


def picture_steps(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what the page does with a picture before the network, which normalizes."""
    return {
        "image_size": preprocessing.image_size,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
        "channels": preprocessing.in_channels,
        "vertical_first": is_vertical_first(),
    }


def is_vertical_first() -> bool:
    """Whether the Pillow that is installed scales tall pictures vertically first, as it does from 13.0 on."""
    return int(PIL.__version__.partition(".")[0]) >= 13


def page_texts(
    graph: ExportGraph, config: ExportConfig, metadata: Mapping[str, Any], num_classes: int, runtime: Runtime
) -> dict[str, str]:
    """Return the sentences of the page that depend on the network."""
    prepared, name = graph.preprocessing, metadata["source"]["network"]
    size, costs = prepared.image_size, cost(graph.original, prepared.image_size, prepared.in_channels)
    square = f"{size} {TIMES} {size}"
    scaled = f"scaled so that its shorter side has {prepared.resize} pixels ({prepared.interpolation}, antialiased)"
    facts = [
        f"{num_classes:,} classes",
        f"{square} pixels",
        f"{costs.parameters / 1e6:.2f} million parameters",
        f"{costs.multiply_adds / 1e6:,.0f} million multiply-adds",
    ]
    computed = (
        f"A picture is turned upright, {scaled}, and the central {square} pixels are cut out, with the same result to "
        f"the last bit as in Python. From these {name} computes {PRECISIONS[config.precision]} a probability for each "
        "class; they sum to 1, whether or not the picture shows any of the classes."
    )
    versions = f"senet {version('senet')} · ONNX Runtime Web {runtime.version} (MIT license)"
    return {"title": name, "facts": " · ".join(facts), "computed": computed, "provenance": versions}
