"""Fine-tuning a network on pictures: the plan, the run, and what came of it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senet.configs import check_setting
from senet.data.datasets import folders_of_splits
from senet.errors import SenetError, counted
from senet.files import read_jsonl
from senet.finetuning.budget import parse_time
from senet.finetuning.opening import Request
from senet.finetuning.plan import Plan, make_plan
from senet.finetuning.source import resolve_source
from senet.processes import shared_work
from senet.training.config import TrainConfig
from senet.training.loop import resume, train
from senet.training.optimizers import check_optimizer
from senet.training.progress import Progress, lines_shown
from senet.training.run import METRICS_FILE, RunFolder
from senet.training.sections import Freeze, Metric, OptimizerConfig
from senet.training.selection import best_of

logger = logging.getLogger("senet.training.finetuning")


def finetune(
    data: str | Path,
    output: str | Path,
    *,
    model: str | Path,
    pretrained: bool = True,
    freeze: Freeze | None = None,
    epochs: int | None = None,
    time: str | float | None = None,
    metric: Metric | None = None,
    teacher: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a network that has weights on pictures of your own.

    What is left out is chosen for the pictures, the network and the machine, and logged, as for `senet.train`. The run
    is one of `senet.train`: `senet.resume` goes on with it, and its config.json holds all that was chosen.

    Args:
        data: a folder with train/ and val/, each with a folder of images for each class; or with the classes' folders
            alone, of which a fifth is held out; or a CSV file that names pictures and their classes; or another data
            set that `DataConfig` takes.
        output: the run folder, which must not exist yet, or be empty.
        model: what to start from: a run, a model folder, a file, a hub id, the name of a network with public weights,
            or "timm/NAME" or "torchvision/NAME" with that library's weights; see `senet.from_pretrained`.
        pretrained: False starts the same network at random, to compare.
        freeze: "trunk" trains the classifier alone, "bn" keeps the statistics of BatchNorm, "none" trains all; None is
            "bn" for few images, else "none".
        epochs: passes over the images; None for a number that fits theirs.
        time: limit for the whole run: seconds, or a text such as "20m"; the epochs are then as many as fit.
        metric: chooses the best epoch; None is "balanced_accuracy" where the classes differ in size, else "top1", and
            "epoch", the last, where there are too few evaluation images to choose by.
        teacher: a trained network to learn from as well, see `ObjectiveConfig`.
        image_size: side of the network's input in pixels; None for that of the weights.
        channels: of the images; None for those of the weights, or of the images if these cannot be converted.
        batch_size: images of a step in each process; None for a number that fits the images and the machine: under
            torchrun a share of what one process would take, so that a step is the same.
        seed: of everything random.
        settings: any other fields of `TrainConfig` by dotted name, such as {"optimizer.lr": 1e-3}.
        progress: as for `senet.train`.

    Returns:
        The run folder; its best/ holds the network.

    Raises:
        SenetError: pictures, network or settings that cannot be used, in one sentence, before any training.
        TrainingInterrupted: as for `senet.train`.
    """
    given = {
        "freeze": freeze,
        "epochs": epochs,
        "max_seconds": None if time is None else parse_time(time),
        "selection.metric": metric,
        "objective.teacher": None if teacher is None else str(teacher),
        "data.preprocessing.image_size": image_size,
        "model.in_channels": channels,
        "batch_size": batch_size,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    asked = {"seed": seed, **asked, **(settings or {})}
    if isinstance(output, str | Path) and RunFolder(output).is_started_here():
        return resume(output, progress=progress)  # torchrun has started its processes again
    with shared_work() as team:  # the first process looks at the pictures and the network, and plans for all
        plan = team.from_first(lambda: prepare(data, output, model=model, pretrained=pretrained, asked=asked))
    return carry_out(plan, output, progress)


def prepare(
    data: str | Path, output: str | Path, *, model: str | Path, pretrained: bool, asked: Mapping[str, Any]
) -> Plan:
    """Return the plan of a fine-tuning, see `finetune`.

    Args:
        data: see there.
        output: see there.
        model: see there.
        pretrained: see there.
        asked: settings of `TrainConfig` by dotted name.

    Raises:
        SenetError: see there.
    """
    for argument, value, expected in (
        (
            "data",
            data,
            "the path of a folder or CSV file, or the name of a data set; one of Hugging Face's in memory becomes a "
            "folder by its save_to_disk",
        ),
        ("output", output, "the path of the run folder to write"),
        ("model", model, "a name or path; save the network by senet.save_pretrained, and name its folder"),
    ):
        if not isinstance(value, str | Path):
            raise SenetError(f"{argument} is of class {type(value).__name__}; expected {expected}")
    RunFolder(output).check_free()
    if Path(data).is_dir():
        classes = folders_of_splits(Path(data))[0] or Path(data)
        if classes.resolve() in Path(output).resolve().parents:
            raise SenetError(f"{output} is inside {classes}, whose folders are classes; name an output elsewhere")
    check_settings(asked)
    source = resolve_source(str(model), pretrained)
    request = Request(data=str(data), source=source, pretrained=pretrained, asked=asked)
    return make_plan(request, Path(output))


def check_settings(asked: Mapping[str, Any]) -> None:
    """Raise a SenetError for a setting that `finetune` decides by itself, or from whose value others cannot follow."""
    for name, argument in (("weights", "model"), ("data.dataset", "data"), ("model.num_classes", "data")):
        if name in asked:
            raise SenetError(f"{name} cannot be set here: it follows from {argument}")
    for name, value in asked.items():
        check_setting(TrainConfig, name, value)
    for name in ("epochs", "batch_size"):
        if asked.get(name, 1) < 1:
            raise SenetError(f"{name} is {asked[name]}; expected at least 1")
    if "optimizer.name" in asked:
        check_optimizer(OptimizerConfig(name=asked["optimizer.name"]))


def carry_out(plan: Plan, output: str | Path, progress: Progress | None = None) -> Path:
    """Say what is planned, train, and say what came of it."""
    with lines_shown():
        for line in plan.lines:
            logger.info("%s", line)
    run = train(plan.config, output, progress=progress)
    with lines_shown():
        logger.info("%s", summary(run, plan.baseline))
    return run


def summary(run: Path, baseline: tuple[float, float]) -> str:
    """Return what came of a run, in a sentence.

    Args:
        run: its folder.
        baseline: see `Plan`.
    """
    metric = RunFolder(run).read_config().selection.metric
    rows = [row for row in read_jsonl(run / METRICS_FILE) if row["epoch"] > 0]
    best = best_of(rows, metric)
    assert best is not None  # a run has at least one epoch
    top1, balanced = baseline
    which = "the last of" if metric == "epoch" else "the best of"
    return (
        f"{run.name}: {which} {counted(len(rows), 'epoch')} is {best['epoch']:.0f}, with a balanced accuracy of "
        f"{best['balanced_accuracy']:.1f} % and top-1 {best['top1']:.1f} %, where always predicting the largest class "
        f"reaches {balanced:.1f} % and {top1:.1f} %"
    )
