"""What data in shards cost: images a second, shards opened, and the time to go on within an epoch.

Local: `StreamingLoader` without workers on the same JPEG files, in a folder and in shards, tar and parquet.
Server: tar files from an HTTP server on this machine, by an empty cache and by a full one, which is read like a folder.
Opened: how often a process that keeps few more shards open than are mixed opens one in an epoch, for 1 to 16 processes,
    on an index of ImageNet's size (1,281,167 images in 1,000 shards), beside an order without regard to shards.
Resume: seconds to the first batch from the middle of an epoch, where what came before is neither read nor skipped; and
    the time that webdataset's reader takes to skip as many images, if it is installed.

Command: python benchmarks/shards.py [--num-images N]
Cost: two minutes on two CPU cores.
Results: benchmarks/results/shards.json.
"""

import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from report import RESULTS, summary, time_in_turn, write_results
from senet.data.config import DataConfig, ShardConfig
from senet.data.datasets import open_split
from senet.data.loading import build_loader
from senet.data.order import BatchOrder
from senet.data.preprocessing import IMAGENET
from senet.data.sharding import write_shards

CPU = torch.device("cpu")
IMAGENET_IMAGES, IMAGENET_SHARDS = 1_281_167, 1000


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        num_images: of the local data set, JPEG files of 200x160.
        batch_size: images at once.
        rounds: epochs that are timed.
        output: JSON file of the results.
    """

    num_images: int = 1500
    batch_size: int = 64
    rounds: int = 3
    output: Path = RESULTS / "shards.json"


def write_pictures(folder: Path, number: int) -> None:
    """Write JPEG files of ten classes: smooth noise, which compresses as photos do."""
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / "train" / f"class{i % 10}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (20, 25, 3), dtype=np.uint8))
        small.resize((200, 160), Image.Resampling.BICUBIC).save(path, quality=90)


def epoch_of(config: DataConfig, batch_size: int, start: int = 0) -> Callable[[], object]:
    """Return what reads an epoch of a data set from a batch on."""
    images = open_split(config, "train")
    loader = build_loader(config, images, "train", batch_size=batch_size, device=CPU)

    def read() -> None:
        for _ in loader.batches(0, start):
            pass

    return read


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by HTTP on this machine, and yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def opened(order: BatchOrder, shards: np.ndarray, room: int) -> int:
    """Return how often a process opens a shard in an epoch, if it keeps `room` of them open."""
    kept: OrderedDict[int, None] = OrderedDict()
    count = 0
    for indices in order.batches(0):
        for shard in dict.fromkeys(shards[indices].tolist()):
            if shard not in kept:
                count += 1
            kept[shard] = None
            kept.move_to_end(shard)
            if len(kept) > room:
                kept.popitem(last=False)
    return count


def shards_opened() -> dict[str, dict[str, int]]:
    """Return the number of openings of the first process by the number of processes, with and without our order."""
    shards = np.arange(IMAGENET_IMAGES) * IMAGENET_SHARDS // IMAGENET_IMAGES
    found: dict[str, dict[str, int]] = {}
    for processes in (1, 2, 4, 8, 16):
        options = {"num_images": len(shards), "batch_size": 1024 // processes, "shuffle": True}
        shared = BatchOrder(**options, num_processes=processes, shards=shards)  # type: ignore[arg-type]
        plain = BatchOrder(**options, num_processes=processes)  # type: ignore[arg-type]
        room = max(1, shared.streams // processes) * (shared.mixed + 1)
        found[str(processes)] = {"shards": opened(shared, shards, room), "plain": opened(plain, shards, room)}
    return found


def seconds_to_first_batch(config: DataConfig, batch_size: int, start: int) -> float:
    """Return how long it takes to open a data set and read a batch of an epoch."""
    begun = time.perf_counter()
    images = open_split(config, "train")
    next(build_loader(config, images, "train", batch_size=batch_size, device=CPU).batches(0, start))
    return time.perf_counter() - begun


def seconds_to_skip(folder: Path, number: int) -> float | None:
    """Return how long webdataset reads until it has skipped so many images; None if it is not installed."""
    try:
        webdataset: Any = import_module("webdataset")
    except ModuleNotFoundError:
        return None
    begun = time.perf_counter()
    names = sorted(map(str, folder.glob("train-*.tar")))
    reader = iter(webdataset.WebDataset(names, shardshuffle=False).to_tuple("jpg", "cls"))
    for _ in range(number + 1):
        next(reader)
    return time.perf_counter() - begun


def measure(arguments: Arguments, top: Path) -> dict[str, object]:
    """Return what is measured, with a folder for what it takes."""
    write_pictures(top / "folder", arguments.num_images)
    shutil.copytree(top / "folder" / "train", top / "folder" / "val")
    for form in ("tar", "parquet"):
        write_shards(top / "folder", top / form, form=form, megabytes=1)
    cache = ShardConfig(cache=top / "cache", cache_gb=1)
    base = DataConfig(in_memory=False, num_workers=0, preprocessing=replace(IMAGENET, image_size=128), shards=cache)
    size, middle = arguments.batch_size, arguments.num_images // arguments.batch_size // 2
    local = {name: epoch_of(replace(base, dataset=str(top / name)), size) for name in ("folder", "tar", "parquet")}
    times = time_in_turn(local, arguments.rounds)
    rates = {name: summary([arguments.num_images / each for each in each_time]) for name, each_time in times.items()}
    with served(top / "tar") as address:
        far = replace(base, dataset=address)
        empty = seconds_to_first_batch(far, size, 0)
        from_server = []
        for _ in range(2):
            begun = time.perf_counter()
            epoch_of(far, size)()
            from_server.append(arguments.num_images / (time.perf_counter() - begun))
        shutil.rmtree(top / "cache")
        resumed = seconds_to_first_batch(far, size, middle)
    return {
        "images_per_second": rates,
        "server_images_per_second": {"filling the cache": from_server[0], "from the cache": from_server[1]},
        "shards": len(list((top / "tar").glob("train-*"))),
        "opened_of_1000_shards": shards_opened(),
        "seconds_to_first_batch": {
            "folder, in the middle": seconds_to_first_batch(replace(base, dataset=str(top / "folder")), size, middle),
            "tar, in the middle": seconds_to_first_batch(replace(base, dataset=str(top / "tar")), size, middle),
            "server, empty cache, at the start": empty,
            "server, empty cache, in the middle": resumed,
            "webdataset skips as many": seconds_to_skip(top / "tar", middle * size),
        },
    }


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="senet-shards-") as top:
        found = measure(arguments, Path(top))
    for name, value in found.items():
        print(name, value)
    settings = {name: value for name, value in asdict(arguments).items() if name != "output"}
    write_results(arguments.output, {"settings": settings, **found}, ("torch", "torchvision", "pillow", "webdataset"))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
