"""The accelerator of a run: its device and, under torchrun, the processes that train it together."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from senet.errors import needed_for
from senet.launch import num_started
from senet.nn.precision import check_precision
from senet.processes import in_process_group, join_process_group, leave_process_group
from senet.training.sections import ComputeConfig

with needed_for("senet.train"):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

TOLD_BY_LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""The environment by which Accelerate knows that there are several processes."""


def build_accelerator(compute: ComputeConfig) -> Accelerator:
    """Find the devices and, under torchrun or `accelerate launch`, the other processes."""
    AcceleratorState._reset_state()  # a process may train several times, on different devices
    if num_started() > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        join_process_group()  # which Accelerate would do in a store that is not empty after a restart
    found = in_process_group()
    cpu = compute.cpu or not torch.accelerator.is_available()  # Accelerate joins processes on the CPU only on request
    accelerator = Accelerator(cpu=cpu)
    if in_process_group() and not found:
        atexit.register(leave_process_group)
    check_precision("compute.precision", compute.precision, accelerator.device)
    return accelerator


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
