"""What is compared with an original: an opened file, or any function that computes logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from senet.deployment.loading import ExportedModel, load_exported
from senet.evaluation.functions import name_of

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that is compared with its original.

    Args:
        run: normalized images (N, C, H, W) -> logits.
        name: for messages.
        path: of its file; None if it is a function.
        module: its preprocessing and classes; None if it has none.
        precision: that the file states; "fp32" if it is a function.
        feed: makes of such images what the file takes.
        batch: the number of images that the file takes at once; None if it is free.
        size: rows and columns of the images that it takes, where these are not free; None if they are.
    """

    run: Run
    name: str
    path: Path | None
    module: nn.Module | None
    precision: str
    feed: Run
    batch: int | None
    size: tuple[int, int] | None


def candidate_of(exported: Any) -> Candidate:
    """Return what is known of an exported network: a file, what `senet.load_exported` returns, or a function.

    Raises:
        SenetError: the file cannot be opened.
    """
    if isinstance(exported, Candidate):
        return exported
    opened = load_exported(exported) if isinstance(exported, str | Path) else exported
    if isinstance(opened, ExportedModel):
        function = opened.function
        batch, *rest = function.takes["shape"]
        sides = rest[:2] if function.takes["layout"] == "NHWC" else rest[1:]
        return Candidate(
            run=opened,
            name=opened.name,
            path=function.path,
            module=opened,
            precision=opened.metadata["precision"],
            feed=function.given,
            batch=batch if isinstance(batch, int) else None,
            size=tuple(sides) if all(isinstance(side, int) for side in sides) else None,
        )
    return Candidate(
        run=opened,
        name=name_of(opened),
        path=None,
        module=opened if isinstance(opened, nn.Module) and hasattr(opened, "preprocessing") else None,
        precision="fp32",
        feed=lambda images: images,
        batch=None,
        size=None,
    )
