"""Fixtures of the tests of fine-tuning."""

import pytest
import torch

from small_pictures import write_pictures


@pytest.fixture(autouse=True)
def _on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of classes in color."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "color")
