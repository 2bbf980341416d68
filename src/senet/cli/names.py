"""Options of other programs: what does the same here."""

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType

from senet.cli.parsing import options
from senet.errors import SenetError, nearest

Names = Mapping[str, str]
"""Options elsewhere, such as "--imgsz" -> the options here."""

CHECKED_BY_TYRO = ("--help", "--tyro-", "--model.se.")
"""Beginnings of options that are no fields of a command, or fields of one that may be None."""

FINETUNING: Names = MappingProxyType(
    {
        "--aa": "--data.augmentation.auto-augment",
        "--amp": "--compute.precision",
        "--batch": "--batch-size",
        "--data-dir": "the folder, which comes first",
        "--data": "the folder, which comes first",
        "--device": "--compute.cpu, or CUDA_VISIBLE_DEVICES before the command",
        "--drop": "--model-kwargs dropout=0.2, or drop_rate=0.2 for a network of timm",
        "--dropout": "--model-kwargs dropout=0.2, or drop_rate=0.2 for a network of timm",
        "--erasing": "--data.augmentation.random-erasing",
        "--fp16": "--compute.precision fp16",
        "--half": "--compute.precision fp16",
        "--img-size": "--image-size",
        "--imgsz": "--image-size",
        "--input-size": "--image-size",
        "--learning-rate": "--optimizer.lr",
        "--lr0": "--optimizer.lr",
        "--model-ema": "--regularization.ema-decay",
        "--name": "--output",
        "--num-train-epochs": "--epochs",
        "--opt": "--optimizer.name",
        "--output-dir": "--output",
        "--patience": "--selection.patience",
        "--per-device-train-batch-size": "--batch-size",
        "--project": "--output",
        "--reprob": "--data.augmentation.random-erasing",
        "--smoothing": "--regularization.label-smoothing",
        "--sync-bn": "--compute.sync-batch-norm",
        "--train-dir": "the folder, which comes first",
        "--val-split": "--data.val-fraction",
        "--valid-pct": "--data.val-fraction",
        "--workers": "--data.num-workers",
    }
)
"""Of timm's train.py, Ultralytics, fastai and Hugging Face's trainer."""

SIZES = "--model.min-size and --model.max-size"
DETECTING: Names = MappingProxyType(
    {
        "--amp": "--compute.precision",
        "--aspect-ratio-group-factor": "--data.group-by-shape",
        "--backbone": "--model.trunk",
        "--base-lr": "--optimizer.lr",
        "--batch": "--batch-size",
        "--cache": "--data.in-memory",
        "--cfg": "the recipe, which comes first",
        "--conf": "--model.options box_score_thresh=0.05",
        "--config-file": "the recipe, which comes first",
        "--cos-lr": "--schedule.name cosine",
        "--data-path": "--data",
        "--dataset": "--data",
        "--device": "--compute.cpu, or CUDA_VISIBLE_DEVICES before the command",
        "--fliplr": "--data.augmentation.flip",
        "--freeze": "--model.frozen-stages",
        "--freeze-at": "--model.frozen-stages",
        "--half": "--compute.precision",
        "--image-size": SIZES,
        "--img": SIZES,
        "--img-size": SIZES,
        "--ims-per-batch": "--batch-size",
        "--imgsz": SIZES,
        "--iou": "--model.options box_nms_thresh=0.5",
        "--learning-rate": "--optimizer.lr",
        "--lr-gamma": "--schedule.factor",
        "--lr-steps": "--schedule.milestones",
        "--lr0": "--optimizer.lr",
        "--max-iter": "--iterations",
        "--model": "--model.trunk, with --weights for what it starts from",
        "--multi-scale": "several lengths after --model.min-size",
        "--name": "--output",
        "--num-gpus": "torchrun --nproc-per-node before `-m senet train`",
        "--opt": "--optimizer.name",
        "--optimizer": "--optimizer.name",
        "--output-dir": "--output",
        "--pretrained": "--weights",
        "--project": "--output",
        "--steps": "--schedule.milestones",
        "--trainable-backbone-layers": "--model.frozen-stages, of which 2 are 3 trainable layers",
        "--work-dir": "--output",
        "--workers": "--data.num-workers",
    }
)
"""Of torchvision's references/detection, Ultralytics, Detectron2 and mmdetection, for training."""

PREDICTING: Names = MappingProxyType(
    {
        "--batch": "--batch-size",
        "--checkpoint": "--model",
        "--conf": "--threshold",
        "--conf-thres": "--threshold",
        "--confidence-threshold": "--threshold",
        "--half": "--precision fp16",
        "--image-size": "--crop-size, and for a detector --model.min-size of `senet train`",
        "--img-size": "--crop-size, and for a detector --model.min-size of `senet train`",
        "--imgsz": "--crop-size, and for a detector --model.min-size of `senet train`",
        "--input": "the images, which are named without an option",
        "--iou": "--model.options box_nms_thresh=0.5 of `senet train`",
        "--name": "--output",
        "--out-dir": "--output",
        "--output-dir": "--output",
        "--project": "--output",
        "--save": "--output FOLDER",
        "--save-csv": "--output FILE.csv",
        "--save-json": "--output FILE.json",
        "--save-txt": "--output FILE.csv or FILE.json",
        "--score-thr": "--threshold",
        "--source": "the images, which are named without an option",
        "--topk": "--top",
        "--weights": "--model",
        "--workers": "--num-workers",
    }
)
"""Of Ultralytics, Detectron2's demo, mmdetection and timm's inference.py."""

EVALUATING: Names = MappingProxyType(
    {
        "--batch": "--batch-size",
        "--checkpoint": "the network, which comes first",
        "--conf": "--threshold",
        "--half": "--precision fp16",
        "--image-size": "--model.min-size of `senet train`",
        "--img-size": "--model.min-size of `senet train`",
        "--imgsz": "--model.min-size of `senet train`",
        "--iou": "--model.options box_nms_thresh=0.5 of `senet train`",
        "--model": "the network, which comes first",
        "--output-dir": "--detections FILE and --report FILE",
        "--plots": "--report FILE",
        "--save-json": "--detections FILE",
        "--split": "--data.val",
        "--weights": "the network, which comes first",
        "--workers": "--data.num-workers",
    }
)
"""Of Ultralytics, Detectron2 and mmdetection, for the evaluation of a detector."""

CLASSIFYING: Names = MappingProxyType(
    {
        "--amp": "--precision fp16",
        "--batch": "--batch-size",
        "--checkpoint": "the network, which comes first",
        "--data-dir": "--data.root",
        "--dataset": "--data",
        "--device": "nothing: a GPU computes if there is one, and an exported file computes on the CPU; "
        "CUDA_VISIBLE_DEVICES= before the command hides GPUs",
        "--half": "--precision fp16",
        "--image-size": "--crop-size",
        "--img-size": "--crop-size",
        "--imgsz": "--crop-size",
        "--model": "the network, which comes first",
        "--output": "--json, or --report FILE",
        "--results-file": "--json, or --report FILE",
        "--split": "--data, of which the part for evaluation is taken",
        "--workers": "--data.num-workers",
    }
)
"""Of timm's validate.py, torchvision's references and Ultralytics, for the evaluation of a network that classifies."""

EXPORTING: Names = MappingProxyType(
    {
        "--batch": "--batch-size",
        "--checkpoint": "the network, which comes first",
        "--device": "nothing: files are written on the CPU, and compute wherever their runtime does",
        "--dtype": "--precision",
        "--dynamic-axes": "--dynamic batch height width",
        "--dynamic-size": "--dynamic batch height width",
        "--format": "--to",
        "--framework": "--to",
        "--half": "--fp16",
        "--img": "--image-size HEIGHT WIDTH",
        "--img-size": "--image-size HEIGHT WIDTH",
        "--imgsz": "--image-size HEIGHT WIDTH",
        "--include": "--to",
        "--input-size": "--image-size HEIGHT WIDTH",
        "--mean": "nothing: the network's own is taken, and --preprocess puts it inside the file",
        "--model": "the network, which comes first",
        "--num-classes": "nothing: the network's own is taken",
        "--opset-version": "--opset",
        "--optimize": "--rewrite, which is the default",
        "--quantize": "--int8",
        "--simplify": "nothing: the graph is simple already",
        "--std": "nothing: the network's own is taken, and --preprocess puts it inside the file",
        "--validate": "nothing: every export ends with the comparison",
        "--verify": "nothing: every export ends with the comparison",
        "--weight-format": "--precision",
        "--weights": "the network, which comes first",
    }
)
"""Of timm's onnx_export.py, Ultralytics and optimum-cli, for exports."""


def flag_of(word: str) -> str:
    """Return the option that a word names, in the form in which it is listed; empty for a value."""
    name = word.partition("=")[0].replace("_", "-")
    return re.sub(r"(^--|\.)no-", r"\1", name) if word.startswith("--") else ""


def unknown_option(typed: str, flag: str, known: Set[str], elsewhere: Names) -> str:
    """Return the message about an unknown option: a user of timm's types --lr for --optimizer.lr.

    Args:
        typed: the option.
        flag: in the form in which it is listed.
        known: the options of the command.
        elsewhere: those of other programs.
    """
    if flag in elsewhere:
        return f"no option is called {typed}; here that is {elsewhere[flag]}"
    last = flag.removeprefix("--")
    same = sorted(other for other in known if other.rpartition(".")[2] == last)
    if typed.startswith("--no-"):
        same = [f"{other.removesuffix(last)}no-{last}" for other in same]
    return f"no option is called {typed}; the nearest are {', '.join(same) or nearest(flag, known)}"


def check_options(kind: type, argv: Sequence[str], elsewhere: Names) -> None:
    """Raise a SenetError for an option that a command does not have, and for one written as Ultralytics's, imgsz=640.

    Args:
        kind: the command.
        argv: its arguments.
        elsewhere: options of other programs.
    """
    known = {option.flag for _, option in options(kind)}
    for word in argv:
        typed, _, value = word.partition("=")
        flag = flag_of(word)
        if flag and flag not in known and not flag.startswith(CHECKED_BY_TYRO):
            raise SenetError(unknown_option(typed, flag, known, elsewhere))
        flag = f"--{typed.replace('_', '-')}"
        if value and not word.startswith("-") and (flag in known or flag in elsewhere) and not Path(word).exists():
            here = f"{flag} {value}" if flag in known else elsewhere[flag]
            raise SenetError(f"no option is written {word!r}; here that is {here}")
