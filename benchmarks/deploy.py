"""Exports of SE-ResNet-50: `senet.export` beside timm's, PyTorch's and OpenVINO's own, in float32 and int8.

The same network in PyTorch, from timm and from this library, becomes a file (deploy_contestants.py says how); ONNX
Runtime or OpenVINO computes the file. For each: how long the export took, of which `senet.export` spends a part on
proving the file (it computes pictures with both and times them), the size of the file, how far its logits are from
PyTorch's, how many pictures keep their class, and how long 1 and 16 images take, all contestants in turn.

The weights are random, for a comparison needs no others and none are at hand: so int8 is judged by the change of the
logits relative to PyTorch's, not by accuracy, and more pictures change their class than with trained weights, whose
logits are further apart. quantization.py has the accuracy of trained weights.

Also the command `senet export` from beginning to end, Python's start and the comparison with the original included.

Command: python benchmarks/deploy.py --pictures FOLDER ..., where a folder has pictures or a data set. Without
    --pictures they are generated.
Cost: 20 minutes on two CPU cores; needs nncf (`pip install senet[int8]`), else its contestants are left out.
Results: benchmarks/results/deploy.json
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import tyro
from torch import Tensor, nn

import senet
from deploy_contestants import BATCH, CONTESTANTS, SUFFIXES, Contestant, Material, material, quiet
from report import RESULTS, milliseconds, time_in_turn, write_results
from senet.deployment import exporting, to_onnx, to_openvino
from senet.deployment.calibration import Array, CalibrationImages, chosen, normalized, open_images, read_images
from senet.deployment.machine import processor, size_of
from senet.deployment.pictures import generate

Part = Literal["exports", "latency", "command"]
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
LONG = 20.0
"""Seconds from which an export is not repeated: the first one of a process loads packages."""
PHASES = {
    "proof": [(exporting, "prove")],
    "costs of layers": [(to_onnx, "layer_costs"), (to_openvino, "layer_costs")],
}
"""What `senet.export` does beside writing the file, and no other contestant: the functions of each."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command."""

    pictures: tuple[str, ...] = ()
    """folders of pictures, or data sets; one half gives int8 its ranges, the other judges. Generated ones by default"""
    num_pictures: int = 600
    """of all of these together"""
    depth: int = 50
    """layers of the network"""
    side: int = 224
    """pixels"""
    threads: tuple[int, ...] = (1, 2)
    """of the latency"""
    batch_sizes: tuple[int, ...] = (1, 16)
    """images of the latency"""
    rounds: int = 15
    """of the latency, all contestants in turn"""
    commands: int = 3
    """times that each command runs"""
    parts: tuple[Part, ...] = ("exports", "latency", "command")
    """of the results; the others stay as the file of results has them"""
    files: Path | None = None
    """folder that keeps the exported files; what is there is not exported again"""
    output: Path = RESULTS / "deploy.json"
    """JSON file of the results"""


def pictures(options: Options) -> tuple[CalibrationImages, Tensor]:
    """Return pictures for the ranges of int8, and others that judge, uint8 (N, 3, H, W)."""
    own = senet.create_model(f"se_resnet{options.depth}").preprocessing
    preprocessing = replace(own, image_size=options.side, resize=own.resize_for(options.side))
    if not options.pictures:
        images = generate(preprocessing, options.num_pictures, None, torch.Generator().manual_seed(0))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        found = [((images * std + mean) * 255).round().to(torch.uint8)]
    else:
        found, left = [], options.num_pictures
        for number, source in enumerate(options.pictures):
            split = open_images(source, preprocessing)
            indices = chosen(len(split), left // (len(options.pictures) - number), seed=0)
            found.append(read_images(split, preprocessing, indices, None, ()).pixels)
            left -= len(indices)
    first, other = (torch.cat([pixels[half::2] for pixels in found]) for half in (0, 1))
    source = ", ".join(Path(name).name for name in options.pictures) or "generated"
    return CalibrationImages(source=source, pixels=first, labels=None, preprocessing=preprocessing), other


@contextmanager
def timed_phases() -> Iterator[dict[str, float]]:
    """Yield what holds, at the end, the seconds that each of `PHASES` took."""
    spent = dict.fromkeys(PHASES, 0.0)

    def timed(phase: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[phase] += time.perf_counter() - start

    with ExitStack() as stack:
        for phase, functions in PHASES.items():
            for module, name in functions:
                stack.enter_context(mock.patch.object(module, name, partial(timed, phase, getattr(module, name))))
        yield spent


def exported(contestant: Contestant, given: Material, path: Path) -> dict[str, Any]:
    """Make the file of a contestant, twice if that is short, and return how long the last time took."""
    for _ in range(2):
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        start = time.perf_counter()
        with timed_phases() as spent, quiet():
            contestant.make(given, path)
        seconds = time.perf_counter() - start
        if seconds > LONG:
            break
    phases = {phase: round(value, 2) for phase, value in spent.items() if value}
    return {"seconds": round(seconds, 2), "phases": phases, "megabytes": round(size_of(path) / 1e6, 2)}


def logits_of(run: Callable[[Array], Array], images: Tensor) -> Array:
    """Return the logits of images, (N, classes)."""
    return np.concatenate([run(batch.numpy()) for batch in images.split(BATCH)])


def compare(logits: Array, exact: Array) -> dict[str, float]:
    """Return how far logits are from PyTorch's.

    Returns:
        The largest difference as a share of the largest logit; the root mean square of the differences as a share of
        that of the logits, of all pictures and of the median picture; the share of pictures that keep their class in %.
    """
    each = np.linalg.norm(logits - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return {
        "largest": float(f"{np.abs(logits - exact).max() / np.abs(exact).max():.3g}"),
        "error": float(f"{np.linalg.norm(logits - exact) / np.linalg.norm(exact):.3g}"),
        "median": float(f"{np.median(each):.3g}"),
        "same_class": round(100 * float((logits.argmax(1) == exact.argmax(1)).mean()), 2),
    }


def in_pytorch(model: nn.Module) -> Callable[[Array], Array]:
    """Return what computes logits in PyTorch, as it is."""

    def run(images: Array) -> Array:
        with torch.no_grad():
            logits: Array = model(torch.from_numpy(images)).numpy()
        return logits

    return run


def export_all(
    contestants: dict[str, Contestant], given: Material, images: Tensor, rows: dict[str, dict[str, Any]], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield what is to say of the file of each contestant, which is made unless it is there and in `rows`."""
    exact = logits_of(in_pytorch(given.peer), images)
    for key, contestant in contestants.items():
        path = path_of(contestant, folder)
        if key in rows and path.exists():
            yield rows[key]
            continue
        made = exported(contestant, given, path)
        about = {"name": contestant.name, "runtime": contestant.runtime, "precision": contestant.precision}
        row = {**about, **made, **compare(logits_of(contestant.open(path), images), exact)}
        print(row, flush=True)
        yield row


def path_of(contestant: Contestant, folder: Path) -> Path:
    """Return the file of a contestant."""
    name = "".join(letter if letter.isalnum() else "_" for letter in contestant.key)
    return folder / name / f"network{SUFFIXES[contestant.runtime]}"


def latency(
    contestants: dict[str, Contestant], given: Material, images: Tensor, options: Options, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield the times of all contestants and PyTorch, by number of threads and images."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        runs = {"PyTorch": in_pytorch(given.peer)}
        runs |= {key: contestant.open(path_of(contestant, folder)) for key, contestant in contestants.items()}
        for batch in options.batch_sizes:
            values = np.ascontiguousarray(images[:batch].numpy())
            calls = {key: partial(run, values) for key, run in runs.items()}
            seconds = time_in_turn(calls, options.rounds, calls=max(1, 4 // batch), settle=1)
            medians = {key: round(sorted(s)[len(s) // 2] * 1e3, 2) for key, s in seconds.items()}
            print(threads, batch, medians, flush=True)
            yield {"threads": threads, "batch": batch, "milliseconds": milliseconds(seconds)}


def command(given: Material, options: Options) -> Iterator[dict[str, Any]]:
    """Yield how long `senet export` takes to ONNX, in seconds, without pictures and with those of each source."""
    model = given.folder / "model"
    senet.save_pretrained(given.own, model)
    for source in (None, *options.pictures):
        data = () if source is None else ("--data", source)
        seconds = []
        for _ in range(options.commands):
            target = given.folder / "command"
            target.mkdir()
            start = time.perf_counter()
            run = (sys.executable, "-m", "senet", "export", str(model), str(target / "network.onnx"), *data)
            subprocess.run(run, check=True, capture_output=True)
            seconds.append(round(time.perf_counter() - start, 2))
            compared = json.loads((target / "network.onnx.parity.json").read_text())["num_images"]
            shutil.rmtree(target)
        print(source, seconds, flush=True)
        yield {"data": source and Path(source).name, "pictures": compared, "seconds": seconds}


def main(options: Options) -> None:
    """Measure all, and write the results after each step."""
    kept = json.loads(options.output.read_text()) if options.output.exists() else {}
    results: dict[str, Any] = {part: kept.get(part, []) for part in ("exports", "latency", "command")}
    threads = torch.get_num_threads()
    calibration, judging = pictures(options)
    images = normalized(judging, calibration.preprocessing)
    usable = [each for each in CONTESTANTS if find_spec("nncf") or (each.runtime, each.precision) != NEEDS_NNCF]
    contestants = {each.key: each for each in usable}
    with tempfile.TemporaryDirectory() as temporary:
        given = material(options.depth, calibration, Path(temporary))
        folder = options.files or Path(temporary)
        rows = {f"{row['runtime']}, {row['precision']}: {row['name']}": row for row in results["exports"]}
        steps: dict[Part, Callable[[], Iterator[dict[str, Any]]]] = {
            "exports": lambda: export_all(contestants, given, images, rows, folder),
            "latency": lambda: latency(contestants, given, images, options, folder),
            "command": lambda: command(given, options),
        }
        for part in options.parts:
            results[part] = []
            torch.set_num_threads(threads)
            for row in steps[part]():
                results[part].append(row)
                about = {
                    "network": f"SE-ResNet-{options.depth}, {options.side} pixels, random weights",
                    "pictures": {"source": calibration.source, "ranges": len(calibration), "judging": len(images)},
                    "processor": {**asdict(processor()), "threads": threads},
                }
                write_results(options.output, about | results, PACKAGES)


NEEDS_NNCF = ("OpenVINO", "int8")

if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
