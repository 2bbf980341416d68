"""What the command line shows of a run on a terminal."""

import io
import logging

import pytest

from senet.cli.progress import run_shown


def test_lines_stand_above_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with run_shown() as bar:
        assert bar is not None
        bar.start("digits", num_batches=4, done=1)
        bar.advance(2, "loss 0.5")
        logging.getLogger("senet.training").info("digits: epoch 1/8")
        bar.stop()
    shown = screen.getvalue()
    assert "digits: epoch 1/8" in shown
    assert "loss 0.5" in shown
    assert "75" in shown  # percent


def test_without_a_terminal_there_are_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    with run_shown() as bar:
        assert bar is None
        logging.getLogger("senet.training").info("digits: epoch 1/8")
    assert screen.getvalue() == "digits: epoch 1/8\n"
