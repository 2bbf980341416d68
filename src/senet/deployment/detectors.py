"""Detectors as one file for ONNX Runtime and OpenVINO: scaling, network, proposals and suppression are all inside."""

import platform
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from senet.deployment.config import OPSETS, ExportConfig
from senet.deployment.metadata import FORMAT, installed
from senet.deployment.scaling import ExactTransform
from senet.deployment.suppression import without_branches
from senet.deployment.to_onnx import cause, save
from senet.detection.opening import TASK, names_of_classes, open_detector
from senet.errors import SenetError, check_installed
from senet.evaluation.functions import Network, name_of
from senet.optimization.rewriting import rewrite
from senet.optimization.runners import converted_to_openvino
from senet.quiet import quiet

INPUT, OUTPUTS = "image", ("boxes", "labels", "scores")
LAST_OPSET = 20
"""The last that PyTorch 2.14 writes by tracing; torch.export cannot express torchvision's detectors."""
SIDES = (48, 64)
"""Height and width of the picture that is traced, in pixels; the file takes any."""


class OnePicture(nn.Module):
    """A detector of one picture, with tensors for a dictionary.

    Args:
        detector: in evaluation mode.
        pixels: it takes uint8 RGB (H, W, 3); else float32 RGB (3, H, W) in [0, 1].
    """

    def __init__(self, detector: nn.Module, pixels: bool) -> None:
        super().__init__()
        self.detector, self.pixels = detector, pixels

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (n, 4) in pixels, labels (n,) from 1 and scores (n,), the best first."""
        if self.pixels:
            image = image.permute(2, 0, 1).float() / 255
        found = self.detector([image])[0]
        return tuple(found[name] for name in OUTPUTS)


def check_options(config: ExportConfig) -> None:
    """Raise a SenetError for an option of an export that detectors do not have."""
    if config.to not in ("onnx", "openvino"):
        raise SenetError(
            f"to is {config.to!r}, which cannot express a detector's selection of boxes; name onnx, openvino"
        )
    if config.precision != "fp32":
        raise SenetError(f"precision is {config.precision!r}, but detectors are exported in fp32 only; leave it out")
    default = ExportConfig()
    for name in ("image_size", "batch_size", "dynamic", "resize", "layout"):
        if getattr(config, name) != getattr(default, name):
            raise SenetError(
                f"{config.stated(name)} has no effect on a detector, whose file takes one picture of any size; leave "
                "it out"
            )
    if config.opset is not None and config.opset > LAST_OPSET:
        raise SenetError(f"opset is {config.opset}; expected {OPSETS[0]} to {LAST_OPSET} for a detector")


def for_inference(run_or_model: Network, config: ExportConfig) -> nn.Module:
    """Return a copy of a detector on the CPU, its trunk and pyramid rewritten if that is asked for.

    Raises:
        SenetError: it is optimized already, or cannot be rewritten.
    """
    detector: Any = deepcopy(open_detector(run_or_model, "cpu")).eval()
    if hasattr(detector, "with_maps"):
        detector = detector.with_maps(rewrite if config.rewrite else deepcopy)
    elif config.rewrite:
        raise SenetError(
            f"{type(detector).__name__} is no detector of this library, and cannot be rewritten; add rewrite=False"
        )
    detector.transform = ExactTransform(detector.transform)
    return cast(nn.Module, detector.requires_grad_(False).eval())


def describe(detector: Any, config: ExportConfig, source: Network) -> dict[str, Any]:
    """Return what the file of a detector says of itself, in plain values."""
    names, transform = names_of_classes(detector), detector.transform
    pixels = config.preprocess
    return {
        "format": FORMAT,
        "task": TASK,
        "class_names": None if names is None else list(names),
        "transform": {
            "min_size": list(transform.min_size),
            "max_size": transform.max_size,
            "image_mean": list(transform.image_mean),
            "image_std": list(transform.image_std),
        },
        "input": {
            "name": INPUT,
            "layout": "HWC" if pixels else "CHW",
            "dtype": "uint8" if pixels else "float32",
            "range": "0 to 255, RGB" if pixels else "0 to 1, RGB",
            "shape": ["height", "width", 3] if pixels else [3, "height", "width"],
            "inside": "resize and normalization",
            "resizes": True,
        },
        "outputs": [
            {"name": "boxes", "dtype": "float32", "meaning": "x1, y1, x2, y2 in pixels of the picture"},
            {"name": "labels", "dtype": "int64", "meaning": "label k is class_names[k - 1]"},
            {"name": "scores", "dtype": "float32", "meaning": "0 to 1, the best first"},
        ],
        "source": {"from": name_of(source), "network": type(detector).__name__},
        "rewritten": config.rewrite,
        "precision": config.precision,
        "versions": {"python": platform.python_version(), **installed()},
    }


def write(detector: nn.Module, path: Path, config: ExportConfig, metadata: Any) -> None:
    """Write a detector as .onnx, or as .xml and .bin.

    Raises:
        SenetError: an operator is lacking.
        MissingExtraError: a package is missing.
    """
    check_installed("export of a detector", ("onnx", "onnxscript", "onnxruntime"))
    onnx_file = path if config.to == "onnx" else path.with_suffix(".onnx")
    trace(OnePicture(detector, config.preprocess).eval(), onnx_file, config.opset or OPSETS[0])
    if config.to == "onnx":
        import onnx

        save(onnx.load(path), path, metadata)
        return
    from senet.deployment.to_openvino import save as save_openvino

    save_openvino(converted_to_openvino(onnx_file), path, metadata)
    onnx_file.unlink()


def trace(model: OnePicture, path: Path, opset: int) -> None:
    """Write a .onnx file by tracing one picture."""
    shape: Sequence[int] = (*SIDES, 3) if model.pixels else (3, *SIDES)
    example = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))
    if model.pixels:
        example = (255 * example).to(torch.uint8)
    first = 0 if model.pixels else 1
    free: dict[str, dict[int, str]] = {name: {0: "objects"} for name in OUTPUTS}
    free[INPUT] = {first: "height", first + 1: "width"}
    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad(), without_branches():
            warnings.simplefilter("ignore")  # the tracer's, of every Python number on its way
            torch.onnx.export(
                model,
                (example,),
                path,
                dynamo=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes=free,
            )
    except Exception as error:  # torch.onnx raises a kind of its own for every stage
        raise SenetError(f"the detector cannot be exported to ONNX: {cause(error)}") from error
