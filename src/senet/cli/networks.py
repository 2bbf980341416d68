"""`senet convert | insert`."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from senet.cli.parsing import Command, check_new, print_report
from senet.detection.opening import detects
from senet.errors import SenetError
from senet.factory import assemble, load_model, read_weights
from senet.models.catalog import model_card
from senet.models.external import is_external
from senet.nn.block import SEOptions
from senet.surgery.insertion import insert_se
from senet.surgery.selection import Existing
from senet.terminal import say
from senet.weights.folder import save_pretrained
from senet.weights.matching import Asked

OutputFolder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]


@dataclass(frozen=True, kw_only=True)
class ConvertCommand(Command):
    """Turn weights from anywhere into a model folder, which `evaluate`, `predict` and `from_pretrained` read.

    SOURCE is a file (.safetensors, .pt, .pth, .bin, .pkl, .caffemodel), a folder or a hub id. The layout is recognized:
    this library's, timm's, torchvision's, mmpretrain's, moskomule's, the authors' Caffe.

    Examples:
        senet convert se_resnet50 SE-ResNet-50.caffemodel --output models/se_resnet50
        senet convert se_resnet50 timm/seresnet50.ra2_in1k --output models/se_resnet50
        senet convert se_resnet50 resnet50.pth --output models/start --num-classes 10
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """the network, see `senet models`; or timm/NAME or torchvision/NAME"""
    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """the weights"""
    output: OutputFolder
    """the model folder to write; it must not exist yet"""
    num_classes: int | None = None
    """classes of a new classifier; None keeps that of the weights"""
    in_channels: int | None = None
    """channels of the images; another number than the weights' converts the first convolution; None keeps it"""
    class_names: tuple[str, ...] | None = None
    """names of the classes, in the order of the outputs; None for those that the weights come with"""
    layout: str | None = None
    """the layout, instead of the one recognized from the keys, see `senet.load_weights`"""
    key: str | None = None
    """which of several networks in a file, such as model_ema"""
    model_kwargs: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """options of the network that the weights do not show, such as stem_pool=pad; with --layout senet"""
    se: SEOptions = field(default_factory=SEOptions)
    """SE options of the network that the weights do not show, such as the gate"""

    def run(self) -> None:
        """Read the weights, and write the model folder."""
        has_se = not is_external(self.name) and model_card(self.name).has_se
        check_new(self.output)
        se = None if self.se == SEOptions() else self.se
        if se is not None and not has_se:
            raise SenetError(f"--se has no effect: {self.name} is a plain network")
        asked = Asked(
            name=self.name,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            se=se,
            options=self.model_kwargs,
        )
        checkpoint = read_weights(self.name, self.source, layout=self.layout, key=self.key)
        model = assemble(checkpoint, asked)
        if self.class_names is not None:
            if len(set(self.class_names)) != model.num_classes:
                raise SenetError(
                    f"class_names has {len(set(self.class_names))} different names, but the network has "
                    f"{model.num_classes} classes; give one for each, in the order of the outputs"
                )
            model.class_names = self.class_names
        save_pretrained(model, self.output)
        layout = "" if is_external(self.name) else f" (layout {checkpoint.layout.name})"
        unnamed = "" if model.class_names else "; they have no names: --class-names gives them some"
        say(f"{self.output} holds {self.name} with {model.num_classes} classes{layout}{unnamed}")


@dataclass(frozen=True, kw_only=True)
class InsertCommand(Command):
    """Put SE blocks into a network that has none, its outputs kept bit for bit, and write it as a model folder.

    SOURCE is a run folder, a model folder, the name of a network with public weights, or "timm/NAME" or
    "torchvision/NAME" with that library's own weights. Go on with
    `senet finetune PICTURES --model FOLDER --output RUN`, or by a recipe with `--weights FOLDER`.

    Examples:
        senet insert timm/resnet50.a1_in1k --output models/resnet50_with_se
        senet insert runs/plain --output models/plain_with_se --reduction 8 --stages 3 4
    """

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """the network"""
    output: OutputFolder
    """the model folder to write; it must not exist yet"""
    options: Annotated[SEOptions, tyro.conf.arg(name="")] = field(default_factory=SEOptions)
    where: tuple[str, ...] | None = None
    """only modules whose names match one of these shell patterns; None for all"""
    existing: Existing = "skip"
    """branches with a gate of their own: skip them, or add a second gate"""
    preserve_outputs: bool = True
    """start with gates of exactly 1; otherwise at random"""
    pretrained: bool = True
    """load timm's or torchvision's weights"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Insert, print the report, and write the model folder."""
        check_new(self.output)
        model = load_model(self.source, pretrained=self.pretrained)
        report = insert_se(
            model, self.options, where=self.where, existing=self.existing, preserve_outputs=self.preserve_outputs
        )
        save_pretrained(model, self.output)
        quoted = shlex.quote(str(self.output))
        following = f"senet finetune PICTURES --model {quoted} --output RUN"
        if detects(model):
            following = f"senet train coco_faster_rcnn --data PHOTOS --weights {quoted} --output RUN"
        ending = f"{self.output} holds the model. Next:\n  {following}"
        print_report(report, self.json, ending)
