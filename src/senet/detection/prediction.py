"""Detection in single images: objects with their classes, scores and boxes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.channels import to_rgb
from senet.data.reading import naming
from senet.detection.drawing import DrawnBox, class_color, draw_boxes
from senet.detection.evaluation import outputs_of
from senet.detection.opening import check_scaled, names_of_classes, open_detector
from senet.errors import SenetError, check_choice
from senet.evaluation.functions import Network, name_of, networks_of
from senet.evaluation.prediction import Given, available_cores, batched, check_picture, in_turn, open_image, read_ahead
from senet.evaluation.sources import OnError, expanded
from senet.nn.modes import device_of, dtype_of, eval_mode
from senet.nn.precision import Precision, check_precision, computing
from senet.processes import current_team

THRESHOLD = 0.5
"""The lowest score of an object that is told of unless another is asked for."""
AT_ONCE = 4
"""Photos of a batch unless another number is asked for: one takes up to a gigabyte in a ResNet-50 at 800 pixels."""


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """An object that a detector finds.

    Args:
        class_name: of the object; "class 3" where the detector has no names.
        label: of the class, from 1.
        score: of the detection, 0 to 1.
        box: x1, y1, x2, y2 in pixels of the picture as it is seen, turned upright as its EXIF data says.
    """

    class_name: str
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a detector finds in an image.

    Args:
        image: what was given, or a file of the folder or pattern that was given.
        width: of the upright picture in pixels; 0 for an image that cannot be read, as the height.
        height: likewise.
        objects: highest score first.
        picture: RGB, upright; None for an image that cannot be read.
        error: why the image cannot be read, in one sentence; None if it can.
        encoded: the picture with boxes as a file, if one was made.
        drawn_to: file of the picture with boxes, if one was written.
    """

    image: Given
    width: int = 0
    height: int = 0
    objects: tuple[DetectedObject, ...] = ()
    picture: Image.Image | None = field(default=None, repr=False, compare=False)
    error: SenetError | None = None
    encoded: bytes | None = field(default=None, repr=False, compare=False)
    drawn_to: Path | None = None

    def drawn(self) -> Image.Image:
        """Return the picture with a box, name and score for each object, each class in its color.

        Raises:
            SenetError: the image could not be read.
        """
        if self.picture is None:
            raise self.error or SenetError(f"the detection of {self.image} has no picture to draw into")
        return draw_boxes(
            self.picture,
            [
                DrawnBox(box=each.box, text=f"{each.class_name} {each.score:.2f}", color=class_color(each.label - 1))
                for each in self.objects
            ],
        )


def detect(
    run_or_model: Network,
    images: str | Path | Iterable[Given],
    *,
    threshold: float = THRESHOLD,
    batch_size: int = AT_ONCE,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    num_workers: int | None = None,
) -> list[list[DetectedObject]]:
    """Find objects in images.

    Args:
        run_or_model: a detector, or the run or model folder or hub id of one.
        images: see `senet.predict`.
        threshold: objects of a lower score are left out, 0 to 1; a detector leaves out those below its own limit (0.05)
            in any case.
        batch_size: images at once; only those of one size are run together.
        precision: see `senet.evaluate`.
        device: see `senet.predict`.
        num_workers: see `senet.predict`.

    Returns:
        For every image its objects, highest score first.

    Raises:
        SenetError: a model or image that cannot be read. `detect_each` goes on after an image that cannot be read, and
            its results can be drawn.
    """
    found = detect_each(
        run_or_model,
        images,
        threshold=threshold,
        batch_size=batch_size,
        precision=precision,
        device=device,
        num_workers=num_workers,
    )
    return [list(each.objects) for each in found]


def detect_each(
    run_or_model: Network,
    images: str | Path | Iterable[Given],
    *,
    threshold: float = THRESHOLD,
    batch_size: int = AT_ONCE,
    on_error: OnError = "raise",
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    num_workers: int | None = None,
    finish: Callable[[Detection], Detection] | None = None,
) -> Iterator[Detection]:
    """Find objects in images, one batch after the other, and yield what is found as it comes.

    Inside `shared_work` the first process gets it, see `senet.evaluation.prediction.predict_each`.

    Args:
        run_or_model: see `detect`, as for all that is not explained here.
        images: see `detect`; folders and patterns are looked up when they come.
        threshold: see `detect`.
        batch_size: see `detect`.
        on_error: "raise" stops at an image that cannot be read; "keep" yields it with an `error`.
        precision: see `detect`.
        device: see `detect`.
        num_workers: see `detect`.
        finish: what the process that has found something makes of it, such as the picture with its boxes.

    Raises:
        SenetError: a model or, on request, an image that cannot be read.
    """
    check_choice("on_error", on_error, get_args(OnError))
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers or 0, 0)):
        if value < least:
            raise SenetError(f"{name} is {value}; expected at least {least}")
    if not 0 <= threshold <= 1:
        raise SenetError(f"threshold is {threshold}; expected 0 to 1, such as 0.5")
    model = open_detector(run_or_model, device)
    check_precision("precision", precision, device_of(model))
    workers = available_cores() if num_workers is None else num_workers
    team = current_team()
    share = team.share(batched(expanded(images, on_error), batch_size))
    found = detected(model, read_ahead(share, prepare, workers), threshold, precision, on_error)
    return in_turn(team, found if finish is None else ([finish(each) for each in batch] for batch in found))


def predict_objects(run_or_model: Any, images: str | Path | Iterable[Given], options: Mapping[str, Any]) -> Any:
    """Do what `senet.predict` is asked for where the network detects: `detect`, with the options that it has too.

    Args:
        run_or_model: a detector, or where it is; in a list only alone.
        images: see `detect`.
        options: of `senet.predict` that differ from its defaults.

    Raises:
        SenetError: several networks, or an option that has no effect.
    """
    networks = networks_of(run_or_model)
    if len(networks) > 1:
        raise SenetError(
            f"run_or_model has {len(networks)} networks, of which one detects objects; pass that one alone"
        )
    for name in options:
        if name not in ("batch_size", "precision", "device", "num_workers"):
            raise SenetError(f"{name} has no effect on {name_of(networks[0])}, which detects objects; leave it out")
    return detect(networks[0], images, **options)


def prepare(image: Given, number: int) -> Image.Image | SenetError:
    """Return an image as an upright RGB picture, or why it cannot be read."""
    is_file = isinstance(image, str | Path)
    try:
        with naming(str(image) if is_file else f"image number {number}"):
            opened = open_image(image) if isinstance(image, str | Path) else image
            check_picture(opened)
            return to_rgb(opened, 3)
    except SenetError as error:
        return error


def detected(
    model: nn.Module,
    batches: Iterator[list[tuple[Given, Image.Image | SenetError]]],
    threshold: float,
    precision: Precision,
    on_error: OnError,
) -> Iterator[list[Detection]]:
    """Yield what is found in each batch of pictures, see `detect_each`."""
    for batch in batches:
        batch = [(image, fitting(model, image, picture)) for image, picture in batch]
        for _, picture in batch:
            if isinstance(picture, SenetError) and on_error == "raise":
                raise picture
        pictures = [picture for _, picture in batch if not isinstance(picture, SenetError)]
        found = iter(objects_in(model, pictures, threshold, precision))
        done = []
        for image, picture in batch:
            if isinstance(picture, SenetError):
                done.append(Detection(image=image, error=picture))
            else:
                width, height = picture.size
                objects = next(found)
                done.append(Detection(image=image, width=width, height=height, objects=objects, picture=picture))
        yield done


def fitting(model: nn.Module, image: Given, picture: Image.Image | SenetError) -> Image.Image | SenetError:
    """Return a picture, or why the detector cannot scale it."""
    if isinstance(picture, SenetError):
        return picture
    transform: Any = model.transform
    name = str(image) if isinstance(image, str | Path) else "an image"
    try:
        check_scaled(name, picture.size, transform.min_size, transform.max_size)
    except SenetError as error:
        return error
    return picture


@torch.no_grad()
def objects_in(
    model: nn.Module, pictures: list[Image.Image], threshold: float, precision: Precision
) -> list[tuple[DetectedObject, ...]]:
    """Return the objects in each picture."""
    device, dtype, names = device_of(model), dtype_of(model), names_of_classes(model)
    to_tensor = partial(pixels_of, device=device, dtype=dtype)
    with eval_mode(model), computing(device, precision):
        outputs = outputs_of(model, list(map(to_tensor, pictures)))
    found = []
    for output in outputs:
        rows = zip(output["labels"].tolist(), output["scores"].tolist(), output["boxes"].tolist(), strict=True)
        objects = [
            DetectedObject(
                class_name=names[label - 1] if names and label <= len(names) else f"class {label}",
                label=label,
                score=score,
                box=(box[0], box[1], box[2], box[3]),
            )
            for label, score, box in rows
            if score >= threshold
        ]
        found.append(tuple(sorted(objects, key=lambda each: -each.score)))
    return found


def pixels_of(picture: Image.Image, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a picture as a tensor (3, H, W) in [0, 1]."""
    pixels: Tensor = v2.functional.pil_to_tensor(picture).to(device)
    return pixels.to(dtype) / 255
