"""CIFAR-10 and CIFAR-100."""

from dataclasses import replace

from senet.data.config import Augmentation, DataConfig
from senet.models.cards import ModelConfig
from senet.preprocessing import CIFAR, Preprocessing
from senet.training.config import ComputeConfig, OptimizerConfig, ScheduleConfig, TrainConfig

CIFAR100 = Preprocessing(image_size=32, resize=32, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FLIP_AND_CROP = Augmentation(flip=True, padding=4)


def cifar10() -> TrainConfig:
    """Train on CIFAR-10 as the residual networks' papers did: 64k steps of 128 images.

    Learning rate 0.1, divided by 10 at 32k and 48k steps (epochs 82 and 123 of 164), warmed up from 0.01 over the first
    400 steps as for ResNet-110; weight decay 1e-4; flip, and crop from 4 pixels of padding.

    Command: senet train cifar10 --output runs/preact164 --model.name cifar_se_preact_resnet164
    Cost: hours on a GPU. Expect Table 4's errors (5.21 % SE-ResNet-110, 4.39 % SE-ResNet-164); not yet run here.
    Source: arXiv:1709.01507v4, section 5.1 and Table 4; arXiv:1512.03385, section 4.2; arXiv:1603.05027, appendix.
    """
    return TrainConfig(
        model=ModelConfig(name="cifar_se_preact_resnet110"),
        data=DataConfig(dataset="cifar10", preprocessing=CIFAR, augmentation=FLIP_AND_CROP),
        optimizer=OptimizerConfig(lr=0.1, weight_decay=1e-4),
        schedule=ScheduleConfig(name="step", milestones=(82, 123), warmup_epochs=1.0, warmup_start=0.1),
        epochs=164,
        batch_size=128,
    )


def cifar100() -> TrainConfig:
    """Train on CIFAR-100 with the hyper-parameters of `cifar10`.

    Command: senet train cifar100 --output runs/preact164-100 --model.name cifar_se_preact_resnet164
    Cost: hours on a GPU. Expect Table 5's errors (23.85 % SE-ResNet-110, 21.31 % SE-ResNet-164); not yet run here.
    Source: arXiv:1709.01507v4, Table 5.
    """
    config = cifar10()
    return replace(config, data=replace(config.data, dataset="cifar100", preprocessing=CIFAR100))


def cifar10_short() -> TrainConfig:
    """Train a small network on CIFAR-10 in an hour or two on two CPU cores.

    One cycle of 40 epochs with Nesterov momentum, learning rate up to 0.2, weight decay 5e-4, bf16.

    Command: senet train cifar10_short --output runs/se-resnet20 [--data.dataset FOLDER_OF_PARQUET_FILES]
    Source: ours; the cycle is Smith and Topin's, arXiv:1708.07120. Results: docs/results.md.
    """
    return TrainConfig(
        model=ModelConfig(name="cifar_se_resnet20"),
        data=DataConfig(
            dataset="cifar10", preprocessing=CIFAR, augmentation=FLIP_AND_CROP, class_names=CIFAR10_CLASSES
        ),
        optimizer=OptimizerConfig(lr=0.2, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle"),
        compute=ComputeConfig(precision="bf16"),
        epochs=40,
        batch_size=128,
    )
