"""A training run that the test kills, for tests/training/test_resume.py."""

import sys
from dataclasses import replace

import torch

import senet
from senet.data import loading
from senet.recipes.digits import digits
from senet.training.sections import ComputeConfig

torch.set_num_threads(1)
open_all, sizes = loading.open_split, {"train": 96, "eval": 60}
loading.open_split = lambda data, split: replace(open_all(data, split), size=sizes[split])
senet.train(replace(digits(), epochs=3, compute=ComputeConfig(cpu=True)), sys.argv[1])
