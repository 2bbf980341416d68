"""`senet evaluate`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

import tyro
from tyro.conf import Positional

from senet.cli.data import OnData, check_name
from senet.cli.detection import EvaluateDetectorCommand, named_detector
from senet.cli.names import CLASSIFYING
from senet.data.config import DataConfig
from senet.errors import SenetError, counted, warn
from senet.evaluation.accuracy import Evaluation
from senet.evaluation.batches import open_model, run_data
from senet.evaluation.comparison import Comparison, check_ensemble, compare, is_imbalanced
from senet.evaluation.functions import Network
from senet.evaluation.measures import Interval, PairedTest
from senet.evaluation.scores import evaluate, unique_names
from senet.files import check_page
from senet.launch import is_first
from senet.nn.precision import Precision
from senet.optimization.inference import Backend, optimize_for_inference
from senet.terminal import Table, console, say


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(OnData):
    """Measure the accuracy of one network, or of several side by side, on one crop or averaged over many.

    RUN_OR_MODEL is a run folder, a model folder, a file of weights that says what network it is of, a hub id, the name
    of a network with public weights, or "timm/NAME" or "torchvision/NAME" with that library's own weights. The
    data are those of the (first) run, unless you name others. For a run that detects objects, average precision and
    recall are measured, and `senet evaluate RUN --help` lists the options for it.

    Examples:
        senet evaluate runs/digits
        senet evaluate runs/digits --report page.html
        senet evaluate runs/plain runs/se --ensemble
        torchrun --nproc-per-node 2 -m senet evaluate runs/se50
        senet evaluate runs/se50 --crop-size 320
        senet evaluate runs/se50 --ten-crop --resize-sizes 224 256 288
        senet evaluate timm/seresnet50.ra2_in1k --data imagenet --data.root /data/imagenet
        senet evaluate timm/seresnet50.ra2_in1k --data photos --mapping breeds-to-pets.csv --classes-of-data
    """

    others: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RUN_OR_MODEL ...]")] = ()
    """more networks, each compared with the first"""
    ensemble: bool = False
    """evaluate the average of the networks' probabilities too"""
    weights: tuple[float, ...] | None = None
    """of the networks in the ensemble; None for equal ones"""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write a page: class by class, confusions, calibration, mistakes as pictures"""
    crop_size: int | None = None
    """side of the crops in pixels; None for the network's own"""
    resize_sizes: tuple[int, ...] | None = None
    """lengths the shorter side is resized to; several are averaged; None keeps the network's ratio to the crop"""
    ten_crop: bool = False
    """average ten crops: corners and center, each mirrored too"""
    classes_of_data: bool = False
    """predict among the classes of the data alone, where the network has more"""
    mapping: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON or CSV: class of the network -> class of the data; several to one add up"""
    precision: Precision = "fp32"
    """of the arithmetic; auto is bf16 where the hardware computes it; tf32 and fp16 need a GPU"""
    optimize: Backend | None = None
    """rewrite the network for inference and compute it with this backend, auto for the fastest one here; see
    `senet.optimize_for_inference`"""
    json: bool = False
    """print JSON with everything that the page tells instead of a sentence or table"""

    def run(self) -> None:
        """Evaluate and print."""
        check_ensemble(self.ensemble, self.weights, None, 1 + len(self.others))
        if self.report is not None:
            if is_first():
                check_page(self.report)
            with_page()
        options: dict[str, Any] = {
            "crop_size": self.crop_size,
            "resize_sizes": self.resize_sizes,
            "ten_crop": self.ten_crop,
            "batch_size": self.batch_size,
            "classes_of_data": self.classes_of_data,
            "mapping": self.mapping,
            "precision": self.precision if self.optimize is None else "fp32",
        }
        names = (self.model, *self.others)
        if self.others or self.report or self.json:
            networks = [self.opened(name) for name in names]
            more: dict[str, Any] = {"ensemble": self.ensemble, "weights": self.weights, "names": unique_names(names)}
            self.show(compare(networks, self.data, **more, **options))
        else:
            say(sentence(evaluate(self.opened(self.model), self.data, **options), self.data.dataset))

    def opened(self, name: str) -> Network:
        """Return a network rewritten for inference where that is asked for; otherwise what it is opened from."""
        if self.optimize is None:
            return name
        return optimize_for_inference(open_model(name), backend=self.optimize, precision=self.precision)

    def show(self, found: Comparison) -> None:
        """Print a comparison, and write its page."""
        if not is_first():
            return
        page = None if self.report is None else with_page()(found, self.report)
        if self.json:
            print(json.dumps(found.to_dict() if self.others else found.reports[0].to_dict(), allow_nan=False))
            return
        first = found.reports[0].evaluation
        if self.others:
            console().print(comparison_table(found))
            say(f"{counted(first.num_images, 'image')} of {self.data.dataset}{of_imbalance(first)}")
        else:
            say(sentence(first, self.data.dataset))
        if page is not None:
            say(f"{page} is the report; open it in a browser")

    elsewhere: ClassVar[Mapping[str, str]] = CLASSIFYING
    configuration: ClassVar[type] = EvaluateDetectorCommand  # which takes over for a network that detects

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Read the arguments, and see whether the networks can be compared on these data.

        Returns:
            The command; for a network that detects objects the one for these, which has other options.

        Raises:
            SenetError: see `OnData.read`; or runs on different data, of which none is named.
        """
        if named_detector(argv):
            return cast(Self, EvaluateDetectorCommand.read(argv, prog))
        command = super().read(argv, prog)
        named = any(word.partition("=")[0] == "--data" for word in argv)
        for other in command.others:
            check_name(other)
            data = run_data(other)
            if data is None:
                continue
            if not named and data.dataset != command.data.dataset:
                raise SenetError(
                    f"{other} was trained on {data.dataset}, and {command.model} on {command.data.dataset}; name the "
                    "data to compare them on by --data"
                )
            if data.dataset == command.data.dataset and held_out_by(data) != held_out_by(command.data):
                warn(
                    f"{other} was trained on some of the images that it is evaluated on: it held out other images of "
                    f"{data.dataset} (data.val_fraction, data.split_seed), so the comparison favors it"
                )
        return command


def held_out_by(data: DataConfig) -> tuple[float | None, int]:
    """Return what decides which images of a folder are held out for evaluation."""
    return data.val_fraction, data.split_seed


def with_page() -> Callable[[Comparison, Path], Path]:
    """Return what writes the page; import it only here, for it needs plotly.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
    """
    from senet.analysis.evaluation_page import write_evaluation_page

    return write_evaluation_page


def sentence(found: Evaluation, dataset: str) -> str:
    """Return the accuracy in a sentence; of imbalanced classes the balanced accuracy too."""
    balanced = f", balanced accuracy {found.balanced_accuracy:.2f} %" if is_imbalanced(found) else ""
    return (
        f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %{balanced}, loss {found.loss:.4f} "
        f"on {counted(found.num_images, 'image')} of {dataset}{of_imbalance(found)}"
    )


def of_imbalance(found: Evaluation) -> str:
    """Return what always predicting the largest class would reach, for the end of a sentence, if it is much."""
    if not is_imbalanced(found):
        return ""
    return (
        f"; always predicting the largest class has top-1 {found.largest_class:.2f} % and balanced accuracy "
        f"{100 / found.num_classes:.2f} %"
    )


def comparison_table(found: Comparison) -> Table:
    """Return networks as the rows of a table, with how each differs from the first."""
    table = Table("network")
    for heading in ("top-1, %", "balanced, %", "F1, %", "loss", "ECE, points", "ms/image", "top-1 against the first"):
        table.add_column(heading, justify="right")
    table.add_column("McNemar's p", justify="right")
    tests: list[PairedTest | None] = [None, *found.tests]
    for report, test in zip(found.all_reports, tests, strict=True):
        of = report.evaluation
        table.add_row(
            report.name,
            f"{of.top1:.2f}{between(report.intervals['top1'])}",
            f"{of.balanced_accuracy:.2f}{between(report.intervals['balanced_accuracy'])}",
            f"{of.macro_f1:.2f}",
            f"{of.loss:.4f}",
            f"{report.ece:.2f}",
            f"{1000 * report.seconds / of.num_images:.1f}",
            "" if test is None else f"{test.top1_difference:+.2f}{between(test.top1_interval)}",
            "" if test is None else f"{test.p_value:.2g}",
        )
    return table


def between(interval: Interval | None) -> str:
    """Return a confidence interval in parentheses; nothing if there is none."""
    return "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"
