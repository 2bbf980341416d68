"""Stopping a run by a signal at a moment that a test chooses, and waiting for what another process does."""

import os
import signal
import time

from senet.training import loop


def stop_at(patched, epoch, batch):
    """Send SIGTERM to this process before a batch of an epoch, both counted from 0; `patched` is a monkeypatch."""
    backward = loop.Trainer.backward

    def stopping(trainer, *args, **options):
        if (trainer.position.epoch, trainer.position.batch) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(trainer, *args, **options)

    patched.setattr(loop.Trainer, "backward", stopping)


def wait_for(condition, seconds=20.0):
    """Wait until something is so, and fail if it is not in so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
