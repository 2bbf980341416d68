"""CIFAR-10 and CIFAR-100."""

from dataclasses import replace

from senet.data.config import Augmentation, DataConfig
from senet.data.preprocessing import CIFAR, CIFAR100
from senet.models.config import ModelConfig
from senet.training.config import TrainConfig, recipe
from senet.training.sections import ComputeConfig, OptimizerConfig, ScheduleConfig

FLIP_AND_CROP = Augmentation(flip=True, padding=4)


def on_cifar100(config: TrainConfig) -> TrainConfig:
    """Return the configuration with CIFAR-100 instead of CIFAR-10."""
    return replace(config, data=replace(config.data, dataset="cifar100", preprocessing=CIFAR100))


@recipe
def cifar10() -> TrainConfig:
    """Train on CIFAR-10 as in the papers of the residual networks: 64k steps of 128 images.

    Learning rate 0.1, divided by 10 at 32k and 48k steps (epochs 82 and 123 of 164), warmed up from 0.01 over the first
    400 steps as for ResNet-110; weight decay 1e-4; flip, and crop from 4 pixels of padding.

    Command: senet train cifar10 --output runs/preact164 --model.name cifar_se_preact_resnet164
    Takes hours on one GPU. docs/recipes.md has the paper's errors (Table 4). Not reproduced yet.
    Source: arXiv:1709.01507v4, section 5.1 and Table 4; arXiv:1512.03385, section 4.2; arXiv:1603.05027, appendix.
    """
    return TrainConfig(
        model=ModelConfig(name="cifar_se_preact_resnet110"),
        data=DataConfig(dataset="cifar10", preprocessing=CIFAR, augmentation=FLIP_AND_CROP),
        optimizer=OptimizerConfig(lr=0.1, weight_decay=1e-4),
        schedule=ScheduleConfig(name="step", milestones=(82, 123), warmup_epochs=1.0, warmup_start=0.1),
        compute=ComputeConfig(precision="auto"),
        epochs=164,
        batch_size=128,
    )


@recipe
def cifar100() -> TrainConfig:
    """Train on CIFAR-100 with the hyper-parameters of `cifar10`.

    Command: senet train cifar100 --output runs/preact164-100 --model.name cifar_se_preact_resnet164
    Takes hours on one GPU. docs/recipes.md has the paper's errors (Table 5). Not reproduced yet.
    Source: arXiv:1709.01507v4, Table 5.
    """
    return on_cifar100(cifar10())


@recipe
def cifar10_wrn() -> TrainConfig:
    """Train Wide ResNets on CIFAR-10: learning rate 0.1, times 0.2 at epochs 60, 120 and 160 of 200.

    Nesterov momentum 0.9, weight decay 5e-4, batch 128, no dropout. The Wide ResNets' own code pads by reflection; here
    the padding is zero, as in the SE paper.

    Command: senet train cifar10_wrn --output runs/wrn16-8
    Takes hours on one GPU. docs/recipes.md has the paper's errors (Table 4). Not reproduced yet.
    Source: arXiv:1605.07146, section 3; github.com/szagoruyko/wide-residual-networks, scripts/train_cifar.sh and
        train.lua; arXiv:1709.01507v4, section 5.1 and Table 4.
    """
    return TrainConfig(
        model=ModelConfig(name="cifar_se_wrn16_8"),
        data=DataConfig(dataset="cifar10", preprocessing=CIFAR, augmentation=FLIP_AND_CROP),
        optimizer=OptimizerConfig(lr=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(name="step", milestones=(60, 120, 160), factor=0.2),
        compute=ComputeConfig(precision="auto"),
        epochs=200,
        batch_size=128,
    )


@recipe
def cifar100_wrn() -> TrainConfig:
    """Train Wide ResNets on CIFAR-100 with the hyper-parameters of `cifar10_wrn`.

    Command: senet train cifar100_wrn --output runs/wrn16-8-100
    Takes hours on one GPU. docs/recipes.md has the paper's errors (Table 5). Not reproduced yet.
    Source: as `cifar10_wrn`; arXiv:1709.01507v4, Table 5.
    """
    return on_cifar100(cifar10_wrn())


@recipe
def cifar10_shake() -> TrainConfig:
    """Train Shake-Shake 26 2x96d with Cutout of 16 pixels on CIFAR-10: half a cosine from 0.2 over 1800 epochs.

    Nesterov momentum 0.9, weight decay 1e-4, batch 128. The batch is 2 processes of 64 images, as on the authors' two
    GPUs; with one, they advise half the batch and half the learning rate: the same command without torchrun, and
    --optimizer.lr 0.1.

    Command: torchrun --nproc-per-node 2 -m senet train cifar10_shake --output runs/shake26
    Takes days on 2 GPUs. docs/recipes.md has the paper's errors (Table 4). Not reproduced yet.
    Source: github.com/xgastaldi/shake-shake, README.md and opts.lua (arXiv:1705.07485);
        github.com/uoguelph-mlrg/Cutout, shake-shake/README.md (arXiv:1708.04552); arXiv:1709.01507v4, Table 4.
    """
    return TrainConfig(
        model=ModelConfig(name="cifar_se_shake_shake26_2x96d"),
        data=DataConfig(dataset="cifar10", preprocessing=CIFAR, augmentation=replace(FLIP_AND_CROP, cutout=16)),
        optimizer=OptimizerConfig(lr=0.2, nesterov=True, weight_decay=1e-4),
        schedule=ScheduleConfig(name="cosine"),
        compute=ComputeConfig(precision="auto"),
        epochs=1800,
        batch_size=64,
    )


@recipe
def cifar100_shake() -> TrainConfig:
    """Train Shake-Even 29 2x4x64d with Cutout of 8 pixels on CIFAR-100: half a cosine from 0.025 over 1800 epochs.

    Nesterov momentum 0.9, weight decay 5e-4, batch 32: 2 processes of 16 images, as on the authors' two GPUs.

    Command: torchrun --nproc-per-node 2 -m senet train cifar100_shake --output runs/shake29
    Takes days on 2 GPUs. docs/recipes.md has the paper's errors (Table 5). Not reproduced yet.
    Source: as `cifar10_shake`; arXiv:1709.01507v4, Table 5.
    """
    config = on_cifar100(cifar10_shake())
    return replace(
        config,
        model=ModelConfig(name="cifar_se_shake_even29_2x4x64d"),
        data=replace(config.data, augmentation=replace(FLIP_AND_CROP, cutout=8)),
        optimizer=replace(config.optimizer, lr=0.025, weight_decay=5e-4),
        batch_size=16,
    )


@recipe
def cifar10_short() -> TrainConfig:
    """Train a small network on CIFAR-10 in an hour or two on two CPU cores.

    One cycle of 40 epochs with Nesterov momentum, learning rate up to 0.2, weight decay 5e-4, and bf16 where the
    hardware computes it. Parquet files of CIFAR-10 that do not name the classes need
    --data.class-names airplane automobile ... as well.

    Command: senet train cifar10_short --output runs/se-resnet20 [--data FOLDER_OF_PARQUET_FILES]
    Takes an hour or two on two CPU cores. Results: docs/results.md.
    Source: this library; the cycle is Smith and Topin's, arXiv:1708.07120.
    """
    return TrainConfig(
        model=ModelConfig(name="cifar_se_resnet20"),
        data=DataConfig(dataset="cifar10", preprocessing=CIFAR, augmentation=FLIP_AND_CROP),
        optimizer=OptimizerConfig(lr=0.2, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle"),
        compute=ComputeConfig(precision="auto"),
        epochs=40,
        batch_size=128,
    )
