"""The rows of the paper's Tables 2-6, 9 and 10-16: how to train each, its figures, and our result if there is one."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

from senet.models.config import ModelConfig
from senet.nn.block import SEOptions
from senet.recipes import get_recipe
from senet.training.config import TrainConfig


class Errors(NamedTuple):
    """Errors in %, one center crop.

    Args:
        top1: top-1 error; for CIFAR, the error.
        top5: top-5 error; None for CIFAR.
    """

    top1: float
    top5: float | None = None


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One network of one table; rows of several tables that one run answers share its folder.

    Args:
        table: its number in arXiv:1709.01507v4.
        label: of the row, with "SE-" in front where the table has a column for SE.
        recipe: name of the recipe.
        model: the network.
        run: name of the run's folder within the recipe's.
        num_processes: over which the recipe's batch is spread.
        paper: the paper's figures; of a plain network the re-implementation's, where the table has one.
        result: ours; None if not yet run.
    """

    table: int
    label: str
    recipe: str
    model: ModelConfig
    run: str
    num_processes: int
    paper: Errors
    result: Errors | None = None

    def config(self) -> TrainConfig:
        """Return the whole configuration."""
        return replace(get_recipe(self.recipe), model=self.model)

    def command(self) -> str:
        """Return the command line that trains the row."""
        start = f"torchrun --nproc-per-node {self.num_processes} -m " if self.num_processes > 1 else ""
        words = (
            f"{start}senet train {self.recipe} --output runs/{self.recipe}/{self.run}",
            *overrides("--model", get_recipe(self.recipe).model, self.model),
        )
        return " ".join(words)


def overrides(prefix: str, before: Any, after: Any) -> Iterator[str]:
    """Yield the arguments that turn one configuration into another of the same class, field by field."""
    for field in fields(after):
        name, old, new = field.name, getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if is_dataclass(new):
            yield from overrides(f"{prefix}.{name}", old, new)
        elif isinstance(new, bool):
            yield f"{prefix}.{name}" if new else f"{prefix}.no-{name}"
        else:
            yield f"{prefix}.{name}"
            yield from map(str, new if isinstance(new, tuple) else (new,))


def twins(
    table: int, recipe: str, label: str, name: str, plain: Errors, se: Errors, *, prefix: str = "", num_processes: int
) -> tuple[PaperRow, PaperRow]:
    """Return the rows of a plain network, `prefix + name`, and of its SE twin, `prefix + "se_" + name`."""
    row = PaperRow(
        table=table,
        label=label,
        recipe=recipe,
        model=ModelConfig(name=prefix + name),
        run=prefix + name,
        num_processes=num_processes,
        paper=plain,
    )
    se_name = f"{prefix}se_{name}"
    return row, replace(row, label=f"SE-{label}", model=ModelConfig(name=se_name), run=se_name, paper=se)


def imagenet(label: str, name: str, plain: Errors, se: Errors, recipe: str = "imagenet") -> tuple[PaperRow, PaperRow]:
    """Return the two rows of a network of Table 2."""
    return twins(2, recipe, label, name, plain, se, num_processes=8)


def cifar(
    label: str, name: str, recipe: str, plain: float, se: float, *, num_processes: int = 1
) -> tuple[PaperRow, PaperRow]:
    """Return the two rows of a network of Table 4 or 5."""
    table = 5 if recipe.startswith("cifar100") else 4
    return twins(table, recipe, label, name, Errors(plain), Errors(se), prefix="cifar_", num_processes=num_processes)


def ablation(table: int, label: str, run: str, top1: float, top5: float, se: SEOptions | None) -> PaperRow:
    """Return a row of Tables 10 to 16; no SE options are the plain ResNet-50."""
    return PaperRow(
        table=table,
        label=label,
        recipe="imagenet_ablation",
        model=ModelConfig(name="resnet50") if se is None else ModelConfig(name="se_resnet50", se=se),
        run=run,
        num_processes=8,
        paper=Errors(top1, top5),
    )


SE = SEOptions(bias=False)
"""The block of the ablations: section 6 leaves the biases out."""

TABLE_2 = (
    *imagenet("ResNet-50", "resnet50", Errors(24.80, 7.48), Errors(23.29, 6.62)),
    *imagenet("ResNet-101", "resnet101", Errors(23.17, 6.52), Errors(22.38, 6.07)),
    *imagenet("ResNet-152", "resnet152", Errors(22.42, 6.34), Errors(21.57, 5.73)),
    *imagenet("ResNeXt-50", "resnext50_32x4d", Errors(22.11, 5.90), Errors(21.10, 5.49)),
    *imagenet("ResNeXt-101", "resnext101_32x4d", Errors(21.18, 5.57), Errors(20.70, 5.01)),
    *imagenet("VGG-16", "vgg16_bn", Errors(27.02, 8.81), Errors(25.22, 7.70)),
    *imagenet("BN-Inception", "bn_inception", Errors(25.38, 7.89), Errors(24.23, 7.14)),
    *imagenet(
        "Inception-ResNet-v2",
        "inception_resnet_v2",
        Errors(20.37, 5.21),
        Errors(19.80, 4.79),
        recipe="imagenet_inception_resnet",
    ),
)
TABLE_3 = (
    *twins(3, "imagenet_mobile", "MobileNet", "mobilenet_v1", Errors(28.4, 9.4), Errors(25.3, 7.7), num_processes=8),
    *twins(
        3, "imagenet_mobile", "ShuffleNet", "shufflenet_v1_g3", Errors(32.6, 12.5), Errors(31.0, 11.1), num_processes=8
    ),
)
TABLE_4 = (
    *cifar("ResNet-110", "preact_resnet110", "cifar10", 6.37, 5.21),
    *cifar("ResNet-164", "preact_resnet164", "cifar10", 5.46, 4.39),
    *cifar("WRN-16-8", "wrn16_8", "cifar10_wrn", 4.27, 3.88),
    *cifar("Shake-Shake 26 2x96d + Cutout", "shake_shake26_2x96d", "cifar10_shake", 2.56, 2.12, num_processes=2),
)
TABLE_5 = (
    *cifar("ResNet-110", "preact_resnet110", "cifar100", 26.88, 23.85),
    *cifar("ResNet-164", "preact_resnet164", "cifar100", 24.33, 21.31),
    *cifar("WRN-16-8", "wrn16_8", "cifar100_wrn", 20.43, 19.14),
    *cifar("Shake-Even 29 2x4x64d + Cutout", "shake_even29_2x4x64d", "cifar100_shake", 15.85, 15.41, num_processes=2),
)
TABLE_6 = twins(6, "places365", "ResNet-152", "resnet152", Errors(41.15, 11.61), Errors(40.37, 11.01), num_processes=8)
TABLE_9 = PaperRow(
    table=9,
    label="SENet-154",
    recipe="imagenet_senet154_320",
    model=ModelConfig(name="senet154"),
    run="senet154",
    num_processes=8,
    paper=Errors(16.88, 3.58),
)
ABLATIONS = (
    ablation(10, "ratio 2", "reduction2", 22.29, 6.00, replace(SE, reduction=2)),
    ablation(10, "ratio 4", "reduction4", 22.25, 6.09, replace(SE, reduction=4)),
    ablation(10, "ratio 8", "reduction8", 22.26, 5.99, replace(SE, reduction=8)),
    ablation(10, "ratio 16", "se_resnet50", 22.28, 6.03, SE),
    ablation(10, "ratio 32", "reduction32", 22.72, 6.20, replace(SE, reduction=32)),
    ablation(10, "original", "resnet50", 23.30, 6.55, None),
    ablation(11, "Max", "max", 22.57, 6.09, replace(SE, squeeze="max")),
    ablation(11, "Avg", "se_resnet50", 22.28, 6.03, SE),
    ablation(12, "ReLU", "relu", 23.47, 6.98, replace(SE, gate="relu")),
    ablation(12, "Tanh", "tanh", 23.00, 6.38, replace(SE, gate="tanh")),
    ablation(12, "Sigmoid", "se_resnet50", 22.28, 6.03, SE),
    ablation(13, "ResNet-50", "resnet50", 23.30, 6.55, None),
    ablation(13, "SE Stage 2", "stage2", 23.03, 6.48, replace(SE, stages=(2,))),
    ablation(13, "SE Stage 3", "stage3", 23.04, 6.32, replace(SE, stages=(3,))),
    ablation(13, "SE Stage 4", "stage4", 22.68, 6.22, replace(SE, stages=(4,))),
    ablation(13, "SE All", "se_resnet50", 22.28, 6.03, SE),
    ablation(14, "SE", "se_resnet50", 22.28, 6.03, SE),
    ablation(14, "SE-PRE", "pre", 22.23, 6.00, replace(SE, placement="pre")),
    ablation(14, "SE-POST", "post", 22.78, 6.35, replace(SE, placement="post")),
    ablation(14, "SE-Identity", "identity", 22.20, 6.15, replace(SE, placement="identity")),
    ablation(15, "SE", "se_resnet50", 22.28, 6.03, SE),
    ablation(15, "SE 3x3", "3x3", 22.48, 6.02, replace(SE, placement="3x3")),
    ablation(16, "ResNet-50", "resnet50", 23.30, 6.55, None),
    ablation(16, "NoSqueeze", "nosqueeze", 22.93, 6.39, replace(SE, squeeze="none")),
    ablation(16, "SE", "se_resnet50", 22.28, 6.03, SE),
)

PAPER_ROWS: tuple[PaperRow, ...] = (*TABLE_2, *TABLE_3, *TABLE_4, *TABLE_5, *TABLE_6, TABLE_9, *ABLATIONS)
"""Every row that the authors trained; Tables 6 and 9 also quote other people's networks."""
