"""Detectors of blood cells, trained from random weights: Faster R-CNN on ResNet-18 without and with SE.

BCCD: 364 microscope photos with boxes of three kinds of cells; trained on train.json, the best epoch chosen on
val.json, judged on test.json. The photos are scaled to 240 x 320 pixels. Both trunks have the same settings, seeds and
epochs. Each run has a core of its own; as many run side by side as there are cores. An interrupted measurement goes
on where it was.

With --overfit, the 20 photos of COCO that have the fewest boxes, without crowds, are trained on alone, and found again.

Commands: python benchmarks/detection.py --data FOLDER
    python benchmarks/detection.py --overfit FOLDER
Cost: half an hour on two CPU cores, and five minutes; 3 GB of memory.
Results: benchmarks/results/detection.json, detection_overfit.json
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

import senet
from cores import measure_beside
from report import RESULTS, about, write_results
from senet.detection.config import DetectionConfig, DetectionSchedule
from senet.detection.data_config import BoxAugmentation, DetectionDataConfig
from senet.detection.datasets import open_detection_split
from senet.detection.detector_config import DetectorConfig
from senet.detection.evaluation import DetectionEvaluation, evaluate_detector
from senet.detection.loading import build_detection_loader
from senet.files import read_jsonl
from senet.training.sections import OptimizerConfig

PACKAGES = ("torch", "torchvision", "faster-coco-eval")
TRUNKS = ("resnet18", "se_resnet18")
RESULTS_FILE = RESULTS / "detection.json"
SIDE, OVERFIT_SIDE = 240, 320
"""Shorter side of the photos, in pixels."""
OVERFITTED, OVERFIT_EPOCHS = 20, 40
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        data: folder with train.json, val.json, test.json and images/.
        work: folder of the runs, which are kept.
        results: the file that is written.
        seeds: of each trunk.
        epochs: of a run.
        cores: at most so many are used; None for all.
        overfit: folder of photos of COCO, with train.json and images/: only learn some of these by heart.
        run: "TRUNK SEED": only this one, in this process; it prints its row.
    """

    data: Path = Path("../shared/data/bccd")
    work: Path = Path("/tmp/detection")
    results: Path = RESULTS_FILE
    seeds: int = 3
    epochs: int = 8
    cores: int | None = None
    overfit: Path | None = None
    run: tuple[str, int] | None = None


def config_of(data: DetectionDataConfig, trunk: str, seed: int, epochs: int, side: int) -> DetectionConfig:
    """Return the configuration of a run: small photos, a narrow pyramid, everything trained, AdamW.

    Args:
        data: with photos of 3 x 4 or larger.
        trunk: by name.
        seed: of the run.
        epochs: of the run.
        side: shorter side of a photo, in pixels.
    """
    options = {"rpn_post_nms_top_n_train": 500, "rpn_post_nms_top_n_test": 300, "box_batch_size_per_image": 128}
    return DetectionConfig(
        model=DetectorConfig(
            trunk=trunk,
            min_size=(side,),
            max_size=side * 5 // 3,
            frozen_stages=0,
            norm="train",
            pyramid_channels=64,
            box_features=256,
            options=options,
        ),
        data=data,
        optimizer=OptimizerConfig(name="adamw", lr=5e-4, weight_decay=0.05, clip_norm=10.0),
        schedule=DetectionSchedule(name="cosine", warmup_iterations=100),
        epochs=epochs,
        batch_size=4,
        seed=seed,
    )


def run_here(arguments: Arguments, trunk: str, seed: int) -> dict[str, Any]:
    """Train a detector, or go on with its run, and judge it on the test photos."""
    torch.set_num_threads(1)
    output = arguments.work / f"{trunk}-{seed}"
    if (output / "config.json").exists():
        senet.resume(output)
    else:
        data = DetectionDataConfig(dataset=str(arguments.data), in_memory=True, num_workers=0)
        senet.train(config_of(data, trunk, seed, arguments.epochs, SIDE), output)
    found = evaluated(output, DetectionDataConfig(dataset=str(arguments.data), val="test.json", num_workers=0))
    seconds = sum(row["time_s"] for row in read_jsonl(output / "metrics.jsonl") if row["epoch"])
    classes = {each.class_name: each.figures and round(each.figures.ap50, 2) for each in found.classes}
    figures = {name: round(getattr(found, name), 3) for name in FIGURES}
    return {"trunk": trunk, "seed": seed, **figures, "ap50_by_class": classes, "training_s": round(seconds, 1)}


def evaluated(run: Path, data: DetectionDataConfig) -> DetectionEvaluation:
    """Return how well the best detector of a run finds the objects of the evaluation photos."""
    split = open_detection_split(data, "eval")
    loader = build_detection_loader(data, split, "eval", 8, torch.device("cpu"))
    return evaluate_detector(senet.from_pretrained(run), loader.batches(0), split)


def overfit(arguments: Arguments, photos: Path) -> None:
    """Learn some photos by heart, and write how well they are found."""
    torch.set_num_threads(1)
    content = json.loads((photos / "train.json").read_text())
    boxes = Counter(each["image_id"] for each in content["annotations"])
    crowds = {each["image_id"] for each in content["annotations"] if each["iscrowd"]}
    chosen = set(sorted(boxes.keys() - crowds, key=lambda number: (boxes[number], number))[:OVERFITTED])
    content["images"] = [each for each in content["images"] if each["id"] in chosen]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in chosen]
    folder = arguments.work / "overfit"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "images").symlink_to((photos / "images").resolve())
    for name in ("train.json", "val.json"):
        (folder / name).write_text(json.dumps(content))
    augmentation = BoxAugmentation(flip=False)
    data = DetectionDataConfig(dataset=str(folder), in_memory=True, num_workers=0, augmentation=augmentation)
    config = config_of(data, TRUNKS[1], 0, OVERFIT_EPOCHS, OVERFIT_SIDE)
    found = evaluated(senet.train(config, folder / "run"), data)
    row = {"photos": OVERFITTED, "boxes": len(content["annotations"]), "epochs": OVERFIT_EPOCHS, "trunk": TRUNKS[1]}
    figures = {name: round(getattr(found, name), 3) for name in ("ap", "ap50")}
    write_results(RESULTS / "detection_overfit.json", about(PACKAGES) | {"overfit": row | figures}, PACKAGES)


def written(arguments: Arguments, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows that are there, with the machine and the versions."""
    told = about(PACKAGES)
    told["machine"]["threads"] = 1  # of a run
    settings = {"epochs": arguments.epochs, "image": f"{SIDE} x {SIDE * 4 // 3}"}
    write_results(arguments.results, {"settings": settings, "runs": list(rows)} | told, PACKAGES)


def main(arguments: Arguments) -> None:
    """Run what is missing, a seed after the other, as many at a time as there are cores."""
    if arguments.overfit is not None:
        overfit(arguments, arguments.overfit)
        return
    if arguments.run is not None:
        print(json.dumps(run_here(arguments, *arguments.run)))
        return
    rows = json.loads(arguments.results.read_text())["runs"] if arguments.results.exists() else []
    there = {(row["trunk"], row["seed"]) for row in rows}
    left = [(trunk, seed) for seed in range(arguments.seeds) for trunk in TRUNKS if (trunk, seed) not in there]
    given = asdict(replace(arguments, run=None))
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        written(arguments, rows)

    measure_beside(left, [sys.executable, __file__, *words], arguments.work, add, limit=arguments.cores)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
