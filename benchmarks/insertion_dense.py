"""SE blocks for encoder-decoders and detectors: where they go, and why not elsewhere.

Networks: every decoder of segmentation_models_pytorch for convolutional encoders, with a ResNet-18, and every detection
and segmentation network of torchvision, with random weights and statistics. Each network:

1. `senet.insert_se` with its defaults, on one small image;
2. the outputs must be equal bit for bit in evaluation mode, and all keys of the state dict must stay;
3. `senet.remove_se` must bring back the outputs and the keys.

Command: pip install segmentation_models_pytorch && python benchmarks/insertion_dense.py [--networks 'smp/*']
Cost: a minute on one CPU core, and 3 GB of memory.
Results: benchmarks/results/insertion_dense.json.
"""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp  # type: ignore[import-not-found, import-untyped, unused-ignore]
import torch
import torchvision
import tyro
from torch import Tensor, nn

from insertion_coverage import randomize
from report import RESULTS, write_results
from senet.nn.block import SEOptions
from senet.surgery.dataflow import tensors
from senet.surgery.insertion import insert_se, remove_se

DECODERS = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet"),
    "Segformer",
)
ENCODER = "resnet18"
LARGE = ("PAN", "ssd")
"""Parts of the names of networks that need more than 64 pixels."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is tried.

    Args:
        networks: a shell pattern of "smp/NAME" or "torchvision/NAME".
    """

    networks: str = "*"


def builders() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Yield (name, what builds it)."""
    for name in DECODERS:
        yield f"smp/{name}", partial(getattr(smp, name), ENCODER, encoder_weights=None, classes=3)
    for library in (torchvision.models.detection, torchvision.models.segmentation):
        for name in torchvision.models.list_models(module=library):
            resizes = library is torchvision.models.detection and "ssd" not in name
            size = {"min_size": 64, "max_size": 64} if resizes else {}
            yield (
                f"torchvision/{name}",
                partial(torchvision.models.get_model, name, weights=None, weights_backbone=None, **size),
            )


@torch.no_grad()
def attempt(name: str, build: Callable[[], nn.Module]) -> dict[str, Any]:
    """Put SE blocks into one network and say where they went."""
    torch.manual_seed(0)
    model = randomize(build())
    side = 320 if any(part in name for part in LARGE) else 64
    images = torch.randn(1, 3, side, side)
    keys, before = list(model.state_dict()), outputs(model, images)
    report = insert_se(model, SEOptions(reduction=8), example_inputs=images)
    assert equal(outputs(model, images), before), f"{name}: the outputs differ"
    assert [key for key in model.state_dict() if key in keys] == keys, f"{name}: a key has changed"
    remove_se(model)
    assert equal(outputs(model, images), before), f"{name}: the outputs differ after removal"
    assert list(model.state_dict()) == keys, f"{name}: a key has changed after removal"
    return {
        "network": name,
        "sites": Counter(site.kind for site in report.sites),
        "skipped": Counter(skip.reason for skip in report.skipped),
    }


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return all tensors that a network makes of images."""
    return list(tensors(model(images)))


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether tensors are the same, bit for bit."""
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def main(arguments: Arguments) -> None:
    """Try every network."""
    warnings.simplefilter("ignore")
    rows = []
    for name, build in builders():
        if fnmatchcase(name, arguments.networks):
            rows.append(attempt(name, build))
            print(name, dict(rows[-1]["sites"]), dict(rows[-1]["skipped"]), flush=True)
            gc.collect()
    if arguments.networks == "*":
        versions = ("torch", "torchvision", "segmentation_models_pytorch")
        write_results(RESULTS / "insertion_dense.json", {"encoder": ENCODER, "networks": rows}, versions)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
