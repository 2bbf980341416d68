"""What an exported file says of itself: classes, preprocessing, input and outputs, where it comes from, versions."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from senet.configs import from_dict, to_dict
from senet.data.config import DataConfig
from senet.data.preprocessing import Preprocessing
from senet.deployment.config import ExportConfig
from senet.deployment.graph import INPUT, OUTPUT, ExportGraph
from senet.errors import SenetError
from senet.files import parse_json

FORMAT = "senet-export-1"
KEY = "senet"
"""Under which key a format's own metadata have ours, as JSON."""
RECORDED = ("senet", "torch", "onnx", "onnxscript", "openvino", "nncf", "onnxruntime", "executorch", "coremltools")
"""Packages whose versions are written down, where they are installed."""


def describe(
    graph: ExportGraph,
    config: ExportConfig,
    *,
    source: str,
    name: str,
    class_names: Any,
    data: DataConfig | None = None,
) -> dict[str, Any]:
    """Return what a file says of itself, in plain values.

    Args:
        graph: what is exported.
        config: of the export.
        source: what the network was opened from.
        name: of the network.
        class_names: of its outputs; None if it has none.
        data: that it was trained on; None if they are not known.
    """
    return {
        "format": FORMAT,
        "class_names": None if class_names is None else [str(each) for each in class_names],
        "preprocessing": to_dict(graph.preprocessing),
        "input": describe_input(graph, config),
        "outputs": [{"name": OUTPUT, "dtype": "float32", "meaning": "logits, one for each class"}],
        "source": {"from": source, "network": name, "held_out": held_out(data)},
        "rewritten": config.rewrite,
        "precision": config.precision,
        "versions": {"python": platform.python_version(), **installed()},
    }


def held_out(data: DataConfig | None) -> dict[str, Any] | None:
    """Return which images of a folder were held out of training; None if the data have a part of their own for it."""
    if data is None or data.val_fraction is None:
        return None
    return {
        "dataset": Path(data.dataset).name,
        "val_fraction": data.val_fraction,
        "split_seed": data.split_seed,
    }


def describe_input(graph: ExportGraph, config: ExportConfig) -> dict[str, Any]:
    """Return what a file takes: name, layout, type, range and shape."""
    takes_pixels, color = config.takes_pixels, {1: "gray", 3: "RGB"}.get(graph.preprocessing.in_channels)
    inside = "resize, crop and normalization" if config.resize else "normalization"
    pixels = "picture" if config.to == "coreml" else "NHWC"  # Core ML has a type for pictures
    return {
        "name": INPUT,
        "layout": pixels if takes_pixels else "NCHW",
        "dtype": "uint8" if takes_pixels else "float32",
        "range": f"0 to 255, {color}" if takes_pixels else "normalized: (value / 255 - mean) / std",
        "shape": list(graph.shape),
        "inside": inside if takes_pixels else "",
        "resizes": config.resize,
    }


def installed() -> dict[str, str]:
    """Return the versions of the packages that an export may use."""
    found = {}
    for package in RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_text(metadata: Mapping[str, Any]) -> str:
    """Return metadata as JSON."""
    return json.dumps(metadata)


def from_text(text: str, path: Path) -> dict[str, Any]:
    """Return the metadata that `as_text` wrote.

    Raises:
        SenetError: they are not of this library, or of a version that it does not know.
    """
    try:
        metadata = parse_json(text)
        stated = metadata["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise SenetError(f"{path} has metadata that cannot be read ({error}); export it again") from error
    if stated != FORMAT:
        raise SenetError(f"{path} has metadata of the format {stated!r}, this version reads {FORMAT}; update senet")
    return dict(metadata)


def preprocessing_in(metadata: Mapping[str, Any], path: Path) -> Preprocessing:
    """Return the preprocessing that metadata state.

    Raises:
        SenetError: they state none.
    """
    try:
        return from_dict(Preprocessing, metadata["preprocessing"], name="preprocessing")
    except (KeyError, SenetError) as error:
        raise SenetError(f"{path} has metadata without a preprocessing ({error}); export it again") from error
