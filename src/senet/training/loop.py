"""Training a network from the beginning, and going on with a run that was stopped."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import Any

from senet.configs import settings
from senet.data.division import Division
from senet.errors import SenetError
from senet.lost import watching_others
from senet.training import budget
from senet.training.config import RunConfig, Tracker
from senet.training.ending import ending_of_state
from senet.training.optimizers import check_optimizer
from senet.training.parts import Parts
from senet.training.processes import build_accelerator, check_shared
from senet.training.progress import Progress, lines_shown
from senet.training.run import RunFolder
from senet.training.state import STATE_KEYS, up_to_date
from senet.training.stored import changed
from senet.training.task import Task
from senet.training.trackers import check_installed
from senet.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(config: RunConfig, output: str | Path, *, progress: Progress | None = None) -> Path:
    """Train a network; a line is logged for each epoch.

    Under torchrun with `--max-restarts`, the processes that it starts again go on from the last save.

    Lines go to the logger "senet.training" at level INFO; where the program has not configured logging, they are shown
    on standard error.

    Args:
        config: the whole run, for instance from `senet.recipes`.
        output: the run folder, which must not exist yet, or be empty.
        progress: shows how far the run is, besides the lines, such as a bar; None for nothing.

    Returns:
        The run folder.

    Raises:
        SenetError: bad settings or data.
        NotFiniteError: the loss or the weights are not finite; the run folder keeps the last good state.
        MissingExtraError: a package for training is not installed.
        TrainingInterrupted: SIGINT or SIGTERM arrived; the state is saved, and `resume` goes on.
    """
    run = RunFolder(output)
    if run.is_started_here(config):
        return resume(output, progress=progress)
    run.check_free()
    return carry_out(run, config, None, progress)


def resume(
    folder: str | Path,
    *,
    epochs: int | None = None,
    max_seconds: float | None = None,
    patience: int | None = None,
    max_drops: int | None = None,
    checkpoint_every: int | None = None,
    log_every: int | None = None,
    stall_minutes: float | None = None,
    lost_minutes: float | None = None,
    dataset: str | None = None,
    root: str | Path | None = None,
    num_workers: int | None = None,
    trackers: Sequence[Tracker] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Go on with a run that was stopped; all that it needs is in its folder.

    With nothing changed, on the CPU, it ends with the same weights, bit for bit, as if it had never stopped. In another
    number of processes it goes on with the same images in the same batches, and gradients equal to rounding, which
    training enlarges from step to step. A run that is finished is left as it is.

    Args:
        folder: the run folder.
        epochs: another number of epochs for the whole run; schedules that depend on it are stretched.
        max_seconds: another time for the whole run, with what it has taken so far.
        patience: another `selection.patience`, to go on with a run that ended early.
        max_drops: another `schedule.max_drops`, the same.
        checkpoint_every: batches between saves within an epoch.
        log_every: steps from line to line of steps.jsonl.
        stall_minutes: without a step after which stacks are written, see `TrainConfig`.
        lost_minutes: of silence on another machine after which the run ends, see `TrainConfig`.
        dataset: where the same data are now, for a folder that was moved.
        root: where the torchvision data sets are now.
        num_workers: processes that read the data.
        trackers: other places for the metrics, see `TrainConfig`; they get those of all epochs.
        progress: as for `train`.

    Returns:
        The run folder.

    Raises:
        SenetError: the folder holds no run, its state is damaged, its data have changed, or as `train`.
        TrainingInterrupted: as `train`.
    """
    run = RunFolder(folder)
    changes = {
        "epochs": epochs,
        "max_seconds": max_seconds,
        "selection.patience": patience,
        "schedule.max_drops": max_drops,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "stall_minutes": stall_minutes,
        "lost_minutes": lost_minutes,
        "data.dataset": dataset,
        "data.root": None if root is None else Path(root),
        "data.num_workers": num_workers,
        "trackers": None if trackers is None else tuple(trackers),
    }
    config, changes = run.read_config(), {name: value for name, value in changes.items() if value is not None}
    check_known(config, changes)
    config = changed(config, changes)
    state = run.load_state(STATE_KEYS)
    if state is None:
        return carry_out(run, config, None, progress)
    state = up_to_date(state, config.epochs, run.metrics())
    done = state["position"]["epoch"]
    if config.epochs is not None and done > config.epochs:
        raise SenetError(f"epochs is {config.epochs}, but {run.path} has trained {done} already; give more")
    if ending := ending_of_state(config, state):
        run.clean()
        with lines_shown():
            logger.info("%s is finished: %s; %s", run.path, ending.reason, ending.remedy)
        return run.path
    return carry_out(run, config, state, progress)


def check_known(config: RunConfig, changes: Mapping[str, Any]) -> None:
    """Raise a SenetError for the first change, by dotted name, of a setting that the run does not have."""
    known = dict(settings(config, ""))
    for name in changes:
        if name not in known:
            raise SenetError(
                f"{name} has no effect on this run of {config.task}, which has no such setting; leave it out"
            )


def carry_out(run: RunFolder, config: RunConfig, state: Mapping[str, Any] | None, progress: Progress | None) -> Path:
    """Train a run to its end.

    Args:
        run: its folder.
        config: of the run.
        state: the training state to go on from; None to begin.
        progress: see `train`.
    """
    started = budget.clock()
    check_optimizer(config.optimizer)
    check_installed(config.trackers)
    accelerator = build_accelerator(config.compute)
    if state is None:
        check_shared(config.compute, accelerator.num_processes)
    processes = accelerator.num_processes
    remedy = f"start all processes again with {resuming(run.path)}"
    with watching_others(processes, config.lost_minutes, remedy):
        task: Task[Any] = config.task_type()(config)
        task.choose_precision(accelerator.device)
        replicas = run.num_processes(processes) if state is None else state["num_processes"]
        division = Division(num_replicas=replicas, num_processes=processes, process=accelerator.process_index)
        task.open(run, accelerator, division, is_new=state is None)
        parts = Parts(task, accelerator.device, started)
        trainer = Trainer(parts, run, accelerator, division)
        with run.claimed() if accelerator.is_main_process else nullcontext():
            trainer.restore(state)
            if accelerator.is_main_process:
                run.start(parts.config, task.described(), division.num_replicas)
            accelerator.wait_for_everyone()
            trainer.run_epochs(progress)
    return run.path


def resuming(path: Path) -> str:
    """Return the command that goes on with a run, and from where, as the end of a sentence."""
    return f"`senet train --resume {quote(str(path))}`, which goes on from the last save"
