"""The images on which int8 finds its ranges: of the training data or a folder, never those of the evaluation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from senet.data.config import DataConfig
from senet.data.datasets import folders_of_splits, open_unread, split_of_files
from senet.data.huggingface import is_huggingface
from senet.data.images import ImageSplit
from senet.data.order import seed_of
from senet.data.preprocessing import Preprocessing
from senet.data.tables import tables_of
from senet.data.transforms import eval_transform
from senet.deployment.config import ExportConfig
from senet.deployment.graph import ExportGraph
from senet.errors import SenetError, counted, warn
from senet.evaluation.batches import run_data
from senet.evaluation.functions import Network
from senet.evaluation.sources import find_images
from senet.terminal import tracked

Array = npt.NDArray[Any]
CalibrationSource = DataConfig | str | Path | Sequence[str | Path] | Tensor | Array | Sequence[Tensor | Array]
"""Data whose training images are taken; a folder or pattern of images, or a list of files; or images, uint8
(N, C, H, W), in one tensor or array or in several."""
NUMBER = 300
"""Images that are taken. Source: the default subset of NNCF's post-training quantization."""
LEAST = 10
"""Below this many images, ranges are those of a few images by chance."""
FEW = 100
"""Below this many images there is a warning."""


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Images for finding ranges.

    Args:
        source: what to call them.
        pixels: uint8 (N, C, H, W), prepared as for evaluation.
        labels: (N,) of the network's classes; None if they are not known.
        preprocessing: which normalizes the pixels.
    """

    source: str
    pixels: Tensor
    labels: Tensor | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(self, *, pixels: bool = False, batch_size: int = 1) -> list[Array]:
        """Return the inputs of an exported network.

        Args:
            pixels: it takes uint8 (N, H, W, C); else normalized float32 (N, C, H, W).
            batch_size: images of each input; what does not fill the last one is left out.

        Raises:
            SenetError: there are not enough for one.
        """
        if batch_size > len(self):
            raise SenetError(
                f"calibration has {counted(len(self), 'image')}, but the network takes {batch_size} at once; "
                "give more, or export with a smaller batch"
            )
        images = self.pixels.permute(0, 2, 3, 1) if pixels else normalized(self.pixels, self.preprocessing)
        starts = range(0, len(self) - batch_size + 1, batch_size)
        return [np.ascontiguousarray(images[start : start + batch_size].numpy()) for start in starts]


def normalized(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return pixels, uint8 (N, C, H, W), as a network takes them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels.float() / 255 - mean) / std


def calibration_images(
    source: CalibrationSource,
    preprocessing: Preprocessing,
    *,
    number: int = NUMBER,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    class_names: Sequence[str] = (),
) -> CalibrationImages:
    """Return images for finding ranges, the same ones for the same seed.

    Args:
        source: data, of which the training images are taken; a folder or pattern of images or a list of files, of which
            all count; or images, uint8 (N, C, H, W), which are taken as they are.
        preprocessing: of the network.
        number: of images, at least 10; all if there are fewer.
        seed: chooses which.
        size: height and width in pixels, cut from the center; None for the preprocessing's.
        class_names: of the network; images with the same classes keep their labels.

    Raises:
        SenetError: there are none or too few, one cannot be read, or they have other channels than the network.
    """
    if number < LEAST:
        raise SenetError(f"the number of calibration images is {number}; expected at least {LEAST}")
    files = listed(source)
    if files or isinstance(source, DataConfig | str | Path):
        images = split_of_files("calibration", files, ()) if files else open_images(source, preprocessing)  # type: ignore[arg-type]
        check_number(images.source, len(images), number)
        return read_images(images, preprocessing, chosen(len(images), number, seed), size, class_names)
    pixels = stacked([source] if isinstance(source, Tensor | np.ndarray) else source)  # type: ignore[arg-type]
    check_pixels(pixels, preprocessing)
    check_number("calibration", len(pixels), number)
    taken = pixels[chosen(len(pixels), number, seed)]
    return CalibrationImages(source="the images given", pixels=taken, labels=None, preprocessing=preprocessing)


def images_for_int8(
    run_or_model: Network,
    config: ExportConfig,
    graph: ExportGraph,
    calibration: CalibrationSource | None,
    class_names: tuple[str, ...],
) -> CalibrationImages | None:
    """Return the images on which int8 finds its ranges; None for the other precisions.

    Raises:
        SenetError: there are none, too few, or they do not fit; or they have no effect.
    """
    if config.precision != "int8":
        if calibration is not None:
            raise SenetError(
                f"calibration has no effect with precision={config.precision!r}; leave it out, or add precision='int8'"
            )
        return None
    if calibration is None and isinstance(run_or_model, str | Path):
        calibration = run_data(run_or_model)
    if calibration is None:
        raise SenetError(
            "precision is 'int8', which finds its ranges on images, but there are none: name a folder or data set, "
            "calibration=FOLDER"
        )
    preprocessing, size = graph.preprocessing, config.image_size
    if config.resize:  # pictures before the center crop, which is inside the file
        preprocessing, size = replace(preprocessing, image_size=preprocessing.resize), None
    images = calibration_images(calibration, preprocessing, size=size, class_names=class_names)
    check_sizes(images.pixels, graph.shape[1:3] if config.takes_pixels else graph.shape[2:])
    return images


def listed(source: CalibrationSource) -> list[tuple[str, int]]:
    """Return the files of a list of files, folders and patterns, each with a label that means nothing; else none."""
    if not isinstance(source, list | tuple) or not all(isinstance(each, str | Path) for each in source):
        return []
    return [(file, 0) for each in source for file in find_images(each)]


def open_images(source: DataConfig | str | Path, preprocessing: Preprocessing) -> ImageSplit:
    """Open the training images of data, or the images of a folder or pattern.

    Raises:
        SenetError: there is nothing of that name, or it has images for evaluation alone.
    """
    if isinstance(source, DataConfig):
        return open_unread(replace(source, preprocessing=preprocessing), "train")
    folder = Path(source)
    training, evaluation = folders_of_splits(folder) if folder.is_dir() else (None, None)
    is_data = is_huggingface(str(source)) or bool(tables_of(str(source)))
    if is_data or training is not None or not (folder.exists() or "*" in str(source)):
        try:
            return open_unread(DataConfig(dataset=str(source), preprocessing=preprocessing), "train")
        except SenetError as error:
            raise type(error)(str(error).replace("data.dataset is", "calibration is", 1)) from error
    if evaluation is not None:
        raise SenetError(
            f"{source} has images for evaluation alone, in {evaluation.name}/; calibrate on others, such as its "
            "training images: ranges found on the images of the test flatter it"
        )
    return split_of_files(str(source), [(file, 0) for file in find_images(source)], ())


def chosen(available: int, number: int, seed: int) -> list[int]:
    """Return which images are taken, in the order of the data."""
    generator = np.random.default_rng(seed_of(seed))
    return sorted(generator.permutation(available)[:number].tolist())


def read_images(
    images: ImageSplit,
    preprocessing: Preprocessing,
    indices: Sequence[int],
    size: tuple[int, int] | None,
    class_names: Sequence[str],
) -> CalibrationImages:
    """Read images as they are prepared for evaluation; see `calibration_images`."""
    if size is not None:
        side = max(size)
        resize = max(side, preprocessing.resize_for(side))
        preprocessing = replace(preprocessing, image_size=side, resize=resize)
    transform = eval_transform(preprocessing)
    read = [images.prepared(i, transform) for i in tracked(iter(indices), "Reading calibration images", len(indices))]
    pixels = torch.stack([pixels for pixels, _ in read])
    return CalibrationImages(
        source=images.source,
        pixels=pixels if size is None else center_crop(pixels, list(size)),
        labels=torch.tensor([label for _, label in read]) if has_classes(images, class_names) else None,
        preprocessing=preprocessing,
    )


def has_classes(images: ImageSplit, class_names: Sequence[str]) -> bool:
    """Return whether the labels of images are those of the network."""
    return bool(images.class_names) and tuple(images.class_names) == tuple(class_names)


def check_number(source: str, available: int, number: int) -> None:
    """Raise a SenetError for too few images, and warn of few."""
    if available < LEAST:
        raise SenetError(
            f"{source} has {counted(available, 'image')}; int8 needs at least {LEAST} for its ranges, better {number}"
        )
    if available < min(FEW, number):
        warn(f"{source} has {available} images; ranges found on fewer than {FEW} may cost accuracy")


def stacked(images: Iterable[Tensor | Array]) -> Tensor:
    """Return images (C, H, W), or batches of them, as one tensor.

    Raises:
        SenetError: they are no images, there are none, or they differ in their sizes.
    """
    given = list(images) if isinstance(images, list | tuple) else [images]
    for each in given:
        if not isinstance(each, Tensor | np.ndarray):
            raise SenetError(
                f"calibration has a {type(each).__name__}; expected a folder, a data set, a list of files, or uint8 "
                "images (N, C, H, W), not normalized"
            )
    tensors = [torch.as_tensor(each) for each in given]
    parts = [image if image.dim() == 4 else image[None] for image in tensors]
    if not parts:
        raise SenetError(f"calibration has no images; int8 needs at least {LEAST} to find its ranges")
    if len({part.shape[1:] for part in parts}) > 1:
        raise SenetError("the images of calibration differ in their sizes; give a folder, whose images are scaled")
    return torch.cat(parts)


def check_pixels(pixels: Tensor, preprocessing: Preprocessing) -> None:
    """Raise a SenetError for images of another kind than the network takes."""
    if pixels.dim() != 4 or pixels.dtype != torch.uint8:
        raise SenetError(
            f"calibration is {str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}; expected uint8 "
            "(N, C, H, W)"
        )
    if pixels.shape[1] != preprocessing.in_channels:
        raise SenetError(
            f"calibration has images of {counted(pixels.shape[1], 'channel')}, but the network takes "
            f"{preprocessing.in_channels}"
        )


def check_sizes(pixels: Tensor, taken: tuple[int | str, ...]) -> None:
    """Raise a SenetError for images (N, C, H, W) of another height or width than a file takes; a name takes any."""
    found = tuple(pixels.shape[2:])
    if any(isinstance(wanted, int) and wanted != size for wanted, size in zip(taken, found, strict=True)):
        raise SenetError(
            f"calibration has images of {found[0]} x {found[1]} pixels, but the network takes {taken[0]} x {taken[1]}; "
            "prepare them so, or give a folder, whose images are scaled"
        )
