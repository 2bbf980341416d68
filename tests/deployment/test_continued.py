"""What comes before a changed layer is computed once, and the logits are those of the whole network."""

import pytest
import torch
from torch import fx, nn

import senet
from senet.deployment.continued import Continued, nothing_in_place
from senet.optimization.rewriting import rewrite


class Branches(nn.Module):
    """A network with a shortcut, a layer inside a part that is traced as one, and a layer that is never called."""

    def __init__(self, change):
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.change, self.unused = change, nn.Linear(3, 3)

    def forward(self, x):
        x = self.stem(x)
        short = self.left(x)
        return (self.right(self.change(x)) + short).mean((2, 3))


class Inverted(nn.Module):
    def forward(self, x):
        return x.neg_()


def counted(network, name):
    """How often a layer has been called."""
    calls = []
    network.get_submodule(name).register_forward_hook(lambda *_: calls.append(name))
    return calls


@pytest.mark.parametrize("model", [senet.create_model("cifar_se_resnet20"), Branches(nn.ReLU(inplace=True))])
def test_logits_are_those_of_the_whole_network(model):
    network, images = rewrite(model.eval()), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad(), nothing_in_place(network):
        kept = Continued(network, images)
        assert torch.equal(kept.logits, network(images))
        for name in layers:
            weight = network.get_submodule(name).weight
            before = weight.clone()
            weight.data = weight.data * 1.5
            assert torch.equal(kept.logits_from(name), network(images)), name
            weight.data = before


def test_non_linearities_work_in_place_again_afterwards():
    network = Branches(nn.ReLU(inplace=True))
    with nothing_in_place(network):
        assert not network.change.inplace
    assert network.change.inplace


def test_what_comes_before_is_not_computed_again():
    network = fx.symbolic_trace(Branches(nn.ReLU()).eval())
    calls = {name: counted(network, name) for name in ("stem", "left", "right")}
    with torch.no_grad():
        kept = Continued(network, torch.rand(1, 3, 8, 8))
        kept.logits_from("right")
    assert {name: len(calls[name]) for name in calls} == {"stem": 1, "left": 1, "right": 2}


def test_values_that_are_changed_later_are_not_taken():
    network = fx.GraphModule(model := Branches(Inverted()).eval(), Whole().trace(model))
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        kept = Continued(network, images)
        assert not kept.values
        network.left.weight.data *= 1.5
        assert torch.equal(kept.logits_from("left"), network(images))


class Whole(fx.Tracer):
    """Traces what changes its input as one."""

    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, Inverted) or super().is_leaf_module(m, module_qualified_name)


def test_networks_without_a_graph_and_layers_that_are_not_called():
    model, images = Branches(nn.ReLU()).eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(Continued(model, images).logits_from("left"), model(images))
        traced = fx.symbolic_trace(model)
        assert torch.equal(Continued(traced, images).logits_from("unused"), model(images))
