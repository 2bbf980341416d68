"""The run folder: what a run writes, and what it needs to go on.

    config.json             the TrainConfig or another RunConfig with its task, the number of processes that it started
                            with, and the modules of other packages that its network needs
    data.json               numbers of images, names of classes, images held out; compared when a run is resumed
    environment.json        versions and machine, and which start of torchrun it belongs to
    metrics.jsonl           one line an epoch; epoch 0 is the weights that it starts from, if there are any
    steps.jsonl             one line each log_every steps, at each save and at the end of an epoch
    stacks/processN.txt     of a run that stood still: the stacks of all threads
    not_finite.json         of a run that stopped for it: the first layer with values that are not finite
    events.out.tfevents.*   the same for TensorBoard, one of its trackers
    trackers.json           ids of the run at other trackers (see senet.training.trackers)
    best/, last/            model folders (see senet.weights.folder)
    last/training_state.pt  weights, optimizer, schedule, position; read with weights_only=True
    previous/               the training state of the save before, which is gone on from if the last one is damaged
    *.sha256                beside the weights and states, see senet.checksums

There are no random states: all randomness is a function of (seed, epoch, step).
"""

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import nn

from senet.checksums import copy_with_checksum, written_with_checksum
from senet.configs import settings, to_dict
from senet.data.folders import listed
from senet.errors import MissingExtraError, MissingFileError, SenetError, warn
from senet.files import make_folder, parse_json, read_jsonl, synchronize, unwritable, write_json, written_beside
from senet.launch import job
from senet.locks import held
from senet.models.description import Surgery
from senet.plugins import check_imported
from senet.training.config import RunConfig
from senet.training.stalls import STACKS_FOLDER, has_stacks
from senet.training.state import read_state, save_state
from senet.training.steplog import STEPS_FILE
from senet.training.stored import digest_of, read_config
from senet.weights.card import CARD_FILE
from senet.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from senet.weights.folder import write_model_folder
from senet.weights.reading import read_description

STATE_FILE = "training_state.pt"
DATA_FILE = "data.json"
ADDED_LATER = ("held_out", "train_boxes", "eval_boxes")
"""What data.json of older runs does not say; the latter two, of detectors, differ where images or boxes do."""
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"
WITHOUT_EFFECT = (
    "data.dataset",
    "data.root",
    "data.num_workers",
    "checkpoint_every",
    "trackers",
    "log_every",
    "stall_minutes",
    "lost_minutes",
)
"""Settings that do not change the result of a run: where its data is, how it is read, what it saves and says when."""


def entries(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, but not the unfinished files that a killed run has left."""
    return (entry for entry in folder.iterdir() if entry.suffix != ".part" and entry.name != LOCK_FILE)


class RunFolder:
    """One run's folder.

    Args:
        path: made by `start`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics_file = self.path / METRICS_FILE
        self.last = self.path / "last"
        self.best = self.path / "best"
        self.state_file = self.last / STATE_FILE
        self.previous_state = self.path / "previous" / STATE_FILE
        self.is_new = self.is_damaged = False
        self.asked = ""

    def is_started_here(self, config: RunConfig | None = None) -> bool:
        """Return whether the folder holds the run of the same start of torchrun, which has started its processes again.

        Args:
            config: that the run is to have been asked for with; None for any.
        """
        self.asked = "" if config is None else digest_of(config)
        written = self.read_json(ENVIRONMENT_FILE)
        is_same = bool(job()) and written.get("job") == job() and (self.path / CONFIG_FILE).exists()
        return is_same and (config is None or written.get("asked") == self.asked)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return what a file of the folder holds; nothing if it is not there, or cannot be read."""
        try:
            values = parse_json((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def num_processes(self, now: int) -> int:
        """Return the number of processes that the run started with: as many as there are `now` if it starts now."""
        found = self.read_json(CONFIG_FILE).get("num_processes", now)
        return found if isinstance(found, int) and found > 0 else now

    @property
    def taken(self) -> str:
        """What is said where another process trains in the folder."""
        return f"another process trains in {self.path}; wait until it ends, or choose another folder"

    def check_free(self) -> None:
        """Raise a SenetError if another process trains in the folder, or it holds a run, or something else, already."""
        self.is_new = True
        if (self.path / CONFIG_FILE).exists():
            with suppress(OSError), held(self.path / LOCK_FILE, self.taken):
                pass
            raise SenetError(
                f"{self.path} holds a run already; go on with it by `senet train --resume {quote(str(self.path))}`, "
                "or choose another --output"
            )
        left = {ENVIRONMENT_FILE}  # of a start that failed before it wrote more
        if self.path.exists() and (not self.path.is_dir() or {entry.name for entry in entries(self.path)} - left):
            raise SenetError(f"{self.path} exists and is not a run folder; choose another --output")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes from training in it until the block ends.

        Raises:
            SenetError: it cannot be made, or another process trains in it, or has since it was found free.
        """
        with ExitStack() as stack:
            try:
                make_folder(self.path)
                stack.enter_context(held(self.path / LOCK_FILE, self.taken))
            except SenetError:
                raise
            except OSError as error:
                done = "written" if self.path.is_dir() else "made"
                remedy = "choose another --output" if self.is_new else "permit it, or copy the run to another place"
                raise SenetError(f"{self.path} cannot be {done} ({error.strerror}); {remedy}") from error
            if self.is_new:
                self.check_free()
            self.remove_unfinished()
            yield

    def clean(self) -> None:
        """Remove what a process has left that was killed as its run ended, unless another one works in the folder."""
        with suppress(SenetError), self.claimed():
            pass

    def remove_unfinished(self) -> None:
        """Remove what a killed process was writing, and its files of stacks without any."""
        for folder in (self.path, self.last, self.best, self.previous_state.parent):
            for part in folder.glob(".*.part"):
                with suppress(OSError):
                    part.unlink()
        stacks = self.path / STACKS_FOLDER
        with suppress(OSError):
            for file in stacks.iterdir():
                if not has_stacks(file):
                    file.unlink()
            stacks.rmdir()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise a SenetError if what the block writes cannot be written; the files from before stay whole."""
        try:
            yield
        except SenetError:
            raise
        except OSError as error:
            remedy = "make room, or choose another --output"
            if (self.path / CONFIG_FILE).exists():
                resume = f"`senet train --resume {quote(str(self.path))}`"
                remedy = f"make room or permit it, and {resume} goes on from what was saved last"
            raise unwritable(self.path, error, remedy) from error

    def start(self, config: RunConfig, data: Mapping[str, Any] | None = None, num_processes: int = 1) -> None:
        """Write what is known before the first step; in the folder of a run that goes on, what has changed.

        Args:
            config: of the run.
            data: what data.json says of its images, where they are known already.
            num_processes: that it started with.

        Raises:
            SenetError: the folder cannot be made or written.
        """
        environment = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "versions": versions("senet", "torch", "torchvision", "timm", "accelerate"),
            "job": job(),
            "asked": self.asked or self.read_json(ENVIRONMENT_FILE).get("asked", ""),
        }
        requires = config.required_modules()
        values = {"task": config.task, "num_processes": num_processes, **to_dict(config)}
        with self.writing():
            make_folder(self.path)
            write_json(self.path / ENVIRONMENT_FILE, environment)
            write_json(self.path / CONFIG_FILE, values | ({"requires": requires} if requires else {}))
            if data is not None:
                write_json(self.path / DATA_FILE, data)

    def read_config(self) -> RunConfig:
        """Return the configuration of the run.

        Raises:
            SenetError: there is none, or it cannot be read.
        """
        path = self.path / CONFIG_FILE
        try:
            values = parse_json(path.read_text())
            if "format" in values:
                raise SenetError(f"{self.path} holds a model, not a run; name the folder of the run")
            if isinstance(values, Mapping):
                check_imported(values.get("requires", ()), str(path))
            return read_config(values)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingFileError(
                f"{self.path} holds no run to resume; `senet train` and `senet finetune` start one"
            ) from None
        except MissingExtraError:  # of a module that registers what the network consists of
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SenetError(f"{path} is not a run's configuration ({error})") from error

    def check_same_config(self, config: RunConfig) -> None:
        """Raise a SenetError unless a run with this configuration would end as this run does."""
        stored = self.read_config()
        if stored.task != config.task:
            raise SenetError(f"{self.path} is a run of another task, {stored.task}; use another folder")
        own, asked = (dict(settings(part, "")) for part in (stored, config.task_type().settled(config, stored)))
        different = [name for name in {**own, **asked} if own.get(name) != asked.get(name)]
        different = [name for name in different if name not in WITHOUT_EFFECT]
        if different:
            name = "weights" if "weights" in different else different[0]
            raise SenetError(f"{self.path} was started with another {name}; use the same settings or another folder")

    def check_same_data(self, found: Mapping[str, Any]) -> None:
        """Raise a SenetError if the run started on other data, as far as data.json tells.

        Args:
            found: what data.json would say of the data now.
        """
        path = self.path / DATA_FILE
        try:
            stored = parse_json(path.read_text())
            if not isinstance(stored, dict):
                raise ValueError(f"it holds {type(stored).__name__}")
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            raise SenetError(
                f"{path} cannot be read ({error}); remove it if the run's data are the same as ever"
            ) from error
        for name in found:
            if name in ADDED_LATER and name not in stored:
                continue
            if stored.get(name) != found[name]:
                was, now = (brief(values.get(name)) for values in (stored, found))
                raise SenetError(
                    f"the data of {self.path} have changed: {name} was {was} and is {now}; "
                    "restore them, or start another run"
                )

    def surgery(self) -> Surgery:
        """Return what was inserted into the run's network and removed from it before; nothing for a new run.

        The weights that a run starts from may bring blocks that no configuration describes, and may be gone since.

        Raises:
            SenetError: what is in the folder cannot be read.
        """
        path = self.last / CONFIG_FILE
        return read_description(path)["surgery"] if path.exists() else Surgery()

    def load_state(self, keys: Set[str], *, lazily: bool = False) -> dict[str, Any] | None:
        """Read the training state; None if the run was stopped before its first save.

        If it is damaged, that is said and the state of the save before is read: the run does its steps again.

        Args:
            keys: what it must hold.
            lazily: see `read_state`; a damaged one then is an error.

        Raises:
            SenetError: it and the one before are truncated, damaged, or no training states.
        """
        problem = f"{self.state_file} is missing"
        if self.state_file.exists():
            try:
                return read_state(self.state_file, keys, lazily=lazily)
            except SenetError as error:
                if lazily or not self.previous_state.exists():
                    raise
                problem = str(error).partition(";")[0]
        if lazily or not self.previous_state.exists():
            return None
        try:
            state = read_state(self.previous_state, keys, lazily=False)
        except SenetError as error:
            both = f"{problem}, and the one before it, {self.previous_state}, cannot be read either"
            raise SenetError(f"{both}; start again elsewhere, with --weights {self.path} for instance") from error
        self.is_damaged = True
        where = f"epoch {state['position']['epoch'] + 1}, after {state['position']['batch']} batches"
        warn(f"{problem}; the run goes on from the save before it, {self.previous_state}: {where}")
        return state

    def save(self, model: nn.Module, state: dict[str, Any], metrics: dict[str, float], *, best: bool) -> None:
        """Write last/, and best/ if this is the best model.

        The training state comes last and holds the weights too, so that it is whole by itself: after a kill between the
        files the run goes on from the older state and writes them all again. What it says was done is on the disk by
        then, with the lines about it.

        Raises:
            SenetError: they cannot be written, for instance because the disk is full.
        """
        with self.writing():
            for path in (self.metrics_file, self.path / STEPS_FILE, self.path):
                if path.exists():
                    synchronize(path)
            write_model_folder(model, self.last, metrics)
            if best:
                self.copy_to_best()
            with written_with_checksum(self.state_file) as beside:
                save_state(state, beside)
                self.keep_previous()

    def keep_previous(self) -> None:
        """Keep the training state that is about to be replaced, but not a damaged one: what is kept then is whole."""
        if self.state_file.exists() and not self.is_damaged:
            make_folder(self.previous_state.parent)
            copy_with_checksum(self.state_file, self.previous_state, linked)
        self.is_damaged = False

    def copy_to_best(self) -> None:
        """Make the model in last/ the best."""
        make_folder(self.best)
        copy_with_checksum(self.last / WEIGHTS_FILE, self.best / WEIGHTS_FILE)
        for name in (CONFIG_FILE, CARD_FILE):
            with written_beside(self.best / name) as beside:
                shutil.copyfile(self.last / name, beside)

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add an epoch's line to metrics.jsonl."""
        with self.writing(), self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl."""
        return read_jsonl(self.metrics_file) if self.metrics_file.exists() else []

    def keep_metrics(self, epochs: int) -> None:
        """Keep the lines of the first `epochs` epochs: a killed run may have written one more."""
        if not self.metrics_file.exists():
            return
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        with self.writing(), written_beside(self.metrics_file) as beside:
            beside.write_text("".join(json.dumps(row) + "\n" for row in rows))


def linked(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def brief(value: Any) -> str:
    """Return a value of data.json for a message, of a long list the first few."""
    return f"[{listed(list(map(str, value)))}]" if isinstance(value, list) else str(value)
