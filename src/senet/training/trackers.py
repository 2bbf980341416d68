"""Where the metrics of a run go: TensorBoard, Weights & Biases, MLflow and Comet, by accelerate's trackers.

    trackers.json   in the run folder: for each service that has a list of runs, the id there, and what has been sent

A run that goes on continues the same run there. Metrics are sent from metrics.jsonl and steps.jsonl, so that what could
not be sent, because a server was away or the process was killed, is sent with the next line, or when the run goes on.
Those about steps are called steps/NAME; TensorBoard has them in a folder of their own, steps/.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

from senet.configs import settings
from senet.errors import SenetError, first_line, needed_for, warn
from senet.files import parse_json, read_jsonl, write_json
from senet.training.config import RunConfig, Tracker
from senet.training.steplog import STEPS_FILE

PROJECT = "senet"
"""What a service files runs under, unless its own environment variable says otherwise."""
IDS_FILE = "trackers.json"
LONGEST = 500
"""Letters of a hyperparameter; MLflow's older servers take no more."""
NOT_METRICS = ("epoch", "step", "batch", "steps")
PATIENCE = 10
"""After a failure a service is left alone for so many times as long as the failure took."""
clock = time.monotonic
"""Seconds; replaced in tests."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tracker is to continue.

    Args:
        folder: of the run.
        run_id: at the service, if the run is known there.
        first_epoch: the first that will be sent.
    """

    folder: Path
    run_id: str | None
    first_epoch: int


@dataclass(frozen=True, kw_only=True)
class Service:
    """How one of accelerate's trackers is used.

    Args:
        module: which it needs.
        project_variable: environment variable that names the project; empty if there is none.
        options: of accelerate's tracker.
        id_of: the run's id, given what the service itself calls a run; None where runs have none.
        fail: ends a run that did not end well, given the same; None where that makes no difference.
        remedy: what to do if it does not start.
        takes_settings_twice: whether a run that goes on may send its configuration again.
        has_one_axis: whether all its metrics have the same axis, which only rises: that of the steps.
    """

    module: str
    project_variable: str = ""
    options: Callable[[Place], dict[str, Any]]
    id_of: Callable[[Any], str] | None = None
    fail: Callable[[Any], None] | None = None
    remedy: str
    takes_settings_twice: bool = True
    has_one_axis: bool = False


def tensorboard_options(place: Place) -> dict[str, Any]:
    """Return how events are written into the run folder."""
    return {"logging_dir": place.folder.parent, "purge_step": place.first_epoch}


def wandb_options(place: Place) -> dict[str, Any]:
    """Return the arguments of `wandb.init`."""
    place_of_files = {} if "WANDB_DIR" in os.environ else {"dir": str(place.folder)}
    return {"name": place.folder.name, "id": place.run_id, "resume": "allow", **place_of_files}


def mlflow_options(place: Place) -> dict[str, Any]:
    """Return the arguments of `mlflow.start_run`."""
    return {"run_id": place.run_id} if place.run_id else {"run_name": place.folder.name}


def fail_in_mlflow(run: Any) -> None:
    """End a run that did not end well."""
    import_module("mlflow").end_run("FAILED")


def comet_options(place: Place) -> dict[str, Any]:
    """Return the arguments of `comet_ml.start`."""
    comet = import_module("comet_ml")
    files = os.environ.get("COMET_OFFLINE_DIRECTORY", str(place.folder / "comet"))
    config = comet.ExperimentConfig(name=place.folder.name, offline_directory=files, auto_metric_logging=False)
    return {"experiment_key": place.run_id, "experiment_config": config}


SERVICES: Mapping[Tracker, Service] = MappingProxyType(
    {
        "tensorboard": Service(
            module="torch.utils.tensorboard",
            options=tensorboard_options,
            remedy="see whether its folder can be written",
        ),
        "wandb": Service(
            module="wandb",
            project_variable="WANDB_PROJECT",
            options=wandb_options,
            id_of=lambda run: str(run.id),
            fail=lambda run: run.finish(exit_code=1),
            remedy="log in by `wandb login`, or set WANDB_MODE=offline",
            has_one_axis=True,
        ),
        "mlflow": Service(
            module="mlflow",
            project_variable="MLFLOW_EXPERIMENT_NAME",
            options=mlflow_options,
            id_of=lambda run: str(run.info.run_id),
            fail=fail_in_mlflow,
            remedy="set MLFLOW_TRACKING_URI to a server, or to file:FOLDER with MLFLOW_ALLOW_FILE_STORE=true",
            takes_settings_twice=False,  # MLflow refuses a parameter whose value has changed, such as epochs
        ),
        "comet_ml": Service(
            module="comet_ml",
            project_variable="COMET_PROJECT_NAME",
            options=comet_options,
            id_of=lambda experiment: str(experiment.get_key()),
            remedy="log in by `comet login`, or set COMET_START_ONLINE=0",
        ),
    }
)


def check_installed(trackers: Iterable[Tracker]) -> None:
    """Import what trackers need.

    Raises:
        MissingExtraError: a package is missing.
    """
    for name in trackers:
        with needed_for(f"the tracker {name}"):
            import_module(SERVICES[name].module)


def hyperparameters(config: RunConfig) -> dict[str, bool | int | float | str | None]:
    """Return a configuration for a service: values by dotted name, long texts cut."""
    found: dict[str, bool | int | float | str | None] = {}
    for name, value in settings(config, ""):
        text = value if value is None or isinstance(value, bool | int | float) else str(value)
        if isinstance(value, tuple | list):
            text = ", ".join(map(str, value))
        found[name] = f"{text[: LONGEST - 3]}..." if isinstance(text, str) and len(text) > LONGEST else text
    return found


class Trackers:
    """The trackers of one run, in the main process; use it as a context manager.

    Args:
        folder: of the run.
        config: of the run.
        done_epochs: before this start; None if nothing has been trained.
        done_steps: likewise.
    """

    def __init__(self, folder: Path, config: RunConfig, done_epochs: int | None, done_steps: int = 0) -> None:
        self.folder, self.config = folder.absolute(), config
        self.done_epochs, self.done_steps = -1 if done_epochs is None else done_epochs, done_steps
        self.of_steps: list[Mapping[str, float]] = []
        self.sent_steps: dict[Tracker, int] = {}
        self.opened: dict[Tracker, Any] = {}
        self.sent: dict[Tracker, int] = {}
        self.not_before: dict[Tracker, float] = {}
        self.ids_file = self.folder / IDS_FILE
        self.known = self.read_ids()

    def read_ids(self) -> dict[str, dict[str, Any]]:
        """Return what trackers.json holds; nothing if there is none.

        Raises:
            SenetError: it cannot be read.
        """
        try:
            found = parse_json(self.ids_file.read_text())
            return {
                name: {"id": str(value["id"]), "epoch": int(value["epoch"]), "step": int(value.get("step", 0))}
                for name, value in found.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SenetError(
                f"{self.ids_file} cannot be read ({first_line(error)}); remove it, and the trackers begin another run"
            ) from error

    def __enter__(self) -> "Trackers":
        try:
            for name in dict.fromkeys(self.config.trackers):
                self.open(name)
        except BaseException:
            self.close(failed=True)
            raise
        first = min(self.sent_steps.values(), default=0)
        self.of_steps = [row for row in read_jsonl(self.folder / STEPS_FILE) if row["step"] > first]
        self.send()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(failed=kind is not None)

    def open(self, name: Tracker) -> None:
        """Start a tracker, or continue what it holds of this run.

        Raises:
            SenetError: it cannot start.
        """
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        service, known = SERVICES[name], self.known.get(name)
        self.sent[name] = self.done_epochs if service.id_of is None else known["epoch"] if known else -1
        self.sent_steps[name] = self.done_steps if service.id_of is None else known["step"] if known else 0
        place = Place(folder=self.folder, run_id=known["id"] if known else None, first_epoch=self.sent[name] + 1)
        project = self.folder.name if name == "tensorboard" else os.environ.get(service.project_variable, PROJECT)
        try:
            tracker = LOGGER_TYPE_TO_CLASS[name](project, **service.options(place))
            tracker.start()
            self.opened[name] = tracker
            if name == "tensorboard":  # a start hides what comes after its first step, whatever that counts
                place_of_steps = {"logging_dir": self.folder, "purge_step": self.done_steps + 1}
                self.tensorboard_steps = LOGGER_TYPE_TO_CLASS[name]("steps", **place_of_steps)
                self.tensorboard_steps.start()
            if service.id_of is not None:
                own = {"id": service.id_of(tracker.tracker), "epoch": self.sent[name], "step": self.sent_steps[name]}
                self.known[name] = own
                write_json(self.ids_file, self.known)
                if known is None or service.takes_settings_twice:
                    tracker.store_init_configuration(hyperparameters(self.config))
        except Exception as error:  # of any kind: the services have no common parent
            lost = f"remove {self.ids_file} to begin another run there, " if known else ""
            others = " ".join(["--trackers", *(other for other in self.config.trackers if other != name)])
            raise SenetError(
                f"the tracker {name} cannot start ({first_line(error)}); {service.remedy}, {lost}or leave it out: "
                f"`senet train --resume {quote(str(self.folder))} {others}`"
            ) from error

    def send_steps(self, row: Mapping[str, float]) -> None:
        """Send a line of steps.jsonl, and what could not be sent before; see `send`."""
        self.of_steps.append(row)
        self.send()

    def send(self, *, last: bool = False) -> None:
        """Send the metrics that have not been sent; warn if that fails, for the run is worth more.

        A server that is gone may take minutes to say so: it is tried again only after a time in which the run gets
        ahead, and at the end.

        Args:
            last: whether there will be no other time.
        """
        of_epochs = read_jsonl(self.folder / "metrics.jsonl")
        for name, tracker in self.opened.items():
            started = clock()
            if started < self.not_before.get(name, 0.0) and not last:
                continue
            try:
                self.send_to(name, tracker, of_epochs)
            except Exception as error:
                self.not_before[name] = clock() + PATIENCE * (clock() - started)
                later = "resuming sends them again" if last else "they are sent again later"
                warn(f"{self.folder.name}: {name} takes no metrics ({first_line(error)}); {later}")
        least = min(self.sent_steps.values(), default=0)
        self.of_steps = [row for row in self.of_steps if row["step"] > least]

    def send_to(self, name: Tracker, tracker: Any, of_epochs: Iterable[Mapping[str, float]]) -> None:
        """Send a service what it has not got yet.

        Args:
            name: of the service.
            tracker: accelerate's.
            of_epochs: the lines of metrics.jsonl.
        """
        has_one_axis = SERVICES[name].has_one_axis
        epochs = [row for row in of_epochs if row["epoch"] > self.sent[name]]
        steps = [row for row in self.of_steps if row["step"] > self.sent_steps[name]]
        rows = [(row, False) for row in steps] + [(row, True) for row in epochs]
        if has_one_axis:
            rows.sort(key=lambda each: (each[0]["step"], each[1]))
        for row, of_epoch in rows:
            metrics = {key: value for key, value in row.items() if key not in NOT_METRICS}
            if of_epoch:
                shown = {"epoch": row["epoch"], **metrics} if has_one_axis else metrics
                tracker.log(shown, step=int(row["step" if has_one_axis else "epoch"]))
                self.sent[name] = int(row["epoch"])
            else:
                logs = self.tensorboard_steps if name == "tensorboard" else tracker
                logs.log({f"steps/{key}": value for key, value in metrics.items()}, step=int(row["step"]))
                self.sent_steps[name] = int(row["step"])
        where = {"epoch": self.sent[name], "step": self.sent_steps[name]}
        if name in self.known and not where.items() <= self.known[name].items():
            self.known[name] |= where
            write_json(self.ids_file, self.known)

    def close(self, *, failed: bool) -> None:
        """End all trackers.

        Args:
            failed: whether the run ended by an error or a signal.
        """
        if self.not_before:
            self.send(last=True)
        for name, tracker in self.opened.items():
            fail = SERVICES[name].fail if failed else None
            try:
                if name == "tensorboard":
                    self.tensorboard_steps.finish()
                if fail is not None:
                    fail(tracker.tracker)
                else:
                    tracker.finish()
            except Exception as error:
                warn(f"{self.folder.name}: {name} has not ended well ({first_line(error)})")
        self.opened.clear()
