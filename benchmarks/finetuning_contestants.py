"""One contestant of `finetuning.py`: fine-tunes on a folder for a given time, in a process of its own, and is judged.

All start from the same weights and see the same train/ and val/. Each keeps the weights that its own default keeps
(this library and timm's train.py the best on val/, fastai the last ones). The judge is one function for all: the
pictures of test/ at the size of the training, resized and cropped at the center, in float32.

The clock runs from the call that reads the folder to the end of the training; imports are left out.
"""

import importlib
import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from torch import Tensor, nn

import senet
from senet.data.preprocessing import Preprocessing
from senet.evaluation.accuracy import score
from senet.files import read_jsonl

CALIBRATION = (1, 5)
"""Epochs of the two runs that tell how long an epoch takes, where the contestant cannot be told the time."""
TIMM_BATCH = 128
"""The default of timm's train.py, which leaves out a last batch that is smaller."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one contestant is to do.

    Args:
        contestant: one of `CONTESTANTS`.
        folder: with train/, val/ and test/.
        start: folder of the weights to start from.
        output: folder of the run, which is replaced.
        seconds: of training.
        seed: of the training.
        epochs: instead of `seconds`.
        timing: only measure how long an epoch takes.
        train_py: timm's script, which is not part of its package.
        threads: of PyTorch.
    """

    contestant: str
    folder: Path
    start: Path
    output: Path
    seconds: float = 20.0
    seed: int = 0
    epochs: int | None = None
    timing: bool = False
    train_py: Path | None = None
    threads: int = 1

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the network's outputs."""
        return sorted(path.name for path in (self.folder / "train").iterdir())

    @property
    def images(self) -> int:
        """The number of pictures for training."""
        return sum(1 for _ in (self.folder / "train").glob("*/*"))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A fine-tuned network.

    Args:
        model: images to logits.
        preprocessing: of its images.
        seconds: that the training took.
        epochs: of it.
    """

    model: nn.Module
    preprocessing: Preprocessing
    seconds: float
    epochs: int | None


# ---- this library ----------------------------------------------------------------------------------------------------


def finetuned(task: Task, **options: Any) -> Trained:
    """Fine-tune with `senet.finetune`'s defaults."""
    budget: dict[str, Any] = {"time": task.seconds} if task.epochs is None else {"epochs": task.epochs}
    given: dict[str, Any] = {"model": task.start, "seed": task.seed, **budget, **options}
    start = time.perf_counter()
    run = senet.finetune(task.folder, task.output, **given)
    seconds = time.perf_counter() - start
    epochs = read_jsonl(run / "metrics.jsonl")[-1]["epoch"]
    model = senet.from_pretrained(run)
    return Trained(model=model, preprocessing=model.preprocessing, seconds=seconds, epochs=epochs)


def from_scratch(task: Task) -> Trained:
    """Train with the same defaults from random weights."""
    name = senet.from_pretrained(task.start).config.name
    return finetuned(task, model=name, pretrained=False)


def with_se_inserted(task: Task) -> Trained:
    """Put SE into the network first, its outputs kept, then fine-tune with the defaults."""
    start = task.output.with_name(f"{task.output.name}-start")
    model = senet.from_pretrained(task.start)
    senet.insert_se(model, senet.SEOptions(reduction=16))
    senet.save_pretrained(model, start)
    return finetuned(replace(task, start=start))


def in_float32(task: Task) -> Trained:
    """Fine-tune with the defaults, but in float32, as timm's train.py does unless told otherwise."""
    return finetuned(task, settings={"compute.precision": "fp32"})


# ---- fastai ----------------------------------------------------------------------------------------------------------


def fastai(task: Task) -> Trained:
    """Fine-tune as fastai's tutorial does: `vision_learner` on the network by its name in timm, then `fine_tune`."""
    vision = importlib.import_module("fastai.vision.all")
    importlib.import_module("senet.integrations.timm")
    like = senet.from_pretrained(task.start)

    start = time.perf_counter()
    vision.set_seed(task.seed)
    pictures = vision.ImageDataLoaders.from_folder(
        task.folder,
        valid="val",
        item_tfms=vision.Resize(like.preprocessing.image_size),
        batch_tfms=vision.aug_transforms(),
        num_workers=0,
        device=torch.device("cpu"),
    )
    learner = vision.vision_learner(
        pictures,
        like.config.name,
        metrics=vision.accuracy,
        path=task.output,
        pretrained_cfg_overlay={"file": str(task.start)},
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.epochs)
    seconds = time.perf_counter() - start
    if list(learner.dls.vocab) != task.classes:
        raise ValueError(f"fastai has the classes {learner.dls.vocab}")
    return Trained(model=learner.model, preprocessing=like.preprocessing, seconds=seconds, epochs=task.epochs)


# ---- timm ------------------------------------------------------------------------------------------------------------


def timm_defaults(task: Task, *options: str) -> Trained:
    """Fine-tune with timm's train.py: its defaults, but for a batch of 32 where there are few pictures."""
    importlib.import_module("senet.integrations.timm")
    timm = importlib.import_module("timm")
    like = senet.from_pretrained(task.start)
    few = ["--batch-size", "32"] if task.images < 2 * TIMM_BATCH else []
    given = {
        "data-dir": task.folder,
        "val-split": "val",
        "model": like.config.name,
        "num-classes": len(task.classes),
        "img-size": like.preprocessing.image_size,
        "pretrained-path": task.start,
        "device": "cpu",
        "workers": 0,
        "seed": task.seed,
        "output": task.output,
        "experiment": "timm",
    }
    words = ["--pretrained", *few, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]

    assert task.epochs is not None
    warm_up = ["--warmup-epochs", str(max(1, task.epochs // 10))] if "--lr" in options else []
    sys.argv = [str(task.train_py), *words, *options, *warm_up, "--epochs", str(task.epochs)]
    start = time.perf_counter()
    runpy.run_path(str(task.train_py), run_name="__main__")
    seconds = time.perf_counter() - start
    model = timm.create_model(
        like.config.name,
        num_classes=len(task.classes),
        checkpoint_path=str(task.output / "timm" / "model_best.pth.tar"),
    )
    return Trained(model=model, preprocessing=like.preprocessing, seconds=seconds, epochs=task.epochs)


def timm_advised(task: Task) -> Trained:
    """Fine-tune with timm's train.py as somebody would who knows it: see `ADVISED`."""
    return timm_defaults(task, *ADVISED)


def timm_bf16(task: Task) -> Trained:
    """Fine-tune with timm's train.py: its defaults, in bfloat16."""
    return timm_defaults(task, *BF16)


BF16 = ("--amp", "--amp-dtype", "bfloat16")
ADVISED = (*BF16, "--lr", "0.01", "--weight-decay", "5e-4", "--scale", "0.35", "1.0", "--sched-on-updates")
"""A lower rate than for training from the beginning, larger crops than ImageNet's 8 % and up, and half precision."""


# ---- the judge -------------------------------------------------------------------------------------------------------


def judge(trained: Trained, task: Task, batch: int = 250) -> dict[str, Any]:
    """Return the accuracy of a network on the pictures of test/."""
    to_pixels = trained.preprocessing.build()
    files = [
        (path, label) for label, name in enumerate(task.classes) for path in (task.folder / "test" / name).iterdir()
    ]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(files), batch):
            some = files[first : first + batch]
            images = torch.stack([to_pixels(Image.open(path).convert("RGB")) for path, _ in some])
            yield images, torch.tensor([label for _, label in some])

    found = asdict(score(trained.model.float(), batches()))
    return {name: round(value, 4) for name, value in found.items()}


CONTESTANTS: dict[str, Callable[[Task], Trained]] = {
    "senet finetune": finetuned,
    "from scratch": from_scratch,
    "SE inserted": with_se_inserted,
    "senet finetune, fp32": in_float32,
    "fastai": fastai,
    "timm": timm_defaults,
    "timm, advised": timm_advised,
    "timm, bf16": timm_bf16,
}
COUNTS_EPOCHS = ("fastai", "timm")
"""How the names of contestants begin that cannot be told the time."""


def train(task: Task) -> Trained:
    """Run the contestant in a fresh folder."""
    shutil.rmtree(task.output, ignore_errors=True)
    task.output.parent.mkdir(parents=True, exist_ok=True)
    return CONTESTANTS[task.contestant](task)


def time_epoch(task: Task) -> tuple[float, float]:
    """Return the seconds that each epoch takes, validation included, and those that a training takes once."""
    few, many = CALIBRATION
    train(replace(task, epochs=1))  # what is done once in a process
    at_few, at_many = (train(replace(task, epochs=epochs)).seconds for epochs in CALIBRATION)
    each = max(at_many - at_few, 1e-3) / (many - few)
    return each, max(0.0, at_few - few * each)


def epochs_for(task: Task) -> int:
    """Return the number of epochs that fill the time; how long one takes is measured once and kept beside the runs."""
    name = task.contestant.replace(" ", "_")
    file = task.output.parent / f"seconds-{name}-{task.start.name}-{task.images}-{task.threads}.json"
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(time_epoch(task)))
        part.rename(file)
    each, once = map(float, json.loads(file.read_text()))
    return max(1, round((task.seconds - once) / each))


def main(task: Task) -> None:
    """Run the contestant; the last line of the output is its result as JSON."""
    torch.set_num_threads(task.threads)
    if task.timing:
        print(json.dumps({"seconds": time_epoch(task)[0], "images": task.images}))
        return
    if task.epochs is None and task.contestant.startswith(COUNTS_EPOCHS):
        task = replace(task, epochs=epochs_for(task))
    trained = train(task)
    told = {"seconds": round(trained.seconds, 2), "epochs": trained.epochs}
    print(json.dumps(told | judge(trained, task)))


if __name__ == "__main__":
    main(tyro.cli(Task))
