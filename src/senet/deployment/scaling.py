"""Scaling of pictures in an exported detector, to the very size to which PyTorch scales them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.onnx import operators
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class ExactTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform of pictures, traced with the sizes that it computes when it is not traced.

    Traced, torchvision divides by a product with the reciprocal in single precision, and the size is rounded down: a
    picture of 200 x 80 pixels with a longer side of 240 becomes 239 x 95 in the file, and other boxes are found.

    Args:
        of: the transform of the detector.
        in_integers: compute sizes in integers, for OpenVINO computes double precision in single; else in double
            precision, as PyTorch does. They differ where PyTorch's product is rounded to below a whole number.
    """

    def __init__(self, of: GeneralizedRCNNTransform, *, in_integers: bool) -> None:
        super().__init__(of.min_size, of.max_size, of.image_mean, of.image_std, of.size_divisible, of.fixed_size)
        self.in_integers = in_integers

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return a picture (3, H, W) at the size of evaluation."""
        if self.fixed_size is not None:
            size: Any = [self.fixed_size[1], self.fixed_size[0]]
        else:
            rows, columns = self.sizes(operators.shape_as_tensor(image)[-2:]).unbind()
            size = [rows, columns]
        return interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0], target

    def sizes(self, sides: Tensor) -> Tensor:
        """Return rows and columns of the scaled picture, (2,), of those of a picture."""
        shorter, longer = sides.amin(0, keepdim=True), sides.amax(0, keepdim=True)
        if self.in_integers:
            short, long = (torch.tensor([side]) for side in (self.min_size[-1], self.max_size))
            by_shorter = short * longer <= long * shorter
            scale, of = torch.where(by_shorter, short, long), torch.where(by_shorter, shorter, longer)
            return (sides * scale).div(of, rounding_mode="floor")
        # tensors of one axis: numbers and tensors without axes are computed in single precision when traced
        low, high = (torch.tensor([side], dtype=torch.float64) for side in (self.min_size[-1], self.max_size))
        return (sides.double() * torch.minimum(low / shorter.double(), high / longer.double())).floor().long()
