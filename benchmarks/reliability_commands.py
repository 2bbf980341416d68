"""The commands whose reliability is measured, on pictures of digits: what they write, and when it is the same."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits

from reliability_processes import Process
from senet.files import read_jsonl
from senet.training.budget import MEASURED

CLASSES, NUM_TRAIN, NUM_EVAL = 4, 24, 15
TIMES = ("images_per_s", "time_s", "step_s", "data_wait_s", "evaluation_s", "memory_mb")
RUN_OPTIONS = (
    *("--epochs", "4", "--batch-size", "16", "--checkpoint-every", "2", "--log-every", "1", "--compute.cpu"),
    *("--regularization.ema-decay", "0.8", "--regularization.mixup", "0.4", "--regularization.label-smoothing", "0.1"),
)
Content = Mapping[str, Any]
"""What a command has written, by name, in values that can be compared."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `senet`, in a folder of its own.

    Args:
        name: on the page.
        argv: its arguments; outputs are relative to the folder.
        output: what it writes.
        content: folder -> what is there once it is complete.
        later: (output) -> the arguments after a kill, where they are others; None for the same.
        is_whole: whether the output is there completely or not at all; else it may be half, if the command goes on.
        kept: names of other files that belong to it.
    """

    name: str
    argv: Sequence[str]
    output: str
    content: Callable[[Path], Content]
    later: Callable[[Path], Sequence[str] | None] = lambda output: None
    is_whole: bool = True

    def again(self, folder: Path) -> Sequence[str]:
        """Return the arguments of the command that goes on after a kill."""
        return self.later(folder / self.output) or self.argv

    def is_complete(self, folder: Path, expected: Content) -> bool:
        """Return whether nothing is left to do, for a command that refuses to write what is there."""
        return self.is_whole and (folder / self.output).exists() and not differences(self.content(folder), expected)


def differences(actual: Content, expected: Content) -> list[str]:
    """Return the names of what differs."""
    return sorted(name for name in {**actual, **expected} if actual.get(name) != expected.get(name))


# ---- data ------------------------------------------------------------------------------------------------------------


def write_pictures(folder: Path) -> Path:
    """Write pictures of four digits, 8 x 8 pixels, as a folder with train/ and val/."""
    digits = load_digits()
    for label in range(CLASSES):
        images = digits.images[digits.target == label]
        for i, image in enumerate(images[: NUM_TRAIN + NUM_EVAL]):
            place = folder / ("train" if i < NUM_TRAIN else "val") / f"digit{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype("uint8")).save(place / f"{i:02d}.png")
    return folder


def commands(pictures: Path, run: Path) -> dict[str, Command]:
    """Return the commands by name.

    Args:
        pictures: from `write_pictures`.
        run: a finished run of the first of them.
    """
    train = training("train", ["train", "digits", "--output", "run", "--data", str(pictures), *RUN_OPTIONS])
    reading = ("--data.no-in-memory", "--data.num-workers", "2")
    tuned = ["finetune", str(pictures), "--model", str(run), "--output", "run", "--batch-size", "16", "--compute.cpu"]
    few = ("--data", str(pictures), "--epochs", "2", "--batch-size", "32", "--compute.cpu")
    every = [
        train,
        training("train, workers", [*train.argv, *reading]),
        training("finetune", [*tuned, "--epochs", "3", "--log-every", "2", "--checkpoint-every", "4"], "finetune"),
        Command(
            name="ablate",
            argv=["ablate", "digits", "--tables", "11", "--seeds", "1", "--output", "ablation", *few],
            output="ablation",
            content=ablation_content,
            is_whole=False,
        ),
        Command(
            name="shard",
            argv=["shard", str(pictures), "shards", "--megabytes", "0.004"],
            output="shards",
            content=lambda folder: files_content(folder / "shards"),
            is_whole=False,
        ),
        Command(
            name="record",
            argv=["record", str(run), "--output", "gates.safetensors", "--batch-size", "4"],
            output="gates.safetensors",
            content=lambda folder: tensors_content(folder / "gates.safetensors"),
        ),
        Command(
            name="export, file",
            argv=["export", str(run), "network.onnx", "--num-images", "8"],
            output="network.onnx",
            content=export_content,
        ),
        Command(
            name="export, folder",
            argv=["export", str(run), "repository", "--layout", "triton", "--num-images", "8"],
            output="repository",
            content=export_content,
        ),
        Command(
            name="predict",
            argv=["predict", str(pictures / "val"), "--model", str(run), "--output", "found.csv", "--batch-size", "2"],
            output="found.csv",
            content=lambda folder: files_content(folder, "found.csv"),
        ),
        Command(
            name="evaluate",
            argv=["evaluate", str(run), "--report", "page.html"],
            output="page.html",
            content=page_content,
        ),
    ]
    return {command.name: command for command in every}


def training(name: str, argv: Sequence[str], resuming: str = "train") -> Command:
    """Return a command that trains; it goes on by --resume once its run has begun."""
    return Command(
        name=name,
        argv=argv,
        output="run",
        content=lambda folder: run_content(folder / "run"),
        later=lambda run: [resuming, "--resume", run.name] if (run / "config.json").exists() else None,
        is_whole=False,
    )


# ---- what must be the same -------------------------------------------------------------------------------------------


def run_content(run: Path) -> Content:
    """Return what a run folder holds, but for its times, and TensorBoard's files, which have one in their names."""
    state = torch.load(run / "last" / "training_state.pt", weights_only=True)
    for name in ("seconds", "data_wait_s"):
        del state["position"][name]
    for name in ("spent", *MEASURED):
        del state["budget"][name]
    found: dict[str, Any] = {f"state, {key}": digest(value) for key, value in state.items()} | {"files": names_of(run)}
    for kind in ("best", "last"):
        found[f"{kind}/model.safetensors"] = digest((run / kind / "model.safetensors").read_bytes())
        described = json.loads((run / kind / "config.json").read_text())
        found[f"{kind}/config.json"] = described | {"metrics": timeless(described["metrics"])}
    for name in ("metrics", "steps"):
        found[f"{name}.jsonl"] = [timeless(row) for row in read_jsonl(run / f"{name}.jsonl")]
    return found


def timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line says, but for times and memory."""
    return {key: value for key, value in row.items() if key not in TIMES}


def names_of(folder: Path, *, parts: bool = True) -> list[str]:
    """Return the names of all files below a folder, but TensorBoard's, and locks, which hold nobody up if left.

    Args:
        folder: see above.
        parts: also hidden files that a killed process was writing; docs/reliability.md says which commands remove them.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("events.out"))
    names = sorted(str(path.relative_to(folder)) for path in files if not path.name.endswith(".lock"))
    return [name for name in names if parts or not (Path(name).name.startswith(".") and name.endswith(".part"))]


def digest(value: Any) -> str:
    """Return a SHA-256 of nested containers of tensors and plain values."""
    hashed = hashlib.sha256()

    def add(part: Any) -> None:
        hashed.update(f"<{type(part).__name__}>".encode())
        if isinstance(part, Mapping):
            for key in part:
                add(key)
                add(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        elif isinstance(part, torch.Tensor):
            hashed.update(f"{part.dtype} {tuple(part.shape)}".encode())
            hashed.update(part.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(part if isinstance(part, bytes) else repr(part).encode())

    add(value)
    return hashed.hexdigest()


def files_content(folder: Path, *names: str) -> Content:
    """Return a SHA-256 of each file below a folder, or of those that are named, with the list of all."""
    found = names or tuple(names_of(folder))
    files = names_of(folder, parts=not names)
    return {"files": files, **{name: digest((folder / name).read_bytes()) for name in found}}


def ablation_content(folder: Path) -> Content:
    """Return what an ablation has written: its table, and its runs."""
    output = folder / "ablation"
    runs = sorted(path.parent for path in output.rglob("metrics.jsonl"))
    contents = {str(run.relative_to(output)): run_content(run) for run in runs}
    rows = json.loads((output / "ablation.json").read_text())["rows"]
    return {"ablation.json": rows, "files": names_of(folder, parts=False), **contents}


def tensors_content(path: Path) -> Content:
    """Return the tensors of a recording, and what it says of itself but for the date."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        described = json.loads(file.metadata()["senet.recording"])
    del described["provenance"]["date"]
    return {"described": described, "files": names_of(path.parent, parts=False), **tensors}


def export_content(folder: Path) -> Content:
    """Return what an export has written; of its report, which has times, how both networks agree."""
    found = {}
    for name in names_of(folder):
        content = (folder / name).read_bytes()
        found[name] = digest(content) if not name.endswith(".json") else sorted(json.loads(content))
    return found


def page_content(folder: Path) -> Content:
    """Return a page without its numbers, some of which are times."""
    page = (folder / "page.html").read_text()
    return {"files": names_of(folder, parts=False), "page": digest(re.sub(r"[\d.e-]+", "#", page))}


# ---- a command that nothing happens to -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a command does if nothing happens to it.

    Args:
        content: of what it has written.
        seconds: that it takes.
        operations: on files.
        largest: bytes of the largest file.
        total: bytes of all files.
    """

    content: Content
    seconds: float
    operations: int
    largest: int
    total: int


def reference(command: Command, folder: Path, times: int) -> Reference:
    """Run a command to its end once or several times, and return what it does.

    Raises:
        RuntimeError: it fails, or writes something else than the first time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    found = []
    for number in range(times):
        place = folder / f"untouched{number}"
        place.mkdir(parents=True)
        with Process(command.argv, place) as process:
            if process.wait():
                raise RuntimeError(f"{command.name} fails: {process.said}")
            found.append((command.content(place), process.seconds, process.watch.numbers[0]))
    (content, _, operations), (other, seconds, _) = found[0], found[-1]
    if differing := differences(content, other):
        raise RuntimeError(f"{command.name} does not repeat itself: {', '.join(differing)}")
    sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
    return Reference(content=content, seconds=seconds, operations=operations, largest=max(sizes), total=sum(sizes))
