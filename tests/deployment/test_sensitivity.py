"""The cost of each layer in int8, and the names of layers in exported graphs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from senet.deployment.layers import Layer, named_layers
from senet.deployment.sensitivity import measure
from senet.errors import SenetError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def eight_bits(values, low, high):
    """Rounding to 256 steps in float64, of which one is zero."""
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def test_the_cost_of_the_first_layer_is_that_of_rounding_it_by_hand():
    model, images = network(), torch.randn(20, 3, 12, 12)
    table = measure(model, images, ["0", "2", "6"])
    by_hand = copy.deepcopy(model).double()
    weight = by_hand[0].weight.data
    scales = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    weight.copy_((weight / scales).round() * scales)
    low, high = float(images.min()), float(images.max())
    rounded = torch.from_numpy(eight_bits(images.double().numpy(), low, high))
    with torch.no_grad():
        before, after = copy.deepcopy(model).double()(images.double()), by_hand(rounded)
    (cost,) = (cost for cost in table.layers if cost.name == "0")
    assert cost.error == pytest.approx(float((after - before).norm() / before.norm()), rel=0.05)
    assert 1e-4 < cost.error < 0.1
    assert table.images == 20


def test_the_network_stays_as_it_is():
    model, images = network().train(), torch.randn(16, 3, 12, 12)
    before = copy.deepcopy(model.state_dict())
    measure(model, images, ["0", "6"])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model[0]._forward_pre_hooks


def test_a_layer_with_an_outlier_costs_the_most():
    model, images = network(), torch.randn(20, 3, 12, 12)
    with torch.no_grad():
        model[0].bias[3] = 500.0  # one channel sets the range of all
        model[2].weight[:, 3] = 0
    table = measure(model, images, ["0", "2", "6"], labels=model(images).argmax(1))
    assert table.worst(1) == ("2",)
    assert [cost.error for cost in table.layers] == sorted((cost.error for cost in table.layers), reverse=True)
    worst = table.layers[0]
    assert worst.accuracy is not None
    assert worst.accuracy == pytest.approx(-worst.changed)  # the labels are what the network in float predicts
    assert table.to_dict()["layers"][0]["name"] == "2"


def test_all_layers_in_float():
    table = measure(network(), torch.randn(16, 3, 12, 12), ["0", "2"])
    with pytest.raises(SenetError, match="keep_float is 2, but the network has 2 layers outside of gates"):
        table.worst(2)


def test_layers_are_named_by_their_weights():
    random = np.random.default_rng(0)
    shape = (6, 3, 3, 3)
    weights = {name: random.normal(size=shape).astype(np.float32) for name in ("a.weight", "b.weight", "c.weight")}
    scale = random.normal(size=(6, 1, 1, 1)).astype(np.float32)  # of a BatchNorm, some of it negative
    layers = [
        Layer(node="n2", weight=weights["b.weight"] * scale, in_gate=False),
        Layer(node="n0", weight=weights["a.weight"], in_gate=False),
        Layer(node="n9", weight=random.normal(size=shape).astype(np.float32), in_gate=False),
    ]
    assert named_layers(layers, weights) == {"n2": "b", "n0": "a", "n9": "n9"}
