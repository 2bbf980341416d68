"""Parameter counts: the authors' to the unit, the tables' to their precision, and the closed formula."""

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
        # the authors' files
        ("se_resnet50", 28_088_024),
        ("se_resnet101", 49_326_872),
        ("se_resnet152", 66_821_848),
        ("se_resnext50_32x4d", 27_559_896),
        ("se_resnext101_32x4d", 48_955_416),
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


def assert_printed_as(count: int, millions: float, slack: float = 0.0) -> None:
    """The ablations' tables print what the model files hold: BatchNorm's moving mean and variance are counted too."""
    batchnorm_channels = 64 + sum(n * 6 * p + 4 * p for n, p in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True))
    printed = round((count + 2 * batchnorm_channels) / 1e6, 1)
    assert abs(printed - millions) < slack + 0.05


@pytest.mark.parametrize(
    ("reduction", "millions"), [(2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9), (None, 25.6)]
)
def test_table_10_ratios(reduction, millions):
    count, added = 25_557_032, 0
    if reduction is None:
        model = on_meta("resnet50")
    else:
        model = on_meta("se_resnet50", se=SEOptions(reduction=reduction, bias=False))
        added = 2 * (3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2) // reduction
    assert num_parameters(model) == count + added
    assert_printed_as(count + added, millions, slack=0.1 if reduction == 8 else 0.0)  # 30.64, printed 30.7


@pytest.mark.parametrize(
    ("stages", "count", "millions"),
    [
        # 25,557,032 and N C^2 / 8: 3 * 256^2 / 8, 4 * 512^2 / 8, 6 * 1024^2 / 8
        ((2,), 25_581_608, 25.6),
        ((3,), 25_688_104, 25.7),
        ((4,), 26_343_464, 26.4),
        (None, 28_071_976, 28.1),
    ],
)
def test_table_13_stages(stages, count, millions):
    assert num_parameters(on_meta("se_resnet50", se=SEOptions(bias=False, stages=stages))) == count
    assert_printed_as(count, millions)


def test_table_15_behind_the_3x3():
    count = num_parameters(on_meta("se_resnet50", se=SEOptions(bias=False, placement="3x3")))
    assert count == 25_557_032 + (3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2) // 8
    assert_printed_as(count, 25.8)


def test_table_16_no_squeeze():
    model = on_meta("se_resnet50", se=SEOptions(bias=False, squeeze="none"))
    assert_printed_as(num_parameters(model), 28.1)


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
