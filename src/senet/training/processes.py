"""The processes of a run that torchrun starts: an error in one is an error in all."""

import atexit
from typing import Any

import torch
import torch.distributed as dist

from senet.errors import SenetError, needed_for
from senet.nn.precision import check_precision
from senet.training.sections import ComputeConfig

with needed_for("senet.train"):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

FAILED = 2
"""What a failed process sends to the others in place of a value, which is at most 1."""


def in_process_group() -> bool:
    """Whether this process trains with others."""
    return dist.is_available() and dist.is_initialized()


def leave_process_group() -> None:
    """Leave the group; otherwise its background threads may abort this process when it exits."""
    if in_process_group():
        dist.destroy_process_group()


def build_accelerator(compute: ComputeConfig) -> Accelerator:
    """Find the devices and, under torchrun or `accelerate launch`, the other processes."""
    AcceleratorState._reset_state()  # a process may train several times, on different devices
    found = in_process_group()
    cpu = compute.cpu or not torch.accelerator.is_available()  # Accelerate joins processes on the CPU only on request
    accelerator = Accelerator(cpu=cpu)
    if in_process_group() and not found:
        atexit.register(leave_process_group)
    check_precision("compute.precision", compute.precision, accelerator.device)
    return accelerator


class Team:
    """Messages between the processes of a run besides their gradients, through Gloo on the CPU.

    All processes call `agree` at the same places, so that a failed process stops the others there instead of
    leaving them waiting.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.group: Any = dist.new_group(backend="gloo") if size > 1 else None
        self.failed = False

    def agree(self, flag: bool = False) -> bool:
        """Return whether the flag is set in any process.

        Raises:
            SenetError: another process has failed; the message is that process's.
        """
        if self.group is None:
            return flag
        return self.largest(float(flag)) > 0

    def least(self, value: float) -> float:
        """Return the smallest value of all processes.

        Args:
            value: not negative.

        Raises:
            SenetError: another process has failed; the message is that process's.
        """
        return value if self.group is None else -self.largest(-value)

    def each(self, value: float) -> list[float]:
        """Return the value of every process, that of process i at place i."""
        found = [torch.tensor(value, dtype=torch.float64) for _ in range(self.size)]
        if self.group is not None:
            dist.all_gather(found, found[0].clone(), group=self.group)
        return [float(each) for each in found]

    def largest(self, value: float) -> float:
        """Return the largest value of all processes, or raise the error of one that has failed."""
        largest = self.exchange(value)
        if largest == FAILED:
            self.failed = True
            raise SenetError(self.message(""))
        return largest

    def fail(self, error: SenetError) -> None:
        """Report this process's failure to the others, unless another failure has been reported."""
        if self.group is not None and not self.failed:
            self.failed = True
            self.exchange(FAILED)
            self.message(str(error))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.group is not None:
            dist.barrier(self.group)

    def exchange(self, value: float) -> float:
        """Return the largest value of all processes."""
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return float(largest)

    def message(self, own: str) -> str:
        """Return the first message of all processes."""
        return next(filter(None, self.gathered(own)), "")

    def gathered(self, own: Any) -> list[Any]:
        """Return what every process has, that of process i at place i."""
        found: list[Any] = [own] * self.size
        if self.group is not None:
            dist.all_gather_object(found, own, group=self.group)
        return found
