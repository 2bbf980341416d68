"""The configuration of an export: to which format, with what inside, at which precision."""

from dataclasses import dataclass
from typing import Literal, get_args

from senet.errors import SenetError, check_choice

Target = Literal["onnx", "openvino", "torch_export", "executorch", "coreml", "web"]
Axis = Literal["batch", "height", "width"]
Layout = Literal["triton", "ovms"]
ExportPrecision = Literal["fp32", "fp16", "int8", "int8_weights"]
OPSETS = (18, 23)
"""The first and the last opset that is written: antialiased resizing came with 18; onnxscript converts up to 23."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a network is exported.

    Args:
        to: the format.
        rewrite: fold BatchNorm into the convolutions and compute SE's squeeze before the expansion; False exports the
            network as it is.
        image_size: height and width of the images in pixels; None for the network's own.
        batch_size: number of images at once, at least 1; for a batch that is not dynamic.
        dynamic: the axes of the input whose length is free.
        preprocess: let the file take pixels, uint8 RGB (N, H, W, 3), and normalize them inside.
        resize: with `preprocess`: let it take pictures of any size, and scale and crop them inside.
        opset: version of ONNX's operators; None for 18.
        precision: "fp32"; "fp16" and "int8_weights" store weights so; "int8" computes so, and needs images.
        keep_float: of "int8": number of layers that stay in floating point, those which cost the most accuracy.
        layout: write the folder that this server serves models from, instead of a file.
    """

    to: Target = "onnx"
    rewrite: bool = True
    image_size: tuple[int, int] | None = None
    batch_size: int = 1
    dynamic: tuple[Axis, ...] = ("batch",)
    preprocess: bool = False
    resize: bool = False
    opset: int | None = None
    precision: ExportPrecision = "fp32"
    keep_float: int = 0
    layout: Layout | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dynamic", tuple(self.dynamic))
        check_choice("to", self.to, get_args(Target))
        check_choice("precision", self.precision, get_args(ExportPrecision))
        if self.layout is not None:
            check_choice("layout", self.layout, get_args(Layout))
        for axis in self.dynamic:
            check_choice("dynamic", axis, get_args(Axis))
        self.check_sizes()
        self.check_effects()

    def check_sizes(self) -> None:
        """Raise a SenetError for a number out of its range."""
        if self.batch_size < 1:
            raise SenetError(f"batch_size is {self.batch_size}; expected at least 1")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", tuple(self.image_size))
            if len(self.image_size) != 2 or min(self.image_size) < 1:
                raise SenetError(f"image_size is {self.image_size}; expected height and width in pixels")
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise SenetError(f"opset is {self.opset}; expected {OPSETS[0]} to {OPSETS[1]}")
        if self.keep_float < 0:
            raise SenetError(f"keep_float is {self.keep_float}; expected at least 0")

    def check_effects(self) -> None:
        """Raise a SenetError for an option that has no effect with the others."""
        if self.resize and not self.preprocess:
            raise SenetError("resize=True has no effect without preprocess=True, which takes pictures; add it")
        if self.batch_size != 1 and "batch" in self.dynamic:
            raise SenetError(
                f"batch_size={self.batch_size} has no effect on a dynamic batch; leave it out, or batch out of dynamic"
            )
        if self.resize and {"height", "width"} & {*self.dynamic}:
            raise SenetError(
                "dynamic height and width have no effect with resize=True, which takes any; leave both out"
            )
        if self.resize and self.image_size is not None and self.image_size[0] != self.image_size[1]:
            raise SenetError(f"image_size is {self.image_size}, but resize=True cuts squares; give two equal numbers")
        if self.opset is not None and self.to not in ("onnx", "web"):
            raise SenetError(f"opset={self.opset} has no effect on {self.to}, which has no opsets; leave it out")
