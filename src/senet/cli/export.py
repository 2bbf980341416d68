"""`senet export`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

import tyro
from tyro.conf import Positional

from senet.cli.names import EXPORTED_AS, EXPORTING
from senet.cli.options import check_values
from senet.cli.parity import show_detection, show_parity
from senet.cli.parsing import Command
from senet.cli.progress import lines_shown
from senet.cli.sensitivity import say_costs
from senet.cli.writing import exit_at_sigterm
from senet.deployment.config import ExportConfig
from senet.deployment.detection_parity import DetectionParity
from senet.deployment.exporting import Exported, export
from senet.deployment.parity import conclude
from senet.deployment.proving import NumImages
from senet.errors import SenetError
from senet.terminal import say


@dataclass(frozen=True, kw_only=True)
class ExportCommand(Command):
    """Write a network as a file that works without this library, and compare it with the original.

    RUN_OR_MODEL is what `senet evaluate` takes. The file holds the network with BatchNorm folded and SE's squeeze
    before the expansion, its class names and its preprocessing. The exit status is 3 if it differs from the original
    beyond the tolerance of its precision.

    Examples:
        senet export runs/mine mine.onnx
        senet export runs/mine mine.onnx --preprocess --resize
        senet export runs/mine mine.xml --to openvino --dynamic
        senet export runs/mine repository --layout triton
        senet export runs/mine site --to web
        senet export timm/seresnet50.ra2_in1k seresnet50.onnx --data photos
    """

    elsewhere: ClassVar[Mapping[str, str]] = EXPORTING
    model: Annotated[Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """the network"""
    output: Annotated[Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """the new file, which ends in .onnx, .xml, .pt2, .pte or .mlpackage; for web or with --layout a new folder"""
    options: Annotated[ExportConfig, tyro.conf.arg(name="")] = field(default_factory=ExportConfig)
    int8: bool = False
    """the same as --precision int8"""
    fp16: bool = False
    """the same as --precision fp16"""
    calibration: Annotated[str | None, tyro.conf.arg(name="calibrate", metavar="DATA")] = None
    """images from which int8 takes its ranges: a folder or the name of a data set; None for the run's training data"""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """images on which both are compared: a folder or the name of a data set, for a detector with boxes or without; None
    for the run's own"""
    num_images: NumImages = None
    """how many of them, at equal distances, or all; None for 500 at most (200 of 224 pixels), and 50 for a detector"""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write the comparison as a page"""
    json: bool = False
    """print JSON instead of sentences"""

    def run(self) -> None:
        """Export, and say what was written."""
        with exit_at_sigterm(), lines_shown("senet.deployment"):
            made = export(
                self.model,
                self.output,
                self.config(),
                data=self.data,
                num_images=self.num_images,
                calibration=self.calibration,
                report=self.report,
            )
        if self.json:
            print(json.dumps(summary(made)))
        else:
            say(written(made))
            if made.sensitivity is not None:
                say_costs(made.sensitivity)
            if made.parity is not None:
                show_detection(made.parity) if isinstance(made.parity, DetectionParity) else show_parity(made.parity)
            if self.report is not None:
                say(f"{self.report} is the report; open it in a browser")
        if made.parity is not None and (status := conclude(made.parity)):
            raise SystemExit(status)

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Read the arguments; an option of another program is answered with what does the same here."""
        check_values(argv, EXPORTED_AS)
        command = cast(Self, super().read(argv, prog))
        typed = {word.partition("=")[0] for word in argv}
        if "--precision" in typed and (other := command.config().precision) != command.options.precision:
            raise SenetError(f"two precisions are asked for, fp32 and {other}; name one")
        return command

    def config(self) -> ExportConfig:
        """Return the configuration of the export.

        Raises:
            SenetError: it names two precisions.
        """
        named = {"int8": self.int8, "fp16": self.fp16}
        asked = {name for name, is_on in named.items() if is_on}
        asked |= {self.options.precision} - {"fp32"}
        if len(asked) > 1:
            raise SenetError(f"two precisions are asked for, {' and '.join(sorted(asked))}; name one")
        return replace(self.options, precision=next(iter(asked), "fp32"))  # type: ignore[arg-type]


def summary(made: Exported) -> dict[str, Any]:
    """Return what was written, in plain values."""
    return {
        "path": str(made.path),
        "files": list(map(str, made.files)),
        "metadata": dict(made.metadata),
        "parity": None if made.parity is None else made.parity.to_dict(),
        "sensitivity": None if made.sensitivity is None else made.sensitivity.to_dict(),
    }


def written(made: Exported) -> str:
    """Return in a sentence what was written."""
    inside = (part for file in made.files for part in (file, *file.rglob("*")))
    size = sum(part.stat().st_size for part in inside if part.is_file())
    takes, names = made.metadata["input"], made.metadata["class_names"]
    classes = "" if names is None else f" of {len(names)} classes"
    shape = ", ".join(map(str, takes["shape"]))
    returns = "boxes, labels and scores" if made.metadata.get("task") else "logits"
    beside = "" if made.path.is_dir() else "".join(f" and {file}" for file in made.files if file != made.path)
    return (
        f"{made.path}{beside}: {made.metadata['source']['network']}, {size / 1e6:.1f} MB; takes {takes['dtype']} "
        f"({shape}), {takes['range']}, and returns {returns}{classes}"
    )
