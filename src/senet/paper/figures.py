"""Every figure that this library quotes from the paper, arXiv:1709.01507v4, and from the authors' release: each once.

Everything else looks figures up here, by network or experiment: the commands of `rows.py`, the counts of `costs.py`,
the ablations, `senet models`, the pages in docs/. Errors are in %, on one center crop. What the tables quote from other
papers is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from senet.models.catalog import model_card
from senet.nn.block import SEOptions


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is printed of one network; None where nothing is.

    Args:
        top1: top-1 error, %.
        top5: top-5 error, %.
        multiply_adds: for one image, in millions.
        parameters: the digits as printed: in millions, or in full with commas.
    """

    top1: float | None = None
    top5: float | None = None
    multiply_adds: float | None = None
    parameters: str | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionRow:
    """One row of Table 7, of Faster R-CNN on COCO's minival.

    Args:
        label: as printed.
        trunk: this library's name of the network.
        ap50: average precision at an IoU of 0.5, %.
        ap: average precision, the mean over the IoU from 0.5 to 0.95, %.
    """

    label: str
    trunk: str
    ap50: float
    ap: float


DETECTION_ROWS = (
    DetectionRow(label="ResNet-50", trunk="resnet50", ap50=57.9, ap=38.0),
    DetectionRow(label="SE-ResNet-50", trunk="se_resnet50", ap50=61.0, ap=40.4),
    DetectionRow(label="ResNet-101", trunk="resnet101", ap50=60.1, ap=39.9),
    DetectionRow(label="SE-ResNet-101", trunk="se_resnet101", ap50=62.7, ap=41.9),
)
"""Table 7."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of one table.

    Args:
        table: its number; 0 for the authors' release.
        label: as printed, with "SE-" before it where the table has a column for SE.
        network: this library's name.
        experiment: a name for the trained network: rows of Tables 10 to 16 that share it quote one network.
        figures: what is printed.
        se: SE options; None for the network's own.
    """

    table: int
    label: str
    network: str
    experiment: str
    figures: Figures
    se: SEOptions | None = None

    @property
    def source(self) -> str:
        """Where the row stands."""
        return "release" if self.table == 0 else f"Table {self.table}"


def of_network(table: int, label: str, network: str, figures: Figures) -> Row:
    """Return the row of a network as it is."""
    return Row(table=table, label=label, network=network, experiment=network, figures=figures)


def both(table: int, label: str, plain: str, plain_figures: Figures, se_figures: Figures) -> Iterator[Row]:
    """Yield the rows of a plain network and of its SE twin."""
    yield of_network(table, label, plain, plain_figures)
    twin = model_card(plain).twin
    assert twin is not None
    yield of_network(table, f"SE-{label}", twin, se_figures)


def of_imagenet(top1: float, top5: float, gigas: float, parameters: str | None = None) -> Figures:
    """Return the figures of Table 2: errors, and multiply-adds in billions."""
    return Figures(top1=top1, top5=top5, multiply_adds=round(1000 * gigas), parameters=parameters)


def of_mobile(top1: float, top5: float, millions: float, parameters: str) -> Figures:
    """Return the figures of Table 3: errors, and multiply-adds and parameters in millions."""
    return Figures(top1=top1, top5=top5, multiply_adds=millions, parameters=parameters)


def of_cifar(table: int, label: str, plain: str, plain_error: float, se_error: float) -> Iterator[Row]:
    """Yield the two rows of Tables 4 and 5."""
    return both(table, label, plain, Figures(top1=plain_error), Figures(top1=se_error))


PLAIN_PARAMETERS, SE_PARAMETERS = "25.6", "28.1"
"""Of ResNet-50 and SE-ResNet-50, in millions; section 4 and Table 10."""

TABLE_2 = (
    *both(
        2,
        "ResNet-50",
        "resnet50",
        of_imagenet(24.80, 7.48, 3.86, PLAIN_PARAMETERS),
        of_imagenet(23.29, 6.62, 3.87, SE_PARAMETERS),
    ),
    *both(2, "ResNet-101", "resnet101", of_imagenet(23.17, 6.52, 7.58), of_imagenet(22.38, 6.07, 7.60)),
    *both(2, "ResNet-152", "resnet152", of_imagenet(22.42, 6.34, 11.30), of_imagenet(21.57, 5.73, 11.32)),
    *both(2, "ResNeXt-50", "resnext50_32x4d", of_imagenet(22.11, 5.90, 4.24), of_imagenet(21.10, 5.49, 4.25)),
    *both(2, "ResNeXt-101", "resnext101_32x4d", of_imagenet(21.18, 5.57, 7.99), of_imagenet(20.70, 5.01, 8.00)),
    *both(2, "VGG-16", "vgg16_bn", of_imagenet(27.02, 8.81, 15.47), of_imagenet(25.22, 7.70, 15.48)),
    *both(2, "BN-Inception", "bn_inception", of_imagenet(25.38, 7.89, 2.03), of_imagenet(24.23, 7.14, 2.04)),
    *both(
        2,
        "Inception-ResNet-v2",
        "inception_resnet_v2",
        of_imagenet(20.37, 5.21, 11.75),
        of_imagenet(19.80, 4.79, 11.76),
    ),
)
"""ImageNet; of plain networks the authors' re-implementations."""
TABLE_3 = (
    *both(3, "MobileNet", "mobilenet_v1", of_mobile(28.4, 9.4, 569, "4.2"), of_mobile(25.3, 7.7, 572, "4.7")),
    *both(3, "ShuffleNet", "shufflenet_v1_g3", of_mobile(32.6, 12.5, 140, "1.8"), of_mobile(31.0, 11.1, 142, "2.4")),
)
"""ImageNet, mobile networks."""
TABLE_4 = (
    *of_cifar(4, "ResNet-110", "cifar_preact_resnet110", 6.37, 5.21),
    *of_cifar(4, "ResNet-164", "cifar_preact_resnet164", 5.46, 4.39),
    *of_cifar(4, "WRN-16-8", "cifar_wrn16_8", 4.27, 3.88),
    *of_cifar(4, "Shake-Shake 26 2x96d + Cutout", "cifar_shake_shake26_2x96d", 2.56, 2.12),
)
"""CIFAR-10."""
TABLE_5 = (
    *of_cifar(5, "ResNet-110", "cifar_preact_resnet110", 26.88, 23.85),
    *of_cifar(5, "ResNet-164", "cifar_preact_resnet164", 24.33, 21.31),
    *of_cifar(5, "WRN-16-8", "cifar_wrn16_8", 20.43, 19.14),
    *of_cifar(5, "Shake-Even 29 2x4x64d + Cutout", "cifar_shake_even29_2x4x64d", 15.85, 15.41),
)
"""CIFAR-100."""
TABLE_6 = tuple(both(6, "ResNet-152", "resnet152", Figures(top1=41.15, top5=11.61), Figures(top1=40.37, top5=11.01)))
"""Places365."""
TABLE_8 = (of_network(8, "SENet-154", "senet154", Figures(top1=18.68, top5=4.47)),)
"""ImageNet, crops of 224."""
TABLE_9 = (of_network(9, "SENet-154", "senet154", Figures(top1=16.88, top5=3.58)),)
"""ImageNet, trained and evaluated on crops of 320."""

# ---- the ablations of section 6, on SE-ResNet-50 ---------------------------------------------------------------------

NO_BIAS = SEOptions(bias=False)
"""The block of the ablations: section 6 leaves the biases out."""
PLAIN = Figures(top1=23.30, top5=6.55, parameters=PLAIN_PARAMETERS)
STANDARD = Figures(top1=22.28, top5=6.03, parameters=SE_PARAMETERS)
FIXED_SCHEDULE = {
    "resnet50": Figures(top1=23.21, top5=6.53),
    "se_resnet50": Figures(top1=22.20, top5=6.00),
}
"""Footnote 2 of section 6: the same two networks, trained for 270 epochs with steps at 125, 200 and 250."""


def plain(table: int, label: str) -> Row:
    """Return a row of the network without SE."""
    return Row(table=table, label=label, network="resnet50", experiment="plain", figures=PLAIN)


def standard(table: int, label: str) -> Row:
    """Return a row of the block as the paper proposes it."""
    return Row(table=table, label=label, network="se_resnet50", experiment="se", figures=STANDARD, se=NO_BIAS)


def varied(
    table: int,
    label: str,
    experiment: str,
    top1: float,
    top5: float,
    parameters: str | None = None,
    multiply_adds: float | None = None,
    **se: object,
) -> Row:
    """Return a row of a block that differs in the SE options `se`."""
    figures = Figures(top1=top1, top5=top5, multiply_adds=multiply_adds, parameters=parameters)
    options = replace(NO_BIAS, **se)  # type: ignore[arg-type]
    return Row(table=table, label=label, network="se_resnet50", experiment=experiment, figures=figures, se=options)


ABLATIONS = (
    varied(10, "ratio 2", "reduction2", 22.29, 6.00, "45.7", reduction=2),
    varied(10, "ratio 4", "reduction4", 22.25, 6.09, "35.7", reduction=4),
    varied(10, "ratio 8", "reduction8", 22.26, 5.99, "30.7", reduction=8),
    standard(10, "ratio 16"),
    varied(10, "ratio 32", "reduction32", 22.72, 6.20, "26.9", reduction=32),
    plain(10, "original"),
    varied(11, "Max", "max", 22.57, 6.09, squeeze="max"),
    standard(11, "Avg"),
    varied(12, "ReLU", "relu", 23.47, 6.98, gate="relu"),
    varied(12, "Tanh", "tanh", 23.00, 6.38, gate="tanh"),
    standard(12, "Sigmoid"),
    plain(13, "ResNet-50"),
    varied(13, "SE Stage 2", "stage2", 23.03, 6.48, "25.6", stages=(2,)),
    varied(13, "SE Stage 3", "stage3", 23.04, 6.32, "25.7", stages=(3,)),
    varied(13, "SE Stage 4", "stage4", 22.68, 6.22, "26.4", stages=(4,)),
    standard(13, "SE All"),
    standard(14, "SE"),
    varied(14, "SE-PRE", "pre", 22.23, 6.00, placement="pre"),
    varied(14, "SE-POST", "post", 22.78, 6.35, placement="post"),
    varied(14, "SE-Identity", "identity", 22.20, 6.15, placement="identity"),
    standard(15, "SE"),
    varied(15, "SE 3x3", "3x3", 22.48, 6.02, "25.8", 3860, placement="3x3"),
    plain(16, "ResNet-50"),
    varied(16, "NoSqueeze", "nosqueeze", 22.93, 6.39, "28.1", 4270, squeeze="none"),
    standard(16, "SE"),
)

# ---- the release -----------------------------------------------------------------------------------------------------

RELEASE = (
    of_network(0, "SE-BN-Inception", "se_bn_inception", Figures(top1=23.62, top5=7.04)),
    of_network(0, "SE-ResNet-50", "se_resnet50", Figures(top1=22.37, top5=6.36, parameters="28,088,024")),
    of_network(0, "SE-ResNet-101", "se_resnet101", Figures(top1=21.75, top5=5.72, parameters="49,326,872")),
    of_network(0, "SE-ResNet-152", "se_resnet152", Figures(top1=21.34, top5=5.54, parameters="66,821,848")),
    of_network(0, "SE-ResNeXt-50", "se_resnext50_32x4d", Figures(top1=20.97, top5=5.54, parameters="27,559,896")),
    of_network(0, "SE-ResNeXt-101", "se_resnext101_32x4d", Figures(top1=19.81, top5=4.96, parameters="48,955,416")),
)
"""The authors' files: errors by their README, parameters counted in the files."""

ROWS = (*TABLE_2, *TABLE_3, *TABLE_4, *TABLE_5, *TABLE_6, *TABLE_8, *TABLE_9, *ABLATIONS, *RELEASE)
"""All rows, in the order of the tables."""


def row_of(network: str) -> Row | None:
    """Return the first row of a network with its own SE options; None if the paper has none."""
    return next((row for row in ROWS if row.network == network and row.se is None), None)
