"""Optimizers by name: each of timm's resumes bit for bit or is refused; what one does not take is named."""

import copy
import io

import pytest
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from senet.errors import SenetError
from senet.factory import create_model
from senet.training.optimizers import Restorable, build_optimizer, check_optimizer
from senet.training.sections import OptimizerConfig

REFUSED = [name for name in list_optimizers() if name.startswith(("bnb", "fused", "kron")) or name == "adahessian"]
TAKEN = [name for name in list_optimizers() if name not in REFUSED]


def tiny():
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Flatten()
    return nn.Sequential(*convolutions, nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, 3))


def parameters_of(model, frozen):
    return [(name, weight) for name, weight in model.named_parameters() if name.startswith("0.") == frozen]


def build(config, model, unfrozen=True):
    """Build an optimizer for all but the first layer, and add this one as a group of its own if it is unfrozen."""
    optimizer = build_optimizer(config, model, parameters_of(model, False))
    if unfrozen:
        unfreeze(model, optimizer)
    else:
        model[0].requires_grad_(False)
    return optimizer


def unfreeze(model, optimizer):
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": [weight for _, weight in parameters_of(model, True)]})


def step(model, optimizer, number):
    torch.manual_seed(100 + number)
    optimizer.zero_grad(set_to_none=True)
    model(torch.randn(4, 2, 5, 5)).square().mean().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.01 / (1 + number)
    optimizer.step()


def saved(value):
    """Return what is read of a value that was written as a training state is."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal_weights(actual, expected):
    assert [n for n, t in expected.state_dict().items() if not torch.equal(actual.state_dict()[n], t)] == []


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("name", TAKEN)
def test_every_optimizer_goes_on_from_its_saved_state_bit_for_bit(name):
    """Also with weights that it gets only after some steps, which do not move before."""
    if name == "adagrad" and torch.__version__ < "2.14":
        pytest.skip("Adagrad of older PyTorch takes no weights later")
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)
    model = tiny()
    optimizer = build(config, model, unfrozen=False)
    before = copy.deepcopy(model[0])
    for number in range(2):
        step(model, optimizer, number)
    assert_equal_weights(model[0], before)
    unfreeze(model, optimizer)
    for number in range(2, 4):
        step(model, optimizer, number)
    weights, state = saved([model.state_dict(), optimizer.state_dict()])
    for number in range(4, 8):
        step(model, optimizer, number)
    other = tiny()
    again = build(config, other)
    other.load_state_dict(weights)
    Restorable(again).load_state_dict(state)
    for number in range(4, 8):
        step(other, again, number)
    assert_equal_weights(other, model)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert not torch.equal(model[0].weight, before.weight)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "rmsproptf", "madgrad", "momentum", "nadamw"])
def test_the_steps_are_those_of_timm_s_factory(name):
    models = tiny(), tiny()
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1, momentum=0.8 if name == "momentum" else 0.9)
    config = OptimizerConfig(**{**vars(config), "decay_norm_and_bias": False})
    optimizers = (
        build_optimizer(config, models[0]),
        create_optimizer_v2(models[1], name, lr=0.01, weight_decay=0.1, momentum=config.momentum),
    )
    for number in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            step(model, optimizer, number)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-5, atol=1e-6)  # fused steps


def test_sgd_is_pytorch_s_with_the_momentum_of_the_configuration():
    models = tiny(), tiny()
    config = OptimizerConfig(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01)
    expected = torch.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01)
    optimizer = build_optimizer(config, models[0])
    for number in range(3):
        step(models[0], optimizer, number)
        step(models[1], expected, number)
    assert_equal_weights(models[0], models[1])
    assert len(optimizer.param_groups) == 1
    assert "lr_scale" not in optimizer.param_groups[0]


def test_options_reach_the_optimizer_also_as_the_lists_of_a_config_file():
    for betas in ((0.8, 0.95), [0.8, 0.95]):
        config = OptimizerConfig(name="adamw", options={"betas": betas, "eps": 1e-6})
        optimizer = build_optimizer(config, tiny())
        assert optimizer.defaults["betas"] == (0.8, 0.95)
        assert optimizer.defaults["eps"] == 1e-6
    assert build_optimizer(OptimizerConfig(name="lambc"), tiny()).defaults["trust_clip"] is True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "adamv"}, "optimizer.name is 'adamv'; the nearest are "),
        ({"name": "AdamW"}, "optimizer.name is 'AdamW'; the nearest are "),
        ({"name": "adahessian"}, "adahessian needs second derivatives, which runs do not compute; take adamw"),
        ({"name": "bnbadamw8bit"}, "bnbadamw8bit needs bitsandbytes and CUDA, and is not supported; take adamw"),
        ({"name": "fusedlamb"}, "fusedlamb needs apex and CUDA, and is not supported; take lamb"),
        ({"name": "kron"}, "kron compiles its steps by itself"),
        ({"name": "adamw", "momentum": 0.8}, "optimizer.momentum is 0.8, but adamw has none; leave it out, its aver"),
        (
            {"name": "adamw", "options": {"beta": 1}},
            "optimizer.options has 'beta', which adamw does not take; it takes betas, ",
        ),
        ({"name": "lion", "options": {"eps": 1e-8}}, "'eps', which lion does not take; it takes betas, caution, corr"),
        (
            {"options": {"nesterov": True}},
            "optimizer.options has 'nesterov', which sgd does not take; it takes dampening",
        ),
        ({"name": "adamw", "options": {"lr": 0.1}}, "optimizer.options has 'lr', which adamw does not take"),
        ({"name": "adamw", "options": {"fused": True}}, "optimizer.options has 'fused', which adamw does not take"),
        ({"name": "adamw", "options": {"betas": (2.0, 0.9)}}, "optimizer.options is betas=(2.0, 0.9), which adamw ref"),
        ({"name": "adamw", "options": {"betas": 0.9}}, "optimizer.options is betas=0.9, which adamw refuses ("),
        (
            {"name": "adan", "options": {"betas": (0.9, 0.9)}},
            "optimizer.options is betas=(0.9, 0.9), which adan refuses",
        ),
        ({"name": "lamb", "options": {"eps": "small"}}, "optimizer.options is eps=small, which lamb refuses ("),
    ],
)
def test_what_an_optimizer_cannot_do_is_said_in_one_sentence_before_there_is_a_network(values, said):
    with pytest.raises(SenetError) as caught:
        check_optimizer(OptimizerConfig(**values))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_no_other_optimizer_is_refused_without_a_remedy(name):
    with pytest.raises(SenetError, match=r"; take (\w+)$"):
        check_optimizer(OptimizerConfig(name=name))


def test_the_check_leaves_random_numbers_alone():
    torch.manual_seed(3)
    check_optimizer(OptimizerConfig(name="adamw"))
    found = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(1))


@pytest.mark.parametrize("everything", [True, False])
def test_weight_decay_without_gradients_shrinks_what_it_should(everything):
    model = create_model("cifar_se_resnet20")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    config = OptimizerConfig(lr=0.5, momentum=0.0, weight_decay=0.1, decay_norm_and_bias=everything)
    build_optimizer(config, model).step()

    kept = {name for name, parameter in model.named_parameters() if parameter.eq(1.0).all()}
    shrunk = {name for name, parameter in model.named_parameters() if parameter.sub(0.95).abs().max() < 1e-6}
    vectors = {name for name in model.state_dict() if name.endswith(".bias") or ("bn" in name and "weight" in name)}
    assert {"bn1.weight", "layer1.0.bn2.bias", "layer1.0.se.fc1.bias", "fc.bias"} <= vectors
    assert kept == (set() if everything else vectors)
    assert kept | shrunk == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("saved_as", [None, False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_is_fused_also_in_a_run_that_began_otherwise(name, saved_as):
    def built():
        model = nn.Linear(3, 1, bias=False)
        nn.init.ones_(model.weight)
        config = OptimizerConfig(name=name, lr=0.5, momentum=0.5 if name == "sgd" else 0.9, weight_decay=0.0)
        return build_optimizer(config, model), model.weight

    (first, weight), (optimizer, other), (whole, expected) = built(), built(), built()
    first.param_groups[0]["fused"] = saved_as
    for parameter, each in ((weight, first), (expected, whole)):
        parameter.grad = torch.ones(1, 3)
        each.step()
    other.data.copy_(weight)
    Restorable(optimizer).load_state_dict(first.state_dict())
    assert optimizer.param_groups[0]["fused"] is True
    assert optimizer._step_supports_amp_scaling  # what GradScaler goes by
    for parameter, each in ((other, optimizer), (expected, whole)):
        parameter.grad = torch.full((1, 3), 2.0)
        each.step()
    torch.testing.assert_close(other, expected, rtol=1e-6, atol=0)
