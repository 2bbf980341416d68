"""Compiling the steps of a run: where it is done, what is said of it, and going on without it where it fails."""

import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from senet.configs import Switch
from senet.errors import SenetError
from senet.training.sections import ComputeConfig

Call = Callable[[Tensor, Tensor], Tensor]
"""Images and targets to the loss."""

NUM_COMPILATIONS = 256
"""PyTorch's limit of 8 is for one function, which here is that of all runs of a process, such as `senet ablate`'s."""


def is_compiled(switch: Switch, device: torch.device) -> tuple[bool, str]:
    """Return whether the steps of a run are compiled, and a sentence if they are not though they should be.

    "auto" compiles on CUDA alone. On the CPU even a small network takes half a minute to compile, and gains a tenth.

    Args:
        switch: `compute.compile`.
        device: of the run.
    """
    if switch != "auto" or device.type != "cuda":
        return switch == "on", ""
    if find_spec("triton") is None:
        return False, "triton is not installed, so steps are not compiled and small networks take several times as long"
    return True, ""


def has_graphs(device: torch.device, *, accumulate: int, distributed: bool) -> bool:
    """Return whether compiled steps are recorded as CUDA graphs, which take the host's work out of them.

    Not with accumulated gradients, which PyTorch sums in memory that the next replay overwrites; not in
    DistributedDataParallel, where they crash; not on AMD's GPUs, where networks learn less.

    Args:
        device: of the run.
        accumulate: batches of a step.
        distributed: whether DistributedDataParallel holds the network.

    Source: github.com/pytorch/pytorch, issues 96693, 169545, 128218 and 187715.
    """
    return device.type == "cuda" and torch.version.hip is None and accumulate == 1 and not distributed


class Steps:
    """Does the forward and the backward pass of every step, compiled or not; not any more once compiling has failed.

    PyTorch compiles for each size of batch, of which a run has one or two (see `BatchOrder`), and once more when
    BatchNorm is frozen. Evaluation is not compiled: it has no backward pass and mostly fewer images, and would need two
    more compilations, one for its last batch.

    Random numbers stay a function of (seed, epoch, step): compiled code takes them from the device's generator too, and
    a CUDA graph reads the generator's seed and position at each replay.

    Args:
        objective: images and targets to the loss, perhaps in DistributedDataParallel.
        device: of the run.
        compute: its settings; with `compile` "on", failing is an error.
        distributed: whether it is in DistributedDataParallel.

    Attributes:
        note: a sentence to say before the run, if any.
        say: takes the sentences about compiling.
        seconds: spent on compiling so far.
    """

    def __init__(
        self, objective: nn.Module, device: torch.device, compute: ComputeConfig, *, distributed: bool
    ) -> None:
        self.objective, self.device, self.required = objective, device, compute.compile == "on"
        self.compiled, self.note = is_compiled(compute.compile, device)
        self.graphs = self.compiled and has_graphs(device, accumulate=compute.accumulate, distributed=distributed)
        self.call: Call = objective
        self.say: Callable[[str], None] = lambda sentence: None
        self.seconds = 0.0
        self.num_first = 2 if self.graphs else 1  # the second call records the graphs
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def run(self, passes: Callable[[Call], Tensor], images: Tensor, kind: str = "") -> Tensor:
        """Return the loss of a batch.

        Args:
            passes: does both passes with what it is given for the objective, and returns the loss.
            images: of the batch.
            kind: how the step differs from others, in words.

        Raises:
            SenetError: compiling fails though it is required.
        """
        if not self.compiled:
            return passes(self.objective)
        key = (images.shape, kind)
        if self.calls[key] < self.num_first:
            return self.run_first(passes, key)
        return self.run_compiled(passes)

    def run_compiled(self, passes: Callable[[Call], Tensor]) -> Tensor:
        """Return the loss of a batch, from compiled passes; in memory of its own, for graphs overwrite theirs."""
        if not self.graphs:
            return passes(self.call)
        torch.compiler.cudagraph_mark_step_begin()
        return passes(self.call).clone()

    def run_first(self, passes: Callable[[Call], Tensor], key: tuple[Any, ...]) -> Tensor:
        """Return the loss of a batch of a size that is new; say how long it took, or go on without compiling."""
        is_first_of_all = not self.calls
        if is_first_of_all:
            self.say("compiling the steps, once for each size of batch; compute.compile off does without")
        before, failure, started = Before(self.objective, self.device), "", time.perf_counter()
        try:
            if is_first_of_all:
                mode = "reduce-overhead" if self.graphs else "default"
                self.call = torch.compile(self.objective, dynamic=False, mode=mode)
            with torch._dynamo.config.patch(recompile_limit=NUM_COMPILATIONS):
                loss = self.run_compiled(passes)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except SenetError:
            raise
        except Exception as error:  # PyTorch's compilers', Triton's, a C++ compiler's, CUDA's
            failure = reason(error)
            if self.required:
                raise SenetError(
                    f"compute.compile is on, but the network cannot be compiled ({failure}); set it to auto or off"
                ) from error
        self.calls[key] += 1
        self.seconds += time.perf_counter() - started
        if failure:  # only now, for a traceback keeps the memory of the failed step while its error is handled
            self.compiled = False
            self.say(f"the network cannot be compiled ({failure}), so its steps run uncompiled and take longer")
            before.restore()
            return passes(self.objective)
        if self.calls[key] == self.num_first:
            self.say(f"compiled{key[1]} for batches of {key[0][0]}, {self.seconds:.0f} s in all")
        return loss


class Before:
    """What a failed step may have changed: statistics, gradients, random numbers.

    Args:
        module: its buffers and the gradients of its parameters are kept.
        device: whose generator is kept, besides the CPU's.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.device = device
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        self.gradients = [(p, None if p.grad is None else p.grad.clone()) for p in module.parameters()]
        self.random = torch.get_rng_state()
        self.random_on_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        for buffer, values in self.buffers:
            buffer.copy_(values)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        torch.set_rng_state(self.random)
        if self.random_on_cuda is not None:
            torch.cuda.set_rng_state(self.random_on_cuda, self.device)


def reason(error: Exception) -> str:
    """Return what went wrong on one line: the kind of error, and the first line of its message that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    said = next((line for line in lines if line and not line.endswith("raised:")), "")
    return f"{type(error).__name__}: {said[:150]}" if said else type(error).__name__
