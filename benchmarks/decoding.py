"""Decoding a folder of images once, as `data.in_memory` does.

How long do images take from files, in the cache of the system, to pixels in memory?
senet: `decode`, with as many threads as it takes.
PIL: a plain loop that opens, converts to RGB and, where they are larger, scales and crops.
torchvision: its decoders in a loop, for JPEG files all at once, and the same scaling and crop on tensors.
Images of 32x32 keep their size; photographs of 500x375 are scaled to 256 and cropped to 224. The pictures are random:
noise of several scales, which makes files about as large as those of photographs.

Command: python benchmarks/decoding.py
Cost: two minutes on two CPU cores.
Results: benchmarks/results/decoding.json.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, decode_jpeg, read_file
from torchvision.transforms import v2

from report import RESULTS, milliseconds, time_in_turn, write_results
from senet.data.datasets import split_of_files
from senet.data.decoding import decode
from senet.data.preprocessing import CIFAR, STANDARDIZED, Preprocessing

DIFFERENT = 256
"""Pictures of a case; more files than these are the same again."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: in which each contestant decodes all files.
        share: of the images of each case.
        output: JSON file of the results.
    """

    rounds: int = 7
    share: float = 1.0
    output: Path = RESULTS / "decoding.json"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files of one format and size.

    Args:
        format: PIL's name.
        width: of the pictures.
        height: of the pictures.
        number: of the files.
    """

    format: str
    width: int
    height: int
    number: int

    @property
    def preprocessing(self) -> Preprocessing:
        """What the images are decoded for."""
        return CIFAR if self.width == CIFAR.image_size else STANDARDIZED


CASES = (
    Case(format="JPEG", width=32, height=32, number=10_000),
    Case(format="PNG", width=32, height=32, number=5_000),
    Case(format="WebP", width=32, height=32, number=5_000),
    Case(format="JPEG", width=500, height=375, number=300),
    Case(format="PNG", width=500, height=375, number=100),
)


def picture(case: Case, generator: np.random.Generator) -> Image.Image:
    """Return noise, of which each octave is half as strong as the one that is twice as coarse."""
    pixels = np.full((case.height, case.width, 3), 128.0)
    scale = 1
    while scale < case.height:
        small = generator.normal(0, 4 * scale**0.5, (case.height // scale + 1, case.width // scale + 1, 3))
        layer = torch.from_numpy(small).permute(2, 0, 1)[None]
        smooth = torch.nn.functional.interpolate(layer, (case.height, case.width), mode="bilinear")
        pixels += smooth[0].permute(1, 2, 0).numpy()
        scale *= 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write(case: Case, folder: Path) -> list[str]:
    """Write the different files of a case, and return the paths of all."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(min(case.number, DIFFERENT)):
        paths.append(str(folder / f"{number}.{case.format.lower()}"))
        options = {} if case.format == "PNG" else {"quality": 90}
        picture(case, generator).save(paths[-1], case.format, **options)
    return [paths[i % len(paths)] for i in range(case.number)]


def by_senet(paths: list[str], preprocessing: Preprocessing) -> Tensor:
    split = split_of_files("files", [(path, 0) for path in paths], ("one",))
    return decode(split, preprocessing)[0]


def by_pil(paths: list[str], preprocessing: Preprocessing) -> Tensor:
    size, shorter = preprocessing.image_size, preprocessing.resize
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    for i, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        if image.size != (size, size):
            scale = shorter / min(image.size)
            width, height = (int(side * scale) for side in image.size)
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + size, top + size))
        pixels[i] = np.asarray(image)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def by_torchvision(paths: list[str], preprocessing: Preprocessing) -> Tensor:
    contents = [read_file(path) for path in paths]
    if paths[0].endswith(".jpeg"):
        images = decode_jpeg(contents, mode=ImageReadMode.RGB)
    else:
        images = [decode_image(content, mode=ImageReadMode.RGB) for content in contents]
    size = preprocessing.image_size
    if images[0].shape[1:] != (size, size):
        images = [v2.functional.resize(image, [preprocessing.resize]) for image in images]
        images = [v2.functional.center_crop(image, [size]) for image in images]
    return torch.stack(images)


CONTESTANTS: dict[str, Callable[[list[str], Preprocessing], Tensor]] = {
    "senet": by_senet,
    "PIL": by_pil,
    "torchvision": by_torchvision,
}


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of all files of a case, in each round, by contestant.

    Raises:
        RuntimeError: this library and PIL read other pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = write(case, Path(folder))
        if not torch.equal(*(of(paths[:64], case.preprocessing) for of in (by_senet, by_pil))):
            raise RuntimeError(f"senet and PIL read other pixels from {case}")
        calls = {name: partial(of, paths, case.preprocessing) for name, of in CONTESTANTS.items()}
        return milliseconds(time_in_turn(calls, rounds))


def main(arguments: Arguments) -> None:
    results = []
    table = Table("", *(f"{name}, images/s" for name in CONTESTANTS), title="Images decoded a second")
    for case in CASES:
        chosen = Case(**{**asdict(case), "number": max(1, int(case.number * arguments.share))})
        times = measure(chosen, arguments.rounds)
        results.append({**asdict(chosen), "milliseconds": times})
        rates = (f"{chosen.number / float(np.median(ms)) * 1e3:,.0f}" for ms in times.values())
        table.add_row(f"{case.format}, {case.width} x {case.height}", *rates)
    Console().print(table)
    settings = {"rounds": arguments.rounds, "share": arguments.share}
    packages = ("torch", "torchvision", "pillow")
    write_results(arguments.output, {"settings": settings, "cases": results}, packages)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
