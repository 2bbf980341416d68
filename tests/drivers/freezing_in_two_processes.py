"""One of two processes that train the head first and then the trunk, for tests/training/test_freezing.py."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from senet.data import loading
from senet.recipes.digits import digits
from senet.training import loop
from senet.training.interrupt import TrainingInterrupted
from senet.training.sections import ComputeConfig, OptimizerConfig, RegularizationConfig

torch.set_num_threads(1)
folder, kind, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
open_split, backward = loading.open_split, loop.Trainer.backward
loading.open_split = lambda data, split: replace(open_split(data, split), size=128 if split == "train" else 37)
compiled = kind.endswith("compiled")
if compiled:  # without Inductor, which would call a C++ compiler
    compile_with = torch.compile
    torch.compile = lambda module, dynamic, mode: compile_with(module, backend="aot_eager", dynamic=dynamic)
trainers, stops = [], {}


def watched(trainer, *args, **options):
    if not trainers and rank == 0:
        torch.save(
            {name: tensor.clone() for name, tensor in trainer.parts.model.state_dict().items()}, folder / "before.pt"
        )
    trainers.append(trainer)
    if rank == 1 and stops.pop((trainer.position.epoch, trainer.position.batch), False):
        os.kill(os.getpid(), signal.SIGTERM)
    return backward(trainer, *args, **options)


loop.Trainer.backward = watched
config = replace(
    digits(),
    epochs=3,
    batch_size=16,
    head_epochs=1,
    optimizer=OptimizerConfig(name="adamw", lr=0.01, layer_decay=0.5),
    compute=ComputeConfig(cpu=True, accumulate=2, compile="on" if compiled else "off"),
    regularization=RegularizationConfig(ema_decay=0.5),
)
loop.train(config, folder / "whole")
torch.save(trainers[-1].parts.model.state_dict(), folder / f"weights{rank}.pt")
for number, moment in enumerate([(0, 2), (1, 2)]):
    stops[moment] = True
    try:
        loop.resume(folder / "parts") if number else loop.train(config, folder / "parts")
    except TrainingInterrupted:
        continue
    raise AssertionError(f"no interruption at {moment}")
loop.resume(folder / "parts")
