"""A teacher: a trained network whose probabilities a run learns too."""

import hashlib
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.data.classes import first_of, missing_from, order_of, places_of
from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.errors import MissingFileError, SenetError, first_line, nearest
from senet.factory import from_pretrained
from senet.nn.precision import Precision
from senet.training.config import TrainConfig
from senet.training.objective import logits_of


class Teacher(nn.Module):
    """A network that is not trained, for images that were prepared for another one.

    It is in evaluation mode, whatever mode is set, and records no gradients.

    Args:
        network: with `preprocessing`, and `class_names` unless it has none.
        source: what it was opened from, for messages.
        student: the preprocessing of the images that it is given.
        image_size: side of these images in pixels.
        class_names: the classes of the network that learns, in their order.
        precision: of the forward pass, not "auto".

    Attributes:
        notes: sentences about what is done to the images, and how classes were matched.

    Raises:
        SenetError: the classes or the numbers of channels differ.
    """

    scale: Tensor
    offset: Tensor
    order: Tensor

    def __init__(
        self,
        network: nn.Module,
        source: str,
        *,
        student: Preprocessing,
        image_size: int,
        class_names: tuple[str, ...],
        precision: Precision,
    ) -> None:
        super().__init__()
        own = preprocessing_of(network)
        if own.in_channels != student.in_channels:
            raise SenetError(
                f"objective.teacher {source} takes images of {own.in_channels} channels, but the run's have "
                f"{student.in_channels}; take a teacher for as many, or set data.preprocessing.mean and std"
            )
        self.network, self.source, self.precision = network.eval().requires_grad_(False), source, precision
        self.image_size, self.interpolation = own.image_size, own.interpolation
        self.notes: list[str] = []
        if self.image_size != image_size:
            self.notes.append(
                f"the teacher {source} sees images of {self.image_size} pixels, as it did in its own training: "
                f"those of {image_size} are resized for it"
            )
        # In double precision, so that the same pixels are rounded once.
        mean, std, its_mean, its_std = (
            torch.tensor(values, dtype=torch.float64) for values in (student.mean, student.std, own.mean, own.std)
        )
        self.renormalized = (student.mean, student.std) != (own.mean, own.std)
        self.register_buffer("scale", (std / its_std).float().view(-1, 1, 1))
        self.register_buffer("offset", ((mean - its_mean) / its_std).float().view(-1, 1, 1))
        order = self.matched(class_names)
        self.reordered = order != list(range(len(order)))
        self.register_buffer("order", torch.tensor(order))

    def matched(self, class_names: tuple[str, ...]) -> list[int]:
        """Return which output of the teacher each class has.

        Raises:
            SenetError: the classes are not the same.
        """
        known: tuple[str, ...] | None = getattr(self.network, "class_names", None)
        if known is None:
            count = int(getattr(self.network, "num_classes", 0))
            if count != len(class_names):
                raise SenetError(
                    f"objective.teacher {self.source} has {count} classes without names, and the data "
                    f"{len(class_names)}; take a teacher of the same classes"
                )
            self.notes.append(
                f"the teacher {self.source} has no class names: its outputs are taken for the {count} classes of the "
                "data in their order"
            )
            return list(range(count))
        if lacking := missing_from(known, class_names):
            raise SenetError(
                f"objective.teacher {self.source} has no class {first_of(lacking)} only the data have; "
                f"the nearest are {nearest(lacking[0], known)}: take a teacher of the same classes"
            )
        order = order_of(class_names, known)
        if order is None:
            places = places_of(class_names, known)
            extra = next(name for place, name in enumerate(known) if place not in places)
            raise SenetError(
                f"objective.teacher {self.source} has {len(known)} classes, {extra!r} among them, and the data "
                f"{len(class_names)}; take a teacher of the same classes"
            )
        return order

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, C, H, W), in the order of the student's classes."""
        if self.renormalized:
            images = images * self.scale + self.offset
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode=self.interpolation, align_corners=False, antialias=True)
        logits = logits_of(self.network, images, self.precision)
        return logits.index_select(1, self.order) if self.reordered else logits

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights, by which a resumed run knows its teacher again."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def check_same(self, digest: str | None) -> None:
        """Raise a SenetError unless the weights are those of a digest."""
        if digest != self.digest:
            raise SenetError(
                f"the weights of objective.teacher {self.source} have changed since the run started; restore them, or "
                "start another run"
            )


def open_teacher(config: TrainConfig, class_names: tuple[str, ...], device: torch.device) -> Teacher | None:
    """Open the teacher of a run; None if it has none.

    Args:
        config: of the run, with the preprocessing of its images.
        class_names: of its data.
        device: of the run.

    Raises:
        SenetError: it cannot be opened, or as `Teacher`.
    """
    source = config.objective.teacher
    if source is None:
        return None
    try:
        network = from_pretrained(source)
    except SenetError as error:
        what = "is not there" if isinstance(error, MissingFileError) else "cannot be opened"
        raise SenetError(
            f"objective.teacher is {source!r}, which {what} ({first_line(error)}); restore it, or start a run with "
            "another teacher"
        ) from error
    teacher = Teacher(
        network,
        source,
        student=config.data.preprocessing,
        image_size=config.data.train_preprocessing.image_size,
        class_names=class_names,
        precision=config.compute.precision,
    )
    return teacher.to(device).to(memory_format=config.compute.memory_format)
