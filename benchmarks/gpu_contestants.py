"""The contestants of gpu.py, as functions that build them in a process of their own.

Forms of a training step (forward, backward, SGD with momentum), the same for every network:
eager: PyTorch as it is; compiled: torch.compile; reduce-overhead: torch.compile with PyTorch's CUDA graphs;
..., one graph: the whole step, the optimizer included, recorded as one CUDA graph and replayed.
"""

import logging
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import nn

import inference
import senet
from gpu_kernels import captured
from report import DTYPES, Device, Precision
from seats import Ready, wait_for_device
from senet.files import read_jsonl
from senet.recipes import get_recipe
from training_step import PLAIN, SE, SENET, build_senet

Form = Literal["eager", "eager, one graph", "compiled", "compiled, one graph", "reduce-overhead"]
SMALL_PLAIN, SMALL_SE, SMALL_SENET = "cifar_resnet20", "cifar_se_resnet20, layer by layer", "cifar_se_resnet20"
RUNTIMES = ("captured", "senet inductor")
"""At inference, as benchmarks/inference.py names them: both run as CUDA graphs."""


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    PLAIN: partial(timm.create_model, "resnet50"),
    SE: partial(timm.create_model, "seresnet50"),
    SENET: partial(build_senet, "se_resnet50", fused=True),
    SMALL_PLAIN: lambda: senet.create_model("cifar_resnet20", num_classes=10),
    SMALL_SE: lambda: senet.unfuse(senet.create_model("cifar_se_resnet20", num_classes=10)),
    SMALL_SENET: lambda: senet.fuse(senet.create_model("cifar_se_resnet20", num_classes=10)),
}


class Step:
    """A training step of one network on one batch; calling it does one.

    Args:
        network: its name in `NETWORKS`.
        mode: of torch.compile; None for eager.
        batch: images.
        side: of an image, in pixels.
        device: cpu or cuda.
        precision: bf16 for autocast.
    """

    def __init__(
        self, network: str, mode: str | None, batch: int, side: int, device: Device, precision: Precision
    ) -> None:
        torch.manual_seed(0)
        self.model = NETWORKS[network]().train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.run = self.model if mode is None else torch.compile(self.model, mode=mode)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        images = torch.randn(batch, 3, side, side)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (batch,)).to(device)
        # A cast that one step keeps for the next must not lie in the memory of a graph.
        options = {"enabled": precision != "fp32", "cache_enabled": False}
        self.autocast = partial(torch.autocast, device, DTYPES[precision], **options)

    def __call__(self) -> None:
        """Forward, backward, update."""
        with self.autocast():
            loss = F.cross_entropy(self.run(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@lru_cache(maxsize=1)
def step_of(
    network: str, mode: str | None, batch: int, side: int, device: Device, precision: Precision
) -> tuple[Step, int]:
    """Return a step, and the bytes that were in use before it was made; the last one of a process is kept.

    So the form with one graph need not compile again.
    """
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    step = Step(network, mode, batch, side, device, precision)
    for _ in range(3):
        step()
    return step, before


def training(network: str, form: Form, batch: int, side: int, device: Device, precision: Precision) -> Ready:
    """Build a training step in one of its forms."""
    whole, _, graph = form.partition(", ")
    if device == "cpu" and (graph or whole == "reduce-overhead"):
        raise ValueError(f"the form {form!r} needs a GPU")
    mode = {"eager": None, "compiled": "default"}.get(whole, whole)
    if graph:
        step, _ = step_of(network, mode, batch, side, device, precision)
        return Ready(run=captured(step))
    step_of.cache_clear()
    torch.compiler.reset()
    step, before = step_of(network, mode, batch, side, device, precision)
    facts: dict[str, float] = {}
    if device == "cuda":
        wait_for_device()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step()
        facts["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return Ready(run=step, facts=facts)


@torch.no_grad()
def inferring(kind: str, runtime: str, batch: int, side: int, device: Device, precision: Precision) -> Ready:
    """Build a network for inference: "plain" or "SE", in one of `RUNTIMES`."""
    runs, differences = inference.build({kind: inference.NETWORKS[kind]}, (runtime,), precision, batch, side, device)
    ((name, run),) = runs.items()
    return Ready(run=run, facts={"differs": differences[name]})


def save_images(folder: Path, count: int, classes: int = 10) -> None:
    """Save images of 32x32 random pixels, in folders of classes; a few hundred different ones under many names."""
    from PIL import Image

    source = random.Random(0)
    contents = []
    for _ in range(min(count, 256)):
        buffer = BytesIO()
        Image.frombytes("RGB", (32, 32), source.randbytes(32 * 32 * 3)).save(buffer, "png", compress_level=1)
        contents.append(buffer.getvalue())
    for split, number in (("train", count), ("val", 10 * classes)):
        for i in range(number):
            path = folder / split / str(i % classes) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[i % len(contents)])


def whole_run(name: str, images: int, epochs: int, device: Device) -> Ready:
    """Run `senet.train` of the recipe cifar10_short on random images; the speed of each epoch but the first.

    Args:
        name: of the network.
        images: of an epoch.
        epochs: at least 2; the first compiles.
        device: cpu or cuda.
    """
    logging.getLogger("senet.training").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_images(folder / "images", images)
        recipe = get_recipe("cifar10_short")
        config = replace(
            recipe,
            model=replace(recipe.model, name=name),
            data=replace(recipe.data, dataset=str(folder / "images")),
            compute=replace(recipe.compute, cpu=device == "cpu", precision="bf16" if device == "cuda" else "fp32"),
            epochs=epochs,
            batch_size=128,
        )
        rows = read_jsonl(senet.train(config, folder / "run") / "metrics.jsonl")
    speeds = [row["images_per_s"] for row in rows]
    return Ready(facts={"images": images, "first_epoch": speeds[0], "images_per_s": speeds[1:]})
