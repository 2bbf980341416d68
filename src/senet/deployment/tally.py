"""What two networks compute for the same pictures, summed up batch by batch."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from senet.deployment.agreement import Difference, PairedAccuracy
from senet.deployment.pictures import Pictures
from senet.errors import SenetError

DISAGREEMENTS = 24
"""Of which the JSON and the page tell."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image of which the two networks predict different classes.

    Args:
        index: its number in the data.
        image: its file, or number.
        class_name: its class; None if it is not known.
        original: the class that the original predicts.
        original_probability: of that class, 0 to 1.
        exported: the class that the exported network predicts.
        exported_probability: of that class, 0 to 1.
    """

    index: int
    image: str
    class_name: str | None
    original: str
    original_probability: float
    exported: str
    exported_probability: float


class Tally:
    """Sums over batches of what two networks compute.

    Args:
        pictures: that they see.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.num_images = self.agreeing = self.num_logits = 0
        self.largest = self.total = self.scale = 0.0
        self.rounding: float | None = None
        self.right = {(own, other): 0 for own in (True, False) for other in (True, False)}
        self.found: list[Disagreement] = []

    def add(self, original: Tensor, exported: Tensor, labels: Tensor) -> None:
        """Add the logits (N, classes) of both for a batch, and its labels (N,).

        Raises:
            SenetError: the networks have different numbers of classes.
        """
        original = original.float().cpu()
        if original.shape != exported.shape:
            raise SenetError(
                f"the exported network returns {tuple(exported.shape)} and the original {tuple(original.shape)}; "
                "expected the logits of the same classes"
            )
        apart = (original - exported).abs().double()
        largest = float(apart.max())
        self.largest = largest if math.isnan(largest) else max(self.largest, largest)
        self.total += float(apart.sum())
        self.num_logits += apart.numel()
        self.scale = max(self.scale, float(original.abs().max()))
        own, other = original.argmax(1), exported.argmax(1)
        self.agreeing += int((own == other).sum())
        for is_right, other_is in zip((own == labels).tolist(), (other == labels).tolist(), strict=True):
            self.right[is_right, other_is] += 1
        for i in (own != other).nonzero().flatten().tolist():
            self.disagree(i, original[i].softmax(0), exported[i].softmax(0), int(labels[i]))
        self.num_images += len(labels)

    def disagree(self, i: int, original: Tensor, exported: Tensor, label: int) -> None:
        """Note an image, number i of the batch, whose probabilities (classes,) have different maxima."""
        own, other = int(original.argmax()), int(exported.argmax())
        place = self.num_images + i
        self.found.append(
            Disagreement(
                index=self.pictures.index(place),
                image=self.pictures.name(place),
                class_name=None if self.pictures.unscored else self.class_name(label),
                original=self.class_name(own),
                original_probability=float(original[own]),
                exported=self.class_name(other),
                exported_probability=float(exported[other]),
            )
        )

    def class_name(self, number: int) -> str:
        """Return the name of a class; its number if it has none."""
        names = self.pictures.class_names
        return names[number] if number < len(names) else str(number)

    def figures(self) -> dict[str, Any]:
        """Return the fields of a `ParityReport` that tell of the pictures, or are sums over them."""
        return {
            "source": self.pictures.source,
            "num_images": self.num_images,
            "unscored": self.pictures.unscored,
            "difference": self.difference,
            "agreeing": self.agreeing,
            "accuracy": self.accuracy,
            "disagreements": self.most_surprising,
            "images": self.pictures.images,
            "preprocessing": self.pictures.preprocessing,
        }

    @property
    def difference(self) -> Difference:
        """The difference of the logits."""
        return Difference(
            largest=self.largest, mean=self.total / self.num_logits, scale=self.scale, rounding=self.rounding
        )

    @property
    def accuracy(self) -> PairedAccuracy | None:
        """The accuracy of both, if the pictures have labels."""
        if self.pictures.unscored:
            return None
        return PairedAccuracy(
            num_images=self.num_images,
            both_right=self.right[True, True],
            only_original_right=self.right[True, False],
            only_exported_right=self.right[False, True],
        )

    @property
    def most_surprising(self) -> tuple[Disagreement, ...]:
        """The images of which the networks disagree although they are surest."""
        ordered = sorted(self.found, key=lambda each: -each.original_probability - each.exported_probability)
        return tuple(ordered[:DISAGREEMENTS])
