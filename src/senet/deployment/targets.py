"""The formats that networks are exported to: what each needs, how its files end, and the module that knows it.

Such a module has `write` and `open_file`, see `Format`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast, get_args

from torch import Tensor

from senet.deployment.calibration import CalibrationImages
from senet.deployment.config import ExportConfig, ExportPrecision, Target
from senet.deployment.graph import ExportGraph
from senet.deployment.sensitivity import Sensitivity
from senet.errors import SenetError, check_installed
from senet.weights.hub import EXPORTED

Metadata = Mapping[str, Any]
"""What a file says of itself, see `senet.deployment.metadata`."""
Runner = Callable[[Tensor], tuple[Tensor, ...]]
"""Computes a file's outputs from its input, both on the CPU and in the file's own layout and types."""


class Format(Protocol):
    """The module of a format."""

    def write(
        self,
        graph: ExportGraph,
        path: Path,
        config: ExportConfig,
        metadata: Metadata,
        calibration: CalibrationImages | None,
    ) -> Sensitivity | None:
        """Write a file, and what belongs to it beside it, in a folder that is empty.

        Args:
            graph: what is exported.
            path: of the file, with the right suffix.
            config: of the export.
            metadata: written into the file.
            calibration: images for int8; None for the other precisions.

        Returns:
            What the layers cost in int8; None for the other precisions.
        """

    def open_file(self, path: Path) -> tuple[Runner, Metadata]:
        """Read a file: what computes it, and its metadata; {} for a file that says nothing of itself."""


@dataclass(frozen=True, kw_only=True)
class TargetInfo:
    """What is known of a format without importing it.

    Args:
        suffix: of its files; empty for a folder.
        module: that writes and reads it.
        packages: import names of what writing needs, of `senet.errors.EXTRAS`.
        needed_to_run: the same for computing.
        needed_for_int8: what writing in 8 bits needs besides.
        precisions: that it has.
        companions: suffixes of further files that belong to one.
        elsewhere: why its files cannot be computed here, so that nothing opens them.
    """

    suffix: str
    module: str
    packages: tuple[str, ...] = ()
    needed_to_run: tuple[str, ...] = ()
    needed_for_int8: tuple[str, ...] = ()
    precisions: tuple[ExportPrecision, ...] = ("fp32",)
    companions: tuple[str, ...] = ()
    elsewhere: str = ""

    def load(self) -> Format:
        """Import the module."""
        return cast(Format, import_module(self.module))


ALL: tuple[ExportPrecision, ...] = get_args(ExportPrecision)
SUFFIXES: Mapping[str, str] = MappingProxyType({target: suffix for suffix, target in EXPORTED.items()})
TARGETS: Mapping[Target, TargetInfo] = MappingProxyType(
    {
        "onnx": TargetInfo(
            suffix=SUFFIXES["onnx"],
            module="senet.deployment.to_onnx",
            packages=("onnx", "onnxscript", "onnxruntime"),
            needed_to_run=("onnxruntime",),
            precisions=ALL,
        ),
        "openvino": TargetInfo(
            suffix=SUFFIXES["openvino"],
            module="senet.deployment.to_openvino",
            packages=("openvino",),
            needed_to_run=("openvino",),
            needed_for_int8=("nncf",),
            precisions=ALL,
            companions=(".bin",),
        ),
        "web": TargetInfo(
            suffix="",
            module="senet.deployment.to_web",
            packages=("onnx", "onnxscript", "onnxruntime"),
            needed_to_run=("onnxruntime",),
            precisions=ALL,
        ),
        "torch_export": TargetInfo(suffix=SUFFIXES["torch_export"], module="senet.deployment.to_torch_export"),
        "executorch": TargetInfo(
            suffix=SUFFIXES["executorch"],
            module="senet.deployment.to_executorch",
            packages=("executorch",),
            needed_to_run=("executorch",),
        ),
        "coreml": TargetInfo(
            suffix=SUFFIXES["coreml"],
            module="senet.deployment.to_coreml",
            packages=("coremltools",),
            precisions=("fp32", "fp16", "int8_weights"),
            elsewhere="Core ML computes on Apple's systems only",
        ),
    }
)
"""The formats by name."""


def check_target(config: ExportConfig) -> TargetInfo:
    """Return what is known of the format that is asked for.

    Raises:
        SenetError: it does not have this precision.
        MissingExtraError: a package is missing.
    """
    if config.to not in TARGETS:
        raise SenetError(f"to is {config.to!r}, which this version does not write; it writes {', '.join(TARGETS)}")
    info = TARGETS[config.to]
    if config.precision not in info.precisions:
        raise SenetError(
            f"precision is {config.precision!r}, which {config.to} is not written in; expected one of "
            f"{', '.join(info.precisions)}"
        )
    if config.keep_float and config.precision != "int8":
        raise SenetError(
            f"keep_float={config.keep_float} has no effect with precision={config.precision!r}; leave it out"
        )
    int8 = info.needed_for_int8 if config.precision.startswith("int8") else ()
    check_installed(f"export to {config.to}{' in int8' * bool(int8)}", (*info.packages, *int8))
    return info
