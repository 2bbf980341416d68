"""Whether two detectors find the same boxes in a picture: pairs, boxes that only one finds, and what ties explain."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from senet.deployment.unselected import Limits, Unselected, limits_of, unselected

Found = Mapping[str, Tensor]
"""What a detector finds in a picture: boxes (n, 4) in pixels, labels (n,) and scores (n,)."""

SAME = 0.9
"""Overlap (intersection over union) from which on two boxes of one class are a pair."""
PIXELS, SCORE = 0.1, 1e-3
"""How far the corners, in pixels, and the scores of a pair may be apart; scores that are nearer are tied."""
EDGE = 0.01
"""How near the overlap of two boxes is to the limit of suppression where rounding may decide."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two detectors find in one picture.

    Args:
        pairs: (n, 2), numbers of boxes of the original and of the exported one that are the same.
        pixels: largest distance of a corner of each pair, (n,).
        scores: difference of the scores of each pair, (n,).
        lone: of the original and of the exported one, the numbers of boxes that the other lacks.
        tied: likewise, of those that the other lacks because of a tie.
    """

    pairs: Tensor
    pixels: Tensor
    scores: Tensor
    lone: tuple[tuple[int, ...], tuple[int, ...]]
    tied: tuple[tuple[int, ...], tuple[int, ...]]


def compare_boxes(original: Found, exported: Found, detector: nn.Module, picture: Tensor) -> Comparison:
    """Compare what two detectors find in a picture.

    A detector selects: of the boxes that overlap it keeps the one with the best score, and of all of them a number.
    Where scores are equal, as those of an untrained network and those of flat areas, rounding decides which. A box that
    one of the two lacks is explained by that if the original weighs the same box with the same score, and its score is
    at a limit of the selection, or equal to that of a box of the other that overlaps it; or if what suppresses it is
    there because of such a tie.

    Args:
        original: what the original finds.
        exported: what the exported one finds.
        detector: the original, which is asked what it weighs if there are differences.
        picture: (3, H, W) in [0, 1].
    """
    pairs = matches(original, exported)
    left, right = pairs.unbind(1)
    pixels = (original["boxes"][left] - exported["boxes"][right]).abs().amax(1)
    scores = (original["scores"][left] - exported["scores"][right]).abs()
    near = (pixels <= PIXELS) & (scores <= SCORE)
    sides = unpaired(original, left[near]), unpaired(exported, right[near])
    limits = limits_of(detector)
    tied: list[set[int]] = [set(), set()]
    if limits is not None and any(map(len, sides)):
        around = torch.cat([found["boxes"][side] for found, side in zip((original, exported), sides, strict=True)])
        tied = ties((original, exported), sides, limits, unselected(detector, picture, around))
    kept = torch.tensor([not (i in tied[0] and j in tied[1]) for i, j in pairs.tolist()], dtype=torch.bool)
    left, right = pairs[kept].unbind(1)
    first, second = (set(own.tolist()) - set(taken.tolist()) for own, taken in zip(sides, (left, right), strict=True))
    return Comparison(
        pairs=pairs[kept],
        pixels=pixels[kept],
        scores=scores[kept],
        lone=(tuple(sorted(first - tied[0])), tuple(sorted(second - tied[1]))),
        tied=(tuple(sorted(first & tied[0])), tuple(sorted(second & tied[1]))),
    )


def unpaired(found: Found, taken: Tensor) -> Tensor:
    """Return the numbers of the boxes that are not among those taken."""
    is_free = torch.ones(len(found["boxes"]), dtype=torch.bool)
    is_free[taken] = False
    return is_free.nonzero().flatten()


# ---- pairs -----------------------------------------------------------------------------------------------------------


def matches(first: Found, second: Found) -> Tensor:
    """Return the pairs (n, 2) of boxes of one class that overlap by `SAME` at least, each box once, best first.

    Boxes whose corners are within `PIXELS` are pairs too, for the overlap of boxes of no area is none.
    """
    overlap = overlaps(first["boxes"], second["boxes"])
    apart = (first["boxes"][:, None] - second["boxes"][None]).abs().amax(2)
    overlap = torch.where(apart <= PIXELS, 1 - apart.double() * 1e-3, overlap)
    overlap = overlap.where(first["labels"][:, None] == second["labels"][None], 0.0)
    pairs: list[tuple[int, int]] = []
    while overlap.numel() and float(overlap.max()) >= SAME:
        i, j = divmod(int(overlap.argmax()), overlap.shape[1])
        pairs.append((i, j))
        overlap[i], overlap[:, j] = 0.0, 0.0
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of boxes (n, 4) and (m, 4), (n, m) in float64; 0 where there is no area."""
    one, other = first.double()[:, None], second.double()[None]
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    common = sides.clamp(min=0).prod(2)
    union = (one[..., 2:] - one[..., :2]).prod(2) + (other[..., 2:] - other[..., :2]).prod(2) - common
    return torch.where(union > 0, common / union, 0.0)


# ---- ties ------------------------------------------------------------------------------------------------------------


def ties(found: tuple[Found, Found], sides: tuple[Tensor, ...], limits: Limits, weighed: Unselected) -> list[set[int]]:
    """Return for both detectors the boxes that the other lacks because of a tie.

    Args:
        found: by the original and by the exported one.
        sides: numbers of the boxes that the other lacks, of both.
        limits: of the selection.
        weighed: by the original.
    """
    genuine = [
        [i for i in side.tolist() if is_weighed(own, i, limits, weighed)]
        for own, side in zip(found, sides, strict=True)
    ]
    tied = [
        {i for i in numbers if at_limit(found[k], i, found[1 - k], limits, weighed)}
        for k, numbers in enumerate(genuine)
    ]
    rivals = [
        {i: rivals_of(found[k], i, found[1 - k], sides[1 - k], limits) for i in numbers}
        for k, numbers in enumerate(genuine)
    ]
    for k, numbers in enumerate(genuine):
        tied[k] |= {i for i in numbers if any(equal and j in genuine[1 - k] for j, equal in rivals[k][i])}
    while more := [
        {i for i in numbers if i not in tied[k] and any(j in tied[1 - k] for j, _ in rivals[k][i])}
        for k, numbers in enumerate(genuine)
    ]:
        if not any(more):
            return tied
        tied = [own | new for own, new in zip(tied, more, strict=True)]
    return tied


def is_weighed(own: Found, i: int, limits: Limits, weighed: Unselected) -> bool:
    """Return whether the original weighs a box, with its class and its score."""
    corners, score, _ = weighed.nearest(own["boxes"][i], int(own["labels"][i]), float(own["scores"][i]))
    return corners <= PIXELS and score <= SCORE


def at_limit(own: Found, i: int, other: Found, limits: Limits, weighed: Unselected) -> bool:
    """Return whether rounding decides if a box is among those that are selected."""
    score, label = float(own["scores"][i]), int(own["labels"][i])
    if score <= limits.score + SCORE:
        return True
    if len(other["scores"]) >= limits.number and score <= float(other["scores"].min()) + SCORE:
        return True
    if limits.of_level is not None:
        _, _, level = weighed.nearest(own["boxes"][i], label, score)
        scores = weighed.scores[weighed.levels == level]
        if (scores >= score + SCORE).sum() < limits.of_level < (scores >= score - SCORE).sum():
            return True
    overlap = overlaps(own["boxes"][i][None], other["boxes"])[0]
    edge = (overlap - limits.overlap).abs() <= EDGE
    return bool((edge & (other["labels"] == label) & (other["scores"] >= score - SCORE)).any())


def rivals_of(own: Found, i: int, other: Found, lone: Tensor, limits: Limits) -> list[tuple[int, bool]]:
    """Return the boxes of the other that suppress a box and that this one lacks, and whether their scores are equal."""
    score = own["scores"][i]
    overlap = overlaps(own["boxes"][i][None], other["boxes"][lone])[0]
    apart = other["scores"][lone] - score
    suppress = (overlap >= limits.overlap - EDGE) & (other["labels"][lone] == own["labels"][i]) & (apart >= -SCORE)
    return [(int(lone[j]), bool(apart[j] <= SCORE)) for j in suppress.nonzero().flatten().tolist()]
