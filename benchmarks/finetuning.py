"""Fine-tuning to few pictures: `senet.finetune`, fastai's `fine_tune` and timm's train.py in the same time.

CIFAR-10: cifar_se_resnet20 and its plain twin are pretrained on the first five classes, then fine-tuned to the others
with 20, 100 and 500 pictures a class. Photos: the packaged cifar_se_resnet20 is fine-tuned to the crops of COCO's
boxes, few and imbalanced; train.json's photos are for training and val.json's for testing.

Defaults that are called measured in finetuning/defaults.py were chosen on other pictures (`finetuning_variants.py`);
those called tried, and PHOTO_SIZE, were chosen before on single runs that were scored on pictures which judge here.

Each contestant has a process and its own cores, with a thread for each, and as many seconds as the others; as many run
side by side as there are cores for. timm and fastai take epochs, not seconds: how many fill the time is measured first.
They load the pictures in their main process: for so few, processes of their own made their epochs longer.
An interrupted measurement goes on where it was: rows that are there are not measured again.

Command: python benchmarks/finetuning.py --all --cifar FOLDER --photos FOLDER --train-py FILE
    where train.py is of timm's repository, and fastai is installed or its folder is in PYTHONPATH.
Cost: 90 minutes on two CPU cores, and 10 for the pretraining, which is kept in --work; 3 GB of memory.
Results: benchmarks/results/finetuning.json
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro

import senet
from cores import Cores, FailedJobError, environment, on_free_cores, printed
from finetuning_data import cifar_folder, crops_folder, pretraining_data
from finetuning_timing import ROUNDS, Case, measure_epochs
from report import RESULTS, about, write_results
from senet.files import read_jsonl

HERE = Path(__file__).parent
PACKAGES = ("torch", "torchvision", "timm", "fastai")
PARTS = ("pretrain", "cifar", "photos", "epoch")
"""What --all measures."""
EPOCHS = 20
"""Of the pretraining."""
RESULTS_FILE = RESULTS / "finetuning.json"
NETWORKS = ("cifar_se_resnet20", "cifar_resnet20")
SECONDS = {20: 15.0, 100: 30.0, 500: 50.0}
"""Of training, by the number of images of a class of CIFAR-10."""
PHOTO_SIZE = 48
"""Of the crops that the networks see, in pixels: no box of the photos is smaller."""
PEERS = ("senet finetune", "fastai", "timm", "timm, advised")
PHOTO_TIMES = ((PEERS, 60.0, 1, 6), (PEERS[:3], 300.0, 2, 3))
"""Of training on the photos' crops: contestants, seconds, cores, and seeds: many, for the test pictures are few."""
BESIDE = (
    ("from scratch", NETWORKS[0]),
    ("senet finetune", NETWORKS[1]),
    ("SE inserted", NETWORKS[1]),
)
"""What is compared with `senet.finetune`'s defaults on CIFAR-10 besides, and from which network."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        all: pretraining where it is missing, and every part.
        parts: of "pretrain", "cifar", "photos" and "epoch", those that are measured.
        cifar: folder of CIFAR-10's parquet files.
        photos: folder of photos with boxes: train.json, val.json, images/.
        train_py: timm's train.py; None leaves timm out.
        work: folder of the pretrained networks, the pictures and the runs, which are kept.
        results: the file that is written.
        seeds: of each contestant on CIFAR-10.
        cores: at most so many are used; None for all.
        smoke: seconds of each contestant, one seed, the fewest images: does everything run? None to measure.
    """

    all: bool = False
    parts: tuple[str, ...] = ()
    cifar: Path = Path("../shared/data/cifar10")
    photos: Path = Path("../shared/data/coco_photos")
    train_py: Path | None = None
    work: Path = Path("/tmp/finetuning")
    results: Path = RESULTS_FILE
    seeds: int = 3
    cores: int | None = None
    smoke: float | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training of one contestant.

    Args:
        measure: "cifar" or "photos".
        contestant: see `finetuning_contestants.CONTESTANTS`.
        network: by name.
        group: images of a class of CIFAR-10; 0 for the photos.
        seed: of the training and of the choice of the pictures.
        budget: seconds of training.
        cores: of the contestant, which has as many threads.
    """

    measure: str
    contestant: str
    network: str
    group: int
    seed: int
    budget: float
    cores: int = 1


def jobs_of(measure: str, arguments: Arguments) -> list[Job]:
    """Return the jobs of a measure: a seed after the other, the longest of a seed first."""
    if measure == "photos":
        wanted = [
            (name, NETWORKS[0], 0, seconds, cores, seeds)
            for peers, seconds, cores, seeds in PHOTO_TIMES
            for name in peers
        ]
    else:
        networks = [*((name, NETWORKS[0]) for name in PEERS), *BESIDE]
        sizes = sorted(SECONDS, reverse=True)[-1 if arguments.smoke else 0 :]
        wanted = [(*each, size, SECONDS[size], 1, arguments.seeds) for size in sizes for each in networks]
    jobs = [
        Job(
            measure=measure,
            contestant=name,
            network=network,
            group=group,
            seed=seed,
            budget=arguments.smoke or seconds,
            cores=cores,
        )
        for seed in range(max(seeds for *_, seeds in wanted))
        for name, network, group, seconds, cores, seeds in wanted
        if seed < (1 if arguments.smoke else seeds)
    ]
    return [job for job in jobs if arguments.train_py or "timm" not in job.contestant]


def folder_of(job: Job, arguments: Arguments) -> Path:
    """Return the folder of the pictures of a job, written if it is not there."""
    photos = job.measure == "photos"
    folder = arguments.work / f"{'photos' if photos else 'cifar'}-{job.group}-{job.seed}"
    if photos:
        return crops_folder(arguments.photos, folder, job.seed)
    return cifar_folder(arguments.cifar, folder, job.group, job.seed)


def start_of(job: Job, arguments: Arguments) -> Path:
    """Return the folder of the weights that a job starts from.

    Their classifier is random and of classes of other names: fastai and timm keep one that has as many outputs as there
    are classes, and the old one is of no use to them.
    """
    photos = job.measure == "photos"
    folder = arguments.work / f"start-{job.network}-{'photos' if photos else 'cifar'}"
    if not folder.exists():
        run = arguments.work / "pretrained" / job.network
        model = senet.from_pretrained(job.network if photos else run)
        classes = len(list((folder_of(job, arguments) / "train").iterdir()))
        model.reset_classifier(classes)
        model.class_names = tuple(f"class {number} of other pictures" for number in range(classes))
        if photos:
            model.preprocessing = replace(model.preprocessing, image_size=PHOTO_SIZE, resize=PHOTO_SIZE)
        senet.save_pretrained(model, folder)
    return folder


def pretrain(arguments: Arguments) -> None:
    """Train both networks side by side on the first five classes: 20 epochs of `cifar10_short`'s cycle."""
    data = pretraining_data(arguments.cifar, arguments.work / "pretraining")
    running = []
    for network in NETWORKS:
        output = arguments.work / "pretrained" / network
        if (output / "metrics.jsonl").exists() and read_jsonl(output / "metrics.jsonl")[-1]["epoch"] == EPOCHS:
            continue
        words = ["cifar10_short", "--output", output, "--data", data, "--model.name", network, "--epochs", EPOCHS]
        if (output / "config.json").exists():
            words = ["--resume", output]
        command = [sys.executable, "-m", "senet", "train", *map(str, words)]
        running.append(subprocess.Popen(command, env=environment()))
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("the pretraining has failed")


def run_job(job: Job, arguments: Arguments, cores: Sequence[int]) -> dict[str, Any]:
    """Run a contestant on its cores; return its row."""
    output = arguments.work / "runs" / "-".join(str(value) for value in vars(job).values()).replace(" ", "_")
    task = {
        "contestant": job.contestant,
        "folder": folder_of(job, arguments),
        "start": start_of(job, arguments),
        "output": output,
        "seconds": job.budget,
        "seed": job.seed,
        "train-py": arguments.train_py,
    }
    return vars(job) | in_own_process(task, cores, output.with_suffix(".log"))


def in_own_process(task: Mapping[str, Any], cores: Sequence[int], log: Path) -> dict[str, Any]:
    """Run `finetuning_contestants.py` on cores and return what it prints last; or why there is none, as "failed"."""
    given = {name: value for name, value in task.items() if value is not None} | {"threads": len(cores)}
    words = [word for name, value in given.items() for word in option(name, value)]
    command = [sys.executable, str(HERE / "finetuning_contestants.py"), *words]
    try:
        return printed(command, cores, log, "w")
    except FailedJobError as error:
        return {"failed": str(error)}


def option(name: str, value: Any) -> list[str]:
    """Return an option as words of a command line."""
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


class Results:
    """The rows that are there, in a file that is written again with each new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.lock = threading.Lock()

    def has(self, job: Job) -> bool:
        """Whether a job has been done, and not failed."""
        rows = self.content.get(job.measure, [])
        return any("failed" not in row and row.items() >= vars(job).items() for row in rows)

    def add(self, measure: str, row: Mapping[str, Any]) -> None:
        """Add a row in the place of the one of the same job."""
        print(json.dumps(row), flush=True)
        job = {name.name: row[name.name] for name in fields(Job)}
        with self.lock:
            rows = [old for old in self.content.get(measure, []) if not old.items() >= job.items()]
            self.content[measure] = [*rows, dict(row)]
            self.write()

    def write(self) -> None:
        """Write the file, with the machine and the versions."""
        told = about(PACKAGES)
        del told["machine"]["threads"]  # see the rows
        write_results(self.path, self.content | told, PACKAGES)


def measure(jobs: Sequence[Job], arguments: Arguments, results: Results) -> None:
    """Run the jobs that have no row yet, those of fewest cores first, as many at a time as there are cores for."""
    left = [job for job in jobs if not results.has(job)]
    for job in left:  # before the clock of any
        start_of(job, arguments)

    def run(job: Job, cores: Cores) -> None:
        results.add(job.measure, run_job(job, arguments, cores))

    for count in sorted({job.cores for job in left}):
        on_free_cores([job for job in left if job.cores == count], run, count=count, limit=arguments.cores)


def time_epochs(arguments: Arguments) -> list[dict[str, Any]]:
    """Time an epoch beside timm's train.py: CIFAR's pictures at 32 pixels and the photos' crops at 128."""
    core = min(os.sched_getaffinity(0))
    cases = []
    for measure, group, network, size in (("cifar", 100, NETWORKS[0], 32), ("photos", 0, "se_resnet18", 128)):
        job = Job(measure=measure, contestant="", network=network, group=group, seed=0, budget=0)
        cases.append(Case(network=network, image_size=size, folder=folder_of(job, arguments)))
    log = arguments.work / "runs" / "epoch.log"
    rounds = 1 if arguments.smoke else ROUNDS

    def run(task: Mapping[str, Any]) -> dict[str, Any]:
        return in_own_process(task, [core], log)

    return measure_epochs(cases, arguments.work, run, arguments.train_py, rounds)


def main(arguments: Arguments) -> None:
    """Measure the parts that were asked for, then write the page of results."""
    parts = PARTS if arguments.all else arguments.parts
    if not parts or not set(parts) <= set(PARTS):
        raise SystemExit(f"give --all, or --parts and some of {', '.join(PARTS)}")
    if arguments.smoke and arguments.results == RESULTS_FILE:
        raise SystemExit("--smoke measures nothing that counts: give --results another file")
    results = Results(arguments.results)
    if "pretrain" in parts:
        pretrain(arguments)
    for part in ("cifar", "photos"):
        if part in parts:
            measure(jobs_of(part, arguments), arguments, results)
    if "epoch" in parts:
        results.content["epoch"] = time_epochs(arguments)
        results.write()
    if arguments.results == RESULTS_FILE:
        paths = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "docs"), os.environ.get("PYTHONPATH", "")])}
        subprocess.run([sys.executable, "-m", "pages"], env=environment() | paths, check=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
