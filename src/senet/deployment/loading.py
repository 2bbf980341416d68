"""Exported files as networks: opened by their suffix, used as any other by `evaluate`, `predict` and `compare`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.deployment.damage import reason
from senet.deployment.digests import check_digests
from senet.deployment.exported_detectors import ExportedDetector, is_detector_file
from senet.deployment.metadata import preprocessing_in
from senet.deployment.pixels import centered
from senet.deployment.targets import TARGETS, Runner
from senet.errors import MissingFileError, SenetError, check_installed, counted
from senet.evaluation.functions import FunctionNetwork
from senet.files import at_home
from senet.weights.exported import exported_file
from senet.weights.hub import EXPORTED

LARGEST = 2**15
"""Most images at once, and pixels of a side, that metadata may state: any number may be in a file."""
WAITING: dict[Any, tuple[Runner, Any]] = {}
"""What `detects_objects` has opened and nobody has taken yet, by `state_of` the file, at most one: to open a file of
SE-ResNet-50 takes ONNX Runtime as long as to compute several pictures."""


class ExportedModel(FunctionNetwork):
    """An exported file as a network; it computes on the CPU, wherever it is moved to.

    Args:
        path: of the file.
        found: what `opened` returned for it, if it is opened already.

    Attributes:
        metadata: what the file says of itself.
        num_classes: of the logits.
        held_out: which images were held out of training, of data without a part of their own for evaluation.
    """

    def __init__(self, path: str | Path, found: tuple[Runner, Any] | None = None) -> None:
        file = exported_file(path) or Path(path)
        self.__dict__["path"] = file
        self.run_file, self.metadata = found or opened(file)
        super().__init__(ExportedFunction(file, self.run_file, self.metadata))
        self.name = str(path)
        source = self.metadata.get("source")
        self.held_out = source.get("held_out") if isinstance(source, dict) else None
        names = self.class_names
        if names is not None:
            self.num_classes = len(names)
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Leave what the file computes where it is."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is opened, for copies and pickles."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again."""
        self.__init__(state["path"])  # type: ignore[misc]


class ExportedFunction:
    """What computes logits of normalized images with an exported file, whatever the file takes.

    Args:
        path: of the file.
        run: computes its outputs.
        metadata: of the file.
    """

    def __init__(self, path: Path, run: Runner, metadata: Any) -> None:
        self.path, self.run = path, run
        self.preprocessing = preprocessing_in(metadata, path)
        self.class_names, self.takes = stated(metadata, path)
        channels = self.preprocessing.in_channels
        self.mean, self.std = (
            255 * torch.tensor(values).view(channels, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of normalized images (N, C, H, W), on their device."""
        if torch.is_autocast_enabled("cpu"):
            raise SenetError(
                f"precision has no effect on {self.path}, which has the one that it was exported in; leave it out"
            )
        self.check_shape(images)
        batch, given = self.takes["shape"][0], self.given(images.detach().cpu().float())
        at_once = len(images) if isinstance(batch, str) else batch
        parts = given.split(at_once) if at_once else [given]
        found = torch.cat([self.run(self.padded(part, at_once))[0] for part in parts])[: len(images)]
        if self.class_names is not None and found.dim() == 2 and found.shape[1] != len(self.class_names):
            raise SenetError(
                f"{self.path} computes {counted(found.shape[1], 'logit')}, but its metadata name "
                f"{len(self.class_names)} classes; export it again"
            )
        return found.to(images.device)

    def check_shape(self, images: Tensor) -> None:
        """Raise a SenetError for images that the file does not take."""
        shape = self.takes["shape"]
        if 0 in images.shape[2:]:
            rows, columns = images.shape[2:]
            raise SenetError(f"{self.path} is given images of {rows} x {columns} pixels, which show nothing")
        height, width, channels = shape[1:] if self.takes["layout"] == "NHWC" else (*shape[2:], shape[1])
        if self.takes["resizes"]:
            height = width = self.preprocessing.image_size
        for axis, wanted, found in zip(
            ("channels", "rows", "columns"), (channels, height, width), images.shape[1:], strict=True
        ):
            if isinstance(wanted, int) and wanted != found:
                raise SenetError(
                    f"{self.path} takes images of {wanted} {axis}, not {found}; prepare them so, or export it with "
                    "other sizes"
                )

    def given(self, images: Tensor) -> Tensor:
        """Return normalized images as the file takes them: as they are, or the pixels that they were made of."""
        if self.takes["layout"] == "NCHW":
            return images
        pixels = (images * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)
        if self.takes["resizes"]:  # a margin, so that scaling changes nothing and the crop is the image
            size, crop = self.preprocessing.resize, self.preprocessing.image_size
            before = centered(size - crop)
            pixels = F.pad(pixels, [before, size - crop - before] * 2)
        return pixels.permute(0, 2, 3, 1).contiguous()

    def padded(self, images: Tensor, batch: int) -> Tensor:
        """Return as many images as the file computes at once, the first ones again where some are missing."""
        if len(images) == batch:
            return images
        first = images[:1] if len(images) else images.new_zeros(1, *images.shape[1:])
        return torch.cat([images, first.expand(batch - len(images), *images.shape[1:])])


def stated(metadata: Any, path: Path) -> tuple[tuple[str, ...] | None, Any]:
    """Return the class names and the input that metadata state.

    Raises:
        SenetError: they do not state them, as every export does.
    """
    try:
        names, takes = metadata["class_names"], metadata["input"]
        is_whole = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
        is_whole = is_whole and len(takes["shape"]) == 4 and takes["layout"] and takes["resizes"] in (True, False)
        is_whole = is_whole and all(
            isinstance(n, str) or (type(n) is int and 1 <= n <= LARGEST) for n in takes["shape"]
        )
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise SenetError(f"{path} has metadata that do not state its class names and its input; export it again")
    return None if names is None else tuple(names), takes


def opened(path: Path) -> tuple[Runner, Any]:
    """Return what computes a file, and its metadata.

    Raises:
        SenetError: it is no exported file, or not one of this library.
    """
    suffix = path.suffix.lower()
    if suffix not in EXPORTED:
        known = ", ".join(EXPORTED)
        raise SenetError(f"{path} is no exported network; expected a file that ends in one of {known}")
    if not path.exists():
        raise MissingFileError(f"there is no file {path}")
    info = TARGETS[EXPORTED[suffix]]  # type: ignore[index]  # its values are the names of formats
    if path.is_dir() and not info.elsewhere:
        raise SenetError(f"{path} is a folder; expected a file that `senet export` wrote")
    check_digests(path, info.companions)
    check_installed(str(path), info.needed_to_run)
    runner, metadata = info.load().open_file(path)
    if not metadata:
        raise SenetError(
            f"{path} does not say how images are prepared for it, as files of senet.export do; export the network "
            "again by `senet export`"
        )

    def run(given: Tensor) -> tuple[Tensor, ...]:
        try:
            return runner(given)
        except MemoryError:
            raise
        except Exception as error:  # each runtime has its own
            raise SenetError(
                f"{path} cannot be computed for an input of shape {tuple(given.shape)} ({reason(error)}); give images "
                "of another size"
            ) from error

    return run, metadata


def state_of(path: Path) -> tuple[Any, ...]:
    """Return what changes when an exported file is written again."""
    files = [file.stat() for file in (path, path.with_suffix(".bin")) if file.is_file()]
    return path.absolute(), *((file.st_mtime_ns, file.st_size) for file in files)


def load_exported(path: str | Path) -> ExportedModel | ExportedDetector:
    """Open a file that `senet.export` wrote as a network for `evaluate`, `predict` and `compare`.

    Args:
        path: of the file, such as network.onnx; or the folder of a page, or one that servers read, of one network.

    Returns:
        A module from normalized float images (N, C, H, W) to logits, on the CPU, with the file's `preprocessing`,
        `class_names` and `metadata`. A file that normalizes pixels itself is given the pixels that images were made of.
        The file of a detector is called as detectors are, with a list of images (3, H, W) in [0, 1].

    Raises:
        SenetError: it is no such file, or is damaged.
        MissingExtraError: the runtime is not installed.

    >>> model = load_exported("network.onnx")  # doctest: +SKIP
    """
    file = exported_file(at_home(path)) or at_home(path)
    found = WAITING.pop(state_of(file), None) or opened(file)
    return ExportedDetector(file, *found) if is_detector_file(found[1]) else ExportedModel(path, found)


def detects_objects(path: Path) -> bool:
    """Return whether an exported file is of a detector; False for one that cannot be opened.

    The opened file waits for `load_exported`.
    """
    state = state_of(path)
    try:
        if state not in WAITING:
            found = opened(path)
            WAITING.clear()
            WAITING[state] = found
        return is_detector_file(WAITING[state][1])
    except SenetError:  # whoever opens the network says what is wrong
        return False
