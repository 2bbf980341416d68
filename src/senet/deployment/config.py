"""The configuration of an export: to which format, with what inside, at which precision."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

from senet.errors import SenetError, check_choice

Target = Literal["onnx", "openvino", "torch_export", "executorch", "coreml", "web"]
Axis = Literal["batch", "height", "width"]
Layout = Literal["triton", "ovms"]
ExportPrecision = Literal["fp32", "fp16", "int8", "int8_weights"]
ONE_SHAPE: tuple[Target, ...] = ("executorch", "coreml")
"""Formats whose files compute one shape only. ExecuTorch plans memory for it when a file is written: for a free batch
of up to 64, its version 1.5.1 wrote a file that takes 15 images at most and 24 times the memory."""
SERVED: tuple[Target, ...] = ("onnx", "openvino")
"""Formats that the servers of `Layout` read."""
OPSETS = (18, 23)
"""The first and the last opset that is written: antialiased resizing came with 18; onnxscript converts up to 23."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a network is exported.

    Args:
        to: the format.
        rewrite: fold BatchNorm into the convolutions and compute SE's squeeze before the expansion; False exports the
            network as it is.
        image_size: height and width of the images in pixels, or a number for both; None for the network's own.
        batch_size: number of images at once, at least 1, for a batch that is not dynamic; None for 1.
        dynamic: the axes of the input whose length is free; None for the batch, and for none of executorch, coreml and
            web, whose files compute one shape.
        preprocess: let the file take pixels, uint8 RGB (N, H, W, 3), and normalize them inside.
        resize: with `preprocess`: let it take pictures of any size, and scale and crop them inside.
        opset: version of ONNX's operators; None for 18.
        precision: "fp32"; "fp16" and "int8_weights" store weights so; "int8" computes so, and needs images.
        keep_float: of "int8": number of layers that stay in floating point, those which cost the most accuracy.
        layout: write the folder that this server serves models from, instead of a file.
        onnxruntime_web: of "web": a folder that has the package onnxruntime-web; None fetches it with npm.
    """

    to: Target = "onnx"
    rewrite: bool = True
    image_size: tuple[int, int] | None = None
    batch_size: int | None = None
    dynamic: tuple[Axis, ...] | None = None
    preprocess: bool = False
    resize: bool = False
    opset: int | None = None
    precision: ExportPrecision = "fp32"
    keep_float: int = 0
    layout: Layout | None = None
    onnxruntime_web: Path | None = None

    def __post_init__(self) -> None:
        self.check_kinds()
        check_choice("to", self.to, get_args(Target))
        check_choice("precision", self.precision, get_args(ExportPrecision))
        if self.layout is not None:
            check_choice("layout", self.layout, get_args(Layout))
        if self.dynamic is not None:
            object.__setattr__(self, "dynamic", (self.dynamic,) if isinstance(self.dynamic, str) else (*self.dynamic,))
            for axis in self.dynamic:
                check_choice("dynamic", axis, get_args(Axis))
        self.check_sizes()
        self.check_effects()

    def check_kinds(self) -> None:
        """Raise a SenetError for a value of another type, with what does the same for those of other programs."""
        for name in ("rewrite", "preprocess", "resize"):
            if not isinstance(getattr(self, name), bool):
                remedy = "; the file scales to the preprocessing's own resize" if name == "resize" else ""
                raise SenetError(f"{name} is {getattr(self, name)!r}; expected True or False{remedy}")
        for name in ("batch_size", "opset", "keep_float"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral | None):
                raise SenetError(f"{name} is {value!r}; expected a whole number")
            object.__setattr__(self, name, value if value is None else int(value))
        if isinstance(self.dynamic, bool | Mapping) or not isinstance(self.dynamic, Iterable | None):
            raise SenetError(
                f"dynamic is {self.dynamic!r}; expected the axes whose length is free, such as "
                "('batch', 'height', 'width'), or () for none"
            )
        size: Any = self.image_size
        sides = (size,) if isinstance(size, Integral) else size
        if size is not None and not (
            isinstance(sides, list | tuple) and all(isinstance(side, Integral) for side in sides)
        ):
            raise SenetError(f"image_size is {size!r}; expected height and width in pixels")

    def check_sizes(self) -> None:
        """Raise a SenetError for a number out of its range."""
        if self.batch_size is not None and self.batch_size < 1:
            raise SenetError(f"batch_size is {self.batch_size}; expected at least 1")
        if self.image_size is not None:
            size: Any = self.image_size
            sides = (size, size) if isinstance(size, Integral) else size
            object.__setattr__(self, "image_size", tuple(map(int, sides)))
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
        if self.batch_size is not None and "batch" in self.free_axes:
            raise SenetError(
                f"batch_size={self.batch_size} has no effect on a dynamic batch; leave it out, or batch out of dynamic"
            )
        if self.resize and {"height", "width"} & {*(self.dynamic or ())}:
            raise SenetError(
                "dynamic height and width have no effect with resize=True, which takes any; leave both out"
            )
        if self.resize and self.image_size is not None and self.image_size[0] != self.image_size[1]:
            raise SenetError(f"image_size is {self.image_size}, but resize=True cuts squares; give two equal numbers")
        if self.to in ONE_SHAPE:
            self.check_one_shape()
        if self.layout is not None and self.to not in SERVED:
            raise SenetError(
                f"layout={self.layout!r} is for files of {' and '.join(SERVED)}, which that server reads, not of "
                f"{self.to}; name one of these"
            )
        if self.to == "web":
            self.check_page()
        elif self.onnxruntime_web is not None:
            raise SenetError(f"onnxruntime_web={str(self.onnxruntime_web)!r} has no effect on {self.to}; leave it out")
        if self.opset is not None and self.to not in ("onnx", "web"):
            raise SenetError(f"opset={self.opset} has no effect on {self.to}, which has no opsets; leave it out")

    def check_page(self) -> None:
        """Raise a SenetError for an option that has no effect on a page: its network takes one picture at a time."""
        if self.onnxruntime_web is not None:
            object.__setattr__(self, "onnxruntime_web", Path(self.onnxruntime_web))
        for name in ("preprocess", "resize", "batch_size", "dynamic", "layout"):
            if getattr(self, name):
                raise SenetError(
                    f"{self.stated(name)} has no effect on web, whose page prepares one picture at a time; leave it out"
                )
        if self.image_size is not None and self.image_size[0] != self.image_size[1]:
            raise SenetError(f"image_size is {self.image_size}, but a page cuts squares; give two equal numbers")

    @property
    def takes_pixels(self) -> bool:
        """Whether normalization is inside."""
        return self.preprocess or self.to == "web"

    def check_one_shape(self) -> None:
        """Raise a SenetError for an option that asks a file of one shape to take others."""
        if self.dynamic:
            raise SenetError(
                f"{self.stated('dynamic')} has no effect on {self.to}, whose files compute one shape only; "
                "leave it out, or give image_size and batch_size"
            )
        if self.resize:
            raise SenetError(
                f"resize=True has no effect on {self.to}, whose files compute one shape only; leave it out, and scale "
                "pictures before"
            )
        if self.to == "coreml" and self.preprocess and self.images_at_once != 1:
            raise SenetError(f"batch_size is {self.batch_size}, but Core ML takes one picture at a time; leave it out")

    @property
    def free_axes(self) -> tuple[Axis, ...]:
        """The axes whose length is free, those of pictures that are scaled inside among them."""
        if self.to == "web" or self.to in ONE_SHAPE:
            return ()
        asked: tuple[Axis, ...] = ("batch",) if self.dynamic is None else self.dynamic
        return (*asked, "height", "width") if self.resize else asked

    @property
    def images_at_once(self) -> int:
        """The number of images in a batch that is not dynamic."""
        return self.batch_size or 1

    def stated(self, name: str) -> str:
        """Return an option with its value for a message; of several values as they are typed."""
        value = getattr(self, name)
        return f"{name}={' '.join(map(str, value))}" if isinstance(value, tuple) else f"{name}={value!r}"
