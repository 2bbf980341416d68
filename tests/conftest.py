"""Fixtures that several test files share."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # Triton reads it once, when it is first imported
    os.environ["TRITON_INTERPRET"] = "1"

import senet
from senet.recipes import get_recipe


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the digits recipe, cut to three epochs: good enough to be right mostly."""
    recipe = replace(get_recipe("digits"), epochs=3)
    return senet.train(recipe, tmp_path_factory.mktemp("runs") / "digits")
