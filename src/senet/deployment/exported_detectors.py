"""Exported files of detectors, called as detectors are, and told from files that classify."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from senet.errors import SenetError

OUTPUTS = ("boxes", "labels", "scores")


class ExportedDetector(nn.Module):
    """An exported file as a detector; it computes on the CPU, wherever it is moved to.

    Args:
        path: of the file.
        run: computes its outputs.
        metadata: of the file.

    Attributes:
        class_names: label k is `class_names[k - 1]`; None if the file names none.
        transform: how the file scales pictures, which it does itself.
    """

    def __init__(self, path: Path, run: Callable[[Tensor], tuple[Tensor, ...]], metadata: Any) -> None:
        super().__init__()
        self.path, self.run_file, self.metadata = path, run, metadata
        try:
            names, scaling = metadata["class_names"], metadata["transform"]
            self.class_names = None if names is None else tuple(map(str, names))
            self.transform = GeneralizedRCNNTransform(
                scaling["min_size"], scaling["max_size"], scaling["image_mean"], scaling["image_std"]
            )
            metadata["input"]["dtype"]
        except (KeyError, TypeError, ValueError) as error:
            raise SenetError(
                f"{path} has metadata that do not state its class names and its scaling; export it again"
            ) from error
        self.eval()

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return boxes, labels and scores of each image (3, H, W) in [0, 1]."""
        return [dict(zip(OUTPUTS, self.found(image), strict=True)) for image in images]

    def found(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what the file finds, on the image's device."""
        given = image.detach().cpu().float()
        if self.metadata["input"]["dtype"] == "uint8":
            given = (255 * given).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        return tuple(each.to(image.device) for each in self.run_file(given))

    def train(self, mode: bool = True) -> Self:
        """Refuse training mode.

        Raises:
            SenetError: `mode`.
        """
        if mode:
            raise SenetError(f"{self.path} is an exported file and cannot be trained; train what it was made from")
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Leave what the file computes where it is."""
        return self

    def __deepcopy__(self, memo: Any) -> "ExportedDetector":
        """Return a detector of the same opened file."""
        return ExportedDetector(self.path, self.run_file, self.metadata)


def is_detector_file(metadata: Any) -> bool:
    """Return whether metadata are of a detector."""
    return bool(metadata.get("task") == "detection")
