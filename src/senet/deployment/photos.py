"""The pictures on which an exported detector is compared with its original: with boxes, without, or generated ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senet.deployment.pictures import NO_DATA, check_limit
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import form_of, open_detection_split
from senet.detection.evaluation import check_ground_truth
from senet.detection.loading import read_pixels
from senet.detection.opening import check_scaled, names_of_classes
from senet.detection.prediction import pixels_of, prepare
from senet.detection.records import DetectionSplit
from senet.errors import MissingFileError, SenetError
from senet.evaluation.prediction import Given
from senet.evaluation.sources import expanded
from senet.terminal import tracked

SIZES = ((64, 96), (96, 64), (120, 120), (80, 200))
"""Height and width of the generated pictures, in pixels."""
ANNOTATIONS = (".json", ".xml", ".yaml")
"""Extensions of files that tell of pictures and are none."""

PhotoSource = DetectionDataConfig | str | Path | Given | Iterable[Given]
"""Pictures with boxes: a folder or its configuration; or pictures: a folder, files, patterns, arrays."""


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Pictures as a detector takes them, one by one.

    Args:
        source: what to call them.
        names: of each.
        read: number of a picture -> (3, H, W) in [0, 1]; may raise a SenetError.
        unscored: why no average precision can be measured on them; empty if it can.
        truth: their boxes, as COCO's json; None if `unscored`.
        image_ids: of each, in `truth`; empty if `unscored`.
        category_ids: of labels 1, 2, ..., likewise.
        keep: whether a picture may be shown on a page; not a generated one.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[int], Tensor]
    unscored: str
    truth: Mapping[str, Any] | None = None
    image_ids: tuple[int, ...] = ()
    category_ids: tuple[int, ...] = ()
    keep: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def tracked(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each picture and the picture, with a bar on a terminal."""
        each = ((i, self.read(i)) for i in range(len(self)))
        return tracked(each, f"Comparing on {self.source}", len(self))


def photos_for(detector: nn.Module, data: PhotoSource | None, limit: int | None) -> Photos:
    """Return the pictures to compare on, at equal distances in the data; generated ones without data.

    Args:
        detector: whose classes and scaling they are for.
        data: pictures with boxes or without.
        limit: number of pictures; None for all.

    Raises:
        SenetError: they are not there, cannot be scaled, or limit is out of its range.
    """
    check_limit(limit)
    if data is None:
        return generated(limit)
    config = boxed(data)
    if config is None:
        return loose(detector, data, limit)
    names = names_of_classes(detector)
    if names is None:
        return of_split(detector, open_detection_split(config, "eval"), limit, "the detector has no names of classes")
    try:
        return of_split(detector, open_detection_split(config, "eval", names), limit, "")
    except SenetError as error:  # of other classes; if there is more to it, this raises again
        return of_split(detector, open_detection_split(config, "eval"), limit, str(error))


def boxed(data: PhotoSource) -> DetectionDataConfig | None:
    """Return the configuration of a data set of pictures with boxes; None for pictures without.

    Raises:
        SenetError: they are a file of annotations.
    """
    if isinstance(data, DetectionDataConfig):
        return data
    if not isinstance(data, str | Path):
        return None
    if Path(data).is_file() and Path(data).suffix.lower() in ANNOTATIONS:
        raise SenetError(f"{data} is a file of annotations; name its folder, which is in the form of COCO, VOC or YOLO")
    if not Path(data).is_dir():
        return None
    config = DetectionDataConfig(dataset=str(data))
    try:
        form_of(config, Path(data))
    except MissingFileError:
        return None
    return config


def at_distances(number: int, limit: int | None) -> list[int]:
    """Return so many numbers below another one, at equal distances."""
    if limit is None or limit >= number:
        return list(range(number))
    chosen: list[int] = np.linspace(0, number - 1, limit).round().astype(int).tolist()
    return chosen


def of_split(detector: nn.Module, split: DetectionSplit, limit: int | None, unscored: str) -> Photos:
    """Return some of the pictures of a split; `unscored` says why their boxes cannot be compared with."""
    chosen = replace(split, records=[split.records[i] for i in at_distances(len(split), limit)])
    if not len(chosen):
        raise SenetError(f"{split.source} has no images")
    transform: Any = detector.transform
    for each in chosen.records:
        check_scaled(each.file, (each.width, each.height), transform.min_size, transform.max_size)
    truth = chosen.ground_truth()
    try:
        check_ground_truth(truth)
    except SenetError as error:
        unscored = unscored or str(error)
    return Photos(
        source=split.source,
        names=tuple(record.file for record in chosen.records),
        read=lambda i: read_pixels(chosen.records[i]).float() / 255,
        unscored=unscored,
        truth=None if unscored else truth,
        image_ids=() if unscored else tuple(record.image_id for record in chosen.records),
        category_ids=() if unscored else chosen.category_ids,
    )


def loose(detector: nn.Module, data: Any, limit: int | None) -> Photos:
    """Return some of the pictures of a folder, of a pattern or of a list.

    Raises:
        SenetError: there are none, or one that was asked for is not there.
    """
    found = list(expanded(data))
    missing = [each for each in found if isinstance(each, str | Path) and not Path(each).is_file()]
    if missing or not found:
        what = f"there is no file {missing[0]}" if missing else "data has no pictures"
        raise MissingFileError(f"{what}; name a folder of pictures, with boxes or without")
    chosen = [found[i] for i in at_distances(len(found), limit)]
    transform: Any = detector.transform

    def read(i: int) -> Tensor:
        picture = prepare(chosen[i], i)
        if isinstance(picture, SenetError):
            raise picture
        check_scaled(names[i], picture.size, transform.min_size, transform.max_size)
        return pixels_of(picture, torch.device("cpu"), torch.float32)

    names = tuple(str(each) if isinstance(each, str | Path) else f"picture {i}" for i, each in enumerate(chosen))
    source = str(data) if isinstance(data, str | Path) else "the pictures given"
    return Photos(source=source, names=names, read=read, unscored=f"{source} has no boxes")


def generated(limit: int | None = None, seed: int = 0) -> Photos:
    """Return pictures of noise with rectangles of one color, at multiples of 1/255."""
    random, pictures = torch.Generator().manual_seed(seed), list[Tensor]()
    for height, width in SIZES[:limit]:
        picture = 0.3 + 0.4 * torch.rand(3, height, width, generator=random)
        for _ in range(3):
            side = int(torch.randint(16, 36, (), generator=random))
            top, left = (int(torch.randint(0, end - side, (), generator=random)) for end in (height, width))
            picture[:, top : top + side, left : left + side] = torch.rand(3, 1, 1, generator=random)
        pictures.append((255 * picture).round() / 255)
    return Photos(
        source=f"{len(pictures)} generated pictures",
        names=tuple(f"picture {i}" for i in range(len(pictures))),
        read=pictures.__getitem__,
        unscored=NO_DATA,
    )
