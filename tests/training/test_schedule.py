"""Learning rates against values worked out by hand, and which parameters decay."""

import math

import pytest
import torch

from senet.training.schedule import Schedule, lr_factor
from senet.training.sections import ScheduleConfig

STEP = ScheduleConfig(name="step", milestones=(30, 60, 90))
COSINE = ScheduleConfig(name="cosine")
ONE_CYCLE = ScheduleConfig(name="one_cycle", peak=0.2)
PLATEAU = ScheduleConfig(name="plateau", warmup_epochs=2.0, warmup_start=0.5)
WARM_STEP = ScheduleConfig(name="step", milestones=(82, 123), warmup_epochs=1.0, warmup_start=0.1)
WARM_COSINE = ScheduleConfig(name="cosine", warmup_epochs=2.5, warmup_start=0.0)


@pytest.mark.parametrize(
    ("config", "num_epochs", "expected"),
    [
        (STEP, 100, {0: 1, 29.99: 1, 30: 0.1, 59.99: 0.1, 60: 0.01, 90: 0.001, 99.99: 0.001}),
        (COSINE, 10, {0: 1, 2.5: (1 + math.sqrt(0.5)) / 2, 5: 0.5, 7.5: (1 - math.sqrt(0.5)) / 2, 10: 0}),
        (ONE_CYCLE, 40, {0: 0, 4: 0.5, 8: 1, 24: 0.5, 40: 0}),
        (PLATEAU, 10, {0: 0.5, 1: 0.75, 2: 1, 9: 1}),
        (WARM_STEP, 164, {0: 0.1, 0.5: 0.55, 1: 1, 82: 0.1, 123: 0.01}),
        # The cosine begins where the warm-up ends: half of it lies at 2.5 + 3.75 epochs.
        (WARM_COSINE, 10, {0: 0, 1: 0.4, 2.25: 0.9, 2.5: 1, 6.25: 0.5, 10: 0}),
    ],
    ids=["step", "cosine", "one_cycle", "plateau", "step after warm-up", "cosine after fractional warm-up"],
)
def test_lr_factor_is_what_one_works_out(config, num_epochs, expected):
    factors = {epoch: lr_factor(config, epoch, num_epochs) for epoch in expected}
    assert factors == pytest.approx(expected, abs=1e-12)


def plateau(patience=1):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return Schedule(ScheduleConfig(name="plateau", factor=0.5, patience=patience), optimizer, 0.8, 100)


def lr_after(schedule, losses):
    for loss in losses:
        schedule.end_epoch(loss)
    return schedule.set_lr(len(losses))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 0.9, 0.8], 0.8),
        ([1.0, 1.0], 0.8),  # one bad epoch is within patience
        ([1.0, 1.0, 1.1], 0.4),
        ([1.0, 1.1, 0.9, 1.0], 0.8),  # a better epoch forgives the bad ones
        ([1.0, 2.0, 2.0, 2.0], 0.4),  # the count starts again after a fall
        ([1.0, 2.0, 2.0, 2.0, 2.0], 0.2),
        ([1.0, math.nan, math.nan], 0.4),
    ],
)
def test_plateau_lowers_the_rate_once_patience_is_over(losses, expected):
    schedule = plateau()
    assert lr_after(schedule, losses) == pytest.approx(expected)
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_plateau_goes_on_from_its_state():
    losses = [1.0, 2.0, 2.0, 2.0, 0.9, 1.0, 1.0, 1.0]
    whole = plateau()
    rates = [lr_after(whole, [loss]) for loss in losses]
    for cut in range(len(losses)):
        first, second = plateau(), plateau()
        lr_after(first, losses[:cut])
        second.load_state_dict(first.state_dict())
        assert [lr_after(second, [loss]) for loss in losses[cut:]] == rates[cut:]
    assert len(set(rates)) > 2


def test_other_schedules_do_not_look_at_the_loss():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(ScheduleConfig(name="cosine"), optimizer, 0.8, 100)
    for _ in range(20):
        schedule.end_epoch(1.0)
    assert schedule.set_lr(0) == 0.8
