"""BatchNorm over two processes on the CPU, in float64, against PyTorch's with all images in one process."""

import copy

import pytest
import torch
from torch import nn

from drivers import run_in_two_processes
from drivers.synchronized_in_two_processes import SIZES, computed, networks
from senet.errors import SenetError
from senet.nn.attached import attached, plain_class
from senet.nn.synchronized import is_plain_norm, is_synchronized, synchronize


@pytest.mark.slow
def test_two_processes_compute_what_one_computes_with_all_images(tmp_path):
    """Outputs, gradients of images and weights, running statistics; one has 5 images, the other 3."""
    torch.manual_seed(1)
    images = torch.randn(sum(SIZES), 4, 12, 12, dtype=torch.float64) * 3 + 1
    torch.save(images, tmp_path / "images.pt")
    run_in_two_processes("synchronized_in_two_processes.py", tmp_path)
    for name, network in networks().items():
        expected = computed(network, images, 1.0)
        for fused in (False, None):
            parts = [torch.load(tmp_path / f"{name}.{fused}.{rank}.pt") for rank in range(2)]
            for key, value in expected.items():
                own = (
                    [torch.cat([part[key] for part in parts])]
                    if key in ("out", "gradient")
                    else [p[key] for p in parts]
                )
                for found in own:
                    torch.testing.assert_close(found, value, rtol=1e-11, atol=1e-11, msg=f"{name} {fused} {key}")


def test_layers_stay_what_they_are():
    network = networks()["inserted"]
    before, norm, keys = copy.deepcopy(network), network[1], set(network.state_dict())
    assert synchronize(network, "anything") == 2
    assert network[1] is norm
    assert attached(norm) is not None
    assert set(network.state_dict()) == keys
    assert plain_class(norm).__name__ == "SynchronizedBatchNorm2d"
    assert all(is_synchronized(module) and is_plain_norm(module) for module in (network[1], network[4]))
    twin = copy.deepcopy(network)  # as a running average of the weights is made
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    assert torch.equal(twin.eval()(x), before.eval()(x))  # evaluation takes no statistics


def test_a_norm_that_does_more_is_refused():
    class Renorm(nn.BatchNorm2d):
        pass

    with pytest.raises(SenetError, match=r"statistics of Renorm cannot be taken .* leave out compute.sync_batch_norm"):
        synchronize(nn.Sequential(nn.BatchNorm2d(3), Renorm(3)), "anything")
