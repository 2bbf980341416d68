"""What came of each image of a data set: its class, the one that was predicted, and two probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from senet.evaluation.accuracy import Evaluation, evaluation_of, sums_of
from senet.processes import Team

Columns = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """What came of N images: 32 bytes each, where the probabilities of all classes may take thousands.

    Args:
        labels: (N,), int64.
        predicted: (N,), the class of the highest probability, int64.
        confidence: (N,), that probability, 0 to 1, float64.
        own: (N,), the logarithm of the probability of the image's class, float64.
        evaluation: of all images.
        seconds: that the pass over the images took the slowest process.
    """

    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    own: npt.NDArray[np.float64]
    evaluation: Evaluation
    seconds: float


def outcomes_of(
    log_probabilities: Tensor, labels: Tensor, places: npt.NDArray[Any] | None, seconds: float, team: Team
) -> Outcomes:
    """Return what came of the images of all processes, in their order in the data set.

    Args:
        log_probabilities: (n, C), of this process's share.
        labels: (n,), likewise.
        places: (n,), the numbers of these images in the data set; None for all of them.
        seconds: that they took.
        team: the processes.
    """
    best = log_probabilities.max(1)
    own = log_probabilities.gather(1, labels[:, None])[:, 0]
    columns = labels, best.indices, best.values.double().exp().clamp(max=1), own.double()
    evaluation = evaluation_of(team.added(sums_of(log_probabilities, labels)))
    parts = team.everyone((tuple(column.numpy() for column in columns), places, seconds))
    whole = in_order([part[:2] for part in parts])
    return Outcomes(
        labels=whole[0],
        predicted=whole[1],
        confidence=whole[2],
        own=whole[3],
        evaluation=evaluation,
        seconds=max(part[2] for part in parts),
    )


def in_order(parts: list[tuple[Columns, npt.NDArray[Any] | None]]) -> Columns:
    """Return columns of all images in their order in the data set.

    Args:
        parts: columns of one process's images, and the images' numbers; None for all images.
    """
    if len(parts) == 1:
        return parts[0][0]
    places = np.concatenate([part[1] for part in parts if part[1] is not None])
    order = np.empty_like(places)
    order[places] = np.arange(len(places))
    return tuple(np.concatenate(of_all)[order] for of_all in zip(*(part[0] for part in parts), strict=True))
