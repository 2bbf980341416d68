"""SE blocks for every CNN of torchvision and timm: how many can be given them with their outputs kept.

Networks: every classifier of torchvision.models that has convolutions and no attention between positions, and of timm's
modules of convolutional networks the smallest network of each set of layer classes, so that every family and every kind
of block takes part. Each network, with random weights, statistics and LayerScales:

1. `senet.insert_se` with its defaults ("double" where every branch has a gate already, counted apart);
2. the outputs must be equal bit for bit in evaluation mode, and all keys of the state dict must stay;
3. one training step must reach every new parameter of a last layer;
4. `senet.remove_se` must bring back the outputs and the keys.

Command: python benchmarks/insertion_coverage.py [--networks 'timm/res*']
Cost: half an hour on two CPU cores, and 8 GB of memory.
Results: benchmarks/results/insertion_coverage.json.
"""

import copy
import gc
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
import tyro
from rich.progress import track
from torch import Tensor, nn

from report import RESULTS, write_results
from senet.errors import SenetError
from senet.nn.attached import attached_blocks
from senet.nn.block import SEOptions
from senet.surgery.insertion import find_sites, insert_se, remove_se

FAMILIES = (
    *("byobnet", "byoanet", "convmixer", "convnext", "cpubone", "cspnet", "cspnext", "densenet", "dla", "dpn"),
    *("edgenext", "efficientnet", "fasternet", "fastvit", "focalnet", "ghostnet", "hardcorenas", "hgnet", "hrnet"),
    *("inception_next", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2", "mambaout", "mobilenetv3"),
    *("mobilenetv5", "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost", "repvit", "res2net", "resnest"),
    *("resnet", "resnetv2", "rexnet", "selecsls", "senet", "shvit", "sknet", "starnet", "swiftformer", "tresnet"),
    *("vgg", "vovnet", "xception", "xception_aligned"),
)
"""Modules of timm with networks whose features are made by convolutions, some with attention in a few blocks."""
NOT_CONVOLUTIONAL = ("vit_*", "swin*", "maxvit*")
"""Of torchvision."""
MOST_PARAMETERS = 60_000_000
"""Of timm's networks, but for the smallest of a family."""
SIDES = (64, 96, 128)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is tried.

    Args:
        networks: a shell pattern of "torchvision/NAME" or "timm/NAME".
    """

    networks: str = "*"


def on_meta(name: str) -> nn.Module | None:
    """Build a network of timm's without memory; None if it cannot be built so."""
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name)
    except Exception:  # some networks compute with their weights while they are built
        return None
    return model


def names(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield (name, family)."""
    for name in torchvision.models.list_models(module=torchvision.models):
        if not any(fnmatchcase(name, p) for p in NOT_CONVOLUTIONAL) and fnmatchcase(f"torchvision/{name}", pattern):
            builder = torchvision.models.get_model_builder(name)
            yield f"torchvision/{name}", builder.__module__.rpartition(".")[2]
    for family in FAMILIES:
        smallest: dict[frozenset[type], tuple[int, str]] = {}
        for name in timm.list_models(module=family):
            model = on_meta(name) if fnmatchcase(f"timm/{name}", pattern) else None
            if model is not None:
                size = sum(p.numel() for p in model.parameters())
                kinds = frozenset(type(m) for m in model.modules())
                smallest[kinds] = min(smallest.get(kinds, (size, name)), (size, name))
        for number, (size, name) in enumerate(sorted(smallest.values())):
            if size <= MOST_PARAMETERS or number == 0:
                yield f"timm/{name}", family


def build(name: str) -> nn.Module:
    """Build a network with random weights that leave no branch without effect."""
    torch.manual_seed(0)
    library, _, name = name.partition("/")
    if library == "timm":
        return randomize(timm.create_model(name, num_classes=10))
    return randomize(torchvision.models.get_model(name, weights=None, num_classes=10))


def randomize(model: nn.Module) -> nn.Module:
    """Give a network statistics, biases and LayerScales that leave no branch without effect; in evaluation mode."""
    for key, x in [*model.named_parameters(), *model.named_buffers()]:
        if x.is_floating_point():
            if "running_var" in key:
                x.data.uniform_(0.8, 1.2)
            elif x.dim() < 2 or (min(x.shape) == 1 and x.numel() == max(x.shape)):  # norms, biases, LayerScales
                x.data += 0.1 * torch.rand_like(x)
    return model.eval()


def images_for(model: nn.Module) -> Tensor:
    """Return two images of the least size that a network takes in evaluation and in training mode."""
    config: Any = getattr(model, "pretrained_cfg", None) or {"input_size": (3, 224, 224)}
    sides = [] if config.get("fixed_input_size") else list(SIDES)
    for side in [*sides, config["input_size"][-1], 299]:
        images = torch.randn(2, config["input_size"][0], side, side)
        try:
            with torch.no_grad():
                outputs(model, images)
                outputs(copy.deepcopy(model).train(), images)  # with Inception's auxiliary classifiers
        except Exception:  # too small, says each in its own way
            continue
        return images
    raise SenetError("the network runs on none of the sizes tried")


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits; GoogLeNet and Inception give auxiliary ones too in training."""
    found = model(images)
    return found if isinstance(found, Tensor) else found[0]


def attempt(name: str, family: str) -> dict[str, Any]:
    """Put SE blocks into one network and say how that went."""
    row: dict[str, Any] = {"network": name, "family": family}
    started = time.perf_counter()
    try:
        row |= inserted(build(name))
    except SenetError as error:
        reason = str(error)
        row |= {"status": "nothing to insert" if "no place" in reason else "failed", "reason": reason}
    except Exception as error:  # what went wrong is the result
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def inserted(model: nn.Module) -> dict[str, Any]:
    """Insert, compare, train a step, remove, compare; raise what goes wrong."""
    images, keys = images_for(model), list(model.state_dict())
    with torch.no_grad():
        before = outputs(model, images)
    found = find_sites(model, images)
    sites, skipped = found.sites, found.skipped
    all_gated = bool(sites) and all(site.gated for site in sites)
    report = insert_se(model, SEOptions(reduction=8), example_inputs=images, existing="add" if all_gated else "skip")
    with torch.no_grad():
        after = outputs(model, images)
    assert torch.equal(after, before), f"the outputs differ by {(after - before).abs().max():.1e}"
    assert [key for key in model.state_dict() if ".se." not in key or key in keys] == keys, "a key has changed"
    trained = copy.deepcopy(model).train()
    F.cross_entropy(outputs(trained, images), torch.tensor([0, 1])).backward()
    blocks = list(attached_blocks(trained).values())
    without = [m for m in blocks if m.get_parameter("fc2.weight").grad is None]
    assert not without, f"{len(without)} of {len(blocks)} blocks get no gradient"
    remove_se(model)
    with torch.no_grad():
        assert torch.equal(outputs(model, images), before), "the outputs differ after removal"
    assert list(model.state_dict()) == keys, "a key has changed after removal"
    gated = sum(site.gated for site in sites)
    return {
        "status": "gated already" if all_gated else "inserted",
        "blocks": len(report.sites),
        "kinds": sorted({site.kind for site in report.sites}),
        "gated": gated,
        "no_place": sorted({skip.reason for skip in skipped}),
        "parameters": report.num_parameters,
        "side": images.shape[-1],
    }


def main(arguments: Arguments) -> None:
    """Try every network."""
    warnings.simplefilter("ignore")
    rows = []
    for name, family in track(list(names(arguments.networks)), "networks"):
        rows.append(attempt(name, family))
        print(len(rows), name, rows[-1]["status"], rows[-1]["seconds"], flush=True)
        if rows[-1]["status"] == "failed":
            print(rows[-1]["network"], rows[-1]["reason"], flush=True)
        gc.collect()
    found = {status: sum(row["status"] == status for row in rows) for status in sorted({row["status"] for row in rows})}
    print(found)
    if arguments.networks == "*":
        write_results(RESULTS / "insertion_coverage.json", {"networks": rows}, ("torch", "torchvision", "timm"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
