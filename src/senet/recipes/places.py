"""Places365: scenes."""

from dataclasses import replace

from senet.models.config import ModelConfig
from senet.recipes.imagenet import imagenet
from senet.training.config import TrainConfig, recipe


@recipe
def places365() -> TrainConfig:
    """Train ResNet-152 on scenes of 365 categories, with the hyper-parameters of section 5.1.

    The paper trains on the 8 million images of Places365-Challenge and follows the protocols of its references 72 and
    74, of which it states nothing but that networks start from scratch. Here the images are the 1.8 million of
    Places365-Standard, at 256 pixels, and the hyper-parameters those of `imagenet`, so expect other errors than the
    paper's. The batch is 8 processes of 128 images.

    Command: torchrun --nproc-per-node 8 -m senet train places365 --output runs/places --data.root PLACES365
    Takes weeks on 8 GPUs. docs/recipes.md has the paper's errors (Table 6). Not reproduced yet.
    Source: arXiv:1709.01507v4, section 5.2 and Table 6.
    """
    config = imagenet()
    return replace(config, model=ModelConfig(name="se_resnet152"), data=replace(config.data, dataset="places365"))
