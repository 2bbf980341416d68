"""Classifying a folder of photographs: reading ahead in threads beside one after the other.

loop: what tutorials show: open, transform, predict, each image by itself.
one by one: `senet.predict` with `num_workers=0`: batches, read in between.
threads: `senet.predict` as it is, which reads three batches ahead.
processes: PyTorch's DataLoader with as many processes, and the same network on its batches.
The photographs are those of benchmarks/decoding.py, JPEG files of 500x375; the network is SE-ResNet-18 at 224 pixels,
or, for the time of reading alone, a mean.

Command: python benchmarks/prediction.py
Cost: three minutes on two CPU cores.
Results: benchmarks/results/prediction.json.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import senet
from decoding import Case, write
from report import RESULTS, milliseconds, time_in_turn, write_results
from senet.data.preprocessing import STANDARDIZED
from senet.evaluation.prediction import available_cores


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: in which each contestant classifies all files.
        number: of files.
        batch_size: images at once.
        output: JSON file of the results.
    """

    rounds: int = 5
    number: int = 192
    batch_size: int = 16
    output: Path = RESULTS / "prediction.json"


class Mean(nn.Module):
    """Logits that cost nothing: the means of the channels."""

    preprocessing = STANDARDIZED

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return images.mean((2, 3))


class Files(Dataset[Tensor]):
    """Images from files, transformed for a network."""

    def __init__(self, model: nn.Module, paths: list[str]) -> None:
        self.paths, self.transform = paths, senet.create_transform(model)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            tensor: Tensor = self.transform(image.convert("RGB"))
        return tensor


@torch.no_grad()
def by_loop(model: nn.Module, paths: list[str]) -> list[int]:
    files = Files(model, paths)
    return [int(model(files[i][None]).softmax(1).argmax()) for i in range(len(files))]


@torch.no_grad()
def by_processes(model: nn.Module, paths: list[str], batch_size: int) -> list[int]:
    loader = DataLoader(Files(model, paths), batch_size, num_workers=available_cores())
    return [int(k) for images in loader for k in model(images).softmax(1).argmax(1)]


def by_senet(model: nn.Module, paths: list[str], batch_size: int, num_workers: int | None) -> list[int]:
    found = senet.predict(model, paths, top=1, batch_size=batch_size, num_workers=num_workers)
    return [int(classes[0].class_name) for classes in found]


def main(arguments: Arguments) -> None:
    case = Case(format="JPEG", width=500, height=375, number=arguments.number)
    models: dict[str, nn.Module] = {"reading alone": Mean(), "SE-ResNet-18": senet.create_model("se_resnet18").eval()}
    results = {}
    table: Table | None = None
    with tempfile.TemporaryDirectory() as folder:
        paths = write(case, Path(folder))
        for name, model in models.items():
            size = arguments.batch_size
            calls: dict[str, Callable[[], list[int]]] = {
                "loop": partial(by_loop, model, paths),
                "one by one": partial(by_senet, model, paths, size, 0),
                "threads": partial(by_senet, model, paths, size, None),
                "processes": partial(by_processes, model, paths, size),
            }
            if calls["one by one"]() != calls["threads"]():
                raise RuntimeError("the classes depend on the threads")
            results[name] = milliseconds(time_in_turn(calls, arguments.rounds))
            table = table or Table("", *calls, title="Images classified a second")
            table.add_row(name, *(f"{case.number / float(np.median(ms)) * 1e3:,.0f}" for ms in results[name].values()))
    Console().print(table)
    settings = {"rounds": arguments.rounds, "number": arguments.number, "batch_size": arguments.batch_size}
    write_results(arguments.output, {"settings": settings, "models": results}, ("torch", "torchvision", "pillow"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
