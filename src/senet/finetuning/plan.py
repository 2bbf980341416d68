"""The plan of a fine-tuning: its whole configuration, and in words what was chosen and why."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from senet.data.balance import ratio
from senet.data.survey import survey_of
from senet.errors import SenetError, counted, first_line
from senet.finetuning.budget import in_words
from senet.finetuning.defaults import Situation, choose, without_conflicts
from senet.finetuning.memory import fitting_batch_size, step_on_gpu
from senet.finetuning.opening import Request, open_images, open_network
from senet.models.base import Network
from senet.nn.modes import eval_mode
from senet.processes import current_team
from senet.training.config import TrainConfig
from senet.training.groups import depths_of
from senet.training.stored import changed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fine-tuning will do.

    Args:
        config: of the run.
        lines: what was found and chosen, a sentence each.
        baseline: accuracy of always predicting the largest class on the evaluation images, in %: top-1, balanced.
    """

    config: TrainConfig
    lines: tuple[str, ...]
    baseline: tuple[float, float]


def make_plan(request: Request, output: Path) -> Plan:
    """Look at the pictures and at the network, and choose the settings.

    Args:
        request: what was asked for.
        output: the run folder, whose disk must have space.

    Raises:
        SenetError: the pictures or the network cannot be used.
    """
    splits = open_images(request)
    opened, model = open_network(request, splits)
    config = opened.config
    found = survey_of(config.data, splits)
    found.check()
    counts, eval_counts = found.train_counts, found.eval_counts
    situation = Situation(
        counts=counts,
        image_size=config.data.preprocessing.image_size,
        pretrained=request.pretrained,
        new_head=opened.new_head,
        num_eval_images=int(eval_counts.sum()),
        num_groups=max(depths_of(model).values()) + 1,
        on_gpu=torch.cuda.is_available() and not request.asked.get("compute.cpu"),
        seconds=request.asked.get("max_seconds"),
        epochs=request.asked.get("epochs"),
        freeze=request.asked.get("freeze"),
        batch_size=request.asked.get("batch_size"),
        num_processes=current_team().size,
    )
    config = completed(config, situation, request.asked)
    check_network(model, config, len(counts))
    check_space(model, output)
    lines = str(found).splitlines()
    if situation.on_gpu and situation.batch_size is None:
        size, wanted = config.data.preprocessing.image_size, config.batch_size
        step = step_on_gpu(model, (config.data.preprocessing.in_channels, size, size))
        fits = fitting_batch_size(wanted, step)
        if fits < wanted:
            config = completed(config, replace(situation, batch_size=fits), {**request.asked, "batch_size": fits})
            lines.append(f"batch size {wanted} does not fit the GPU's memory; {fits} does")
    shares = eval_counts / eval_counts.sum()
    baseline = 100 * float(shares[counts.argmax()]), 100 / int((eval_counts > 0).sum())
    lines += described(config, situation, model, found.class_names, baseline)
    if is_test(splits[1].source) and config.selection.metric != "epoch":
        lines.append(
            f"{splits[1].source} chooses the best epoch, so that accuracy on it is too good to be true of other "
            "pictures; move it elsewhere, and pictures of train are held out to choose by"
        )
    return Plan(config=config, lines=tuple(lines), baseline=baseline)


def is_test(source: str) -> bool:
    """Whether a split is called test: a folder of that name, or a split of a table, "NAME (test)"."""
    name = Path(source).name.lower()
    return name in ("test", "testing") or name.endswith(("(test)", "(testing)"))


# ---- the network -----------------------------------------------------------------------------------------------------


def check_network(model: Network, config: TrainConfig, num_classes: int) -> None:
    """Raise a SenetError unless a network takes images of the configured size and gives a score for each class."""
    size, channels = config.data.preprocessing.image_size, config.data.preprocessing.in_channels
    name = config.model.name
    try:
        with eval_mode(model), torch.no_grad():
            scores = model(torch.zeros(1, channels, size, size))
    except Exception as error:  # whatever a network says of a size that it does not take
        raise SenetError(
            f"{name} does not take images of {size} pixels ({first_line(error)}); leave image_size out"
        ) from error
    shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
    if shape != (1, num_classes):
        raise SenetError(
            f"{name} is no classifier: for one image and {num_classes} classes it returns {shape}, not "
            f"{(1, num_classes)}; take another network"
        )


def bytes_of_run(model: nn.Module) -> int:
    """Return how much space a run of a network takes on disk, in bytes.

    These are the weights in best/ and last/, and three training states, of the last save, of the one before and of one
    that is being written: the weights as they train and as their average, and AdamW's two numbers a weight.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return int(2 * weights + 3 * (2 * weights + 2 * trained))


def check_space(model: nn.Module, output: Path) -> None:
    """Raise a SenetError if the disk of the output has too little space for a run."""
    folder = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
    needed, free = bytes_of_run(model), shutil.disk_usage(folder).free
    if needed > free:
        raise SenetError(
            f"{output} has too little space: the run needs about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are "
            "free; name another output or make room"
        )


# ---- the settings ----------------------------------------------------------------------------------------------------


def completed(config: TrainConfig, situation: Situation, asked: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration with what was asked for, and what is chosen where nothing was."""
    chosen = without_conflicts(choose(situation), asked)
    others = {name: value for name, value in asked.items() if not is_settled(name)}
    return changed(config, {**chosen, **others})


def is_settled(name: str) -> bool:
    """Whether a setting belongs to the network and its preprocessing, which are opened before the rest is chosen."""
    return name.startswith(("model.", "data.preprocessing.", "weights"))


def described(
    config: TrainConfig, situation: Situation, model: nn.Module, names: Sequence[str], baseline: Sequence[float]
) -> list[str]:
    """Return what was found and chosen, a sentence each."""
    counts, size = situation.counts, config.data.preprocessing.image_size
    weights = sum(weight.numel() for weight in model.parameters()) / 1e6
    start = f"from {config.weights}" if config.weights else "from random weights"
    processes = situation.num_processes
    of_step = processes * config.batch_size
    steps = -(-situation.num_images // of_step)
    limit = f", at most {in_words(config.max_seconds)}" if config.max_seconds else ""
    channels = config.data.preprocessing.in_channels
    lines = [
        f"always predicting {names[int(counts.argmax())]} would reach {baseline[0]:.1f} % top-1 and "
        f"{baseline[1]:.1f} % balanced accuracy",
        f"network: {config.model.name} {start}, {weights:.1f} million weights, images of {size} pixels and "
        f"{counted(channels, 'channel')}",
        f"length: {counted(config.epochs, 'epoch')} of {counted(steps, 'step')} with "
        f"{counted(of_step, 'image')} each{'' if processes == 1 else f', {config.batch_size} in each process'}{limit}; "
        f"{patience_words(config)}",
        f"steps: {config.optimizer.name} with learning rate {config.optimizer.lr:.2g}{layer_words(config)}",
    ]
    if config.head_epochs:
        lines.append(f"head: the new classifier trains alone for the first {epochs_words(config.head_epochs)}")
    if config.freeze != "none":
        kept = {"bn": "the statistics of BatchNorm", "trunk": "everything but the classifier"}[config.freeze]
        why = ": there are few images" if config.freeze == "bn" and situation.freeze is None else ""
        lines.append(f"frozen: {kept}{why}")
    if config.selection.metric == "epoch":
        lines.append(
            f"best: the last epoch, for {situation.num_eval_images} evaluation images are too few to choose by"
        )
    if ratio(counts) > 1 and config.selection.metric == "balanced_accuracy":
        lines.append("best: by balanced accuracy, the mean of the classes' accuracies, for the classes differ in size")
    return lines


def epochs_words(number: int) -> str:
    """Return a number of epochs in words."""
    return "epoch" if number == 1 else f"{number} epochs"


def patience_words(config: TrainConfig) -> str:
    """Return in words when a run stops early."""
    metric = config.selection.metric.replace("_", " ")
    if metric == "epoch":
        return "the last is kept"
    if config.selection.patience is None or config.selection.patience >= config.epochs:
        return f"the best by {metric} is kept"
    return f"the best by {metric} is kept, and {config.selection.patience} epochs without a better one end the run"


def layer_words(config: TrainConfig) -> str:
    """Return in words how the learning rate falls towards the image."""
    decay = config.optimizer.layer_decay
    return "" if decay is None else f" in the classifier, {decay:.2g} times as much in each group of layers before it"
