"""A run's limit of time at work: the schedule, the report and the end of the run follow from how long batches take."""

from senet.processes import Team
from senet.training.budget import Budget
from senet.training.progress import Reporter
from senet.training.schedule import Schedule
from senet.training.state import Position


class Pace:
    """Lets a run follow its limit of time, alike in all its processes.

    Args:
        budget: the limit; does nothing if there is none.
        schedule: of the learning rate.
        team: the processes.
    """

    def __init__(self, budget: Budget, schedule: Schedule, team: Team) -> None:
        self.budget, self.schedule, self.team = budget, schedule, team

    def plan(self, reporter: Reporter) -> None:
        """Let the schedule and what is reported follow the number of epochs that fit."""
        if self.budget.seconds is not None:
            self.schedule.planned = self.budget.planned = self.team.least(self.budget.planned)
            reporter.plan(self.budget.num_epochs)

    def end_epoch(self, epochs: int, reporter: Reporter) -> None:
        """Decide again how many epochs fit, once `epochs` of them are done."""
        self.budget.note(epochs, 0, 0.0)
        self.budget.planned = self.budget.fitting()
        self.plan(reporter)
        count, limit = self.budget.num_epochs, self.budget.seconds
        if limit is not None and epochs == 1:
            reporter.say(f"{count} epoch{'s fit' if count > 1 else ' fits'} into max_seconds, which is {limit:g}")

    def time_is_up(self, position: Position, reporter: Reporter) -> bool:
        """Note how long batches take, plan within the first epoch, and return whether there is no time for more."""
        limit, num_batches = self.budget.seconds, self.budget.num_batches
        self.budget.note(position.epoch, position.batch, position.seconds)
        if limit is None:
            return False
        if position.epoch == 0:
            self.budget.planned = self.budget.fitting()
            self.plan(reporter)
        is_up = self.team.agree(self.budget.must_stop()) and position.batch < num_batches
        if is_up:
            reporter.say(
                f"max_seconds, which is {limit:g}, leaves no time for more of epoch {position.epoch + 1}: it ends "
                f"after batch {position.batch} of {num_batches}, is evaluated and saved"
            )
        return is_up
