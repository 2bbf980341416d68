"""Parameter counts: other libraries' to the unit, the closed formula; tests/paper has the paper's."""

import pytest

from networks import num_parameters, on_meta
from senet.models.catalog import model_card
from senet.nn.block import SEOptions

NO_BIAS = SEOptions(bias=False)

# Units and output channels of each stage.
IMAGENET_WIDTHS = (256, 512, 1024, 2048)
STAGES = {
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": ((3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": ((3, 4, 6, 3), IMAGENET_WIDTHS),
    "resnet101": ((3, 4, 23, 3), IMAGENET_WIDTHS),
    "resnet152": ((3, 8, 36, 3), IMAGENET_WIDTHS),
    "resnext50_32x4d": ((3, 4, 6, 3), IMAGENET_WIDTHS),
    "resnext101_32x4d": ((3, 4, 23, 3), IMAGENET_WIDTHS),
    "cifar_resnet20": ((3, 3, 3), (16, 32, 64)),
    "cifar_resnet32": ((5, 5, 5), (16, 32, 64)),
    "cifar_resnet44": ((7, 7, 7), (16, 32, 64)),
    "cifar_resnet56": ((9, 9, 9), (16, 32, 64)),
    "cifar_resnet110": ((18, 18, 18), (16, 32, 64)),
    "cifar_preact_resnet110": ((18, 18, 18), (16, 32, 64)),
    "cifar_preact_resnet164": ((18, 18, 18), (64, 128, 256)),
    "cifar_wrn16_8": ((2, 2, 2), (128, 256, 512)),
}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # timm's senet154 and legacy_senet154
        ("senet154", 115_088_984),
        # torchvision's networks
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
    ],
)
def test_parameters(name, count):
    assert num_parameters(on_meta(name)) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    # He et al., arXiv:1512.03385, Table 6, and arXiv:1603.05027, section 5; arXiv:1605.07146, Table 5
    [
        ("cifar_resnet20", 0.27),
        ("cifar_resnet32", 0.46),
        ("cifar_resnet44", 0.66),
        ("cifar_resnet56", 0.85),
        ("cifar_resnet110", 1.7),
        ("cifar_preact_resnet110", 1.7),
        ("cifar_preact_resnet164", 1.7),
        ("cifar_wrn16_8", 11.0),
    ],
)
def test_cifar_parameters(name, millions):
    decimals = len(str(millions).split(".")[1])
    assert round(num_parameters(on_meta(name)) / 1e6, decimals) == millions


@pytest.mark.parametrize("name", STAGES)
def test_added_parameters_have_a_closed_form(name):
    twin = model_card(name).twin
    plain = num_parameters(on_meta(name))
    added = num_parameters(on_meta(twin, se=NO_BIAS)) - plain
    assert added == sum(n * c * c for n, c in zip(*STAGES[name], strict=True)) * 2 / 16
    added_with_biases = num_parameters(on_meta(twin)) - plain
    assert added_with_biases - added == sum(n * (c + c // 16) for n, c in zip(*STAGES[name], strict=True))


@pytest.mark.parametrize("name", STAGES)
def test_units_of_each_stage(name):
    layers, widths = STAGES[name]
    model = on_meta(name)
    stages = [model.get_submodule(stage) for stage in model.trunk if stage.startswith("layer")]
    assert tuple(len(stage) for stage in stages) == layers
    assert tuple(stage[-1].out_channels for stage in stages) == widths
    assert model.num_features == widths[-1]


def test_hidden_widths_of_table_1():
    model = on_meta("se_resnet50")
    widths = [tuple(model.get_submodule(f"layer{i}")[0].se.fc1.weight.shape[:2]) for i in (1, 2, 3, 4)]
    assert widths == [(16, 256), (32, 512), (64, 1024), (128, 2048)]
