"""`senet evaluate`."""

import json
from dataclasses import asdict, dataclass

from torch import nn

from senet.cli.data import OnData
from senet.evaluation.accuracy import evaluate
from senet.nn.precision import Precision
from senet.optimization.inference import Backend, optimize_for_inference
from senet.terminal import say


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(OnData):
    """Measure top-1 and top-5 accuracy, on one crop or averaged over many.

    RUN_OR_MODEL is a run folder, a model folder, a file of weights that says what network it is of, a hub id, the name
    of a network with public weights, or "timm/NAME" or "torchvision/NAME" with that library's own weights. The
    data are those of the run, unless you name others.

    Examples:
        senet evaluate runs/digits
        senet evaluate runs/se50 --crop-size 320
        senet evaluate runs/se50 --ten-crop --resize-sizes 224 256 288
        senet evaluate timm/seresnet50.ra2_in1k --data imagenet --data.root /data/imagenet
    """

    crop_size: int | None = None
    """side of the crops in pixels; None for the network's own"""
    resize_sizes: tuple[int, ...] | None = None
    """lengths the shorter side is resized to; several are averaged; None keeps the network's ratio to the crop"""
    ten_crop: bool = False
    """average ten crops: corners and center, each mirrored too"""
    precision: Precision = "fp32"
    """of the arithmetic; auto is bf16 where the hardware computes it; tf32 and fp16 need a GPU"""
    optimize: Backend | None = None
    """rewrite the network for inference and compute it with this backend, see `senet.optimize_for_inference`"""
    json: bool = False
    """print JSON instead of a sentence"""

    def run(self) -> None:
        """Evaluate and print."""
        model: nn.Module = self.load()
        precision = self.precision
        if self.optimize is not None:
            model, precision = optimize_for_inference(model, backend=self.optimize, precision=precision), "fp32"
        result = evaluate(
            model,
            self.data,
            crop_size=self.crop_size,
            resize_sizes=self.resize_sizes,
            ten_crop=self.ten_crop,
            batch_size=self.batch_size,
            precision=precision,
        )
        if self.json:
            print(json.dumps(asdict(result)))
        else:
            say(
                f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f} "
                f"on {result.num_images:,} images of {self.data.dataset}"
            )
