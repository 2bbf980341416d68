"""One of two processes, the second of which gets an image that is not finite, for tests/training/test_not_finite.py."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from senet.data import loading
from senet.errors import NotFiniteError
from senet.recipes.digits import digits
from senet.training import classification, loop
from senet.training.sections import ComputeConfig

torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
open_split = loading.open_split
loading.open_split = lambda data, split: replace(open_split(data, split), size=128 if split == "train" else 40)
prepare, seen = classification.Classification.prepare, []


def spoiled(task, images, targets):
    seen.append(len(images))
    if rank == 1 and len(seen) >= 6:
        images[0, 0, 0, 0] = float("nan")
    return prepare(task, images, targets)


classification.Classification.prepare = spoiled
config = replace(digits(), epochs=2, batch_size=16, trackers=(), compute=ComputeConfig(cpu=True, compile="off"))
try:
    loop.train(config, folder / "run")
except NotFiniteError as error:
    (folder / f"said{rank}").write_text(str(error))
