"""The steps of a run: the gradient of this process's shares of a batch, and the change of the weights."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from senet.data.division import Division, Share
from senet.errors import SenetError, needed_for
from senet.nn.synchronized import synchronize
from senet.training.compiling import Call, Steps
from senet.training.draws import WholeDraws
from senet.training.parts import Parts
from senet.training.seeding import STEP_STREAM, seed_everything
from senet.training.state import Position

with needed_for("senet.train"):
    from accelerate import Accelerator

Passes = Callable[[Any, Any, float, bool], Tensor]
"""Adds a share's part of the gradient, see `Stepper.gradient`, and returns its loss."""


class Stepper:
    """Takes the steps of a run.

    Args:
        parts: of the run.
        accelerator: devices and processes.
        division: of the batches among the processes.

    Attributes:
        position: where the run stands.
        frozen: how the steps differ from others, in words.
        grad_norm: of the last step, where the run computes it.
        is_synchronized: whether BatchNorm takes its statistics over several processes.
        say: takes the sentences about compiling.
    """

    def __init__(self, parts: Parts, accelerator: Accelerator, division: Division) -> None:
        self.parts, self.config, self.task = parts, parts.config, parts.task
        self.accelerator, self.division = accelerator, division
        self.position, self.frozen = Position(), ""
        self.grad_norm: Tensor | None = None
        self.say: Callable[[str], None] = lambda sentence: None
        group = group_of_statistics(division, self.config.compute.sync_batch_norm)
        self.is_synchronized = group is not None
        if group is not None:
            synchronize(parts.model, group)
        self.wrap()

    def wrap(self) -> None:
        """Distribute the objective over the processes, and make what does the steps.

        DistributedDataParallel sums the gradients of those parameters that need one when it is made.
        """
        self.wrapped: nn.Module = self.accelerator.prepare_model(self.parts.objective)
        distributed = self.wrapped is not self.parts.objective
        compute = self.config.compute  # to the compiler, a process's shares are batches whose gradients are added up
        compute = replace(compute, accumulate=compute.accumulate * len(self.division.shares))
        if self.division.is_split:  # a compiled step draws its random numbers where `WholeDraws` does not see it
            compute = replace(compute, compile="off")
        self.steps = Steps(self.wrapped, self.accelerator.device, compute, distributed=distributed)
        self.steps.say = self.say

    def thaw(self) -> None:
        """From the first epoch on that trains the trunk, let it have gradients, and give it to the optimizer."""
        changed = self.parts.set_gradients(self.position.epoch)
        if changed and self.wrapped is not self.parts.objective:
            del self.wrapped, self.steps
            self.accelerator.free_memory()  # with it go the hooks by which the old one takes gradients
            self.wrap()

    def seed_step(self, batch: int, replica: int) -> None:
        """Seed everything random with the seed of the run, the epoch, the batch of the epoch and the replica."""
        seed_everything(
            self.config.seed, self.position.epoch, batch, replica, STEP_STREAM, device=self.accelerator.device
        )

    def add_gradient(
        self, batch: int, pieces: Sequence[tuple[Any, Any]], window: int, update: bool, passes: Passes
    ) -> Tensor:
        """Add the gradient of this process's shares of a batch.

        The first share comes last, so that what stays of the statistics of BatchNorm is its, as if it were alone: they
        are those of the first replica that are saved.

        Args:
            batch: of the epoch, from 0.
            pieces: images and targets of each share.
            window: batches of the step.
            update: whether it is the last of them.
            passes: called with images, targets, the number by which the loss is divided, and whether what follows is
                the step.

        Returns:
            The loss; the mean of all processes' is that of the batch.
        """
        shares, of_replica = self.division.shares, self.task.data.train.order.num_of_replica(batch)
        buffers = list(self.parts.model.buffers()) if len(shares) > 1 else []
        before = [buffer.clone() for buffer in buffers]
        losses = []
        for place in reversed(range(len(shares))):
            images, targets = pieces[place]
            weight = self.division.weight(len(images), of_replica)
            self.seed_step(batch, shares[place].replica)
            with self.drawing(shares[place], of_replica):
                loss = passes(images, targets, window / weight, update and not place)
            losses.append(loss if weight == 1 else loss * weight)
            if place and buffers:
                with torch.no_grad():
                    torch._foreach_copy_(buffers, before)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def drawing(self, share: Share, of_replica: int) -> AbstractContextManager[Any]:
        """Return a context in which random numbers are those of a whole replica."""
        if share.parts == 1:
            return nullcontext()
        return WholeDraws(share.places(of_replica, even=self.task.data.train.order.even), of_replica)

    def backward(self, images: Any, targets: Any, window: float, update: bool) -> Tensor:
        """Add a batch's share of the gradient; with `update`, take the step. Returns the batch's loss."""
        loss = self.gradient(images, targets, window, update)
        if update:
            self.take_step()
        return loss

    def gradient(self, images: Any, targets: Any, window: float, update: bool) -> Tensor:
        """Add a batch's share of the gradient, which is that of all processes with `update`.

        Args:
            images: of the batch.
            targets: likewise.
            window: by which the loss is divided for the gradient.
            update: whether the gradient is then complete.

        Returns:
            The loss, not divided.
        """
        images, targets = self.task.prepare(images, targets)

        def passes(call: Call) -> Tensor:
            loss: Tensor = self.task.loss(call, images, targets)
            self.parts.scaler.scale(loss if window == 1 else loss / window).backward()
            return loss.detach()

        with nullcontext() if update else self.accelerator.no_sync(self.wrapped):
            return self.steps.run(passes, images, self.frozen)

    def take_step(self) -> None:
        """Change the weights by the gradient, and their running average."""
        parts = self.parts
        if self.config.optimizer.clip_norm is not None:
            parts.scaler.unscale_(parts.optimizer)
            clip_norm = self.config.optimizer.clip_norm
            self.grad_norm = nn.utils.clip_grad_norm_(parts.model.parameters(), clip_norm)
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        parts.optimizer.zero_grad(set_to_none=True)
        if parts.ema is not None:
            parts.ema.update(self.position.step)


def group_of_statistics(division: Division, together: bool) -> str | None:
    """Return the name of the processes whose images BatchNorm takes its statistics over; None for this one alone.

    The group is one of its own, so that its messages do not meet those of DistributedDataParallel. All processes of a
    run call this.

    Args:
        division: of the batches among the processes.
        together: whether they are the statistics of all images of a batch, `compute.sync_batch_norm`.

    Raises:
        SenetError: they are, and there are fewer processes than the run started with.
    """
    replicas, processes = division.num_replicas, division.num_processes
    if together and processes < replicas:
        raise SenetError(
            f"compute.sync_batch_norm takes statistics over the shares of all {replicas} processes that the run "
            f"started with, which {processes} would compute one after the other; start at least {replicas}"
        )
    groups = [list(range(processes))] if together else [division.members(replica) for replica in range(replicas)]
    if max(map(len, groups)) == 1:
        return None
    for members in groups:  # every process makes every group
        made: Any = dist.new_group(members)
        if division.process in members:
            name: str = made.group_name
    return name
