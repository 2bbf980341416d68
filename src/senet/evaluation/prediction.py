"""Classification of single images: classes with probabilities."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from itertools import chain, islice
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from senet.data.channels import Picture, UnfitPictureError
from senet.data.reading import naming, read_named, read_picture
from senet.errors import SenetError, check_choice
from senet.evaluation.accuracy import likeliest
from senet.evaluation.functions import Network, networks_of
from senet.evaluation.networks import OpenNetwork, open_network, output_orders
from senet.evaluation.sources import OnError, expanded
from senet.launch import num_on_machine
from senet.nn.precision import Precision, check_precision
from senet.processes import Team, current_team

Given = str | Path | Picture
Prepared = TypeVar("Prepared")
Result = list[Tensor] | SenetError
"""The crops of an image for each network, or why it cannot be read."""
MAX_WORKERS = 8
"""Largest number of threads that read images unless more are asked for: with more, Python's lock is the limit."""


@dataclass(frozen=True, kw_only=True)
class ClassProbability:
    """One class of one prediction; `probability` is in [0, 1]."""

    class_name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network predicts for one image.

    Args:
        image: what was given, or a file of the folder or pattern that was given.
        classes: the likeliest ones, likeliest first; empty for an image that cannot be read.
        certain: whether the probability of the first class reaches the threshold, if there is one.
        error: why the image cannot be read, in one sentence; None if it can.
    """

    image: Given
    classes: tuple[ClassProbability, ...] = ()
    certain: bool = True
    error: SenetError | None = None


def open_image(path: str | Path) -> Picture:
    """Read an image file, turned upright as its EXIF data says.

    Raises:
        SenetError: the file is absent, not an image, or truncated.
    """
    return read_named(str(path), partial(read_picture, path))


def predict(
    run_or_model: Network | Sequence[Network],
    images: Given | Iterable[Given],
    *,
    top: int = 5,
    batch_size: int = 64,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    num_workers: int | None = None,
    classes: Sequence[str] = (),
    mapping: Mapping[str, str] | str | Path | None = None,
) -> list[list[ClassProbability]]:
    """Classify images; or, with a network that detects, find the objects in them, as `senet.detect` does.

    Args:
        run_or_model: a network with `preprocessing`; what `senet.from_pretrained` opens: a run or model folder, a name,
            a hub id; or any function from images (N, C, H, W) to logits that has `preprocessing` and `class_names`. Of
            several the probabilities are averaged; they have the same classes, in any order.
        images: files; folders, for all images in them at any depth, or patterns such as "photos/**/*.jpg", sorted by
            name; PIL images of any size, which are not turned by their EXIF data as files are; or arrays (H, W),
            (H, W, C) or (C, H, W) of uint8 or uint16. One alone is taken too.
        top: how many classes to return for each; at least 1.
        batch_size: crops at once, at least those of one image.
        crop_size: as for `senet.evaluate`, as are `resize_sizes`, `ten_crop` and `precision`.
        resize_sizes: several average the probabilities over these scales.
        ten_crop: average the probabilities of ten crops.
        precision: of the arithmetic.
        device: where to compute; None for where the network is, or, loaded by name, for a GPU if there is one.
        num_workers: threads that read images while the network computes, three batches ahead at most; None for as many
            as there are cores, up to 8; 0 reads each image when its batch comes.
        classes: predict among these alone, as they are called after the mapping; empty for all.
        mapping: network's class -> other class, as for `senet.evaluate`.

    Returns:
        For every image its `top` likeliest classes, likeliest first; of a network that detects, the objects.

    Raises:
        SenetError: a model or image that cannot be read, or networks with different classes. `predict_each` goes on
            after an image that cannot be read, and says which file each prediction is of.
    """
    options: dict[str, Any] = {
        "top": top,
        "batch_size": batch_size,
        "crop_size": crop_size,
        "resize_sizes": resize_sizes,
        "ten_crop": ten_crop,
        "precision": precision,
        "device": device,
        "num_workers": num_workers,
        "classes": classes,
        "mapping": mapping,
    }
    if any(map(import_module("senet.detection.opening").detects, networks_of(run_or_model))):
        usual = signature(predict).parameters
        named = {name: value for name, value in options.items() if value != usual[name].default}
        objects: Any = import_module("senet.detection.prediction").predict_objects(run_or_model, images, named)
        return cast(list[list[ClassProbability]], objects)  # which have a class_name too
    found = predict_each(run_or_model, images, **options)
    return [list(prediction.classes) for prediction in found]


def predict_each(
    run_or_model: Network | Sequence[Network],
    images: Given | Iterable[Given],
    *,
    top: int = 5,
    batch_size: int = 64,
    on_error: OnError = "raise",
    threshold: float | None = None,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    num_workers: int | None = None,
    classes: Sequence[str] = (),
    mapping: Mapping[str, str] | str | Path | None = None,
) -> Iterator[Prediction]:
    """Classify images one batch after the other, and yield the predictions as they come.

    Inside `shared_work` every process classifies its share of the batches, and the first one gets all predictions, in
    the order of the images; the others, which must go through theirs too, get none.

    Args:
        run_or_model: see `predict`, as for all that is not explained here.
        images: see `predict`; folders and patterns are looked up when they come.
        top: see `predict`.
        batch_size: see `predict`.
        on_error: "raise" stops at an image that cannot be read; "keep" yields its prediction with an `error`.
        threshold: a prediction whose highest probability is lower is not `certain`; None for no threshold.
        crop_size: see `predict`.
        resize_sizes: see `predict`.
        ten_crop: see `predict`.
        precision: see `predict`.
        device: see `predict`.
        num_workers: see `predict`.
        classes: see `predict`.
        mapping: see `predict`.

    Raises:
        SenetError: a model or, on request, an image that cannot be read; networks with different classes.
    """
    check_choice("on_error", on_error, get_args(OnError))
    for name, value, least in (("top", top, 1), ("batch_size", batch_size, 1), ("num_workers", num_workers or 0, 0)):
        if not isinstance(value, Integral):
            raise SenetError(f"{name} is {value!r}; expected a whole number")
        if value < least:
            raise SenetError(f"{name} is {value}; expected at least {least}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise SenetError(f"threshold is {threshold}; expected 0 to 1, such as 0.8")
    if isinstance(classes, str):
        raise SenetError(f"classes is the text {classes!r}; expected a list, such as [{classes!r}]")
    sources = networks_of(run_or_model)
    if not sources:
        raise SenetError("run_or_model is empty; name at least one network")
    crops: dict[str, Any] = {"crop_size": crop_size, "resize_sizes": resize_sizes, "ten_crop": ten_crop}
    networks = [open_network(source, device=device, classes=classes, mapping=mapping, **crops) for source in sources]
    if len(set(classes)) == 1:  # a class that there is
        raise SenetError(f"classes is only {classes[0]!r}, which every image would be; name at least two")
    for network in networks:
        check_precision("precision", precision, network.device)
    ensemble = Ensemble(networks, precision)
    at_once = max(1, batch_size // networks[0].crops.count)
    workers = available_cores() if num_workers is None else num_workers
    team = current_team()
    share = team.share(batched(expanded(images, on_error), at_once))
    batches = read_ahead(share, ensemble.prepare, workers)
    return in_turn(team, predicted(ensemble, batches, top, threshold, on_error))


def check_picture(picture: object) -> None:
    """Raise an UnfitPictureError for what is no picture, and for a tensor with values of an unknown range."""
    if not isinstance(picture, Image.Image | np.ndarray | Tensor):
        kind = type(picture).__name__
        raise UnfitPictureError(f"is of class {kind}; expected a file, PIL image, array or tensor")
    if isinstance(picture, Tensor) and picture.dtype != torch.uint8:
        kind = str(picture.dtype).removeprefix("torch.")
        raise UnfitPictureError(f"holds {kind} values, whose range is not known; convert it to uint8, 0 to 255")


class Ensemble:
    """Networks whose probabilities are averaged.

    Args:
        networks: at least one; with the same classes.
        precision: of the arithmetic.
    """

    def __init__(self, networks: Sequence[OpenNetwork], precision: Precision) -> None:
        self.networks, self.precision = networks, precision
        self.orders = output_orders(networks)
        self.class_names = networks[0].class_names

    def prepare(self, image: Given, number: int) -> Result:
        """Return the crops of an image for each network, uint8 (crops, C, H, W); or why it cannot be read."""
        is_file = isinstance(image, str | Path)
        try:
            with naming(str(image) if is_file else f"image number {number}"):
                picture = open_image(image) if isinstance(image, str | Path) else image
                check_picture(picture)
                return [network.crops(picture) for network in self.networks]
        except SenetError as error:
            return error

    def probabilities(self, prepared: Sequence[list[Tensor]]) -> Tensor:
        """Return the mean probabilities (N, num_classes) of images that `prepare` returned."""
        by_network: list[Tensor] = []
        for i, (network, order) in enumerate(zip(self.networks, self.orders, strict=True)):
            found = network.log_probabilities(torch.stack([crops[i] for crops in prepared]), self.precision)
            if by_network and not found.shape[1] == by_network[0].shape[1]:
                raise SenetError(
                    f"{self.networks[0].name} and {network.name} cannot predict together: they have "
                    f"{by_network[0].shape[1]} and {found.shape[1]} outputs"
                )
            by_network.append(found if order is None else found[:, order])
        return (torch.stack(by_network).logsumexp(0) - math.log(len(by_network))).exp()

    def classify(self, prepared: Sequence[list[Tensor]], top: int) -> list[tuple[ClassProbability, ...]]:
        """Return the likeliest classes of images that `prepare` returned."""
        probabilities = self.probabilities(prepared)
        names = self.class_names or [str(i) for i in range(probabilities.shape[1])]
        indices = likeliest(probabilities, top)
        values = probabilities.gather(1, indices)
        return [
            tuple(ClassProbability(class_name=names[i], probability=p) for p, i in zip(row, chosen, strict=True))
            for row, chosen in zip(values.tolist(), indices.tolist(), strict=True)
        ]


def available_cores() -> int:
    """Return the number of cores for this process among those of its machine, at most `MAX_WORKERS`."""
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return min(allowed, max(1, cores // num_on_machine()), MAX_WORKERS)


def batched(images: Iterable[Given], batch_size: int) -> Iterator[list[tuple[int, Given]]]:
    """Yield images with their numbers in batches, taken when their batch is begun."""
    numbered = enumerate(images)
    while batch := list(islice(numbered, batch_size)):
        yield batch


def in_turn(team: Team, batches: Iterator[list[Prepared]]) -> Iterator[Prepared]:
    """Yield what all processes have made of the batches of `Team.share` to the first one; to the others nothing."""
    yield from chain.from_iterable(team.in_turn(batches))


def read_ahead(
    batches: Iterator[list[tuple[int, Given]]], prepare: Callable[[Given, int], Prepared], num_workers: int
) -> Iterator[list[tuple[Given, Prepared]]]:
    """Yield images and what `prepare` returns for them in batches, those of the next batches meanwhile in threads.

    Threads rather than processes: decoding and resizing hold Python's lock for a small part of the time. On two busy
    cores, 100 photographs of COCO were read at 20 a second one by one, 50 in two processes and 70 in two threads.

    Args:
        batches: images with their numbers.
        prepare: called with an image and its number.
        num_workers: threads; 0 prepares each batch when it is asked for.
    """
    if not num_workers:
        for batch in batches:
            yield [(image, prepare(image, number)) for number, image in batch]
        return
    pool = ThreadPoolExecutor(num_workers, "senet-reader")
    waiting: deque[list[tuple[Given, Future[Prepared]]]] = deque()
    try:
        while True:
            for batch in islice(batches, 3 - len(waiting)):
                waiting.append([(image, pool.submit(prepare, image, number)) for number, image in batch])
            if not waiting:
                return
            yield [(image, future.result()) for image, future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def predicted(
    ensemble: Ensemble,
    batches: Iterator[list[tuple[Given, Result]]],
    top: int,
    threshold: float | None,
    on_error: OnError,
) -> Iterator[list[Prediction]]:
    """Yield the predictions for each batch of images, see `predict_each`."""
    for batch in batches:
        for _, result in batch:
            if isinstance(result, SenetError) and on_error == "raise":
                raise result
        prepared = [result for _, result in batch if not isinstance(result, SenetError)]
        classes = iter(ensemble.classify(prepared, top) if prepared else ())
        found = []
        for image, result in batch:
            if isinstance(result, SenetError):
                found.append(Prediction(image=image, error=result))
            else:
                likeliest = next(classes)
                certain = threshold is None or likeliest[0].probability >= threshold
                found.append(Prediction(image=image, classes=likeliest, certain=certain))
        yield found
