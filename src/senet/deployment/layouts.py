"""Model repositories: the folders from which Triton Inference Server and OpenVINO Model Server serve networks.

Source: docs/user_guide/model_repository.md and model_configuration.md of github.com/triton-inference-server/server;
docs/models_repository_classic.md and parameters.md of github.com/openvinotoolkit/model_server.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senet.deployment.config import ExportConfig, Layout
from senet.errors import SenetError

Metadata = Mapping[str, Any]
"""What a file says of itself, see `senet.deployment.metadata`."""

VERSION = "1"
"""The folder of the only version; a server takes the one with the highest number."""
LARGEST_BATCH = 32
"""Images that Triton puts together at most where the batch is dynamic: an entry of config.pbtxt, to be tuned there."""
TRITON_BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino"}
TRITON_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
LABELS = "labels.txt"


def model_name(metadata: Metadata) -> str:
    """Return the name by which a server is asked for a network: the network's, without characters that paths lack."""
    return re.sub(r"[^\w.-]", "_", metadata["source"]["network"])


def place_of_model(repository: Path, metadata: Metadata, suffix: str) -> Path:
    """Return where the exported file goes in a model repository; its folder is created.

    Args:
        repository: a folder.
        metadata: of the file.
        suffix: of the file.
    """
    folder = repository / model_name(metadata) / VERSION
    folder.mkdir(parents=True)
    return folder / f"model{suffix}"


def write_settings(layout: Layout, repository: Path, config: ExportConfig, metadata: Metadata, classes: int) -> None:
    """Write what a server reads beside the exported file.

    Args:
        layout: of which server.
        repository: the folder, with the exported file in its place.
        config: of the export.
        metadata: of the exported file.
        classes: number of the network's outputs.

    Raises:
        SenetError: the server cannot have the names of these classes.
    """
    name = model_name(metadata)
    if layout == "ovms":
        listed = {"model_config_list": [{"config": {"name": name, "base_path": name}}]}
        (repository / "config.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
        return
    names = metadata["class_names"]
    if names is not None:
        (repository / name / LABELS).write_text(labels(names), encoding="utf-8")
    settings = triton_settings(name, config, metadata, classes, has_labels=names is not None)
    (repository / name / "config.pbtxt").write_text(settings, encoding="utf-8")


def labels(names: list[str]) -> str:
    """Return class names as lines.

    Raises:
        SenetError: one of them has a line break, even as its last character, or is empty.
    """
    for name in names:
        if name.splitlines() != [name]:  # none of an empty name
            fault = "has a line break" if name else "is empty"
            raise SenetError(f"the class {name!r} {fault}, but Triton's labels are lines; rename it")
    return "".join(f"{name}\n" for name in names)


def triton_settings(name: str, config: ExportConfig, metadata: Metadata, classes: int, *, has_labels: bool) -> str:
    """Return config.pbtxt: a ModelConfig of Triton as protobuf's text."""
    takes, (gives,) = metadata["input"], metadata["outputs"]
    batched = "batch" in config.free_axes
    batch = [] if batched else [config.images_at_once]
    shape = [size if isinstance(size, int) else -1 for size in takes["shape"][1:]]
    label_line = f"    label_filename: {quoted(LABELS)}\n" if has_labels else ""
    return (
        f"name: {quoted(name)}\n"
        f"backend: {quoted(TRITON_BACKENDS[config.to])}\n"
        f"default_model_filename: {quoted('model.onnx' if config.to == 'onnx' else 'model.xml')}\n"
        f"max_batch_size: {LARGEST_BATCH if batched else 0}\n"
        "input [\n  {\n"
        f"    name: {quoted(takes['name'])}\n"
        f"    data_type: {TRITON_TYPES[takes['dtype']]}\n"
        f"    dims: {[*batch, *shape]}\n"
        "  }\n]\n"
        "output [\n  {\n"
        f"    name: {quoted(gives['name'])}\n"
        f"    data_type: {TRITON_TYPES[gives['dtype']]}\n"
        f"    dims: {[*batch, classes]}\n"
        f"{label_line}"
        "  }\n]\n"
        f"{'dynamic_batching { }' if batched else ''}\n"
    ).rstrip() + "\n"


def quoted(text: str) -> str:
    """Return a string of protobuf's text format, whose escapes JSON's are among."""
    return json.dumps(text)
