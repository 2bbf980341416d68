"""One of two processes that train together, are sent signals and go on, for tests/training/test_distributed.py."""

import atexit
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from senet.data import loading
from senet.recipes.digits import digits
from senet.training import loop, scoring
from senet.training.interrupt import TrainingInterrupted
from senet.training.sections import ComputeConfig, RegularizationConfig

torch.set_num_threads(1)
folder, num_eval, rank = Path(sys.argv[1]), int(sys.argv[2]), int(os.environ["RANK"])
# What is registered first runs last.
atexit.register(lambda: (folder / f"joined{rank}").write_text(str(torch.distributed.is_initialized())))
open_split, score, backward = loading.open_split, scoring.score, loop.Trainer.backward
loading.open_split = lambda data, split: replace(open_split(data, split), size=128 if split == "train" else num_eval)
counts, trainers, signals = [], [], {}


def counting_score(*args, **options):
    if rank == 1 and signals.pop("evaluation", False):
        os.kill(os.getpid(), signal.SIGTERM)
    result = score(*args, **options)
    counts.append(result.num_images)
    return result


def interrupted_backward(trainer, *args, **options):
    trainers.append(trainer)
    if rank == 1 and trainer.position.epoch == 1 and signals.pop("backward", False):
        os.kill(os.getpid(), signal.SIGTERM)
    return backward(trainer, *args, **options)


scoring.score, loop.Trainer.backward = counting_score, interrupted_backward
compiled = sys.argv[3:] == ["compiled"]
compression = "bf16" if sys.argv[3:] == ["bf16"] else "none"
if compiled:  # without Inductor, which would call a C++ compiler
    compile_with = torch.compile
    torch.compile = lambda module, dynamic, mode: compile_with(module, backend="aot_eager", dynamic=dynamic)
config = replace(
    digits(),
    epochs=2,
    batch_size=16,
    compute=ComputeConfig(
        cpu=torch.cuda.is_available(),
        accumulate=2,
        compile="on" if compiled else "off",
        gradient_compression=compression,
    ),
    regularization=RegularizationConfig(ema_decay=0.5),
)
loop.train(config, folder / "whole")
trainer = trainers[-1]
torch.save([trainer.parts.model.state_dict(), trainer.parts.ema.module.state_dict()], folder / f"weights{rank}.pt")

said = []
for moment in ("evaluation", "backward"):
    signals[moment] = True
    try:
        loop.resume(folder / "parts") if said else loop.train(config, folder / "parts")
    except TrainingInterrupted as stopped:
        said.append(str(stopped))
    signals.clear()
loop.resume(folder / "parts")
(folder / f"told{rank}.json").write_text(json.dumps([counts, said]))
