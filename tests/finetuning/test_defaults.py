"""What is chosen where nothing is asked for, as a table."""

import numpy as np
import pytest

from senet.finetuning.defaults import Situation, choose, without_conflicts

EQUAL = {20: (20,) * 5, 500: (500,) * 5, 100_000: (1000,) * 100}


def chosen(counts, **changes):
    return choose(Situation(counts=np.array(counts), **{"image_size": 224, **changes}))


@pytest.mark.parametrize(
    ("images", "on_gpu", "epochs", "batch_size", "steps"),
    [(20, False, 86, 16, 602), (500, False, 29, 64, 1160), (500, True, 29, 128, 580), (100_000, True, 9, 128, 7038)],
)
def test_a_small_data_set_takes_enough_steps_and_a_large_one_not_too_many(images, on_gpu, epochs, batch_size, steps):
    counts = EQUAL[images]
    found = chosen(counts, on_gpu=on_gpu)
    assert (found["epochs"], found["batch_size"]) == (epochs, batch_size)
    assert found["epochs"] * -(-sum(counts) // found["batch_size"]) == steps


@pytest.mark.parametrize(("processes", "share"), [(2, 32), (3, 22), (4, 16), (16, 8)])
def test_processes_divide_the_step_of_one(processes, share):
    """Of 64 images, but none gets fewer than 8; the learning rate is that of the whole step."""
    alone, found = chosen(EQUAL[500]), chosen(EQUAL[500], num_processes=processes)
    assert found["batch_size"] == share
    assert found["optimizer.lr"] == pytest.approx(alone["optimizer.lr"] * (share * processes / 64) ** 0.5)
    assert found["epochs"] == alone["epochs"]


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "selection.metric", "top1"),
        ({"counts": (150, 100)}, "selection.metric", "balanced_accuracy"),
        ({"counts": (149, 100)}, "selection.metric", "top1"),
        ({}, "freeze", "none"),
        ({"counts": (31, 32)}, "freeze", "bn"),
        ({"counts": (32, 32)}, "freeze", "none"),
        ({"freeze": "trunk"}, "freeze", "trunk"),
        ({"pretrained": False, "counts": (9, 9)}, "freeze", "none"),
        ({}, "data.augmentation.crop_scale", (0.35, 1.0)),
        ({"image_size": 32}, "data.augmentation.crop_scale", None),
        ({"image_size": 32}, "data.augmentation.padding", 4),
        ({}, "data.augmentation.padding", 0),
        ({}, "data.in_memory", False),
        ({"image_size": 32, "counts": (499, 500)}, "data.in_memory", False),
        ({"image_size": 32, "counts": (500, 500)}, "data.in_memory", True),
        ({"image_size": 32, "counts": (500, 500)}, "data.augmentation.auto_augment", None),
        ({"image_size": 32, "counts": (10**6, 10**6)}, "data.in_memory", False),
        ({"image_size": 32, "batch_size": 16}, "optimizer.lr", pytest.approx(5e-3)),
        ({"image_size": 32, "batch_size": 16, "freeze": "bn"}, "optimizer.lr", pytest.approx(2e-3)),
        ({"image_size": 32, "batch_size": 16, "pretrained": False}, "optimizer.lr", pytest.approx(2e-3)),
        ({"epochs": 20}, "head_epochs", 2),
        ({"epochs": 1}, "head_epochs", 0),
        ({"epochs": 20, "new_head": False}, "head_epochs", 0),
        ({"epochs": 20, "freeze": "trunk"}, "head_epochs", 0),
        ({"epochs": 20, "pretrained": False}, "head_epochs", 0),
        ({"pretrained": False}, "optimizer.layer_decay", None),
        ({"num_groups": 2}, "optimizer.layer_decay", 0.1),
        ({"num_groups": 3}, "optimizer.layer_decay", pytest.approx(0.1**0.5)),
        ({"seconds": 60.0}, "max_seconds", 60.0),
        ({"seconds": 60.0, "epochs": 3}, "epochs", 3),
        ({"epochs": 10}, "selection.patience", 10),
        ({"num_eval_images": 99}, "selection.patience", None),
        ({"num_eval_images": 99}, "selection.metric", "epoch"),
        ({"epochs": 100}, "selection.patience", 40),
        ({"batch_size": 16}, "optimizer.lr", pytest.approx(1e-3)),
    ],
)
def test_a_choice(changes, name, value):
    assert chosen(**{"counts": (100, 100), **changes})[name] == value


def test_random_weights_and_a_time_limit_have_more_epochs():
    usual = chosen(EQUAL[500])["epochs"]
    assert chosen(EQUAL[500], pretrained=False)["epochs"] == 3 * usual
    assert chosen(EQUAL[500], seconds=60.0)["epochs"] == 4 * usual


@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        ({"optimizer.name": "lamb", "optimizer.lr": 0.01}, {"optimizer.weight_decay"}),
        ({"schedule.name": "one_cycle"}, {"schedule.warmup_epochs"}),
        ({"regularization.ema_decay": None}, {"regularization.ema_warmup"}),
        (
            {"data.in_memory": True},
            {f"data.augmentation.{n}" for n in ("crop_scale", "auto_augment", "random_erasing")},
        ),
    ],
)
def test_what_is_asked_for_replaces_what_goes_with_another_choice(asked, missing):
    everything = chosen((100, 100))
    left = without_conflicts(everything, asked)
    assert everything.keys() - left.keys() == {*asked, *missing} & everything.keys()


def test_an_augmentation_that_images_in_memory_cannot_have_keeps_them_on_disk():
    everything = chosen((500, 500), image_size=32)
    assert everything["data.in_memory"]
    assert "data.in_memory" not in without_conflicts(everything, {"data.augmentation.auto_augment": "trivial"})
    assert "data.in_memory" in without_conflicts(everything, {"data.augmentation.padding": 2})


@pytest.mark.parametrize(("name", "multiple"), [("adamw", 1), ("nadamw", 1), ("sgd", 5), ("lion", 0.1)])
def test_the_learning_rate_suits_the_optimizer(name, multiple):
    settings = choose(Situation(counts=np.array([100, 100]), image_size=224))
    found = without_conflicts(settings, {"optimizer.name": name})
    assert found["optimizer.lr"] == pytest.approx(multiple * settings["optimizer.lr"])
    assert "optimizer.lr" not in without_conflicts(settings, {"optimizer.name": "lamb", "optimizer.lr": 1e-3})
