"""What a run does: its data, its network, what a step minimizes, how it is evaluated; the loop is the same for all."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import nn

from senet.data.division import Division
from senet.data.order import BatchOrder
from senet.errors import needed_for
from senet.nn.precision import fast_precision
from senet.processes import Team
from senet.training.compiling import Call
from senet.training.config import RunConfig
from senet.training.freezing import Frozen
from senet.training.regularization import RunningAverage
from senet.training.run import RunFolder

with needed_for("senet.train"):
    from accelerate import Accelerator

Config = TypeVar("Config", bound=RunConfig)


class Batches(Protocol):
    """Yields batches of whatever a task trains on, for any epoch, starting at any batch."""

    @property
    def order(self) -> BatchOrder:
        """Which images make a batch."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield images and targets: of each batch, this process's shares one after the other."""
        ...


class Data(Protocol):
    """The data of a run: batches for training and evaluation, and what their classes are called."""

    @property
    def train(self) -> Batches:
        """Batches for training."""
        ...

    @property
    def evaluation(self) -> Batches:
        """Batches for evaluation."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...


class Task(ABC, Generic[Config]):
    """What a run does.

    Args:
        config: of the run.

    Attributes:
        config: with what was "auto", and with what weights and data say.
        data: the data of the run, once it is open.
        notes: sentences to log when the run starts.
    """

    data: Data
    starts_trained: ClassVar[bool] = True
    """Whether weights to start from are of the whole network, so that they are evaluated before the first epoch."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.notes: list[str] = []

    @classmethod
    def settled(cls, config: Config, stored: Config) -> Config:
        """Return a configuration with what its run fixed when it started, such as its precision.

        Args:
            config: as before the run.
            stored: that of the run.
        """
        if config.compute.precision == "auto":
            return replace(config, compute=replace(config.compute, precision=stored.compute.precision))
        return config

    def choose_precision(self, device: Any) -> None:
        """Replace the precision "auto" by what is fast on a device."""
        if self.config.compute.precision != "auto":
            return
        precision = fast_precision(device)
        self.config = replace(self.config, compute=replace(self.config.compute, precision=precision))
        faster = "; fp16 is faster" if precision == "fp32" and device.type == "cuda" else ""
        self.notes.append(f"compute.precision is auto, which is {precision} here{faster}")

    @abstractmethod
    def open(self, run: RunFolder, accelerator: Accelerator, division: Division, *, is_new: bool) -> None:
        """Open the weights and the data of the run.

        Args:
            run: its folder.
            accelerator: its device and its processes.
            division: of its batches among the processes.
            is_new: whether the run begins; one that goes on has its own weights.

        Raises:
            SenetError: they cannot be opened, do not fit each other, or are not those that the run started with.
        """

    def described(self) -> dict[str, Any]:
        """Return what data.json says of the data."""
        return {
            "num_train_images": self.data.train.order.num_images,
            "num_eval_images": self.data.evaluation.order.num_images,
            "class_names": list(self.data.class_names),
        }

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the network for the data, in training mode; `config` is then what describes it completely."""

    @abstractmethod
    def objective(self, model: nn.Module) -> nn.Module:
        """Return the module that computes the loss of a batch, which is distributed over processes whole."""

    def frozen(self, model: nn.Module) -> Frozen:
        """Return what keeps parts of the network as they are."""
        return Frozen(model)

    def average(self, model: nn.Module) -> RunningAverage | None:
        """Return the running average of the network; None for none."""
        return None

    def prepare(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return a batch of the loader as the steps take it."""
        return images, targets

    @abstractmethod
    def loss(self, call: Call, images: Any, targets: Any) -> Any:
        """Return the loss of a batch.

        Args:
            call: the objective, perhaps compiled or distributed.
            images: of the batch, prepared.
            targets: likewise.

        Raises:
            SenetError: the batch cannot be trained on.
        """

    @abstractmethod
    def evaluate(
        self, kept: nn.Module, batches: Iterable[Any], accelerator: Accelerator, team: Team
    ) -> dict[str, float]:
        """Evaluate a network on the images of all processes, and return what metrics.jsonl says of it.

        Args:
            kept: the network.
            batches: of this process.
            accelerator: the processes.
            team: stops this process if another one has failed.

        Raises:
            SenetError: images cannot be read, here or in another process.
        """

    def start_in_words(self, row: Mapping[str, float]) -> str:
        """Return what the run starts from, and how good that is, for the log.

        Args:
            row: of metrics.jsonl.
        """
        return f"starts from {self.config.weights}: {self.in_words(row)}"

    @abstractmethod
    def in_words(self, row: Mapping[str, float]) -> str:
        """Return what an evaluation has found, for the log."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a training state holds of the task."""
        return {}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise a SenetError if a training state is of a run with another teacher or the like."""
