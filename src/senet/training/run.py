"""The run folder: what a run writes, and what it needs to go on.

    config.json             the TrainConfig
    environment.json        versions and machine
    metrics.jsonl           one line an epoch; epoch 0 is the weights that it starts from, if there are any
    events.out.tfevents.*   the same for TensorBoard
    best/, last/            model folders (see senet.weights.folder)
    last/training_state.pt  optimizer, schedule, position; read with weights_only=True

There are no random states: all randomness is a function of (seed, epoch, step).
"""

import json
import pickle
import platform
import shutil
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.files import read_jsonl, write_json, written_beside
from senet.models.config import config_from_dict
from senet.models.description import Surgery
from senet.training.config import TrainConfig
from senet.training.warm_start import with_asked
from senet.weights.card import CARD_FILE
from senet.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from senet.weights.folder import save_pretrained
from senet.weights.reading import read_description

STATE_FILE = "training_state.pt"
MAY_CHANGE = ("data.root", "data.num_workers", "checkpoint_every")


def to_json(value: Any) -> Any:
    """Return a configuration's values as JSON has them."""
    return json.loads(json.dumps(value, default=lambda v: str(v) if isinstance(v, Path) else dict(v)))


def described(config: TrainConfig) -> dict[str, Any]:
    """Return what config.json holds of a run's configuration."""
    values = to_json(asdict(config))
    del values["suggested"]
    return dict(values)


def settled(config: TrainConfig, stored: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration with what the run of a config.json has settled.

    Raises:
        TypeError, KeyError: it is not one.
    """
    if config.compute.precision == "auto":
        config = replace(config, compute=replace(config.compute, precision=stored["compute"]["precision"]))
    if config.weights is not None and config.weights == stored["weights"]:
        model, preprocessing = config_from_dict(stored["model"]), Preprocessing(**stored["data"]["preprocessing"])
        config = with_asked(config, model, preprocessing)
    return config


def entries(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, but not the parts of files that a kill left behind."""
    return (entry for entry in folder.iterdir() if entry.suffix != ".part")


class RunFolder:
    """One run's folder.

    Args:
        path: made by `start`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics_file = self.path / "metrics.jsonl"
        self.last = self.path / "last"
        self.best = self.path / "best"
        self.state_file = self.last / STATE_FILE

    def check_free(self) -> None:
        """Raise a SenetError if the folder holds a run, or something else, already."""
        if (self.path / CONFIG_FILE).exists():
            raise SenetError(
                f"{self.path} holds a run already; add --resume to go on with it, or choose another --output"
            )
        if self.path.exists() and (not self.path.is_dir() or any(entries(self.path))):
            raise SenetError(f"{self.path} exists and is not a run folder; choose another --output")

    def start(self, config: TrainConfig) -> None:
        """Make the folder of a new run.

        Raises:
            SenetError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SenetError(f"{self.path} cannot be made ({error.strerror}); choose another --output") from error
        environment = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("senet", "torch", "torchvision", "timm", "accelerate")},
        }
        write_json(self.path / CONFIG_FILE, described(config))
        write_json(self.path / "environment.json", environment)

    def check_same_config(self, config: TrainConfig) -> TrainConfig:
        """Return the configuration that the run goes on with, or raise a SenetError if it is not the run's.

        Only where data lies and how it is read may change. What the run settled when it started, such as the network of
        its weights and the precision that "auto" chose, stays.
        """
        path = self.path / CONFIG_FILE
        try:
            stored = dict(json.loads(path.read_text()))
            config = settled(config, stored)
        except FileNotFoundError:
            raise SenetError(f"{self.path} holds no run to resume; leave out --resume") from None
        except SenetError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise SenetError(f"{path} is not a run's configuration ({error})") from error
        differing = sorted(_differences(stored, described(config)), key=lambda name: name != "weights")
        different = [name for name in differing if name not in MAY_CHANGE]
        if different:
            raise SenetError(f"{self.path} was started with another {different[0]}; resume with the same settings")
        return config

    def surgery(self) -> Surgery:
        """Return what was inserted into the run's network and removed from it before; nothing for a new run.

        Raises:
            SenetError: what is in the folder cannot be read.
        """
        path = self.last / CONFIG_FILE
        return read_description(path)["surgery"] if path.exists() else Surgery()

    def load_state(self, keys: Set[str]) -> dict[str, Any] | None:
        """Read the training state; None if the run was stopped before its first save.

        Args:
            keys: what it must hold.

        Raises:
            SenetError: the file is truncated or foreign.
        """
        if not self.state_file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_file, "cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise SenetError(
                f"{self.state_file} cannot be read (truncated, or not a training state); start again elsewhere"
            ) from error
        if not isinstance(state, dict) or not keys <= state.keys():
            raise SenetError(f"{self.state_file} is not a training state; start again elsewhere")
        return state

    def save(self, model: nn.Module, state: dict[str, Any], metrics: dict[str, float], *, best: bool) -> None:
        """Write last/, and best/ if this is the best model.

        The training state comes last and holds the weights too, so that it is whole by itself: after a kill between the
        files the run goes on from the older state and writes them all again.
        """
        save_pretrained(model, self.last, metrics)
        if best:
            self.copy_to_best()
        with written_beside(self.state_file) as beside:
            torch.save(state, beside)

    def copy_to_best(self) -> None:
        """Make the model in last/ the best."""
        self.best.mkdir(exist_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
            with written_beside(self.best / name) as beside:
                shutil.copyfile(self.last / name, beside)

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add an epoch's line to metrics.jsonl."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def keep_metrics(self, epochs: int) -> None:
        """Keep the lines of the first `epochs` epochs: a killed run may have written one more."""
        rows = [row for row in read_jsonl(self.metrics_file) if row["epoch"] <= epochs]
        with written_beside(self.metrics_file) as beside:
            beside.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> Any:
    for key in {**a, **b}:
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            yield from _differences(a[key], b[key], f"{prefix}{key}.")
        elif a.get(key) != b.get(key):
            yield prefix + key
