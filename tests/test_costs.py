"""Parameters and multiply-adds against counts by hand and the paper's tables."""

import pytest
import torch
import torchvision
from torch import nn

from senet.costs import cost
from senet.errors import SenetError
from senet.factory import create_model
from senet.nn.block import SEBlock


def small_net() -> nn.Sequential:
    """A net for 3 x 8 x 10 images; convolutions, a linear layer, and things that do not count."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # -> 8 x 4 x 5
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), nn.MaxPool2d(2)),  # -> 8 x 2 x 2
        SEBlock(8, reduction=2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def test_by_hand():
    counted = cost(small_net(), input_size=(8, 10))
    by_hand = {
        "0": (8 * 3 * 9 + 8, 4 * 5 * 8 * 3 * 9),
        "1": (16, 0),
        "2": (0, 0),
        "3": (8 * 2 * 9, 4 * 5 * 8 * 2 * 9),
        "3.0": (8 * 2 * 9, 4 * 5 * 8 * 2 * 9),
        "3.1": (0, 0),
        "4": (8 * 4 + 4 + 4 * 8 + 8, 2 * 8 * 4),
        "4.fc1": (8 * 4 + 4, 8 * 4),
        "4.fc2": (4 * 8 + 8, 4 * 8),
        "5": (0, 0),
        "6": (32 * 10 + 10, 32 * 10),
    }
    actual = {name: (part.parameters, part.multiply_adds) for name, part in counted.by_module.items()}
    assert actual == by_hand
    assert counted.parameters == 224 + 16 + 144 + 76 + 330
    assert counted.multiply_adds == 4320 + 2880 + 64 + 320


def test_se_costs_a_quarter_of_a_percent():
    """Section 4: ResNet-50 with SE has 0.26 % more multiply-adds by the paper's rounded figures."""
    with torch.device("meta"):
        plain, se = cost(create_model("resnet50")), cost(create_model("se_resnet50"))
    # every block: 2 C^2 / 16
    added = (3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2) // 8
    assert se.multiply_adds - plain.multiply_adds == added
    assert 0.0005 < added / plain.multiply_adds < 0.0026


def test_modules_add_up():
    with torch.device("meta"):
        model = create_model("cifar_se_resnet20")
    counted = cost(model)
    for parent, module in model.named_modules():
        children = [counted.by_module[f"{parent}.{name}".lstrip(".")] for name, _ in module.named_children()]
        if not children:
            continue
        whole = counted.by_module[parent] if parent else counted
        assert sum(part.parameters for part in children) == whole.parameters
        assert sum(part.multiply_adds for part in children) == whole.multiply_adds
    assert set(counted.by_module) == {name for name, _ in model.named_modules() if name}
    assert counted.multiply_adds > 40e6


def test_the_model_is_left_as_it_is():
    model = create_model("cifar_se_resnet20").train()
    model.layer1.eval()
    model.layer2[0].bn1.eval()
    model.fc.weight.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    tensors = {name: (id(t), t.device, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]

    cost(model)

    assert {name: module.training for name, module in model.named_modules()} == modes
    assert len(set(modes.values())) == 2
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trainable
    for name, tensor in model.state_dict(keep_vars=True).items():
        identity, device, value = tensors[name]
        assert id(tensor) == identity, name
        assert tensor.device == device, name
        assert torch.equal(tensor, value), name


def test_the_model_is_left_as_it_is_after_an_error():
    model = small_net().train()
    model[1].eval()
    with pytest.raises(RuntimeError):
        cost(model, input_size=32)  # the linear layer does not fit
    assert model.training
    assert not model[1].training
    assert model[6].training
    assert model[0].weight.device.type == "cpu"


def test_any_module_with_an_input_size():
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    counted = cost(model, input_size=224)
    assert counted.parameters == 11_689_512
    # fvcore's and torchvision's figure for resnet18 is 1.814 GFLOPs (multiply-adds)
    assert counted.multiply_adds / 1e9 == pytest.approx(1.814, abs=0.001)


@pytest.mark.parametrize("size", [32, (32, 32)])
def test_size_is_a_side_or_two(size):
    counted = cost(nn.Conv2d(3, 5, 1), input_size=size)
    assert (counted.parameters, counted.multiply_adds) == (20, 32 * 32 * 15)
    assert not counted.by_module


def test_channels():
    assert cost(nn.Conv2d(6, 5, 1), input_size=4, in_channels=6).multiply_adds == 16 * 30
    model = create_model("cifar_resnet20", in_channels=1)
    assert cost(model).by_module["conv1"].multiply_adds == 32 * 32 * 16 * 9


def test_size_of_the_model_itself():
    model = create_model("cifar_resnet20")
    assert cost(model) == cost(model, input_size=32)
    assert (
        cost(model, input_size=64).by_module["conv1"].multiply_adds == 4 * cost(model).by_module["conv1"].multiply_adds
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_does_not_matter(dtype):
    assert cost(small_net().to(dtype), input_size=(8, 10)) == cost(small_net(), input_size=(8, 10))


def test_modules_without_parameters_cost_nothing():
    counted = cost(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), input_size=8)
    assert (counted.parameters, counted.multiply_adds) == (0, 0)


def test_no_size_is_known():
    with pytest.raises(SenetError, match="input_size is missing, and Sequential has no preprocessing"):
        cost(small_net())


def test_a_training_model_is_counted_as_in_evaluation():
    """BatchNorm in training mode refuses one image whose map has shrunk to 1 x 1."""
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4)).train()
    assert cost(model, input_size=8).multiply_adds == 4 * 3 * 64
    assert model.training
