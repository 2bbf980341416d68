"""The contestants of deploy.py: what makes a file of SE-ResNet, of timm, PyTorch and the runtimes, and `senet.export`.

All start from the same network in PyTorch and end with a file for ONNX Runtime or OpenVINO, for a batch of any size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from os import devnull
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from torch import Tensor, nn

import senet
from inference import network
from senet.deployment.calibration import Array, CalibrationImages, normalized
from senet.deployment.sessions import open_session
from senet.deployment.static_quantization import Reader
from senet.optimization.runners import compile_openvino, converted_to_openvino, openvino_core

Runtime = Literal["ONNX Runtime", "OpenVINO"]
SUFFIXES: dict[Runtime, str] = {"ONNX Runtime": ".onnx", "OpenVINO": ".xml"}
BATCH = 16
BOTTLENECKS = 50
"""The least depth whose blocks have three convolutions instead of two."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the contestants start from.

    Args:
        peer: timm's network.
        own: this library's, with the same weights.
        calibration: pictures for the ranges of int8.
        folder: for files in between.
    """

    peer: nn.Module
    own: nn.Module
    calibration: CalibrationImages
    folder: Path

    @property
    def example(self) -> Tensor:
        """One image, normalized, (1, 3, H, W)."""
        return normalized(self.calibration.pixels[:1], self.calibration.preprocessing)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way to a file.

    Args:
        name: what makes the file.
        runtime: that computes it.
        precision: fp32 or int8.
        make: writes the file.
    """

    name: str
    runtime: Runtime
    precision: Literal["fp32", "int8"]
    make: Callable[[Material, Path], object]

    @property
    def key(self) -> str:
        """The name by which results have it."""
        return f"{self.runtime}, {self.precision}: {self.name}"

    def open(self, path: Path) -> Callable[[Array], Array]:
        """Open the file in its runtime, with PyTorch's number of threads."""
        if self.runtime == "ONNX Runtime":
            session = open_session(path)
            name = session.get_inputs()[0].name
            return lambda images: np.array(session.run(None, {name: images})[0])
        compiled = compile_openvino(openvino_core().read_model(path))
        return lambda images: np.array(compiled(images)[0])


def material(depth: int, calibration: CalibrationImages, folder: Path) -> Material:
    """Return both networks, with the same random weights.

    As in a trained network, BatchNorm's statistics are those of pictures, the calibration's, and branches add little to
    their shortcuts: at full size random ones enlarge the rounding of int8 threefold. The logits of these pictures have
    mean zero: else all pictures would be of one class.
    """
    with timm.layers.set_exportable(True):
        peer = network(f"seresnet{depth}")
    spread = calibration.pixels[:: max(1, len(calibration) // (4 * BATCH))]
    images = normalized(spread, calibration.preprocessing)
    for name, module in peer.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
            module.reset_running_stats()
            if name.endswith(".bn3" if depth >= BOTTLENECKS else ".bn2"):
                nn.init.uniform_(module.weight, 0.15, 0.3)
    with torch.no_grad():
        peer.train()
        for batch in images.split(BATCH):
            peer(batch)
        peer.eval()
        head = peer.get_submodule("fc")
        assert isinstance(head, nn.Linear)
        head.bias.data -= torch.cat([peer(batch) for batch in images.split(BATCH)]).mean(0)
    weights = folder / "weights.pth"
    torch.save(peer.state_dict(), weights)
    own = senet.create_model(f"se_resnet{depth}", weights=weights).eval()
    own.preprocessing = calibration.preprocessing
    return Material(peer=peer, own=own, calibration=calibration, folder=folder)


def by_timm(given: Material, path: Path) -> None:
    """Export as timm's onnx_export.py: TorchScript's exporter, one image as the example, checked by onnx."""
    from timm.utils.onnx import onnx_export

    onnx_export(given.peer, str(path), example_input=given.example)


def by_torch(given: Material, path: Path) -> None:
    """Export with PyTorch's own exporter, its defaults and a dynamic batch."""
    images = given.example.expand(2, -1, -1, -1)  # a batch of one would be taken for a constant
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(given.peer, (images,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)


def by_onnxruntime(given: Material, path: Path, **options: Any) -> None:
    """Quantize timm's file with ONNX Runtime, prepared as its documentation says.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    exported, prepared = given.folder / "exported.onnx", given.folder / "prepared.onnx"
    by_timm(given, exported)
    quant_pre_process(exported, prepared)
    quantize_static(prepared, path, Reader("input0", given.calibration.inputs()), **options)


def for_x86(given: Material, path: Path) -> None:
    """Quantize with the types that ONNX Runtime computes fastest on x86 with VNNI, and a scale for each channel."""
    from onnxruntime.quantization import QuantType

    by_onnxruntime(given, path, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True)


def by_openvino(given: Material, path: Path) -> None:
    """Convert the module with OpenVINO."""
    save_openvino(in_openvino(given), path)


def by_nncf(given: Material, path: Path) -> None:
    """Quantize OpenVINO's network with NNCF and its defaults."""
    import nncf

    save_openvino(nncf.quantize(in_openvino(given), nncf.Dataset(given.calibration.inputs())), path)


def in_openvino(given: Material) -> Any:
    """Return timm's network as an openvino.Model for any batch."""
    example = given.example
    return converted_to_openvino(given.peer, example_input=example, input=[-1, *example.shape[1:]])


def save_openvino(model: Any, path: Path) -> None:
    """Write an openvino.Model with its weights as they are: by default they would become float16."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


def by_senet(given: Material, path: Path, **options: Any) -> None:
    """Export with `senet.export` and its comparison of the file and the network, which it always makes."""
    calibration = given.calibration.pixels if options.get("precision") == "int8" else None
    senet.export(given.own, path, calibration=calibration, **options)


CONTESTANTS = (
    Contestant(name="timm's onnx_export", runtime="ONNX Runtime", precision="fp32", make=by_timm),
    Contestant(name="torch.onnx.export", runtime="ONNX Runtime", precision="fp32", make=by_torch),
    Contestant(name="senet.export", runtime="ONNX Runtime", precision="fp32", make=by_senet),
    Contestant(
        name="senet.export, as it is", runtime="ONNX Runtime", precision="fp32", make=partial(by_senet, rewrite=False)
    ),
    Contestant(name="quantize_static", runtime="ONNX Runtime", precision="int8", make=by_onnxruntime),
    Contestant(name="quantize_static, for x86", runtime="ONNX Runtime", precision="int8", make=for_x86),
    Contestant(name="senet.export", runtime="ONNX Runtime", precision="int8", make=partial(by_senet, precision="int8")),
    Contestant(name="openvino.convert_model", runtime="OpenVINO", precision="fp32", make=by_openvino),
    Contestant(name="senet.export", runtime="OpenVINO", precision="fp32", make=partial(by_senet, to="openvino")),
    Contestant(
        name="senet.export, as it is",
        runtime="OpenVINO",
        precision="fp32",
        make=partial(by_senet, to="openvino", rewrite=False),
    ),
    Contestant(name="nncf.quantize", runtime="OpenVINO", precision="int8", make=by_nncf),
    Contestant(
        name="senet.export",
        runtime="OpenVINO",
        precision="int8",
        make=partial(by_senet, to="openvino", precision="int8"),
    ),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what other exporters print to themselves."""
    with Path(devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
