"""ImageNet: the paper's section 5.1, the release, the mobile networks, the ablations of section 6, SENet-154."""

from dataclasses import replace

from senet.data.config import Augmentation, DataConfig
from senet.data.preprocessing import IMAGENET
from senet.models.config import ModelConfig
from senet.nn.block import SEOptions
from senet.training.config import TrainConfig, recipe
from senet.training.sections import ComputeConfig, OptimizerConfig, RegularizationConfig, ScheduleConfig

FIT_224 = Augmentation(flip=True, crop_scale=(0.08, 1.0))


@recipe
def imagenet() -> TrainConfig:
    """Train as in section 5.1: batch 1024, learning rate 0.6 divided by 10 every 30 epochs, 100 epochs.

    Random crop with scale and aspect ratio to 224, flip, mean subtraction. The batch is 8 processes of 128 images. The
    paper states no weight decay; 1e-4 is that of the residual networks, arXiv:1512.03385.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet --output runs/se50 --data.root IMAGENET
    Takes days on 8 GPUs. docs/recipes.md has the paper's errors (Table 2). Not reproduced yet.
    Source: arXiv:1709.01507v4, section 5.1.
    """
    return TrainConfig(
        model=ModelConfig(name="se_resnet50"),
        data=DataConfig(
            dataset="imagenet", preprocessing=IMAGENET, augmentation=FIT_224, in_memory=False, num_workers=8
        ),
        optimizer=OptimizerConfig(lr=0.6, weight_decay=1e-4),
        schedule=ScheduleConfig(name="step", milestones=(30, 60, 90)),
        compute=ComputeConfig(precision="auto"),
        epochs=100,
        batch_size=128,
    )


@recipe
def imagenet_release() -> TrainConfig:
    """Train as the authors' release: batch 256, learning rate 0.1, rotation of 10 degrees, pixel shift of 20.

    The release took more epochs than the paper and does not say how many; the schedule here is section 5.1's. The batch
    is 8 processes of 32 images.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_release --output runs/se50r --data.root IMAGENET
    Takes days on 8 GPUs. senet.paper.figures has the release's errors. Not reproduced yet.
    Source: the authors' release, README; arXiv:1709.01507v4.
    """
    config = imagenet()
    augmentation = replace(FIT_224, rotation=10.0, pixel_shift=20)
    return replace(
        config,
        data=replace(config.data, augmentation=augmentation),
        optimizer=replace(config.optimizer, lr=0.1),
        batch_size=32,
    )


@recipe
def imagenet_inception_resnet() -> TrainConfig:
    """Train Inception-ResNet-v2 as in section 5.1, on crops of 299; evaluation crops 299 from 352.

    The batch is 8 processes of 128 images, or less with more accumulation where memory is short.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_inception_resnet --output runs/ir2 --data.root IMAGENET
    Takes weeks on 8 GPUs. docs/recipes.md has the paper's errors (Table 2). Not reproduced yet.
    Source: arXiv:1709.01507v4, section 5.1.
    """
    config = imagenet()
    return replace(
        config,
        model=ModelConfig(name="se_inception_resnet_v2"),
        data=replace(config.data, preprocessing=replace(IMAGENET, image_size=299, resize=352)),
    )


@recipe
def imagenet_mobile() -> TrainConfig:
    """Train mobile networks: batch 256, learning rate 0.1, divided by 10 on plateaus, at most 400 epochs.

    The paper takes "slightly less aggressive data augmentation and regularization" from ShuffleNet's: weight decay
    4e-5, and crops of a larger share of the image, whose size neither states; 25 to 100 % is this library's choice. So
    are the patience of 20 epochs without a lower validation loss and the end after three reductions, as in the
    ablations; the paper says "about 400 epochs". The batch is 8 processes of 32 images.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_mobile --output runs/mobile --data.root IMAGENET
    Takes days on 8 GPUs. docs/recipes.md has the paper's errors (Table 3). Not reproduced yet.
    Source: arXiv:1709.01507v4, section 5.1, "Mobile setting"; arXiv:1707.01083, section 4.
    """
    config = imagenet()
    return replace(
        config,
        model=ModelConfig(name="se_mobilenet_v1"),
        data=replace(config.data, augmentation=replace(FIT_224, crop_scale=(0.25, 1.0))),
        optimizer=replace(config.optimizer, lr=0.1, weight_decay=4e-5),
        schedule=ScheduleConfig(name="plateau", patience=20, max_drops=3),
        epochs=400,
        batch_size=32,
    )


@recipe
def imagenet_ablation() -> TrainConfig:
    """Train as the ablations of section 6: no FC biases, label smoothing, learning rate 0.1, three times divided by 10.

    Each time when the validation loss has stopped falling, about 300 epochs in all, as for Tables 10 to 16. The paper
    does not say when it counts as that: here after 10 epochs without a lower one, and 400 epochs are the limit. For the
    fixed schedule of the section's footnote: --schedule.name step --schedule.milestones 125 200 250
    --schedule.max-drops None --epochs 270. A plain network has no biases to leave out: give --model.se.bias with its
    name. The paper states neither the batch nor the share of label smoothing; here 0.1, and 8 processes of 32 images,
    the batch that the release pairs with this learning rate.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_ablation --output runs/r8 --model.se.reduction 8
    Takes days on 8 GPUs. docs/recipes.md has the paper's errors (Table 10). Not reproduced yet.
    Source: arXiv:1709.01507v4, section 6 and its footnote 2.
    """
    config = imagenet()
    return replace(
        config,
        model=replace(config.model, se=SEOptions(bias=False)),
        optimizer=replace(config.optimizer, lr=0.1),
        schedule=ScheduleConfig(name="plateau", patience=10, max_drops=3),
        regularization=RegularizationConfig(label_smoothing=0.1),
        epochs=400,
        batch_size=32,
    )


@recipe
def imagenet_senet154() -> TrainConfig:
    """Train SENet-154 as in the appendix: batch 2048, learning rate 1.0, label smoothing, BatchNorm frozen at the end.

    The appendix says that BatchNorm is frozen in the last epochs, not in how many: here 5 of 100. It states no
    schedule; this one is section 5.1's. The batch is 8 processes of 32 images, accumulated 8 times.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_senet154 --output runs/154 --data.root IMAGENET
    Takes weeks on 8 GPUs. docs/networks.md has the paper's errors (Table 8). Not reproduced yet.
    Source: arXiv:1709.01507v4, appendix.
    """
    config = imagenet()
    return replace(
        config,
        model=ModelConfig(name="senet154"),
        optimizer=replace(config.optimizer, lr=1.0),
        regularization=RegularizationConfig(label_smoothing=0.1, freeze_bn_epochs=5),
        compute=replace(config.compute, accumulate=8),
        batch_size=32,
    )


@recipe
def imagenet_senet154_320() -> TrainConfig:
    """Train SENet-154 on crops of 320, otherwise as `imagenet_senet154`.

    The paper says of this network only that it was trained with crops of 320: not whether from scratch (as here) or
    from the weights of the network trained at 224, and not how images are scaled before the center crop; 366 is in
    proportion to 256 for 224.

    Command: torchrun --nproc-per-node 8 -m senet train imagenet_senet154_320 --output runs/154-320 --data.root IMAGENET
    Takes weeks on 8 GPUs, twice the computation of `imagenet_senet154`. docs/recipes.md has the paper's errors (Table
    9). Not reproduced yet.
    Source: arXiv:1709.01507v4, Table 9 and appendix.
    """
    config = imagenet_senet154()
    return replace(config, data=replace(config.data, preprocessing=replace(IMAGENET, image_size=320, resize=366)))
