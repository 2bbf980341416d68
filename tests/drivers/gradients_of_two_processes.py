"""One of two processes that sum a step's gradients, compressed or not, for tests/training/test_distributed.py."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from senet.data import loading
from senet.recipes.digits import digits
from senet.training import loop
from senet.training.sections import ComputeConfig

torch.set_num_threads(1)
folder, kinds, rank = Path(sys.argv[1]), sys.argv[2:], int(os.environ["RANK"])
open_split, take_step = loading.open_split, loop.Trainer.take_step
register = DistributedDataParallel.register_comm_hook
loading.open_split = lambda data, split: replace(open_split(data, split), size=64 if split == "train" else 4)
own, found = [], {}


def seen(module, state, hook):
    """Keep this process's gradients before they are summed."""

    def keeping(state, bucket):
        for parameter, part in zip(bucket.parameters(), bucket.gradients(), strict=True):  # in the memory's order
            own.append((parameter, part.flatten().as_strided(parameter.shape, parameter.stride()).clone()))
        return hook(state, bucket)

    register(module, state, keeping)


def keep(trainer):
    """Keep the gradients of the first step, summed and this process's."""
    kind = trainer.config.compute.gradient_compression
    model = trainer.parts.model
    if kind not in found:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        found[kind] = {
            "summed": {name: parameter.grad.clone() for name, parameter in model.named_parameters()},
            "own": {names[id(parameter)]: gradient for parameter, gradient in own},
        }
    take_step(trainer)
    found[kind]["weights"] = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


DistributedDataParallel.register_comm_hook, loop.Trainer.take_step = seen, keep
for kind in kinds:
    own.clear()
    compute = ComputeConfig(cpu=True, compile="off", gradient_compression=kind, bucket_mb=1)
    loop.train(replace(digits(), epochs=1, batch_size=16, trackers=(), compute=compute), folder / kind)
torch.save(found, folder / f"gradients{rank}.pt")
