"""A run in progress: its steps, its evaluations, where it stands and what it saves."""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor

from senet.data.division import Division
from senet.errors import NotFiniteError, SenetError, needed_for
from senet.nn.precision import float32_products, slow_bf16
from senet.processes import Team
from senet.training.ending import Ending, ending_of
from senet.training.finite import first_not_finite, is_finite, not_finite
from senet.training.interrupt import TrainingInterrupted, caught_signals
from senet.training.pacing import Pace
from senet.training.parts import Parts
from senet.training.progress import Progress, Reporter, lines_shown
from senet.training.replay import Past, stop_not_finite
from senet.training.run import RunFolder
from senet.training.scoring import summed
from senet.training.stalls import Stalls
from senet.training.state import Position, standing
from senet.training.steplog import StepLog, waiting_in_words
from senet.training.stepping import Stepper
from senet.training.trackers import Trackers

with needed_for("senet.train"):
    from accelerate import Accelerator

KEEP, STOP, NOT_FINITE = 0.25, 0.5, 1.0
"""What a process asks the others for after a step: to keep what the run is; to stop for a signal, or what is wrong."""


class Trainer(Stepper):
    """A run in progress.

    Args:
        parts: of the run, at its beginning.
        run: its folder.
        accelerator: devices and processes.
        division: of the batches among the processes.
    """

    def __init__(self, parts: Parts, run: RunFolder, accelerator: Accelerator, division: Division) -> None:
        super().__init__(parts, accelerator, division)
        self.length, self.data, self.run_folder = parts.length, parts.task.data, run
        self.team = Team(accelerator.num_processes)
        self.pace = Pace(parts.budget, parts.schedule, self.team)
        main = accelerator.is_main_process
        self.log = StepLog(run.path, self.config.log_every, self.team, accelerator.device, writes=main)
        self.past, self.has_waited = Past(), False
        process, minutes = accelerator.process_index, self.config.stall_minutes
        self.stalls = Stalls(run.path, process, minutes, lambda sentence: self.say(sentence))  # `say` changes
        self.caught: list[int] = []
        slow = slow_bf16("compute.precision bf16", accelerator.device, "auto chooses what is fast")
        slow = slow if self.config.compute.precision == "bf16" else ""
        order = self.data.train.order
        self.notes = [division.in_words(), slow, self.steps.note, order.summary(), *self.task.notes]

    def run_epochs(self, progress: Progress | None = None) -> None:
        """Train and evaluate every epoch that is left.

        Args:
            progress: shows how far the run is, besides the lines that it logs.
        """
        config, position, num_batches = self.config, self.position, len(self.data.train)
        main, run = self.accelerator.is_main_process, self.run_folder.path
        done = position.epoch * num_batches + position.batch
        trackers = Trackers(run, config, position.epoch if done else None, position.step) if main else None
        with (
            lines_shown(),
            float32_products(self.accelerator.device, config.compute.precision),
            Reporter(
                run, self.length.epochs, num_batches, done, progress, trackers=trackers, quiet=not main
            ) as reporter,
            self.stalls.watching(),
            caught_signals() as self.caught,
        ):
            self.say = self.steps.say = reporter.say
            for note in filter(None, self.notes):
                reporter.say(note)
            try:
                if config.weights is not None and done == 0:
                    with self.parts.budget.evaluating():
                        self.evaluate_start(reporter)
                self.pace.plan(reporter)
                while (ending := self.ending()) is None:
                    self.train_epoch(reporter)
                    with self.parts.budget.evaluating():
                        row = self.evaluate_epoch()
                    self.stalls.beat("saving")
                    with self.parts.budget.saving():
                        self.end_epoch(reporter, row)
                    if self.team.agree(bool(self.caught)) and self.ending() is None:
                        self.interrupt()
                if self.parts.selection.epoch:
                    reporter.say(f"{ending.reason}; {self.parts.selection.in_words()}, kept in best/")
            except SenetError as error:
                self.team.fail(error)
                raise

    def evaluate_start(self, reporter: Reporter) -> None:
        """Save the weights that the run starts from, so that resuming does not need them, and evaluate them."""
        if self.accelerator.is_main_process:
            self.save({}, best=False)
        if not self.task.starts_trained:
            reporter.start(self.task.start_in_words({}))
            return
        row = {"epoch": 0, "step": 0, **self.evaluate()}
        if self.accelerator.is_main_process:
            self.run_folder.append_metrics(row)
        reporter.start(self.task.start_in_words(row))

    def ending(self) -> Ending | None:
        """Return why the run is over; None if it goes on."""
        parts, epoch = self.parts, self.position.epoch
        return ending_of(self.config, self.length, epoch, parts.selection, parts.schedule, parts.budget)

    def end_epoch(self, reporter: Reporter, row: dict[str, float]) -> None:
        """Go on to the next epoch, and save."""
        position = self.position
        position.epoch, position.batch, position.loss_sum, position.seconds = position.epoch + 1, 0, 0.0, 0.0
        position.loss_sums, position.data_wait_s = None, 0.0
        self.pace.end_epoch(position.epoch, reporter)
        is_best = self.parts.selection.take(row)
        self.thaw()
        if self.accelerator.is_main_process:
            self.run_folder.append_metrics(row)
            self.save(row, best=is_best)
        reporter.end_epoch(row, self.task.in_words(row))
        if not self.has_waited and (waiting := waiting_in_words(row["data_wait_s"], row["time_s"])):
            self.has_waited = True
            reporter.say(waiting)

    def train_epoch(self, reporter: Reporter) -> None:
        """Train from the position to the end of its epoch."""
        position, accumulate, every = self.position, self.config.compute.accumulate, self.config.checkpoint_every
        num_batches = self.length.batches_of(position.epoch)
        self.frozen = self.parts.freezing.set_modes(position.epoch, self.parts.budget.num_epochs)
        if position.batch and self.pace.time_is_up(position, reporter):  # the run was stopped at that moment
            return
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.past.keep(self)
        # Reading a loss waits for the GPU, which then starves; on the CPU it costs nothing.
        read_every = accumulate if self.accelerator.device.type == "cpu" else 20 * accumulate
        losses: list[Tensor] = []
        num_images, started, lr = 0, self.clock(), 0.0
        batches, ends = self.data.train.batches(position.epoch, position.batch), self.data.train.order.ends
        number = len(self.division.shares)
        for first in range(position.batch, num_batches, accumulate):
            try:
                self.stalls.beat("waiting for images")
                with self.log.wait.measured():
                    pieces = list(islice(batches, accumulate * number))
                self.stalls.beat("training")
                self.team.agree()
            except SenetError as error:
                if not_good := self.read_losses(losses, first, lr) or self.check_weights(lr):
                    raise not_good from error
                self.stop_for(error)
            lr = self.parts.schedule.set_lr(position.epoch + first / self.length.num_batches, position.step)
            window, num_images = len(pieces) // number, num_images + sum(len(images) for images, _ in pieces)
            done = first + window
            for batch in range(first, done):
                its_pieces = pieces[(batch - first) * number :][:number]
                losses.append(self.add_gradient(batch, its_pieces, window, batch + 1 == done, self.backward))
            position.step += 1
            if done % read_every and done < num_batches and not self.log.is_due(position.step):
                continue
            previous, last_loss, count = position.batch, losses[-1], len(losses)
            ruined = self.read_losses(losses, done, lr)
            now = self.clock()
            rate = int(ends[done] - ends[previous]) / (now - started)
            position.seconds += now - started
            position.data_wait_s += self.log.add(num_images, now - started)
            num_images, started = 0, now
            reporter.advance(count, float(last_loss), rate)
            asked = self.asked(ruined)
            stop, old, cut = asked >= STOP, asked >= KEEP, self.pace.time_is_up(position, reporter)
            due = every is not None and done // every > previous // every
            is_saved = done == num_batches or stop or due or cut
            if is_saved or old:
                self.asked(self.check_weights(lr))
            if is_saved or self.log.is_due(position.step):
                reporter.step(self.write_line(lr))
            if done < num_batches and (stop or due):
                self.save_within_epoch()
                if stop:
                    self.interrupt()
            if cut:
                return
            if old:
                self.past.keep(self)

    def asked(self, error: NotFiniteError | None) -> float:
        """Return what any process asks for, see `KEEP`; stop all if something is not finite in one of them."""
        own = NOT_FINITE if error else STOP if self.caught else KEEP if self.past.is_old() else 0.0
        most = own if self.team.group is None else self.team.largest(own)
        if most == NOT_FINITE:
            stop_not_finite(self, self.past, error)
        return most

    def write_line(self, lr: float) -> dict[str, float] | None:
        """Write a line about the last steps, see `StepLog`."""
        with self.run_folder.writing():
            return self.log.line(self.position, lr, self.grad_norm)

    def clock(self) -> float:
        """Return the time in seconds, in which compiling takes none: it would hide how fast the run is."""
        return time.perf_counter() - self.steps.seconds

    def read_losses(self, losses: list[Tensor], done: int, lr: float) -> NotFiniteError | None:
        """Move the position to `done` batches, with their losses, but not over the first that is not finite."""
        values = torch.stack(losses).tolist() if losses else []
        losses.clear()
        if (bad := first_not_finite(values)) is not None:
            return not_finite(f"loss is {values[bad]}", done + 1 - len(values) + bad, self.position.epoch + 1, lr)
        for loss in values:  # one after the other: their sum depends on the order
            self.position.loss_sum += loss
        self.log.losses += values
        self.position.batch = done
        return None

    def check_weights(self, lr: float) -> NotFiniteError | None:
        """Return an error if the last step ruined the weights: their loss would tell only in the next, after a save."""
        if is_finite(self.parts.model):
            return None
        return not_finite("weights are not finite", self.position.batch, self.position.epoch + 1, lr)

    def evaluate_epoch(self) -> dict[str, float]:
        """Evaluate what is kept, and return the epoch's line of metrics."""
        position, data = self.position, self.data
        position.loss_sums = self.team.each(position.loss_sum)  # a signal saves in the evaluation
        started = time.perf_counter()
        result = self.evaluate()
        self.parts.schedule.end_epoch(result.get("loss", math.nan))
        loss_sum = torch.tensor(position.loss_sum, device=self.accelerator.device)
        train_loss = float(summed(loss_sum, self.accelerator)) / position.batch / self.accelerator.num_processes
        num_images = data.train.order.num_used * position.batch / len(data.train)
        return {
            "epoch": position.epoch + 1,
            "step": position.step,
            "lr": max(group["lr"] for group in self.parts.optimizer.param_groups),  # the others have a share of it
            "train_loss": train_loss,
            **result,
            "images_per_s": num_images / max(position.seconds, 1e-9),
            "time_s": position.seconds,
            "data_wait_s": max(self.team.each(position.data_wait_s)),
            "evaluation_s": time.perf_counter() - started,
        }

    def evaluate(self) -> dict[str, float]:
        """Evaluate what is kept: the running average of the weights if there is one."""
        started = time.perf_counter()
        try:
            return self.task.evaluate(self.parts.kept, self.evaluation_batches(), self.accelerator, self.team)
        except SenetError as error:
            self.stop_for(error)
        finally:
            self.log.evaluation_s += time.perf_counter() - started

    def evaluation_batches(self) -> Iterator[Any]:
        """Yield the evaluation's batches; save at a signal, for a long evaluation may be killed before its end."""
        saved = not self.accelerator.is_main_process
        for batch in self.data.evaluation.batches(0):
            self.stalls.beat("evaluating")
            if self.caught and not saved:
                self.save({}, best=False)
                saved = True
            yield batch

    def save(self, metrics: dict[str, float], *, best: bool) -> None:
        """Write last/, and best/ if it is the best."""
        where = {"position": vars(self.position), "num_processes": self.division.num_replicas}
        self.run_folder.save(self.parts.kept, {**self.parts.state_dict(), **where}, metrics, best=best)

    def save_within_epoch(self) -> None:
        """Write last/ with the losses of all processes so far."""
        self.position.loss_sums = self.team.each(self.position.loss_sum)
        if self.accelerator.is_main_process:
            self.save({}, best=False)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a training state, or from the beginning if the run was stopped before its first save."""
        with self.run_folder.writing():
            self.log.keep(0 if state is None else state["position"]["step"])
        if state is None:
            if self.accelerator.is_main_process:
                self.run_folder.keep_metrics(-1)
            return
        self.position = Position(**state["position"])
        self.position.take_share(self.division.num_processes, self.division.process)
        self.thaw()
        self.parts.load_state_dict(state)
        if self.accelerator.is_main_process:
            self.run_folder.keep_metrics(self.position.epoch if self.position.step else -1)

    def stop_for(self, error: SenetError) -> NoReturn:
        """Save and stop, because images cannot be read in this process or in another one.

        The reason may be a signal to all processes, of which those that read images have died.
        """
        self.team.fail(error)
        self.save_within_epoch()
        if self.team.agree(bool(self.caught)):
            self.interrupt()
        raise SenetError(f"{error} (the run {self.status()})") from error

    def interrupt(self) -> NoReturn:
        """Stop for a signal that this process or another one caught, saying where the saved run stands."""
        self.team.wait()
        raise TrainingInterrupted(self.caught[0] if self.caught else signal.SIGTERM, self.status())

    def status(self) -> str:
        """Say where the run stopped and how it goes on."""
        num_batches = self.length.batches_of(self.position.epoch)
        return standing(self.position, self.parts.budget.num_epochs, num_batches, self.run_folder.path)
