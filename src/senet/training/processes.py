"""The accelerator of a run: its device and, under torchrun, the processes that train it together."""

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from senet.errors import SenetError, first_line, needed_for
from senet.launch import by_torchrun, check_rank, num_started
from senet.nn.precision import check_precision
from senet.processes import be_patient, in_process_group, join_process_group, leave_process_group
from senet.training.sections import ComputeConfig, GradientCompression

with needed_for("senet.train"):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs

TOLD_BY_LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""The environment by which Accelerate knows that there are several processes."""
HOOKS: Mapping[GradientCompression, DDPCommunicationHookType] = {
    "none": DDPCommunicationHookType.NO,
    "bf16": DDPCommunicationHookType.BF16,
    "fp16": DDPCommunicationHookType.FP16,
}
"""What PyTorch calls with the gradients that are to be summed."""


def build_accelerator(compute: ComputeConfig) -> Accelerator:
    """Find the devices and, under torchrun or `accelerate launch`, the other processes.

    Gradients are summed in memory of their own (`gradient_as_bucket_view`): else they would be copied back.

    Raises:
        SenetError: the other processes cannot be joined.
    """
    AcceleratorState._reset_state()  # a process may train several times, on different devices
    check_rank()
    if num_started() > 1 and by_torchrun():
        join_process_group()  # which Accelerate would do in a store that is not empty after a restart
    found = in_process_group()
    cpu = compute.cpu or not torch.accelerator.is_available()  # Accelerate joins processes on the CPU only on request
    sums = DistributedDataParallelKwargs(
        bucket_cap_mb=compute.bucket_mb,
        gradient_as_bucket_view=True,
        comm_hook=HOOKS[compute.gradient_compression],
    )
    before = announced()
    try:
        accelerator = Accelerator(cpu=cpu, kwargs_handlers=[sums])
    except (RuntimeError, ValueError, ImportError) as error:
        AcceleratorState._reset_state(reset_partial_state=True)  # which is half made
        for name in {*announced()} - {*before}:  # Accelerate has set them
            del os.environ[name]
        raise SenetError(
            f"the processes that the environment announces cannot be joined ({first_line(error)}); start them by "
            f"torchrun or `accelerate launch`, or unset {', '.join(before) or 'what announces them'}"
        ) from error
    if in_process_group() and not found:
        be_patient()
        atexit.register(leave_process_group)
    check_precision("compute.precision", compute.precision, accelerator.device)
    return accelerator


def announced() -> list[str]:
    """Return the variables of the environment by which a launcher announces processes."""
    return [
        name for name in os.environ if name in TOLD_BY_LAUNCHERS or name.startswith(("ACCELERATE_", "PMI_", "OMPI_"))
    ]


def check_shared(compute: ComputeConfig, num_processes: int) -> None:
    """Raise a SenetError for an option of the gradients' sum that has no effect, for there is one process."""
    for name in ("gradient_compression", "bucket_mb"):
        if num_processes == 1 and getattr(compute, name) != getattr(ComputeConfig, name):
            raise SenetError(
                f"compute.{name} has no effect on a run of one process, which sums its gradients with nobody; leave it "
                "out, or start several by torchrun"
            )


@contextmanager
def training_alone() -> Iterator[None]:
    """Let runs inside be trained by this process alone, on its own GPU if it has taken one."""
    told = {name: os.environ.pop(name) for name in TOLD_BY_LAUNCHERS if name in os.environ}
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        os.environ.update(told)
        AcceleratorState._reset_state(reset_partial_state=True)
