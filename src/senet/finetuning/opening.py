"""Opening what a fine-tuning is given: its pictures, and its network with a classifier for their classes."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from senet.data.channels import UnfitPictureError, to_channels
from senet.data.config import DataConfig
from senet.data.datasets import OPENERS, has_evaluation_images, open_unread
from senet.data.images import ImageSplit
from senet.data.loading import check_classes
from senet.data.shards import is_sharded
from senet.data.tables import tables_of
from senet.errors import MissingFileError, SenetError
from senet.finetuning.defaults import VAL_FRACTION
from senet.finetuning.source import Source
from senet.models.base import Network
from senet.models.build import build, skeleton
from senet.models.config import ModelConfig
from senet.training.config import TrainConfig, network_settings
from senet.training.stored import changed
from senet.training.warm_start import WarmStart, preprocessing_asked, start_from_weights


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for.

    Args:
        data: the folder.
        source: network and weights.
        pretrained: False to start at random.
        asked: settings of `TrainConfig` by dotted name.
    """

    data: str
    source: Source
    pretrained: bool = True
    asked: Mapping[str, Any] = field(default_factory=dict)


# ---- pictures --------------------------------------------------------------------------------------------------------


def data_config(request: Request) -> DataConfig:
    """Return where the pictures are, with a share of them held out where the folder has no other ones."""
    data = DataConfig(dataset=request.data, in_memory=False)
    asked = {name: value for name, value in request.asked.items() if name.startswith("data.")}
    asked = {name: value for name, value in asked.items() if not name.startswith("data.preprocessing.")}
    columns = {name: value for name, value in asked.items() if name in ("data.image_column", "data.label_column")}
    has_own = has_evaluation_images(with_settings(data, columns))
    return with_settings(replace(data, val_fraction=None if has_own else VAL_FRACTION), asked)


def with_settings(data: DataConfig, asked: Mapping[str, Any]) -> DataConfig:
    """Return the configuration of data with settings by dotted name."""
    return changed(TrainConfig(model=ModelConfig(name=""), data=data), asked).data


def open_images(request: Request) -> tuple[ImageSplit, ImageSplit]:
    """Open the images to train on, and those to evaluate on.

    Raises:
        SenetError: there are none, they have no classes or only one, or those of one image cannot be divided.
    """
    path = Path(request.data)
    is_named = request.data in OPENERS or request.data.startswith("hf:")
    if not is_named and not path.is_dir() and not tables_of(request.data) and not is_sharded(request.data):
        kind = "is a file, but no CSV" if path.exists() else "does not exist"
        raise MissingFileError(
            f"the folder of pictures {request.data} {kind}; expected FOLDER/CLASS/PICTURE, a CSV file, or shards"
        )
    data = data_config(request)
    splits = open_unread(data, "train"), open_unread(data, "eval")
    check_classes(*splits)
    for images in splits:
        if images.labels is None:
            raise SenetError(f"{images.source} has no classes; expected a folder for each: {data.dataset}/CLASS/IMAGE")
    return splits


def channels_of(images: ImageSplit, own: int) -> int:
    """Return the number of channels with which a network of `own` channels is best built for some images.

    Gray and color pictures are converted into each other; arrays of other numbers of channels are not.
    """
    picture, _ = images[0]
    try:
        to_channels(picture, own)
    except UnfitPictureError:
        shape = getattr(picture, "shape", None)
        return len(picture.getbands()) if shape is None else min(shape[0], shape[-1])  # type: ignore[union-attr]
    return own


# ---- the network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A network that was opened.

    Args:
        config: of the run, so far with the data, the network and its preprocessing.
        make: builds the network of a configuration, with its weights.
        new_head: whether its classifier starts at random.
    """

    config: TrainConfig
    make: Callable[[ModelConfig], Network]
    new_head: bool


def open_network(request: Request, splits: tuple[ImageSplit, ImageSplit]) -> tuple[Opened, Network]:
    """Open the network with its weights and a classifier for the classes of some images.

    Returns:
        What is known of it, and the network.

    Raises:
        SenetError: the weights cannot be read, they contradict what was asked for, or do not take the images.
    """
    asked = dict(request.asked)
    if request.source.name:
        asked.setdefault("model.name", request.source.name)
    names = splits[0].class_names
    found = opened(request, asked, names)
    channels = channels_of(splits[0], found.config.model.in_channels)
    wanted = request.asked.get("model.in_channels", channels)
    if channels != wanted:
        raise SenetError(
            f"channels is {wanted}, but the pictures of {splits[0].source} have {channels} channels; leave it out"
        )
    if channels != found.config.model.in_channels:
        asked["model.in_channels"] = channels
        found = opened(request, asked, names)
    with quiet_factory():
        model = found.make(replace(found.config.model, num_classes=len(names)))
    config = replace(found.config, model=replace(model.config, num_classes=None))
    return replace(found, config=suggesting(config, asked)), model


@contextmanager
def quiet_factory() -> Iterator[None]:
    """Keep back what is said of weights that are fitted: it is said when the run starts."""
    logger = logging.getLogger("senet.factory")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def opened(request: Request, asked: Mapping[str, Any], class_names: tuple[str, ...]) -> Opened:
    """Open the weights, and return what they say."""
    name = asked.get("model.name", "")
    data, weights = data_config(request), request.source.weights
    data = replace(data, preprocessing=data.preprocessing.with_channels(asked.get("model.in_channels", 3)))
    config = TrainConfig(model=ModelConfig(name=name), data=data, weights=weights)
    early = {key: value for key, value in asked.items() if key.startswith(("model.", "weights_"))}
    config = suggesting(changed(config, early), asked)
    make: Callable[[ModelConfig], Network] = build
    new_head = True
    if weights is None:
        plain = skeleton(config.model)
        preprocessing, network = plain.preprocessing, replace(plain.config, num_classes=None)
    else:
        found, start = start_from_weights(config)
        preprocessing, network = found.data.preprocessing, found.model
        if request.pretrained:
            make, new_head = start.for_classes(class_names).build, not start.keeps_classifier(class_names)
        elif isinstance(start, WarmStart) and start.checkpoint.surgery:
            raise SenetError(
                f"pretrained=False has no effect on {weights}, whose blocks were inserted into trained weights; "
                "name the network itself"
            )
        else:
            weights = None
    data = replace(data, preprocessing=preprocessing_asked(preprocessing, asked))
    config = replace(config, model=network, data=data, weights=weights)
    return Opened(config=config, make=make, new_head=new_head)


def suggesting(config: TrainConfig, asked: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration whose network and preprocessing are suggestions, except for what was asked for."""
    suggested = {name: value for name, value in network_settings(config).items() if name not in asked}
    return replace(config, suggested=suggested)
