"""One of two processes, the second of which hangs in its data until a file is there, for test_stalls.py."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from senet.cli.processes import only_first_prints, stacks_on_request
from senet.data import loading
from senet.data.memory import MemoryLoader
from senet.recipes.digits import digits
from senet.training import loop
from senet.training.sections import ComputeConfig

torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
open_split = loading.open_split
loading.open_split = lambda data, split: replace(open_split(data, split), size=64 if split == "train" else 40)
batches = MemoryLoader.batches


def hanging_batches(loader, *arguments):
    for batch in batches(loader, *arguments):
        while rank == 1 and loader.augmentation is not None and not (folder / "go").exists():
            time.sleep(0.05)
        yield batch


MemoryLoader.batches = hanging_batches
compute = ComputeConfig(cpu=True, compile="off")
config = replace(digits(), epochs=1, batch_size=16, trackers=(), compute=compute, stall_minutes=3 / 60)
stacks_on_request()
with only_first_prints():
    loop.train(config, folder / "run")
