"""Faster models with the same outputs: `optimize` for training and for inference."""

from typing import Any, Literal, get_args

from torch import nn

from senet.errors import check_choice
from senet.optimization.inference import optimize_for_inference
from senet.optimization.training import optimize_for_training

Purpose = Literal["training", "inference"]


def optimize(model: nn.Module, for_: Purpose, **options: Any) -> nn.Module:
    """Make a model faster and keep its outputs.

    Args:
        model: a network of senet, timm or torchvision.
        for_: "training" changes the model in place, see `senet.optimization.training.optimize_for_training` (option
            `fused`); "inference" returns a copy that cannot be trained, see
            `senet.optimization.inference.optimize_for_inference` (options `backend`, `precision`, `micro_batch`).
        options: of that purpose.

    Returns:
        The faster model.

    Raises:
        SenetError: no block of the model is known (training), it cannot be traced (inference), or an option is wrong.

    >>> model = optimize(senet.create_model("se_resnet50"), for_="training")
    """
    check_choice("for_", for_, get_args(Purpose))
    allowed = {"training": ("fused",), "inference": ("backend", "precision", "micro_batch")}[for_]
    for option in options:
        check_choice(f"option of for_={for_!r}", option, allowed)
    return optimize_for_training(model, **options) if for_ == "training" else optimize_for_inference(model, **options)
