"""What is compared with an original: an opened file, or any function that computes logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from senet.evaluation.functions import name_of

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that is compared with its original.

    Args:
        run: normalized images (N, C, H, W) -> logits.
        name: for messages.
        path: of its file; None if it is a function.
        feed: makes of such images what the file takes.
        batch: the number of images that the file takes at once; None if it is free.
    """

    run: Run
    name: str
    path: Path | None
    feed: Run
    batch: int | None


def candidate_of(exported: Any) -> Candidate:
    """Return what is known of an exported network, from `senet.load_exported` or a function."""
    function = getattr(exported, "function", None)
    path, takes = getattr(function, "path", None), getattr(function, "takes", None)
    batch = takes["shape"][0] if takes else None
    return Candidate(
        run=exported,
        name=str(path) if path is not None else name_of(exported),
        path=path,
        feed=getattr(function, "given", lambda images: images),
        batch=batch if isinstance(batch, int) else None,
    )
