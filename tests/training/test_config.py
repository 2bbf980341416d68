"""Every setting that cannot be right is refused by its name."""

from dataclasses import replace

import pytest

from senet.data.config import Augmentation, DataConfig
from senet.errors import SenetError
from senet.models.config import ModelConfig
from senet.training.config import TrainConfig
from senet.training.sections import ComputeConfig, OptimizerConfig, RegularizationConfig, ScheduleConfig

CONFIG = TrainConfig(model=ModelConfig(name="cifar_se_resnet20"), data=DataConfig())
NAN = float("nan")

REFUSED = [
    (OptimizerConfig, {"lr": 0.0}, "optimizer.lr"),
    (OptimizerConfig, {"lr": -0.1}, "optimizer.lr"),
    (OptimizerConfig, {"lr": NAN}, "optimizer.lr"),
    (OptimizerConfig, {"momentum": 1.1}, "optimizer.momentum"),
    (OptimizerConfig, {"nesterov": True, "momentum": 0.0}, "optimizer.nesterov"),
    (OptimizerConfig, {"weight_decay": -1e-4}, "optimizer.weight_decay"),
    (OptimizerConfig, {"clip_norm": 0.0}, "optimizer.clip_norm"),
    (OptimizerConfig, {"clip_norm": NAN}, "optimizer.clip_norm"),
    (ScheduleConfig, {"name": "stepp"}, "schedule.name"),
    (ScheduleConfig, {"name": "step"}, "schedule.milestones"),
    (ScheduleConfig, {"name": "cosine", "milestones": (3,)}, "schedule.milestones"),
    (ScheduleConfig, {"name": "step", "milestones": (3, 2)}, "schedule.milestones"),
    (ScheduleConfig, {"name": "step", "milestones": (2, 2)}, "schedule.milestones"),
    (ScheduleConfig, {"name": "plateau", "factor": 1.5}, "schedule.factor"),
    (ScheduleConfig, {"name": "plateau", "patience": -1}, "schedule.patience"),
    (ScheduleConfig, {"name": "one_cycle", "peak": 1.0}, "schedule.peak"),
    (ScheduleConfig, {"name": "one_cycle", "warmup_epochs": 1.0}, "schedule.warmup_epochs"),
    (ScheduleConfig, {"warmup_epochs": -1.0}, "schedule.warmup_epochs"),
    (ScheduleConfig, {"warmup_start": 2.0}, "schedule.warmup_start"),
    (RegularizationConfig, {"label_smoothing": 1.0}, "regularization.label_smoothing"),
    (RegularizationConfig, {"mixup": -0.2}, "regularization.mixup"),
    (RegularizationConfig, {"cutmix": -1.0}, "regularization.cutmix"),
    (RegularizationConfig, {"ema_decay": 1.0}, "regularization.ema_decay"),
    (RegularizationConfig, {"ema_decay": 0.0}, "regularization.ema_decay"),
    (RegularizationConfig, {"ema_warmup": True}, "regularization.ema_warmup"),
    (OptimizerConfig, {"layer_decay": 0.0}, "optimizer.layer_decay"),
    (OptimizerConfig, {"layer_decay": 1.1}, "optimizer.layer_decay"),
    (OptimizerConfig, {"nesterov": True, "name": "adamw"}, "optimizer.nesterov"),
    (ScheduleConfig, {"max_drops": 3}, "schedule.max_drops"),
    (ScheduleConfig, {"name": "plateau", "max_drops": 0}, "schedule.max_drops"),
    (RegularizationConfig, {"freeze_bn_epochs": -1}, "regularization.freeze_bn_epochs"),
    (ComputeConfig, {"precision": "float16"}, "compute.precision"),
    (ComputeConfig, {"accumulate": 0}, "compute.accumulate"),
    (TrainConfig, {"epochs": 0}, "epochs"),
    (TrainConfig, {"batch_size": 0}, "batch_size"),
    (TrainConfig, {"seed": -1}, "seed"),
    (TrainConfig, {"checkpoint_every": 0}, "checkpoint_every"),
    (TrainConfig, {"model": ModelConfig(name="cifar_se_resnet20", in_channels=1)}, "model.in_channels"),
    (
        TrainConfig,
        {"epochs": 2, "regularization": RegularizationConfig(freeze_bn_epochs=3)},
        "regularization.freeze_bn_epochs",
    ),
    (TrainConfig, {"batch_size": 33, "regularization": RegularizationConfig(mixup=0.2)}, "batch_size"),
    (DataConfig, {"num_workers": -1}, "data.num_workers"),
    (DataConfig, {"augmentation": Augmentation(rotation=10.0)}, "data.augmentation.rotation"),
    (DataConfig, {"augmentation": Augmentation(cutout=4), "in_memory": False}, "data.augmentation.cutout"),
    (Augmentation, {"cutout": -1}, "augmentation.cutout"),
    (Augmentation, {"crop_scale": (0.5, 0.1)}, "augmentation.crop_scale"),
]


@pytest.mark.parametrize(("kind", "values", "name"), REFUSED, ids=[f"{k.__name__}-{v}" for k, v, _ in REFUSED])
def test_a_bad_value_is_refused_by_its_name(kind, values, name):
    required = {"model": CONFIG.model, "data": CONFIG.data} if kind is TrainConfig else {}
    with pytest.raises(SenetError) as caught:
        kind(**{**required, **values})
    assert str(caught.value).startswith(f"{name} ")


def test_the_limits_themselves_are_allowed():
    OptimizerConfig(momentum=0, weight_decay=0, clip_norm=None)
    ScheduleConfig(name="plateau", factor=0, patience=0)
    RegularizationConfig(freeze_bn_epochs=0, ema_decay=None)
    replace(CONFIG, epochs=1, batch_size=1, seed=0, regularization=RegularizationConfig(freeze_bn_epochs=1))
    replace(CONFIG, batch_size=34, regularization=RegularizationConfig(mixup=0.2, cutmix=1.0))
