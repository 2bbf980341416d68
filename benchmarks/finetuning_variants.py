"""What the defaults of `senet finetune` rest on: one changed at a time, on pictures that judge nothing else.

Development sets, none of which has a picture that `finetuning.py` tests on:
    cifar-20, -100, -500    CIFAR-10's other five classes with so many pictures a class for training and validation,
                            from weights of the first five; scored on 300 a class of the other training pictures
    photos                  crops of the boxes of train.json's photos, in three parts by photo, from the packaged
                            weights
    cells, cells-mild       crops of BCCD's blood cells, 150/20/12 and 60/30/20 for training; crops of other photos
                            score
    leaves                  the demo's drawings for training, half of them; the others score

A run keeps its last epoch and the one that is best on val/, and both are scored. Epochs are fixed, not seconds. A row
has the pictures of each class and those that were predicted right; what is there is not run again.

Command: python benchmarks/finetuning_variants.py --cifar FOLDER --start RUN --photos FOLDER --cells FOLDER
    where RUN is the cifar_se_resnet20 that `finetuning.py --parts pretrain` trains; --table runs nothing.
Cost: half an hour on two CPU cores.
Results: benchmarks/results/finetuning_variants.json
"""

import json
import logging
import math
import os
import shutil
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import tyro
from PIL import Image

import senet
from finetuning_data import NAMES, PRETRAINED, SIDE, Picture, cut, pictures_of, write_folder
from report import RESULTS, write_results
from senet.cli.demo_leaves import PICTURES
from senet.files import read_jsonl
from senet.finetuning.defaults import LR_BATCH
from senet.finetuning.run import prepare

NETWORK = "cifar_se_resnet20"
FOLDS = 3
SCORED = 300
"""Pictures of a class of CIFAR-10."""
PHOTO_SIZE = 48
RATE = 4e-3
"""Of the base, for batches of 64: the one from which the defaults' was found."""
EPOCHS = {"cifar-20": 40, "cifar-100": 12, "cifar-500": 5, "photos": 60, "cells": 15, "cells-mild": 20, "leaves": 15}
CELLS = {"cells": {"RBC": 150, "WBC": 20, "Platelets": 12}, "cells-mild": {"RBC": 60, "WBC": 30, "Platelets": 20}}
Settings = Mapping[str, Any]
NO_SMOOTHING: Settings = {"regularization.label_smoothing": 0.0}
FROZEN: Settings = {"freeze": "bn"}
TRAINED: Settings = {"freeze": "none"}
BALANCE: Mapping[str, Settings] = {name: {"objective.balance": name} for name in ("off", "sampler", "weights")}
VARIANTS: Mapping[str, Settings] = {
    "base": {},
    **BALANCE,
    "no smoothing": NO_SMOOTHING,
    "rate x 0.4": {"optimizer.lr": 0.4},
    "rate x 2.5": {"optimizer.lr": 2.5},
    "no layer decay": {"optimizer.layer_decay": None},
    "TrivialAugment": {"data.augmentation.auto_augment": "trivial", "data.in_memory": False},
    "no TrivialAugment": {"data.augmentation.auto_augment": None},
    "crops of 35 to 100 %": {"data.augmentation.padding": 0, "data.augmentation.crop_scale": (0.35, 1.0)},
    "no warm head": {"head_epochs": 0},
    "no average of weights": {"regularization.ema_decay": None},
    "half the epochs": {"epochs": 0.5},
    "twice the epochs": {"epochs": 2},
    "32 pixels": {"data.preprocessing.image_size": 32},
    "64 pixels": {"data.preprocessing.image_size": 64},
    "rate x 2.5, twice the epochs": {"optimizer.lr": 2.5, "epochs": 2},
    "4 times the epochs": {"epochs": 4},
    "off, 4 times the epochs": {"objective.balance": "off", "epochs": 4},
    "BatchNorm trained": TRAINED,
    **{f"BatchNorm trained, {name}": {**changed, **TRAINED} for name, changed in BALANCE.items()},
    "BatchNorm frozen": FROZEN,
    **{f"BatchNorm frozen, {name}": {**changed, **FROZEN} for name, changed in BALANCE.items()},
    "BatchNorm frozen, no smoothing": {**NO_SMOOTHING, **FROZEN},
    **{
        f"BatchNorm frozen, {name}, no smoothing": {**changed, **NO_SMOOTHING, **FROZEN}
        for name, changed in BALANCE.items()
    },
    "BatchNorm frozen, rate x 2.5": {"optimizer.lr": 2.5, **FROZEN},
    "BatchNorm frozen, no TrivialAugment": {"data.augmentation.auto_augment": None, **FROZEN},
}
"""What is changed, of the defaults with the rate `RATE`; rates and epochs are times the base's."""
QUESTIONS: tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...] = (
    ("cells", (0, 1), ("base", *BALANCE, "BatchNorm frozen")),
    ("cifar-20", (0, 1), ("base", "BatchNorm frozen", "rate x 2.5", "no TrivialAugment")),
    ("leaves", (0, 1), ("base", "BatchNorm frozen", "rate x 2.5", "no TrivialAugment")),
    ("cifar-100", (0, 1), ("base", "BatchNorm frozen", "rate x 2.5", "no TrivialAugment")),
    ("photos", (0, 1, 2), ("base", "BatchNorm trained", "rate x 2.5")),
    ("cifar-20", (0,), ("twice the epochs", "rate x 2.5, twice the epochs")),
    ("cells", (0,), ("rate x 2.5",)),
    ("photos", (0, 1, 2), tuple(BALANCE)),
    ("cells", (0,), ("4 times the epochs", "off, 4 times the epochs")),
    ("cells-mild", (0,), ("base", *BALANCE)),
    ("cifar-500", (0,), ("base", "BatchNorm frozen", "TrivialAugment", "rate x 2.5")),
    ("cifar-20", (0, 1), ("no layer decay", "no average of weights", "no warm head", "twice the epochs")),
    ("photos", (0, 1, 2), ("32 pixels", "64 pixels", "no TrivialAugment")),
    ("cifar-20", (0, 1), ("rate x 0.4", "half the epochs", "crops of 35 to 100 %", "no smoothing")),
    ("leaves", (0, 1), ("no layer decay", "no average of weights", "no warm head", "twice the epochs")),
    ("cifar-100", (0,), ("no layer decay", "no average of weights", "no warm head", "twice the epochs")),
    ("photos", (0, 1, 2), ("twice the epochs", "half the epochs", "no layer decay")),
    ("photos", (0,), tuple(f"BatchNorm trained, {name}" for name in BALANCE)),
    ("cifar-20", (0, 1), ("BatchNorm frozen, rate x 2.5", "BatchNorm frozen, no TrivialAugment")),
    ("cells", (0,), ("BatchNorm frozen, no smoothing", *(f"BatchNorm frozen, {name}" for name in BALANCE))),
    ("cells", (0,), tuple(f"BatchNorm frozen, {name}, no smoothing" for name in BALANCE)),
    ("cells", (0, 1), ("no smoothing",)),
)
"""Development sets, seeds, and what is changed there: the most important first."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things are.

    Args:
        cifar: folder of CIFAR-10's parquet files.
        start: the network that was trained on the first five classes.
        photos: folder of photos with boxes: train.json, images/.
        cells: folder of BCCD: train.json, images/.
        work: folder of the pictures and the runs.
        rows: the file that rows are added to as they come; None for rows.jsonl in `work`.
        results: the file that all are written to at the end.
        processes: side by side.
        only: run the development sets of these names alone; empty for all.
        table: show what is there, and run nothing.
    """

    cifar: Path = Path("../shared/data/cifar10")
    start: Path = Path("/tmp/finetuning/pretrained") / NETWORK
    photos: Path = Path("../shared/data/coco_photos")
    cells: Path = Path("../shared/data/bccd")
    work: Path = Path("/tmp/finetuning-variants")
    rows: Path | None = None
    results: Path = RESULTS / "finetuning_variants.json"
    processes: int = 2
    only: tuple[str, ...] = ()
    table: bool = False


# ---- pictures --------------------------------------------------------------------------------------------------------


def random_of(*words: object) -> np.random.Generator:
    """Return random numbers that belong to these words."""
    return np.random.default_rng([ord(letter) for letter in "-".join(map(str, words))])


def cifar_set(arguments: Arguments, images: int, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Return pictures of CIFAR-10's other classes to train on and to score on, all from its training pictures."""
    table = pq.read_table(arguments.cifar / "train.parquet")
    labels, random = table["label"].to_numpy(), random_of("cifar", seed)
    train: list[int] = []
    scored: list[int] = []
    for label in range(len(PRETRAINED), len(NAMES)):
        order = random.permutation(np.flatnonzero(labels == label)).tolist()
        scored += order[:SCORED]
        train += order[SCORED : SCORED + images]
    return pictures_of(table, train), pictures_of(table, scored)


def boxes_of(folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the boxes of a folder's train.json: class, photo and box."""
    told = json.loads((folder / "train.json").read_text())
    names = {kind["id"]: kind["name"] for kind in told["categories"]}
    files = {image["id"]: image["file_name"] for image in told["images"]}
    return [(names[box["category_id"]], files[box["image_id"]], box) for box in told["annotations"]]


def crops_of(folder: Path, boxes: Iterable[tuple[str, str, dict[str, Any]]]) -> list[Picture]:
    """Cut boxes out of the photos of a folder."""
    paths = {path.name: path for path in (folder / "images").rglob("*.jpg")}
    return [(name, f"{box['id']}.png", cut(paths[file], box["bbox"])) for name, file, box in boxes]


def photos_set(arguments: Arguments, fold: int) -> tuple[list[Picture], list[Picture]]:
    """Return crops of the classes that four photos have; a third of the photos, of which all have some, score."""
    large = [it for it in boxes_of(arguments.photos) if min(it[2]["bbox"][2:]) >= SIDE and not it[2]["iscrowd"]]
    photos_with = defaultdict(set)
    for name, file, _ in large:
        photos_with[name].add(file)
    boxes = [it for it in large if len(photos_with[it[0]]) > FOLDS]
    files = sorted({file for _, file, _ in boxes})
    for attempt in range(1000):
        part = dict(zip(files, random_of("photos", attempt).permutation(len(files)) % FOLDS, strict=True))
        if all(len({part[file] for file in photos_with[name]}) == FOLDS for name, *_ in boxes):
            break
    split = [[it for it in boxes if (part[it[1]] == fold) == scored] for scored in (False, True)]
    return crops_of(arguments.photos, split[0]), crops_of(arguments.photos, split[1])


def cells_set(arguments: Arguments, wanted: Mapping[str, int], seed: int) -> tuple[list[Picture], list[Picture]]:
    """Return so many crops of each class, and a hundred of each from other photos to score on."""
    boxes = [it for it in boxes_of(arguments.cells) if min(it[2]["bbox"][2:]) > 0]
    files = random_of("cells", seed).permutation(sorted({file for _, file, _ in boxes})).tolist()
    known = set(files[: len(files) // 2])
    taken: tuple[list[Any], list[Any]] = ([], [])
    for index in random_of("boxes", seed).permutation(len(boxes)):
        name, file, _ = boxes[index]
        some = taken[file not in known]
        if sum(it[0] == name for it in some) < (wanted[name] if file in known else 100):
            some.append(boxes[index])
    return crops_of(arguments.cells, taken[0]), crops_of(arguments.cells, taken[1])


def leaves_set(seed: int) -> tuple[list[Picture], list[Picture]]:
    """Return the drawings of leaves for training in two halves."""
    found = [(path.parent.name, path.name, path.read_bytes()) for path in sorted((PICTURES / "train").glob("*/*"))]
    split: tuple[list[Picture], list[Picture]] = ([], [])
    for name in sorted({name for name, *_ in found}):
        own = [it for it in found if it[0] == name]
        for place, index in enumerate(random_of("leaves", seed, name).permutation(len(own))):
            split[place % 2].append(own[index])
    return split


def folder_of(data: str, seed: int, arguments: Arguments) -> Path:
    """Return the folder of a development set, written if it is not there; a seed of the photos is also a third."""
    folder = arguments.work / "data" / f"{data}-{seed}"
    if (folder / "test").is_dir():
        return folder
    kind, _, images = data.partition("-")
    if kind == "cifar":
        train, scored = cifar_set(arguments, int(images), seed)
    elif kind == "photos":
        train, scored = photos_set(arguments, seed % FOLDS)
    elif kind == "cells":
        train, scored = cells_set(arguments, CELLS[data], seed)
    else:
        train, scored = leaves_set(seed)
    return write_folder(folder, train, scored, seed)


# ---- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a variant on a development set with a seed."""

    data: str
    variant: str
    seed: int


def start_of(data: str, arguments: Arguments) -> Path | str:
    """Return the network that a job starts from."""
    return arguments.start if data.startswith("cifar") else NETWORK


def run(job: Job, arguments: Arguments) -> dict[str, Any]:
    """Fine-tune, and return the row of a job."""
    torch.set_num_threads(1)
    logging.getLogger("senet").setLevel(logging.WARNING)
    folder, start = folder_of(job.data, job.seed, arguments), start_of(job.data, arguments)
    output = arguments.work / "runs" / f"{job.data}-{job.variant}-{job.seed}".replace(" ", "_")
    settings = dict(VARIANTS[job.variant])
    metric = "top1" if job.data.startswith("cifar") else "balanced_accuracy"
    fixed = {"seed": job.seed, "epochs": round(EPOCHS[job.data] * settings.pop("epochs", 1))}
    settings = {"selection.patience": None, "selection.metric": metric, "data.num_workers": 0, **settings}
    if job.data == "photos":
        settings = {"data.preprocessing.image_size": PHOTO_SIZE, **settings}
    shutil.rmtree(output, ignore_errors=True)
    factor = settings.pop("optimizer.lr", 1)
    plan = prepare(folder, output, model=start, pretrained=True, asked={**fixed, **settings})
    settings["optimizer.lr"] = factor * RATE * math.sqrt(plan.config.batch_size / LR_BATCH)
    began = time.process_time()
    senet.finetune(folder, output, model=start, settings=settings, **fixed)
    counts = Counter(path.parent.name for path in (folder / "train").glob("*/*"))
    rows = [row for row in read_jsonl(output / "metrics.jsonl") if row["epoch"] > 0]
    told = {
        "epochs": fixed["epochs"],
        "train": sorted(counts.values(), reverse=True),
        "val": sum(1 for _ in (folder / "val").glob("*/*")),
        "best_epoch": max(rows, key=lambda row: row[metric])["epoch"],
        "cpu_s": round(time.process_time() - began, 1),
    }
    scores = {kept: score(output / kept, folder / "test") for kept in ("last", "best")}
    shutil.rmtree(output)
    return vars(job) | told | scores


def score(run: Path, test: Path) -> list[list[int]]:
    """Return for each class the pictures that a network predicts right, and all."""
    model = senet.from_pretrained(run)
    model.eval()
    to_pixels, found = model.preprocessing.build(), []
    for label, name in enumerate(sorted(path.name for path in test.iterdir())):
        images = torch.stack([to_pixels(Image.open(path).convert("RGB")) for path in (test / name).iterdir()])
        with torch.inference_mode():
            found.append([int((model(images).argmax(1) == label).sum()), len(images)])
    return found


def jobs_of(arguments: Arguments) -> list[Job]:
    """Return all jobs, the most important questions first."""
    found = [
        Job(data=data, variant=name, seed=seed)
        for data, seeds, variants in QUESTIONS
        for seed in seeds
        for name in variants
        if not arguments.only or data in arguments.only
    ]
    return list(dict.fromkeys(found))


# ---- summary ---------------------------------------------------------------------------------------------------------


def accuracy(rows: Sequence[Mapping[str, Any]], kept: str) -> float:
    """Return the mean over the classes of the share that is right, of all rows together, in %."""
    right = np.array([row[kept] for row in rows]).sum(axis=0)
    return float(100 * (right[:, 0] / right[:, 1]).mean())


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what each variant reaches on each development set, beside the base with the same seeds.

    These are balanced accuracies in %, of the last and of the best epoch; the difference is of the last ones, and its
    error the standard error over the seeds.
    """
    found = []
    for data in EPOCHS:
        own = [row for row in rows if row["data"] == data]
        bases = {row["seed"]: row for row in own if row["variant"] == "base"}
        for variant in VARIANTS:
            paired = [row for row in own if row["variant"] == variant and row["seed"] in bases]
            if not paired:
                continue
            last, best = (accuracy(paired, kept) for kept in ("last", "best"))
            beside = [bases[row["seed"]] for row in paired]
            each = [accuracy([row], "last") - accuracy([its], "last") for row, its in zip(paired, beside, strict=True)]
            told = {"last": last, "best": best, "difference": last - accuracy(beside, "last")}
            told["error"] = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else math.nan
            numbers = {name: round(value, 2) for name, value in told.items() if not math.isnan(value)}
            found.append({"data": data, "variant": variant, "seeds": len(paired), **numbers})
    return found


def line(row: Mapping[str, Any]) -> str:
    """Return a row of the summary as a line of text."""
    numbers = "".join(f"  {name} {row[name]:+6.1f}" for name in ("last", "best", "difference", "error") if name in row)
    return f"{row['data']:10} {row['variant']:24} {row['seeds']} seeds{numbers}"


def main(arguments: Arguments) -> None:
    """Run what is not there yet, show what there is, and write it."""
    file = arguments.rows or arguments.work / "rows.jsonl"
    rows = read_jsonl(file)
    there = {Job(data=row["data"], variant=row["variant"], seed=row["seed"]) for row in rows}
    left = [] if arguments.table else [job for job in jobs_of(arguments) if job not in there]
    for data, seed in dict.fromkeys((job.data, job.seed) for job in left):
        folder_of(data, seed, arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, job, arguments) for job in left]):
            rows.append(done.result())
            with file.open("a") as opened:
                opened.write(json.dumps(rows[-1]) + "\n")
    found = summary(rows)
    print(*map(line, found), sep="\n")
    write_results(arguments.results, {"summary": found, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Arguments))
