"""Fixtures that several test files share."""

from dataclasses import replace
from pathlib import Path

import pytest

import senet
from senet.recipes import get_recipe


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the digits recipe, cut to three epochs: good enough to be right mostly."""
    recipe = replace(get_recipe("digits"), epochs=3)
    return senet.train(recipe, tmp_path_factory.mktemp("runs") / "digits")
