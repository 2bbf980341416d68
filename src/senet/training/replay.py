"""Why a loss or weights are not finite: the run's last steps done again, and the first bad batch layer by layer.

A run keeps in memory what it was some seconds ago. When something is not finite, all its processes go back to that
together, do the same steps again, this time with a look at each, and so come to the batch and the layer where it began,
also if the run itself looks at its losses only now and then, and computes them compiled and fused.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from senet.data.folders import listed
from senet.errors import NotFiniteError, SenetError, counted, first_line
from senet.files import write_json
from senet.processes import Team
from senet.training.finite import is_finite
from senet.training.layerwise import Fault, Layerwise, named_ranges
from senet.training.parts import Parts
from senet.training.state import Position

EVERY_S = 30.0
"""How old what is kept may become: copying it takes as long as a fraction of a step, doing 30 s again not for ever."""
REPORT_FILE = "not_finite.json"
FP16_MAX = 65504.0


class Run(Protocol):
    """What of a run in progress is needed to do steps again, see `senet.training.trainer.Trainer`."""

    parts: Parts
    team: Team
    position: Position
    config: Any
    task: Any
    data: Any
    length: Any
    steps: Any
    accelerator: Any
    run_folder: Any
    say: Any

    division: Any
    is_synchronized: bool

    def seed_step(self, batch: int, replica: int) -> None:
        """Seed everything random."""

    def add_gradient(self, batch: int, pieces: Any, window: int, update: bool, passes: Any) -> Tensor:
        """Add the gradient of this process's shares of a batch, and return its loss."""

    def gradient(self, images: Any, targets: Any, window: float, update: bool) -> Tensor:
        """Add a share's part of the gradient, and return its loss."""

    def take_step(self) -> None:
        """Change the weights."""


class Past:
    """What a run was some seconds ago: weights, statistics, the optimizer's state, and where it stood.

    It takes as much memory as these, on their device: of a ResNet-50 with SGD 0.2 GB.
    """

    def __init__(self) -> None:
        self.taken = -EVERY_S
        self.state: dict[str, Any] = {}
        self.position: Any = None

    def is_old(self) -> bool:
        """Return whether it is time to keep what the run is now."""
        return time.monotonic() - self.taken >= EVERY_S

    def keep(self, trainer: Run) -> None:
        """Keep what the run is between two steps, all of it finite."""
        parts = trainer.parts
        self.state = {}  # before the next is made: two of them would take twice the memory
        state = {"model": parts.model, "optimizer": parts.stateful["optimizer"], "scaler": parts.scaler}
        self.state = {name: copy.deepcopy(part.state_dict()) for name, part in state.items()}
        self.position, self.taken = copy.copy(trainer.position), time.monotonic()

    def restore(self, trainer: Run) -> None:
        """Make the run what it was."""
        parts = trainer.parts
        parts.model.load_state_dict(self.state["model"])
        parts.stateful["optimizer"].load_state_dict(copy.deepcopy(self.state["optimizer"]))
        parts.scaler.load_state_dict(self.state["scaler"])
        parts.optimizer.zero_grad(set_to_none=True)
        trainer.position = copy.copy(self.position)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Where values that are not finite began.

    Args:
        fault: the layer; None if the same steps were finite the second time.
        epoch: from 1.
        batch: of the epoch, from 1.
        num_images: of the batch in this process.
        images: the names of those that it is so for; empty if that cannot be told.
        process: from 0.
        problem: why the layer is not known, as the end of a sentence; empty if it is.
    """

    fault: Fault | None
    epoch: int = 0
    batch: int = 0
    num_images: int = 0
    images: Sequence[str] = ()
    process: int = 0
    problem: str = ""

    def in_words(self) -> str:
        """Return the cause as a sentence without its end."""
        if self.fault is None:
            return self.problem or "the same steps, done again, were finite"
        fault, values = self.fault, self.fault.values
        whose = "" if not self.images else f" for {self.of_images()}"
        when = f"in batch {self.batch} of epoch {self.epoch}"
        if fault.where in ("images", "targets"):
            return f"{when} the {fault.where} are not finite before the first layer{whose}"
        if fault.where == "loss":
            return f"{when} the loss is the first that is not finite, and the values of all layers are{whose}"
        layer = f"{fault.layer or 'the network itself, outside of its layers,'} ({fault.kind})"
        if fault.where == "step":
            return f"{when} the step, by finite gradients, makes {layer} not finite; {ranges(values)}"
        which = "gives values" if fault.where == "forward" else "is the first whose backward pass gives gradients"
        return f"{when} {layer} {which} that are not finite{whose}; {ranges(values)}"

    def of_images(self) -> str:
        """Return how many images it is so for, and the first of them."""
        if len(self.images) == self.num_images > 1:
            return f"all {self.num_images} images"
        return f"{len(self.images)} of {counted(self.num_images, 'image')} ({listed(list(self.images))})"

    def remedy(self) -> str:
        """Return what helps."""
        fault = self.fault
        if fault is None or fault.where in ("backward", "step"):
            return "lower optimizer.lr, set optimizer.clip_norm or use fp32"
        if fault.where == "images":
            return "look at these images and at data.preprocessing.std, which they are divided by"
        if fault.where in ("targets", "loss"):
            return "look at the labels of these images and at objective"
        output = fault.values.get("output")
        if output is not None and output.dtype == "float16":
            return f"float16 ends at {FP16_MAX:,.0f}: set compute.precision to bf16 or fp32"
        return "lower optimizer.lr, set optimizer.clip_norm or use fp32"


def ranges(values: Any) -> str:
    """Return ranges for a sentence, each with what it is of."""
    return ", ".join(f"{name} {each.in_words()}" for name, each in values.items())


def names_of(loader: Any, epoch: int, batch: int, rows: Sequence[int], share: int = 0) -> list[str]:
    """Return the names of images of a batch, or their numbers where the loader knows no names.

    Args:
        loader: of the training images.
        epoch: from 0.
        batch: from 0.
        rows: their places in this process's share of the batch.
        share: which of its shares, from 0.
    """
    indices = next(islice(loader.order.batches(epoch, batch), share, None), None)
    name = getattr(loader, "name", None)
    if indices is None:
        return []
    return [
        str(name(int(indices[row]))) if name else f"image {int(indices[row])}" for row in rows if row < len(indices)
    ]


def find_cause(trainer: Run, past: Past) -> Cause:
    """Do a run's last steps again, and return where values that are not finite began, the same in all processes.

    Afterwards the run is good for nothing but its folder.

    Args:
        trainer: of the run; all its processes call this.
        past: what the run was before.
    """
    if past.position is None:
        return Cause(fault=None, problem="the layer is not known, for there is nothing to go back to")
    past.restore(trainer)
    since = f"batch {trainer.position.batch + 1} of epoch {trainer.position.epoch + 1}"
    trainer.say(f"something is not finite; the steps from {since} on are done again to see in which layer it begins")
    team = trainer.team
    try:
        own = replayed(trainer)
    except SenetError as error:  # of this process's images, or of another process
        own = Cause(
            fault=None, problem=f"the layer is not known, for the steps cannot be done again ({first_line(error)})"
        )
    every: list[Cause] = team.gathered(own)
    found = [cause for cause in every if cause.fault is not None and cause.fault.where not in ("backward", "step")]
    return next(iter(found or [cause for cause in every if cause.fault is not None] or every))


def replayed(trainer: Run) -> Cause:
    """Do the steps of an epoch again from where it stands, until one is not finite in any process."""
    position, accumulate = trainer.position, trainer.config.compute.accumulate
    epoch, num_batches = position.epoch, trainer.length.batches_of(position.epoch)
    batches, number = trainer.data.train.batches(epoch, position.batch), len(trainer.division.shares)
    for first in range(position.batch, num_batches, accumulate):
        pieces = read_together(trainer.team, batches, accumulate * number)
        window = len(pieces) // number
        trainer.parts.schedule.set_lr(epoch + first / trainer.length.num_batches, position.step)
        before = copied_buffers(trainer)
        for batch in range(first, first + window):
            is_last, of_batch = batch + 1 == first + window, pieces[(batch - first) * number :][:number]
            loss = trainer.add_gradient(batch, of_batch, window, is_last, trainer.gradient)
            if trainer.team.agree(not bool(loss.isfinite()) or (is_last and not gradients_are_finite(trainer))):
                restore_buffers(trainer, before)
                return looked_at(trainer, batch, of_batch)
        position.step += 1
        trainer.take_step()
        if trainer.team.agree(not is_finite(trainer.parts.model)):
            return Cause(fault=of_step(trainer), **where(trainer, first + window - 1))
    return Cause(fault=None)


def read_together(team: Team, batches: Iterator[Any], count: int) -> list[Any]:
    """Return the next batches.

    Raises:
        SenetError: they cannot be read, here or in another process.
    """
    window, error = [], None
    try:
        window = list(islice(batches, count))
    except SenetError as failed:
        error = failed
    if team.agree(error is not None):
        raise error or SenetError("another process cannot read its images")
    return window


def gradients_are_finite(trainer: Run) -> bool:
    """Return whether all gradients are finite; with fp16, whose scaler leaves out the steps of others, always."""
    if trainer.parts.scaler.is_enabled():
        return True
    gradients = [p.grad for p in trainer.parts.model.parameters() if p.grad is not None]
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())


def copied_buffers(trainer: Run) -> list[torch.Tensor]:
    """Return copies of the statistics of a network."""
    return [buffer.clone() for buffer in trainer.parts.model.buffers()]


@torch.no_grad()
def restore_buffers(trainer: Run, copies: Sequence[torch.Tensor]) -> None:
    """Give a network its statistics back."""
    for buffer, values in zip(trainer.parts.model.buffers(), copies, strict=True):
        buffer.copy_(values)


def where(trainer: Run, batch: int) -> dict[str, Any]:
    """Return where a step is, as a `Cause` says it."""
    return {"epoch": trainer.position.epoch + 1, "batch": batch + 1, "process": trainer.accelerator.process_index}


def looked_at(trainer: Run, batch: int, pieces: Sequence[tuple[Any, Any]]) -> Cause:
    """Return the cause that one batch shows, layer by layer: the first of this process's shares that shows one.

    Args:
        trainer: of the run, as it was before the batch.
        batch: of the epoch, from 0.
        pieces: images and targets of each share, as the loader gives them.
    """
    if trainer.is_synchronized:  # a process that finds it would leave the others waiting
        problem = "the layer is not known, for BatchNorm takes its statistics over several processes"
        return Cause(fault=None, problem=problem, **where(trainer, batch))
    for share in range(len(pieces)):
        cause = looked_at_share(trainer, batch, share, pieces[share])
        if cause.fault is not None:
            break
    return cause


def looked_at_share(trainer: Run, batch: int, share: int, data: tuple[Any, Any]) -> Cause:
    """Return the cause that one share of a batch shows; `data` are its images and targets."""
    objective, num_images = trainer.parts.objective, len(data[0])
    prefix: str = next((f"{name}." for name, module in objective.named_modules() if module is trainer.parts.model), "")
    trainer.parts.optimizer.zero_grad(set_to_none=True)
    trainer.seed_step(batch, trainer.division.shares[share].replica)
    images, targets = trainer.task.prepare(*data)
    try:
        fault = Layerwise(objective, prefix).first_fault(
            lambda call: trainer.task.loss(call, images, targets),
            num_images,
            backward=not trainer.parts.scaler.is_enabled(),
        )
    except Exception as error:  # such as a lack of memory; the others must not wait for this process
        return Cause(fault=None, problem=f"the layer is not known ({first_line(error)})", **where(trainer, batch))
    names = names_of(trainer.data.train, trainer.position.epoch, batch, fault.rows if fault else (), share)
    what = "fused or compiled" if trainer.steps.compiled else "fused"
    problem = "" if fault else f"layer by layer the same batch is finite: it is not where layers run {what}"
    return Cause(fault=fault, num_images=num_images, images=names, problem=problem, **where(trainer, batch))


def of_step(trainer: Run) -> Fault | None:
    """Return the first weights that a step has made not finite; None if this process has none."""
    for name, values in trainer.parts.model.state_dict().items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            layer, _, kind = name.rpartition(".")
            return Fault(where="step", layer=layer, kind=kind, values=named_ranges(values=values))
    return None


def stop_not_finite(trainer: Run, past: Past, error: NotFiniteError | None) -> NoReturn:
    """Find the layer at which values stop being finite, write it down, and stop; all processes together.

    Args:
        trainer: of the run.
        past: what the run was before.
        error: that of this process; None if it is another's.

    Raises:
        NotFiniteError: always.
    """
    what = trainer.team.message(str(error or ""))
    cause, folder = find_cause(trainer, past), trainer.run_folder.path
    message = f"{what}; {cause.in_words()}; {folder} keeps the last good state: {cause.remedy()}"
    trainer.team.failed = True  # which all know
    if trainer.accelerator.is_main_process:
        with trainer.run_folder.writing():
            write_json(folder / REPORT_FILE, {"message": message, **asdict(replace(cause, images=list(cause.images)))})
    raise NotFiniteError(message)
