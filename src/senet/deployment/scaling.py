"""Scaling of pictures in an exported detector, to the very size to which PyTorch scales them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.onnx import operators
from torchvision.models.detection.transform import GeneralizedRCNNTransform

POWERS = 16
"""Powers of 2 that the size is compared with: sides of pictures may have 32,767 pixels, so products fit 32 bits."""


class ExactTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform of pictures, traced with the sizes that it computes when it is not traced.

    Traced, torchvision divides by a product with the reciprocal in single precision, and the size is rounded down: a
    picture of 200 x 80 pixels with a longer side of 240 becomes 239 x 95 in the file, and other boxes are found.

    Args:
        of: the transform of the detector.
    """

    def __init__(self, of: GeneralizedRCNNTransform) -> None:
        super().__init__(of.min_size, of.max_size, of.image_mean, of.image_std, of.size_divisible, of.fixed_size)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return a picture (3, H, W) at the size of evaluation."""
        if self.fixed_size is not None:
            size: Any = [self.fixed_size[1], self.fixed_size[0]]
        else:
            rows, columns = self.sizes(operators.shape_as_tensor(image)[-2:]).unbind()
            size = [rows, columns]
        return interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0], target

    def sizes(self, sides: Tensor) -> Tensor:
        """Return rows and columns of the scaled picture, of those of a picture, (..., 2) with 32,767 pixels at most.

        In integers, for OpenVINO computes double precision in single.
        """
        shorter, longer = sides.amin(-1, keepdim=True), sides.amax(-1, keepdim=True)
        short, long = (torch.tensor([side]) for side in (self.min_size[-1], self.max_size))
        by_shorter = short * longer <= long * shorter
        return scaled(sides, torch.where(by_shorter, short, long), torch.where(by_shorter, shorter, longer))


def scaled(sides: Tensor, to: Tensor, of: Tensor) -> Tensor:
    """Return floor(sides * (to / of)) as double precision computes it, in integers of 32 bits.

    The product is below a whole number n, which it would be without rounding, where the quotient was rounded down, to
    q = to / of - r / (of 2^k) with 2^52 <= q 2^k < 2^53, by so much that sides * q is nearer to the number before n
    than to n. The spacing of numbers below n is 2^(p - 52) for 2^p < n <= 2^(p + 1), so that is where
    sides * r / (of 2^k) > 2^(p - 53).
    """
    powers, last = torch.tensor([2**i for i in range(POWERS)]), POWERS - 1
    whole, rest = divided(sides * to, of)
    exponent = doublings(2 * of, to) - doublings(to, of - 1)
    p = doublings(torch.tensor([1]), whole - 1) - 1
    r = divided(to, of)[1]  # times 2^k, k = 52 - exponent, in factors whose products fit 32 bits
    for factor in (
        *(torch.tensor([2**i]) for i in (13, 12, 12)),
        *(powers[(last - exponent).clamp(max=last)], powers[(-exponent).clamp(min=0)]),
    ):
        r = divided(r * divided(factor, of)[1], of)[1]
    distance, spacing = 2 * sides * r, of * powers[(p - exponent).clamp(min=0)]
    return whole - positive(1 - rest) * positive(of - 2 * r) * positive(distance - spacing)


def divided(numbers: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """Return quotient and rest of numbers from 0 on, exact even if a runtime divides in single precision."""
    quotient = numbers.div(by, rounding_mode="trunc")
    rest = numbers - quotient * by
    off = positive(rest - by + 1) - positive(-rest)
    return quotient + off, rest - off * by


def doublings(numbers: Tensor, limit: Tensor) -> Tensor:
    """Return how many of the numbers, 2, 4, 8 ... times the numbers are no larger than a limit from 0 on.

    Term by term, for OpenVINO 2026.4 adds integers along an axis wrongly.
    """
    reached = [limit.div(numbers * 2**i, rounding_mode="trunc").clamp(max=1) for i in range(POWERS - 1)]
    return sum(reached[1:], start=reached[0])


def positive(numbers: Tensor) -> Tensor:
    """Return 1 for numbers above 0, and 0 for others."""
    return numbers.clamp(0, 1)
