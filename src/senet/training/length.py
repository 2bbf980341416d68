"""How long a run is: its epochs, of which the last may be cut."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run is.

    Args:
        epochs: passes over the training images.
        num_batches: of a whole epoch.
        last_batches: of the last epoch; None for a whole one.
        iterations: steps of the whole run, if its length is given so.
    """

    epochs: int
    num_batches: int
    last_batches: int | None = None
    iterations: int | None = None

    def batches_of(self, epoch: int) -> int:
        """Return the batches of an epoch, counted from 0."""
        return self.num_batches if self.last_batches is None or epoch + 1 < self.epochs else self.last_batches


def of_iterations(iterations: int, num_batches: int, accumulate: int) -> Length:
    """Return how long a run of so many steps is.

    Args:
        iterations: steps of the optimizer.
        num_batches: of a whole epoch.
        accumulate: batches of a step; the last step of an epoch has what is left.
    """
    steps = -(-num_batches // accumulate)
    epochs = -(-iterations // steps)
    last = iterations - (epochs - 1) * steps
    return Length(
        epochs=epochs,
        num_batches=num_batches,
        last_batches=min(last * accumulate, num_batches),
        iterations=iterations,
    )
