"""ImageNet as it is trained today: procedures A1 to A3 of "ResNet strikes back", arXiv:2110.00476."""

from collections.abc import Mapping
from dataclasses import replace

from senet.data.preprocessing import STANDARDIZED
from senet.models.config import ModelConfig
from senet.recipes.imagenet import FIT_224, imagenet
from senet.training.config import TrainConfig, recipe
from senet.training.sections import ObjectiveConfig, OptimizerConfig, RegularizationConfig, ScheduleConfig

TIMMS_RESNET: Mapping[str, bool | str] = {"stride_on": "3x3", "stem_pool": "pad", "zero_init_last": True}
"""The options with which `resnet50` and `se_resnet50` are timm's `resnet50` and `seresnet50`."""
WARMUP_LR = 1e-4
"""The learning rate at which timm's warm-up began at that time; the paper does not state it."""


def scheduled(lr: float) -> ScheduleConfig:
    """Return the schedule of all three procedures: five epochs of warm-up, then half a cosine."""
    return ScheduleConfig(name="cosine", warmup_epochs=5, warmup_start=WARMUP_LR / lr)


@recipe
def imagenet_a1() -> TrainConfig:
    """Train for 600 epochs: LAMB, binary cross entropy, RandAugment, mixup and CutMix, repeated augmentation.

    With it, timm's ResNet-50 reaches 80.4 % top-1 on ImageNet. As A2, but for twice as long, with label smoothing, more
    mixup and half the weight decay. The paper says that all classes of a mixed image are present; the threshold of 0.2
    is that of the commands that timm's users pass on. Networks without `stride_on` need other options, such as
    --model.name resnet18 --model-kwargs stem_pool=pad zero_init_last=True. The batch is 8 processes of 256 images.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_a1 --output runs/a1 --data.root IMAGENET
    Takes days on 8 GPUs. Not reproduced yet.
    Source: arXiv:2110.00476, Table 2; mmpretrain, configs/resnet/resnet50_8xb256-rsb-a1-600e_in1k.py.
    """
    config = imagenet_a2()
    return replace(
        config,
        optimizer=replace(config.optimizer, weight_decay=0.01),
        regularization=replace(config.regularization, label_smoothing=0.1, mixup=0.2),
        epochs=600,
    )


@recipe
def imagenet_a2() -> TrainConfig:
    """Train for 300 epochs: LAMB, binary cross entropy, RandAugment, mixup and CutMix, repeated augmentation.

    With it, timm's ResNet-50 reaches 79.8 % top-1 on ImageNet. Evaluation crops 224 from 235, which is 0.95 of the
    image. The cosine ends at 0, timm's at 1e-6. For the threshold of 0.2 and for other networks see `imagenet_a1`. The
    batch is 8 processes of 256 images.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_a2 --output runs/a2 --data.root IMAGENET
    Takes days on 8 GPUs. Not reproduced yet.
    Source: arXiv:2110.00476, Table 2; timm, README (weights a2_in1k).
    """
    config, lr = imagenet(), 5e-3
    augmentation = replace(FIT_224, auto_augment="rand-m7-mstd0.5-inc1", repeats=3)
    return replace(
        config,
        model=ModelConfig(name="se_resnet50", options=TIMMS_RESNET),
        data=replace(
            config.data,
            preprocessing=replace(STANDARDIZED, resize=int(224 / 0.95), interpolation="bicubic"),
            augmentation=augmentation,
        ),
        objective=ObjectiveConfig(loss="binary_cross_entropy", target_threshold=0.2),
        optimizer=OptimizerConfig(name="lamb", lr=lr, weight_decay=0.02, decay_norm_and_bias=False),
        schedule=scheduled(lr),
        regularization=RegularizationConfig(mixup=0.1, cutmix=1.0, drop_path=0.05),
        epochs=300,
        batch_size=256,
    )


@recipe
def imagenet_a3() -> TrainConfig:
    """Train for 100 epochs on crops of 160 pixels, evaluate at 224: a sixth of the computation of A2.

    With it, timm's ResNet-50 reaches 78.1 % top-1 on ImageNet. As A2, without stochastic depth and repeated
    augmentation, with a weaker RandAugment and a higher learning rate. The batch is 8 processes of 256 images.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_a3 --output runs/a3 --data.root IMAGENET
    Takes most of a day on 8 GPUs. Not reproduced yet.
    Source: arXiv:2110.00476, Table 2; mmpretrain, configs/resnet/resnet50_8xb256-rsb-a3-100e_in1k.py.
    """
    config, lr = imagenet_a2(), 8e-3
    augmentation = replace(FIT_224, train_size=160, auto_augment="rand-m6-mstd0.5-inc1")
    return replace(
        config,
        data=replace(config.data, augmentation=augmentation),
        optimizer=replace(config.optimizer, lr=lr),
        schedule=scheduled(lr),
        regularization=replace(config.regularization, drop_path=0.0),
        epochs=100,
    )
