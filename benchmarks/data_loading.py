"""Training images a second, by how they are loaded.

How many reach the network if they are augmented in batches in memory, and how many if they are one at a time?
Ways to flip, shift by up to 4 pixels and normalize small images, on the processor:
memory: `MemoryLoader`, uint8 images in memory, a batch at a time; once more with cutout, which no other does here.
torchvision: images of the same pixels, as PIL images in memory, one at a time through torchvision's transforms in a
    DataLoader with 0 and with 2 workers, which live through all epochs.
streaming: `StreamingLoader` with 0 and with 2 workers, which decodes a JPEG file's bytes each time and only flips.

Command: python benchmarks/data_loading.py [--data FOLDER_OF_PARQUET_FILES] [--num-images N]
Cost: a few minutes on two CPU cores; --num-images 3000 --rounds 3 takes less than one.
Results: benchmarks/results/data_loading.json.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from report import RESULTS, summary, time_in_turn, write_results
from senet.data.config import Augmentation, DataConfig
from senet.data.datasets import open_split
from senet.data.decoding import decode
from senet.data.images import ImageSplit
from senet.data.memory import MemoryLoader
from senet.data.order import BatchOrder
from senet.data.preprocessing import CIFAR
from senet.data.streaming import StreamingLoader
from senet.data.transforms import train_transform

CPU = torch.device("cpu")
BASELINE = "torchvision, 2 workers"
Contestant = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        data: folder of parquet files, whose training images are brought to 32x32; None for random images.
        num_images: of an epoch.
        batch_size: images at once.
        rounds: epochs of each contestant that are timed.
        output: JSON file of the results.
    """

    data: Path | None = None
    num_images: int = 10_000
    batch_size: int = 128
    rounds: int = 5
    output: Path = RESULTS / "data_loading.json"


class PlainImages(Dataset[tuple[Tensor, int]]):
    """PIL images in memory and the usual transforms, one image at a time."""

    def __init__(self, images: list[Image.Image], labels: list[int]) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(CIFAR.image_size, padding=4),
                v2.RandomHorizontalFlip(),
                *CIFAR.normalize(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def read_jpeg(files: list[bytes], labels: list[int], index: int) -> tuple[Image.Image, int]:
    return Image.open(io.BytesIO(files[index])), labels[index]


def load_pixels(arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 32, 32) in uint8 and labels (N,)."""
    if arguments.data is None:
        shape = (arguments.num_images, 3, CIFAR.image_size, CIFAR.image_size)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return images, torch.randint(0, 10, (arguments.num_images,), generator=generator)
    split = open_split(DataConfig(dataset=str(arguments.data)), "train")
    return decode(replace(split, size=min(len(split), arguments.num_images)), CIFAR)


def encode_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def exhaust(epoch: Callable[[], Iterable[object]]) -> None:
    for _ in epoch():
        pass


def contestants(pixels: Tensor, labels: Tensor, batch_size: int) -> dict[str, Contestant]:
    """Return what is timed, by name: each call is an epoch."""
    order = BatchOrder(num_images=len(pixels), batch_size=batch_size, shuffle=True)
    images = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in pixels]
    names = tuple(str(i) for i in range(int(labels.max()) + 1))
    read = partial(read_jpeg, [encode_jpeg(image) for image in images], labels.tolist())
    split = ImageSplit(source="jpeg", size=len(images), class_names=names, read_image=read)
    flip_and_crop = Augmentation(flip=True, padding=4)

    def memory(augmentation: Augmentation) -> Contestant:
        return lambda: exhaust(partial(MemoryLoader(pixels, labels, order, CIFAR, augmentation, CPU).batches, 0))

    def torchvision(num_workers: int) -> Contestant:
        loader = DataLoader(
            PlainImages(images, labels.tolist()),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
        return lambda: exhaust(lambda: loader)

    def streaming(num_workers: int) -> Contestant:
        to_pixels = train_transform(CIFAR, Augmentation(flip=True))
        loader = StreamingLoader(split, to_pixels, order, CIFAR, CPU, num_workers)
        return lambda: exhaust(partial(loader.batches, 0))

    return {
        "memory": memory(flip_and_crop),
        "memory with cutout": memory(replace(flip_and_crop, cutout=8)),
        "torchvision, 0 workers": torchvision(0),
        BASELINE: torchvision(2),
        "streaming, 0 workers": streaming(0),
        "streaming, 2 workers": streaming(2),
    }


def main(arguments: Arguments) -> None:
    pixels, labels = load_pixels(arguments)
    seconds = time_in_turn(contestants(pixels, labels, arguments.batch_size), arguments.rounds)
    num_images = len(pixels) // arguments.batch_size * arguments.batch_size
    rates = {name: summary([num_images / s for s in times]) for name, times in seconds.items()}
    # Of one round each: what slows the machine down for a while slows both.
    ratios = {
        name: summary([base / own for base, own in zip(seconds[BASELINE], times, strict=True)])
        for name, times in seconds.items()
    }

    table = Table("", "images/s", "least to most", f"times {BASELINE}", title="Training images a second")
    for name, rate in rates.items():
        spread = f"{rate['min']:,.0f} to {rate['max']:,.0f}"
        table.add_row(name, f"{rate['median']:,.0f}", spread, f"{ratios[name]['median']:.2f}")
    Console().print(table)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(arguments).items()}
    del settings["output"]
    results = {
        "settings": settings,
        "images_per_second": rates,
        "baseline": BASELINE,
        "times_the_baseline": ratios,
    }
    write_results(arguments.output, results, ("torch", "torchvision", "timm", "pillow"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
