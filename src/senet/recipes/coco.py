"""COCO: Faster R-CNN on a feature pyramid as Detectron trains it, the schedule of the paper's Table 7."""

from dataclasses import replace

from senet.detection.config import DetectionConfig, DetectionSchedule
from senet.detection.data_config import DetectionDataConfig
from senet.detection.detector_config import DetectorConfig
from senet.training.config import recipe
from senet.training.sections import ComputeConfig, OptimizerConfig


@recipe
def coco_faster_rcnn() -> DetectionConfig:
    """Train Faster R-CNN on COCO by Detectron's 2x schedule: 180,000 iterations of 16 images, learning rate 0.02.

    The learning rate is divided by 10 after 120,000 and 160,000 iterations and rises from a third in the first 500;
    momentum 0.9, weight decay 1e-4, none for biases. Images have a short side of 800 pixels and a long one of at most
    1333, and are flipped. The stem and the first stage are frozen, and every BatchNorm is a fixed affine function. The
    batch is 8 processes of 2 images; with another one the learning rate and the iterations are scaled. The trunk needs
    weights.

    The baselines of the paper's Table 7 (AP 38.0 and 39.9) are those of Detectron's FPN models of 2017-12 (37.9 and
    39.8), with this schedule; the paper calls it "2x" and states no more. Detectron doubles the learning rate of
    biases, Detectron2 does not; nor does this recipe. Where the strides of a bottleneck are follows from the weights.

    Command: torchrun --nproc-per-node 8 -m senet train coco_faster_rcnn --output runs/coco --data COCO --weights FILE
    Takes a day or two on 8 GPUs. docs/recipes.md has the paper's figures (Table 7). Not reproduced yet.
    Source: Detectron, configs/12_2017_baselines/e2e_faster_rcnn_R-50-FPN_2x.yaml (batch, learning rate, decay, steps,
        scales) and detectron/core/config.py (SOLVER: momentum, WARM_UP_ITERS 500, WARM_UP_FACTOR 1/3,
        BIAS_WEIGHT_DECAY False); arXiv:1709.01507v4, section 5.3.
    """
    return DetectionConfig(
        model=DetectorConfig(name="faster_rcnn", trunk="se_resnet50"),
        data=DetectionDataConfig(dataset="data/coco", num_workers=4),
        optimizer=OptimizerConfig(lr=0.02, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=False),
        schedule=DetectionSchedule(
            name="step", milestones=(120_000, 160_000), warmup_iterations=500, warmup_start=1 / 3
        ),
        compute=ComputeConfig(compile="off", precision="auto"),
        iterations=180_000,
        batch_size=2,
        reference_batch=16,
    )


@recipe
def coco_faster_rcnn_1x() -> DetectionConfig:
    """Train as `coco_faster_rcnn`, but by Detectron's 1x schedule: 90,000 iterations, milestones at 60,000 and 80,000.

    Command: torchrun --nproc-per-node 8 -m senet train coco_faster_rcnn_1x --output runs/1x --data COCO --weights FILE
    Takes half a day to a day on 8 GPUs. Detectron has an AP of 36.7 for ResNet-50 without SE, Detectron2 37.9 with
    schedule and details of its own. Not run here yet.
    Source: Detectron, configs/12_2017_baselines/e2e_faster_rcnn_R-50-FPN_1x.yaml and MODEL_ZOO.md; detectron2,
        MODEL_ZOO.md.
    """
    config = coco_faster_rcnn()
    schedule = replace(config.schedule, milestones=(60_000, 80_000))
    return replace(config, schedule=schedule, iterations=90_000)
