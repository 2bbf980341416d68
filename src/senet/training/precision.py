"""The precision of a run."""

from dataclasses import replace

import torch

from senet.nn.precision import fast_precision
from senet.training.config import TrainConfig


def choose_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the configuration with bf16 or fp32 in the place of "auto"."""
    if config.compute.precision != "auto":
        return config
    return replace(config, compute=replace(config.compute, precision=fast_precision(device)))
