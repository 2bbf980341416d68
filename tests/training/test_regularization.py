"""The running average of a network, beside timm's."""

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from senet.factory import create_model
from senet.training.regularization import RunningAverage


@pytest.mark.parametrize("layers", ["cifar_se_resnet20", "no counters"])
def test_the_running_average_is_timms(layers):
    torch.manual_seed(0)
    model = nn.Linear(3, 2) if layers == "no counters" else create_model(layers, num_classes=10)
    average, expected = RunningAverage(model, 0.75), ModelEmaV3(model, 0.75)
    for step in range(3):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(step + 1) if tensor.dtype == torch.int64 else tensor.add_(torch.randn_like(tensor))
        average.update()
        expected.update(model)
    found = average.module.state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert not average.module.training
    assert not torch.equal(next(average.module.parameters()), next(model.parameters()))


def test_the_warm_up_of_the_running_average_is_timms():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = RunningAverage(model, 0.6, warmup=True)
    expected = ModelEmaV3(model, 0.6, use_warmup=True)
    for step in range(6):
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(torch.randn_like(tensor))
        average.update(step)
        expected.update(model, step + 1)
        if not step:
            assert torch.equal(average.module.weight, model.weight)  # nothing of the start is left
    assert torch.allclose(average.module.weight, expected.module.weight, atol=1e-6)
    assert not torch.equal(average.module.weight, model.weight)


def test_buffers_that_a_network_replaces_and_weights_that_it_shares_are_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    model.register_buffer("seen", torch.zeros(1))
    average = RunningAverage(model, 0.5)
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
    model.seen = torch.full((1,), 8.0)
    average.update()
    assert torch.allclose(average.module[1].weight, start + 0.5)
    assert torch.equal(average.module.seen, torch.full((1,), 4.0))
