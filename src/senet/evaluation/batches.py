"""Images to run a network on, in batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senet.configs import from_dict
from senet.data.classes import match_classes, place_classes
from senet.data.config import DataConfig
from senet.data.crops import Crops
from senet.data.datasets import open_split, opener_of
from senet.data.grouping import ClassGroups, group_classes, groups_of_data
from senet.data.images import ImageSplit
from senet.data.order import BatchOrder
from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.data.streaming import StreamingLoader
from senet.errors import MissingFileError, SenetError, warn
from senet.evaluation.functions import Network, as_module, check_device, class_names_of, name_of
from senet.factory import load_model
from senet.files import parse_json
from senet.nn.modes import default_device, device_of, dtype_of
from senet.processes import current_team
from senet.surgery.probe import run_on_example
from senet.terminal import tracked
from senet.weights.checkpoint import CONFIG_FILE
from senet.weights.tasks import task_of

DataSource = DataConfig | str | Path | Iterable[Any]
"""A data set's configuration, its name or its folder; or batches."""


NO_BATCHES = (
    "data is not batches of images; expected a folder or the name of a data set (one of Hugging Face's in memory "
    "becomes a folder by its save_to_disk), or tensors (N, C, H, W), alone or in pairs with labels, as a DataLoader "
    "yields them"
)


def run_data(source: str | Path) -> DataConfig | None:
    """Return the data that a run was trained on; None if `source` is not a run folder, or a folder or file in one.

    Raises:
        SenetError: the run's configuration cannot be read.
    """
    own = Path(source)
    for folder in (own, own.parent) if own.exists() else ():  # the name of a network may be said in a run's folder
        path = folder / CONFIG_FILE
        try:
            values = parse_json(path.read_text()).get("data")
            if values is not None:
                return from_dict(DataConfig, values, name="data")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SenetError(f"{path} is not the configuration of a run or model ({error})") from error
    return None


def number_of_classes(model: nn.Module, image: Tensor) -> int:
    """Return how many classes a network has, from its `num_classes` or its output for an image (1, C, H, W)."""
    return getattr(model, "num_classes", None) or int(run_on_example(model, image, model).shape[1])


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Images to run a network on, in batches.

    Args:
        source: what to call them in messages.
        class_names: of their labels; empty where they have none.
        device: where they arrive.
        number: of batches; None if it is not known.
        unscored: why no accuracy can be measured on them; empty if it can.
        each: yields (images, labels); labels are 0 where there are none.
        images: one by one, where the source is a data set.
        preprocessing: of these images for the network.
        groups: what the network's outputs are counted as; None for the network's own classes.
        order: which images of the data set these are, this process's share; None for batches that the caller made.
    """

    source: str
    class_names: tuple[str, ...]
    device: torch.device
    number: int | None
    unscored: str
    each: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    images: ImageSplit | None = None
    preprocessing: Preprocessing | None = None
    groups: ClassGroups | None = None
    order: BatchOrder | None = None

    def forward(self, model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return what computes logits of `class_names` from images: the model, with its outputs grouped."""
        groups = self.groups
        return model if groups is None else lambda images: groups(model(images))

    def tracked(self, doing: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, with a bar on a terminal."""
        return tracked(self.each(), f"{doing} {self.source}", self.number)

    def example(self, model: nn.Module) -> Tensor:
        """Return a black image (1, C, H, W) for a network, where no batch has come."""
        assert self.preprocessing is not None  # batches that the caller made are never none
        side = self.preprocessing.image_size
        return torch.zeros(1, self.preprocessing.in_channels, side, side, device=self.device, dtype=dtype_of(model))

    def places(self) -> np.ndarray | None:
        """Return the numbers of these images in the data set, in the order in which they come; None for all."""
        if self.order is None or self.order.num_processes == 1:
            return None
        return np.concatenate(list(self.order.batches(0)))


def open_model(run_or_model: Network) -> nn.Module:
    """Return a network that classifies itself, or open the one that a name or folder means, on a GPU if there is one.

    Raises:
        SenetError: there is no such network, it does not classify, or it is a function without preprocessing.
    """
    model = open_any(run_or_model)
    if task := task_of(model):
        raise SenetError(
            f"{name_of(run_or_model)} is a model for {task} and classifies no images; `senet evaluate` and `senet "
            "predict` take it, and from Python senet.report_detector and senet.detect"
        )
    return model


def open_any(run_or_model: Network) -> nn.Module:
    """Return a network itself, whatever it does, or open the one that a name or folder means; see `open_model`."""
    if isinstance(run_or_model, str | Path):
        return load_model(run_or_model).to(default_device())
    return as_module(run_or_model)


def check_found(run: str | Path, data: DataConfig) -> None:
    """Raise a SenetError if the data that a run was trained on are not there, as those of a path of another folder."""
    try:
        opener_of(data)
    except SenetError as error:
        raise MissingFileError(
            f"{run} was trained on {data.dataset}, which is not found from here; say by data.dataset where it is, or "
            "name other data"
        ) from error


def model_and_data(run_or_model: Network, data: DataSource | None) -> tuple[nn.Module, DataSource]:
    """Return the network and the data to run it on; `data` None means the data that a run was trained on.

    Raises:
        SenetError: there is no such network, or nothing says what to run it on.
    """
    model = open_model(run_or_model)
    return model, data_for(run_or_model, data)


def data_for(run_or_model: Network, data: DataSource | None) -> DataSource:
    """Return the data to run a network on; `data` None means the data that a run was trained on.

    Raises:
        SenetError: nothing says what to run it on.
    """
    if data is None and isinstance(run_or_model, str | Path):
        data = run_data(run_or_model)
        if data is not None:
            check_found(run_or_model, data)
    if data is None:
        raise SenetError("data is missing: say what to evaluate on, such as 'digits' or a folder")
    return data


def open_batches(
    model: nn.Module,
    data: DataSource,
    *,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    classes_of_data: bool = False,
    mapping: Mapping[str, str] | str | Path | None = None,
) -> Batches:
    """Open the evaluation images of a data set for a network, which stays where it is; inside `shared_work` a share.

    Args:
        model: the network.
        data: as for `evaluate`; a folder of images without classes; or batches, (images, labels) or images alone.
        crop_size: see `evaluate`.
        resize_sizes: see `evaluate`.
        ten_crop: see `evaluate`.
        batch_size: see `evaluate`.
        device: see `evaluate`.
        classes_of_data: see `evaluate`.
        mapping: see `evaluate`.

    Raises:
        SenetError: a data set or option that does not fit.
    """
    if batch_size < 1:
        raise SenetError(f"batch_size is {batch_size}; expected at least 1")
    check_device(model, device)
    target = torch.device(device or device_of(model))
    team = current_team()
    if not isinstance(data, DataConfig | str | Path):
        if team.size > 1:
            raise SenetError(
                f"data is batches, which {team.size} processes cannot share; name a folder or a data set, or call this "
                "outside shared_work"
            )
        if classes_of_data or mapping is not None:
            option = "classes_of_data" if classes_of_data else "mapping"
            raise SenetError(f"{option} needs a data set, whose classes have names; these data are batches")
        return given_batches(model, data, target)
    config = data if isinstance(data, DataConfig) else DataConfig(dataset=str(data))
    warn_of_training_images(model, config)
    preprocessing = preprocessing_of(model, data.preprocessing if isinstance(data, DataConfig) else None)
    crops = Crops(preprocessing, crop_size, resize_sizes, ten_crop)
    images = open_split(replace(config, preprocessing=preprocessing), "eval")
    dtype = dtype_of(model)
    shape = (1, preprocessing.in_channels, crops.crop_size, crops.crop_size)
    groups, unscored = None, ""
    if classes_of_data or mapping is not None:
        images, groups = grouped_for(model, images, shape, classes_of_data, mapping)
    else:
        images, unscored = labeled_for(model, images, shape)
    order = BatchOrder(
        num_images=len(images),
        batch_size=max(1, batch_size // crops.count),
        shuffle=False,
        rank=team.rank,
        num_processes=team.size,
    )
    loader = StreamingLoader(images, crops, order, preprocessing, target, config.num_workers)

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in loader.batches(0):
            if not len(pixels):  # the last batch, shared by more processes than it has images
                continue
            yield (pixels.squeeze(1) if crops.count == 1 else pixels).to(dtype), labels

    return Batches(
        source=images.source,
        class_names=images.class_names,
        device=target,
        number=len(loader),
        unscored=unscored,
        each=each,
        images=images,
        preprocessing=preprocessing,
        groups=groups,
        order=order,
    )


def given_batches(model: nn.Module, data: Iterable[Any], device: torch.device) -> Batches:
    """Describe batches that the caller made: (images, labels), or images alone.

    Raises:
        SenetError: there are none, or they are of another kind.
    """
    iterator = iter(data)
    first = next(iterator, None)
    if first is None:
        raise SenetError("data has no batches")
    labeled = isinstance(first, tuple | list) and len(first) == 2
    if not isinstance(first[0] if labeled else first, Tensor):
        raise SenetError(NO_BATCHES)
    names = class_names_of(model)
    if labeled and not names:
        names = tuple(str(i) for i in range(number_of_classes(model, first[0][:1].to(device_of(model)))))

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        again = data if iter(data) is not data else chain((first,), iterator)
        for batch in again:
            images, labels = batch if labeled else (batch, None)
            if not isinstance(images, Tensor) or images.dim() != 4:
                raise SenetError(NO_BATCHES)
            labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
            if labeled and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
                raise SenetError(f"a label of the batches given is not one of the network's 0 to {len(names) - 1}")
            yield images.to(device), labels.to(device)

    return Batches(
        source="the batches given",
        class_names=names if labeled else (),
        device=device,
        number=len(data) if isinstance(data, Sized) else None,
        unscored="" if labeled else unlabeled("the batches given"),
        each=each,
    )


def labeled_for(model: nn.Module, images: ImageSplit, shape: tuple[int, ...]) -> tuple[ImageSplit, str]:
    """Return the images with the network's labels, or as they are, and why no accuracy can be measured on them.

    Args:
        model: the network.
        images: with labels or without.
        shape: of one image for it, (1, C, H, W).
    """
    if not images.class_names:
        return images, unlabeled(images.source)
    try:
        return match_classes(images, names_of(model), counted(model, shape)), ""
    except SenetError as error:
        return images, str(error)


def grouped_for(
    model: nn.Module,
    images: ImageSplit,
    shape: tuple[int, ...],
    classes_of_data: bool,
    mapping: Mapping[str, str] | str | Path | None,
) -> tuple[ImageSplit, ClassGroups | None]:
    """Return the images with the labels of grouped classes, and the groups; None for the network's own classes.

    Args:
        model: the network.
        images: with labels.
        shape: see `labeled_for`.
        classes_of_data: see `evaluate`.
        mapping: see `evaluate`.

    Raises:
        SenetError: a class that the network or the data lack.
    """
    if not images.class_names:
        raise SenetError(unlabeled(images.source))
    names, count = names_of(model), counted(model, shape)
    if names is None and mapping is None:
        return match_classes(images, None, count), None  # as many as the data's, or refused
    groups = group_classes(names, mapping)
    if not classes_of_data:
        return match_classes(images, groups.names, count), groups
    places = place_classes(images, groups.names, count)
    own = tuple(groups.names[place] for place in places)
    return replace(images, class_names=own), groups_of_data(groups, places, own, images.source)


def names_of(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names of a network's classes; None if it has none."""
    return class_names_of(model) or None


def counted(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], int]:
    """Return what counts the classes of a network, which runs once if it does not say; `shape` is of an image."""
    return lambda: number_of_classes(model, torch.zeros(shape, device=device_of(model), dtype=dtype_of(model)))


def unlabeled(source: str) -> str:
    """Return the message that accuracy cannot be measured on data without labels."""
    return f"{source} has no labels; accuracy needs a folder of images for each class"


def warn_of_training_images(model: nn.Module, data: DataConfig) -> None:
    """Warn where an exported file, which says what was held out of its training, is evaluated on other images of it."""
    held = getattr(model, "held_out", None)
    if not isinstance(held, dict) or held.get("dataset") != Path(data.dataset).name:
        return
    fraction, seed = held.get("val_fraction"), held.get("split_seed")
    if (fraction, seed) != (data.val_fraction, data.split_seed):
        warn(
            f"some of these images of {data.dataset} are those that the network was trained on; add "
            f"data.val_fraction={fraction} and data.split_seed={seed} for those that were held out"
        )
