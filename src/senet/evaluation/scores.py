"""What networks predict for all images of a data set, one by one and on average, and how accurate that is."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from senet.data.classes import missing_from, order_of
from senet.data.images import ImageSplit
from senet.data.preprocessing import Preprocessing
from senet.errors import NotFiniteError, SenetError, nearest
from senet.evaluation.accuracy import Evaluation, evaluation_of, log_probabilities, score, sums_of
from senet.evaluation.batches import Batches, DataSource, data_for, model_and_data, open_batches
from senet.evaluation.functions import Network, name_of
from senet.evaluation.outcomes import Outcomes, in_order, outcomes_of
from senet.nn.modes import borrowed
from senet.nn.precision import Precision, computing
from senet.processes import Team, current_team

CHUNK = 4096
"""Images whose probabilities are summed up at once, to bound the memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a network, or an ensemble, predicts for every image of a data set.

    Takes 4 N C bytes: 200 MB for 50,000 images and 1000 classes.

    Args:
        name: of the network, as it was given.
        source: of the images.
        class_names: of the C classes.
        log_probabilities: (N, C) float32, on the CPU.
        labels: (N,) int64.
        images: one by one; None if the images were given as batches.
        preprocessing: of the images for the network; None likewise.
        seconds: that the pass over the images took.
        places: (N,), the numbers of the images in the data set, where these are a process's share; None for all.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    log_probabilities: Tensor
    labels: Tensor
    images: ImageSplit | None = None
    preprocessing: Preprocessing | None = None
    seconds: float = 0.0
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def evaluation(self) -> Evaluation:
        """The accuracy on all images."""
        return evaluation_of(self.sums)

    @property
    def sums(self) -> Tensor:
        """What the accuracy is computed from, see `sums_of`, over all processes that have a share."""
        own = sums_of(self.log_probabilities, self.labels)
        return own if self.places is None else current_team().added(own)

    def outcomes(self) -> Outcomes:
        """Return what came of each image, of all processes that have a share."""
        team = Team() if self.places is None else current_team()
        return outcomes_of(self.log_probabilities, self.labels, self.places, self.seconds, team)

    def whole(self) -> "Scores":
        """Return the scores of all images, of which this process has a share."""
        if self.places is None:
            return self
        columns = self.log_probabilities.numpy(), self.labels.numpy()
        parts = current_team().everyone((columns, self.places, self.seconds))
        predicted, labels = map(torch.from_numpy, in_order([part[:2] for part in parts]))
        seconds = max(part[2] for part in parts)
        return replace(self, log_probabilities=predicted, labels=labels, places=None, seconds=seconds)


def score_images(
    run_or_model: Network,
    data: DataSource | None = None,
    *,
    name: str | None = None,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    classes_of_data: bool = False,
    mapping: Mapping[str, str] | str | Path | None = None,
) -> Scores:
    """Return what a network predicts for every evaluation image of a data set; inside `shared_work` to every process.

    Args:
        run_or_model: see `senet.evaluate`.
        data: see `senet.evaluate`.
        name: what to call the network; None for `run_or_model`, or the class of a network.
        crop_size: see `senet.evaluate`.
        resize_sizes: see `senet.evaluate`.
        ten_crop: see `senet.evaluate`.
        batch_size: see `senet.evaluate`.
        precision: see `senet.evaluate`.
        device: see `senet.evaluate`.
        classes_of_data: see `senet.evaluate`.
        mapping: see `senet.evaluate`.

    Raises:
        SenetError: see `senet.evaluate`.
    """
    return score_share(
        run_or_model,
        data,
        name=name_of(run_or_model) if name is None else name,
        precision=precision,
        crop_size=crop_size,
        resize_sizes=resize_sizes,
        ten_crop=ten_crop,
        batch_size=batch_size,
        device=device,
        classes_of_data=classes_of_data,
        mapping=mapping,
    ).whole()


@torch.no_grad()
def score_share(
    run_or_model: Network, data: DataSource | None, *, name: str, precision: Precision = "fp32", **options: Any
) -> Scores:
    """Return what a network predicts for this process's share of the images.

    Args:
        run_or_model: see `senet.evaluate`.
        data: see `senet.evaluate`.
        name: what to call the network.
        precision: see `senet.evaluate`.
        options: of `open_batches`.
    """
    model, data = model_and_data(run_or_model, data)
    batches = open_batches(model, data, **options)
    if batches.unscored:
        raise SenetError(batches.unscored)
    predicted, labels = [torch.empty(0, len(batches.class_names))], [torch.empty(0, dtype=torch.int64)]
    started, places = time.perf_counter(), batches.places()
    with borrowed(model, batches.device, torch.channels_last), computing(batches.device, precision):
        model.eval()
        for images, truth in batches.tracked(f"Running {name} on"):
            found = log_probabilities(batches.forward(model), images)
            check_numbers(name, batches, found, sum(map(len, labels)))
            predicted.append(found.cpu())
            labels.append(truth.cpu())
    predicted = predicted[1:] or predicted  # a process without images has the classes alone
    return Scores(
        name=name,
        source=batches.source,
        class_names=batches.class_names,
        log_probabilities=torch.cat(predicted),
        labels=torch.cat(labels),
        images=batches.images,
        preprocessing=batches.preprocessing,
        seconds=time.perf_counter() - started,
        places=places,
    )


def check_numbers(name: str, batches: Batches, found: Tensor, before: int) -> None:
    """Raise a NotFiniteError for the first image whose probabilities are no numbers.

    Args:
        name: of the network.
        batches: of the images.
        found: (N, C), log probabilities of a batch.
        before: number of images before it.
    """
    wrong = found.isnan().any(1).nonzero()
    if len(wrong):
        number, places = before + int(wrong[0]), batches.places()
        place = number if places is None else int(places[number])
        image = f"image {place} of {batches.source}" if batches.images is None else batches.images.name(place)
        raise NotFiniteError(f"{name} predicts probabilities that are not numbers for {image}; check its weights")


def average_scores(
    scores: Iterable[Scores], weights: Sequence[float] | None = None, *, name: str = "ensemble"
) -> Scores:
    """Average the probabilities that several networks predict.

    The order of the classes may differ from network to network. Only one of the scores and their sum are in memory if
    an iterator yields the scores.

    Args:
        scores: of each network on the same images; several of one network, on other crops, count too.
        weights: of each, positive; None for equal ones.
        name: of the ensemble.

    Raises:
        SenetError: networks of different classes or images, or weights that do not fit.
        ValueError: an iterator yields more or fewer scores than there are weights.

    Source: arXiv:1709.01507v4, section 5.1: the authors' 2.251 % top-5 error is of an ensemble, multi-scale and
    multi-crop.
    """
    check_weights(weights, len(scores) if isinstance(scores, Sized) else len(weights or ()))
    whole: Scores | None = None
    count = 0
    for each, weight in zip(scores, repeat(1.0) if weights is None else weights, strict=weights is not None):
        share = math.log(weight)
        count += 1
        if whole is None:
            whole = replace(each, log_probabilities=each.log_probabilities + share)
            continue
        added, total = aligned(each, whole), whole.log_probabilities
        for start in range(0, len(total), CHUNK):
            rows = slice(start, start + CHUNK)
            torch.logaddexp(total[rows], added.log_probabilities[rows] + share, out=total[rows])
        whole = replace(whole, seconds=whole.seconds + each.seconds)
    if whole is None:
        raise SenetError("an ensemble of no networks has no probabilities; give several")
    whole.log_probabilities.sub_(math.log(count if weights is None else sum(weights)))
    return replace(whole, name=name)


def check_weights(weights: Sequence[float] | None, count: int) -> Sequence[float] | None:
    """Return the weights of an ensemble, or raise a SenetError unless there is a positive one for each network."""
    if weights is not None and not (len(weights) == count and all(0 < weight < math.inf for weight in weights)):
        raise SenetError(f"weights is {tuple(weights)}; expected a positive number for each of the {count} networks")
    return weights


def aligned(scores: Scores, first: Scores) -> Scores:
    """Return scores with the classes in the order of other scores.

    Raises:
        SenetError: they are of other classes or images.
    """
    names, wanted = scores.class_names, first.class_names
    if names != wanted:
        order = order_of(wanted, names)
        if order is None:
            raise not_aligned(scores, first)
        columns = torch.tensor(order)
        new_place = torch.empty_like(columns)
        new_place[columns] = torch.arange(len(columns))
        scores = replace(
            scores,
            class_names=wanted,
            log_probabilities=scores.log_probabilities[:, columns],
            labels=new_place[scores.labels],
        )
    if not torch.equal(scores.labels, first.labels):
        raise SenetError(f"{scores.name} was run on other images than {first.name}; run all on the same data")
    return scores


def not_aligned(scores: Scores, first: Scores) -> SenetError:
    """Return the error for scores of different classes."""
    for lacks, has in ((scores, first), (first, scores)):
        if lacking := sorted(missing_from(lacks.class_names, has.class_names)):
            return SenetError(
                f"{lacks.name} has no class {lacking[0]!r}, one of {len(lacking)} that differ from {has.name}'s "
                f"(the nearest are {nearest(lacking[0], lacks.class_names)}); an ensemble needs networks of the same "
                "classes, or classes_of_data, which leaves those of the data"
            )
    return SenetError(f"several classes of {scores.name} have the same name; give each a name of its own")


def opened_once(networks: Sequence[Network], data: DataSource | None) -> tuple[tuple[Network, ...], DataSource]:
    """Return several networks, and the data to run each of them on; None means what the first run was trained on.

    Raises:
        SenetError: there are no networks or no data, or data that can be read only once.
    """
    networks = tuple(networks)
    if not networks:
        raise SenetError("no network is given; expected one or several")
    data = data_for(networks[0], data)
    if isinstance(data, Iterator) and len(networks) > 1:
        raise SenetError("data is an iterator, which only the first of several networks would get; give a list")
    return networks, data


def scored_each(
    networks: Sequence[Network], names: Sequence[str], data: DataSource, **options: Any
) -> Iterator[Scores]:
    """Yield what each of several networks predicts; an error says which network it is about.

    Args:
        networks: see `evaluate`.
        names: of each.
        data: see `evaluate`.
        options: of `score_share`.
    """
    for network, name in zip(networks, names, strict=True):
        try:
            yield score_share(network, data, name=name, **options)
        except SenetError as error:
            if len(networks) == 1 or name in str(error):
                raise
            raise type(error)(f"{name}: {error}") from error


def unique_names(networks: Sequence[Network]) -> tuple[str, ...]:
    """Return what to call networks: what they are opened from, or their class; numbered where two are the same."""
    names: list[str] = []
    for network in networks:
        base = name_of(network)
        taken = sum(name == base or name.startswith(f"{base} (") for name in names)
        names.append(f"{base} ({taken + 1})" if taken else base)
    return tuple(names)


def evaluate(
    run_or_model: Network | Sequence[Network],
    data: DataSource | None = None,
    *,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    classes_of_data: bool = False,
    mapping: Mapping[str, str] | str | Path | None = None,
    weights: Sequence[float] | None = None,
) -> Evaluation:
    """Measure the accuracy of a network, or of an ensemble of networks, on the evaluation images of a data set.

    Inside `shared_work` every process runs its share of the images and returns the accuracy on all of them.

    Args:
        run_or_model: a network, or what `senet.from_pretrained` opens: a run or model folder, a name, a hub id; or any
            function from images (N, C, H, W) to logits that has `preprocessing` and `class_names`. Several of them
            in a list are an ensemble: their probabilities are averaged. They may have other preprocessings,
            sizes and orders of the classes.
        data: a `DataConfig` or its `dataset`, or batches (images, labels); None for what the (first) run was trained
            on. The preprocessing of a `DataConfig` counts only for networks that do not bring their own (this library's
            and timm's do).
        crop_size: side of the crops in pixels; None for the network's own.
        resize_sizes: lengths that the shorter side is resized to before cropping, in pixels; the probabilities over
            several are averaged. None keeps the network's own ratio of this length to the crop.
        ten_crop: average the probabilities of ten crops, the corners and the center and their mirror images.
        batch_size: crops at once, at least those of one image.
        precision: "fp32", which is float32 in convolutions too; "tf32", "bf16" or "fp16" where the device has them; or
            "auto" for bf16 where the hardware computes it, else fp32.
        device: where to compute; None for where the network is, or, loaded by name, for a GPU if there is one. The
            caller's network is given back as it was: device, type, memory format and mode.
        classes_of_data: predict among the classes of the data alone, where the network has more.
        mapping: network's class -> class of the data, several to one, whose probabilities add up; or a file of it,
            .json or .csv. Classes that it does not name keep their names.
        weights: of the networks of an ensemble, positive; None for equal ones.

    Returns:
        Top-1, top-5 and balanced accuracy, macro F1, mean loss and number of images.

    Raises:
        SenetError: a folder, data set or option that does not fit.
    """
    options: dict[str, Any] = {
        "crop_size": crop_size,
        "resize_sizes": resize_sizes,
        "ten_crop": ten_crop,
        "batch_size": batch_size,
        "device": device,
        "classes_of_data": classes_of_data,
        "mapping": mapping,
    }
    if isinstance(run_or_model, Sequence) and not isinstance(run_or_model, str):
        networks, data = opened_once(run_or_model, data)
        each = scored_each(networks, unique_names(networks), data, precision=precision, **options)
        return average_scores(each, check_weights(weights, len(networks))).evaluation
    if weights is not None:
        raise SenetError("weights has no effect on one network; give several, or leave it out")
    model, data = model_and_data(run_or_model, data)
    batches = open_batches(model, data, **options)
    if batches.unscored:
        raise SenetError(batches.unscored)
    with borrowed(model, batches.device, torch.channels_last), computing(batches.device, precision):
        team, forward = current_team(), batches.forward(model)
        reduce = None if team.size == 1 else team.added
        found = score(model, batches.tracked("Evaluating on"), forward=forward, reduce=reduce)
    if math.isnan(found.loss):
        raise NotFiniteError(f"the network predicts probabilities that are not numbers on {batches.source}")
    return found
