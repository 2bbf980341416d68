"""The evaluation of a network within a run, over all its processes."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

from senet.errors import needed_for
from senet.evaluation.accuracy import Evaluation, score
from senet.nn.precision import Precision
from senet.processes import Team
from senet.training.objective import logits_of

with needed_for("senet.train"):
    from accelerate import Accelerator
    from accelerate.utils import broadcast


def evaluate_in_run(
    kept: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
    team: Team,
    precision: Precision,
) -> Evaluation:
    """Evaluate a network on the images of all processes.

    Args:
        kept: the network.
        batches: of this process.
        accelerator: gives all processes the same statistics.
        team: adds up over processes, and stops this one if another has failed.
        precision: of the forward passes.

    Raises:
        SenetError: images cannot be read, here or in another process.
    """
    share_buffers(kept, accelerator)

    def reduce(totals: Tensor | None) -> Tensor:
        team.agree()  # before this process waits for the sums of one that has failed
        return team.added(totals)

    forward: Callable[[Tensor], Tensor] = partial(logits_of, kept, precision=precision)
    return score(kept, batches, forward=forward, reduce=reduce)


def share_buffers(kept: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the statistics of the main one, which it keeps; each has seen other images."""
    if accelerator.num_processes > 1:
        for buffer in kept.buffers():
            broadcast(buffer)


def summed(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Sum a tensor over all processes."""
    total: Tensor = accelerator.reduce(values, reduction="sum")
    return total


def figures(result: Evaluation) -> dict[str, float]:
    """Return what metrics.jsonl says of an evaluation."""
    return {name: getattr(result, name) for name in ("loss", "top1", "top5", "balanced_accuracy", "macro_f1")}
