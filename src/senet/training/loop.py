"""The training loop."""

import atexit
import math
import random
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.data.loading import Loaders, load_data
from senet.data.order import seed_of
from senet.errors import SenetError
from senet.evaluation import score
from senet.fused import set_fused
from senet.models.cards import ModelConfig
from senet.models.checkpoints import Checkpoint
from senet.models.folder import find_weights
from senet.models.network import Network
from senet.models.registry import build
from senet.models.weights import create_from_weights
from senet.training.config import ComputeConfig, TrainConfig
from senet.training.interrupt import TrainingInterrupted, caught_signals
from senet.training.progress import Reporter
from senet.training.run import RunFolder
from senet.training.schedule import Schedule, build_optimizer

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
STATE_KEYS = frozenset({"model", "ema", "optimizer", "schedule", "scaler", "position", "num_processes"})
STEP_STREAM = 1
"""Keeps the random numbers of the steps apart from those of the data loaders, which share seed, epoch and batch."""


@dataclass
class Position:
    """Where a run stands: `batch` batches into epoch number `epoch` (both from 0), with that epoch's sums so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_top1: float = -1.0


def seed_everything(*parts: int) -> None:
    """Seed Python, NumPy and PyTorch with a mix of `parts`."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # timm's Mixup draws from the global state
    torch.manual_seed(seed)


def in_process_group() -> bool:
    """Whether this process trains with others."""
    return dist.is_available() and dist.is_initialized()


def leave_process_group() -> None:
    """Part from the other processes; else threads that still listen to them may abort this one as it exits."""
    if in_process_group():
        dist.destroy_process_group()


def build_accelerator(compute: ComputeConfig) -> Accelerator:
    """Find the devices and, under torchrun or `accelerate launch`, the other processes."""
    AcceleratorState._reset_state()  # a process may train several times, on different devices
    found = in_process_group()
    cpu = compute.cpu or not torch.accelerator.is_available()  # Accelerate joins processes on the CPU only if told
    accelerator = Accelerator(cpu=cpu)
    if in_process_group() and not found:
        atexit.register(leave_process_group)
    if compute.precision == "fp16" and accelerator.device.type == "cpu":
        raise SenetError("compute.precision is 'fp16', which needs a GPU; use bf16 or fp32 on the CPU")
    return accelerator


def train(config: TrainConfig, output: str | Path, *, resume: bool = False) -> Path:
    """Train a network.

    Args:
        config: the whole run, for instance from `senet.recipes`.
        output: the run folder; new, or with `resume` the one to go on with.
        resume: go on where the run in `output` was stopped; on the CPU it ends with the same weights, bit for bit, as
            if it had never stopped.

    Returns:
        The run folder.

    Raises:
        SenetError: bad settings or data, or a loss that is not finite.
        TrainingInterrupted: SIGINT or SIGTERM arrived; the state is saved.
    """
    checkpoint = None if config.weights is None else find_weights(config.model.name, config.weights)
    if checkpoint is not None and checkpoint.config is not None:
        config = replace(config, model=replace(checkpoint.config, num_classes=None))
    accelerator = build_accelerator(config.compute)
    run = RunFolder(output)
    if resume:
        run.check_same_config(config)
    else:
        run.check_free()
    data = load_data(
        config.data,
        batch_size=config.batch_size,
        device=accelerator.device,
        seed=config.seed,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    trainer = Trainer(config, run, accelerator, data, checkpoint)
    if resume:
        trainer.restore()
    elif accelerator.is_main_process:
        run.start(config)
    accelerator.wait_for_everyone()
    trainer.run_epochs()
    return run.path


def start_model(config: ModelConfig, checkpoint: Checkpoint | None) -> Network:
    """Build the network of a run, at random or with the weights that it starts from."""
    if checkpoint is None:
        return build(config)
    return create_from_weights(config, checkpoint, se=None, convert_input=config.in_channels != 3)


class Trainer:
    """A run in progress.

    Args:
        config: of the run.
        run: its folder.
        accelerator: devices and processes.
        data: its loaders.
        checkpoint: the weights that it starts from; None for random ones.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        accelerator: Accelerator,
        data: Loaders,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        num_classes = len(data.class_names)
        if config.model.num_classes not in (None, num_classes):
            raise SenetError(f"model.num_classes is {config.model.num_classes}, but the data has {num_classes} classes")
        self.config, self.run_folder, self.accelerator, self.data = config, run, accelerator, data
        compute, regularisation = config.compute, config.regularisation
        self.format = torch.channels_last if compute.channels_last else torch.contiguous_format
        seed_everything(config.seed)
        model = start_model(replace(config.model, num_classes=num_classes), checkpoint)
        model.preprocessing = config.data.preprocessing
        model.class_names = data.class_names
        set_fused(model, compute.fused)
        self.model = model.to(accelerator.device).to(memory_format=self.format)
        self.ema = ModelEmaV3(self.model, regularisation.ema_decay) if regularisation.ema_decay else None
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.schedule = Schedule(config.schedule, self.optimizer, config.optimizer.lr, config.epochs)
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=compute.precision == "fp16")
        self.wrapped = accelerator.prepare_model(self.model)
        self.forward = torch.compile(self.wrapped) if compute.compile else self.wrapped
        self.mixup = None
        if regularisation.mixup or regularisation.cutmix:
            self.mixup = Mixup(
                regularisation.mixup,
                regularisation.cutmix,
                label_smoothing=regularisation.label_smoothing,
                num_classes=num_classes,
            )
        self.position = Position()

    def run_epochs(self) -> None:
        """Train and evaluate every epoch that is left."""
        config, position, num_batches = self.config, self.position, len(self.data.train)
        main = self.accelerator.is_main_process
        done = position.epoch * num_batches + position.batch
        with (
            Reporter(self.run_folder.path, config.epochs, num_batches, done, quiet=not main) as reporter,
            caught_signals() as caught,
        ):
            while position.epoch < config.epochs:
                self.train_epoch(reporter, caught)
                row = self.evaluate_epoch()
                position.epoch, position.batch, position.loss_sum, position.seconds = (
                    position.epoch + 1,
                    0,
                    0.0,
                    0.0,
                )
                is_best = row["top1"] > position.best_top1
                position.best_top1 = max(row["top1"], position.best_top1)
                if main:
                    self.run_folder.append_metrics(row)
                    self.save(row, best=is_best)
                reporter.end_epoch(row)
                if self.any_process(bool(caught)) and position.epoch < config.epochs:
                    self.interrupt(caught)

    def train_epoch(self, reporter: Reporter, caught: list[int]) -> None:
        """Train from the position to the end of its epoch."""
        position, data, accumulate = self.position, self.data.train, self.config.compute.accumulate
        num_batches = len(data)
        self.set_train_mode()
        self.optimizer.zero_grad(set_to_none=True)
        # Reading a loss waits for the GPU, which then starves; on the CPU it costs nothing.
        read_every = accumulate if self.accelerator.device.type == "cpu" else 20 * accumulate
        losses: list[Tensor] = []
        started = time.perf_counter()
        for batch, (images, labels) in enumerate(data.batches(position.epoch, position.batch), position.batch):
            seed_everything(self.config.seed, position.epoch, batch, self.accelerator.process_index, STEP_STREAM)
            window_end = min(num_batches, (batch // accumulate + 1) * accumulate)
            window = window_end - batch // accumulate * accumulate
            lr = self.schedule.set_lr(position.epoch + batch // accumulate * accumulate / num_batches)
            losses.append(self.backward(images, labels, window, update=batch + 1 == window_end))
            if batch + 1 == window_end:
                position.step += 1
            if (batch + 1) % read_every and batch + 1 < num_batches:
                continue
            self.read_losses(losses, batch, lr)
            now = time.perf_counter()
            rate = len(losses) * len(images) * self.accelerator.num_processes / (now - started)
            position.seconds += now - started
            previous, position.batch, started = position.batch, batch + 1, now
            reporter.advance(len(losses), float(losses[-1]), rate)
            losses.clear()
            every = self.config.checkpoint_every
            stop = self.any_process(bool(caught))
            due = every is not None and position.batch // every > previous // every
            if position.batch == num_batches or stop or due:
                self.check_weights(lr)
            if position.batch < num_batches and (stop or due):
                if self.accelerator.is_main_process:
                    self.save({}, best=False)
                if stop:
                    self.interrupt(caught)

    def backward(self, images: Tensor, labels: Tensor, window: int, update: bool) -> Tensor:
        """Add a batch's share of the gradient; with `update`, take the step. Returns the batch's loss."""
        images = images.contiguous(memory_format=self.format)
        targets, smoothing = labels, self.config.regularisation.label_smoothing
        if self.mixup is not None:
            images, targets = self.mixup(images, labels)
            smoothing = 0.0  # Mixup has smoothed the targets
        with nullcontext() if update else self.accelerator.no_sync(self.wrapped):
            loss = F.cross_entropy(self.logits(self.forward, images), targets, label_smoothing=smoothing)
            self.scaler.scale(loss / window).backward()
        if update:
            if self.config.optimizer.clip_norm is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            if self.ema is not None:
                self.ema.update(self.model)
        return loss.detach()

    def logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Call a network in the configured precision; float32 logits."""
        dtype = DTYPES[self.config.compute.precision]
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            logits = network(images)
        return logits.float()

    def read_losses(self, losses: list[Tensor], batch: int, lr: float) -> None:
        """Add the losses up to `batch` to the position's sum, or stop at the first that is not finite."""
        for number, loss in enumerate(torch.stack(losses).tolist(), batch + 1 - len(losses)):
            if not math.isfinite(loss):
                self.stop_at(f"loss is {loss}", number + 1, lr)
            self.position.loss_sum += loss

    def check_weights(self, lr: float) -> None:
        """Stop if the last step ruined the weights: their loss would tell in the next batch only, after a save."""
        tensors = (tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point())
        if not all(tensor.isfinite().all() for tensor in tensors):
            self.stop_at("weights are not finite", self.position.batch, lr)

    def stop_at(self, what: str, batch: int, lr: float) -> NoReturn:
        """Stop, saying what went wrong and where."""
        raise SenetError(
            f"the {what} at batch {batch} of epoch {self.position.epoch + 1} with learning rate {lr:.4g}; "
            f"{self.run_folder.path} keeps the last good state: lower optimizer.lr, set optimizer.clip_norm or use fp32"
        )

    def set_train_mode(self) -> None:
        """Set training mode; in the last `freeze_bn_epochs` epochs BatchNorm keeps its statistics."""
        self.model.train()
        if self.position.epoch >= self.config.epochs - self.config.regularisation.freeze_bn_epochs:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def evaluate_epoch(self) -> dict[str, float]:
        """Evaluate what is kept, the running average if there is one, and return the epoch's line of metrics."""
        position, data = self.position, self.data
        batches = ((x.contiguous(memory_format=self.format), y) for x, y in data.evaluation.batches(0))
        kept = self.ema.module if self.ema else self.model
        if self.accelerator.num_processes > 1:  # each has seen other images: evaluate what the main process keeps
            for buffer in kept.buffers():
                broadcast(buffer)
        result = score(kept, batches, forward=partial(self.logits, kept), reduce=self.sum_over_processes)
        self.schedule.end_epoch(result.loss)
        num_batches, num_processes = len(data.train), self.accelerator.num_processes
        loss_sum = torch.tensor(position.loss_sum, device=self.accelerator.device)
        train_loss = float(self.sum_over_processes(loss_sum)) / num_batches / num_processes
        images_seen = num_batches * self.config.batch_size * num_processes
        return {
            "epoch": position.epoch + 1,
            "step": position.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "loss": result.loss,
            "top1": result.top1,
            "top5": result.top5,
            "images_per_s": images_seen / max(position.seconds, 1e-9),
            "time_s": position.seconds,
        }

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        total: Tensor = self.accelerator.reduce(values, reduction="sum")
        return total

    def any_process(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.sum_over_processes(torch.tensor(float(flag), device=self.accelerator.device)) > 0)

    def save(self, metrics: dict[str, float], *, best: bool) -> None:
        """Write last/, and best/ if it is the best."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": vars(self.position),
            "num_processes": self.accelerator.num_processes,
        }
        kept = self.ema.module if self.ema else self.model
        self.run_folder.save(kept, state, metrics, best=best)

    def restore(self) -> None:
        """Go on from last/, or from the beginning if the run was stopped before its first save."""
        state = self.run_folder.load_state(STATE_KEYS)
        if state is None:
            if self.accelerator.is_main_process:
                self.run_folder.keep_metrics(0)
            return
        if state["num_processes"] != self.accelerator.num_processes:
            raise SenetError(
                f"{self.run_folder.path} was run by {state['num_processes']} processes, not "
                f"{self.accelerator.num_processes}; resume with as many"
            )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        if self.accelerator.is_main_process:
            self.run_folder.keep_metrics(self.position.epoch)

    def interrupt(self, caught: list[int]) -> NoReturn:
        """Stop for a signal that this process or another one caught, saying where the run stands."""
        position = self.position
        raise TrainingInterrupted(
            caught[0] if caught else signal.SIGTERM,
            f"stopped in epoch {position.epoch + 1} of {self.config.epochs}, after {position.batch} of "
            f"{len(self.data.train)} batches; saved in {self.run_folder.path}: repeat with --resume to go on",
        )
