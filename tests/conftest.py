"""Fixtures that several test files share."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

if not torch.cuda.is_available():  # Triton reads it once, when it is first imported
    os.environ["TRITON_INTERPRET"] = "1"

import senet
from senet.recipes import get_recipe


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A run folder of the digits recipe, cut to three epochs: good enough to be right mostly.

    The first of pytest-xdist's processes that needs it trains it for all of them.
    """
    base = tmp_path_factory.getbasetemp()
    run = (base if worker_id == "master" else base.parent) / "digits"
    with FileLock(f"{run}.lock"):
        if not run.exists():
            senet.train(replace(get_recipe("digits"), epochs=3), run)
    return run
