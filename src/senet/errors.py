"""The errors that mean "your input, not this library's code", and warnings of what works but may surprise."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType


class SenetError(ValueError):
    """Bad input, said in one sentence that names the argument, file or key and the remedy.

    The command line prints the sentence and exits with status 2; every other exception is a defect. The subclasses keep
    the kind that Python has for what happened.
    """


class MissingFileError(SenetError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class HubError(SenetError, ConnectionError):
    """A server cannot be reached or refuses the request: the Hugging Face hub, or that of a data set or a library."""


class NotFiniteError(SenetError, FloatingPointError):
    """A loss, weight or gate is infinite or not a number."""


class MissingExtraError(SenetError, ImportError):
    """A package is missing that only a part of the library needs."""


EXTRAS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "accelerate": ("accelerate", "train"),
        "tensorboard": ("tensorboard", "train"),
        "sklearn": ("scikit-learn", "train"),
        "datasets": ("datasets", "train"),
        "wandb": ("wandb", "wandb"),
        "mlflow": ("mlflow-skinny", "mlflow"),
        "comet_ml": ("comet_ml", "comet"),
        "timm": ("timm", "timm"),
        "plotly": ("plotly", "report"),
        "jinja2": ("jinja2", "report"),
        "scipy": ("scipy", "report"),
        "google": ("protobuf", "caffe"),
        "faster_coco_eval": ("faster-coco-eval", "detection"),
        "openvino": ("openvino", "openvino"),
        "onnx": ("onnx", "onnx"),
        "onnxscript": ("onnxscript", "onnx"),
        "onnxruntime": ("onnxruntime", "onnx"),
        "nncf": ("nncf", "int8"),
        "executorch": ("executorch", "executorch"),
        "coremltools": ("coremltools", "coreml"),
        "pillow_heif": ("pillow-heif", "heif"),
        "tifffile": ("tifffile", "tiff"),
    }
)
"""The packages that only a part of the library needs: import name -> (package, extra that installs it)."""


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Import packages of an extra inside this; if one is missing, say what needs it and how to install it.

    Args:
        what: the function or file that needs them, as a user calls it.

    Raises:
        MissingExtraError: one is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        package, extra = EXTRAS[module]
        raise MissingExtraError(
            f"{what} needs {package}, which is not installed; run: pip install 'senet[{extra}]'"
        ) from error


def check_installed(what: str, modules: Iterable[str]) -> None:
    """Raise one error for all packages of extras that are missing, before anything of what needs them is done.

    Args:
        what: the function or command that needs them, as a user calls it.
        modules: import names, of `EXTRAS`.

    Raises:
        MissingExtraError: at least one is not installed.
    """
    missing = [EXTRAS[module] for module in modules if find_spec(module) is None]
    if missing:
        packages, extras = (", ".join(names) for names in zip(*missing, strict=True))
        needed = ",".join(sorted(set(extras.split(", "))))
        verb = "are" if len(missing) > 1 else "is"
        raise MissingExtraError(
            f"{what} needs {packages}, which {verb} not installed; run: pip install 'senet[{needed}]'"
        )


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error that another library raised; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the three known names that are most like one that is not known, nearest first, for a message."""
    return ", ".join(get_close_matches(name, list(known), n=3, cutoff=0.0))


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a SenetError unless `value` is one of `choices`.

    Args:
        argument: the argument's name, for the message.
        value: what the caller passed.
        choices: what is allowed.
    """
    if value not in choices:
        raise SenetError(f"{argument} is {value!r}; expected one of {', '.join(choices)}")


def check_ranges(config: object, section: str, ranges: dict[str, tuple[float, float]]) -> None:
    """Raise a SenetError for the first field of `config` outside its closed range."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise SenetError(f"{section}{name} is {value}; expected {low:g} to {high:g}")


@cache  # a data set is opened many times in one run
def warn(message: str) -> None:
    """Log a warning, each text once per process; under torchrun in the first process only."""
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("senet").warning(message)
