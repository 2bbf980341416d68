"""The data of an epoch of fine-tuning: pictures of a folder, decoded, cropped, changed by RandAugment, normalized.

How many images a second does one core prepare, beside timm's `create_loader` with the same transforms?
senet, first epoch: `StreamingLoader`, which decodes the files.
senet: its later epochs. Where the pictures of a data set fit in 200 MB, they are decoded only once.
timm: `create_dataset` and `create_loader`, which decode in every epoch.
Without workers and by processor time, which other programs do not disturb; workers multiply both alike.

Command: python benchmarks/augmented_epoch.py --data FOLDER [--image-size 32]; FOLDER has train/CLASS/IMAGE
Cost: seconds for some hundred pictures.
Results: benchmarks/results/augmented_epoch.json, one entry for each name of --name.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from timm.data import create_dataset, create_loader

from report import RESULTS, summary, time_in_turn, write_results
from senet.data.config import Augmentation, DataConfig
from senet.data.datasets import open_split
from senet.data.order import BatchOrder
from senet.data.preprocessing import STANDARDIZED, Preprocessing
from senet.data.streaming import StreamingLoader
from senet.data.transforms import train_transform

CPU = torch.device("cpu")
POLICY, SCALE, ERASING = "rand-m7-mstd0.5-inc1", (0.35, 1.0), 0.25


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        data: folder with train/CLASS/IMAGE.
        name: of the measurement among the results.
        image_size: side of the crops.
        batch_size: images at once.
        rounds: epochs of each contestant that are timed.
        output: JSON file of the results.
    """

    data: Path
    name: str
    image_size: int = 32
    batch_size: int = 32
    rounds: int = 5
    output: Path = RESULTS / "augmented_epoch.json"


def exhaust(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
    return sum(len(images) for images, _ in batches)


def senet_loader(arguments: Arguments) -> StreamingLoader:
    size = arguments.image_size
    preprocessing = Preprocessing(
        image_size=size, resize=size, mean=STANDARDIZED.mean, std=STANDARDIZED.std, interpolation="bicubic"
    )
    augmentation = Augmentation(flip=True, crop_scale=SCALE, auto_augment=POLICY, random_erasing=ERASING)
    split = open_split(DataConfig(dataset=str(arguments.data), preprocessing=preprocessing), "train")
    order = BatchOrder(num_images=len(split), batch_size=arguments.batch_size, shuffle=True)
    return StreamingLoader(split, train_transform(preprocessing, augmentation), order, preprocessing, CPU, 0)


def contestants(arguments: Arguments) -> dict[str, Callable[[], int]]:
    """Return what is timed, by name: each call is an epoch, and returns its number of images."""
    size = arguments.image_size
    timm_loader = create_loader(
        create_dataset("", root=str(arguments.data), split="train"),
        input_size=(3, size, size),
        batch_size=arguments.batch_size,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        device=CPU,
        scale=SCALE,
        color_jitter=None,
        auto_augment=POLICY,
        re_prob=ERASING,
        re_mode="pixel",
        interpolation="bicubic",
    )
    living, first = senet_loader(arguments), senet_loader(arguments)
    first.images.room = 0  # keeps nothing, as for large data sets
    return {
        "senet, first epoch": lambda: exhaust(first.batches(0)),
        "senet": lambda: exhaust(living.batches(1)),
        "timm": lambda: exhaust(timm_loader),
    }


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    timed = contestants(arguments)
    numbers = {name: epoch() for name, epoch in timed.items()}
    seconds = time_in_turn(timed, arguments.rounds, clock=time.process_time)
    rates = {name: summary([numbers[name] / s for s in times]) for name, times in seconds.items()}
    ratios = {
        name: summary(
            [numbers[name] / own / (numbers["timm"] / other) for own, other in zip(times, seconds["timm"], strict=True)]
        )
        for name, times in seconds.items()
    }
    for name, rate in rates.items():
        print(f"{name:20} {rate['median']:8,.0f} images/s, {ratios[name]['median']:.2f} times timm")
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    kept = {name: value for name, value in results.get("measured", {}).items() if name != arguments.name}
    own = {
        "image_size": arguments.image_size,
        "num_images": numbers["senet"],
        "images_per_second": rates,
        "times_timm": ratios,
    }
    write_results(
        arguments.output, {"measured": kept | {arguments.name: own}}, ("torch", "torchvision", "timm", "pillow")
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
