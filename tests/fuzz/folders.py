"""Folders of images in the shapes that people keep them in, through `senet evaluate` and `senet train`."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

import senet
from fuzz.judge import Case
from fuzz.pictures import logits_of, pixels

HIDDEN_FILES = (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini")
HIDDEN_FOLDERS = (".ipynb_checkpoints", "__MACOSX", ".git", ".a")
CLASSES = (
    ("bar", "loop", "rod"),
    (":smile:", "[red]a", "x [b]"),
    ("<script>", "z", "ä 猫"),
    ("B", "a", "a b"),
    tuple(map(str, range(12))),
    ("00", "01", "02"),
)


@cache
def network(classes: tuple[str, ...]) -> torch.nn.Module:
    """Return a network of these classes that tells pictures apart a little."""
    torch.manual_seed(0)
    model = senet.create_model("cifar_se_resnet20", num_classes=len(classes))
    model.fc.weight.data *= 30  # far from indifferent, so that each picture counts in the loss
    model.class_names = classes
    return model.eval()


def filled(folder: Path, classes: tuple[str, ...], random: Random) -> None:
    """Write some pictures into a folder for each class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(random.randint(2, 4)):
            Image.fromarray(pixels(random)).save(folder / name / f"{i}.png")


def as_it_should_be(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """train/ and val/, or what else the latter is called."""
    filled(root / "train", classes, random)
    filled(root / random.choice(("val", "valid", "validation", "test")), classes, random)
    return "whole"


def with_hidden_entries(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """What notebooks, Macs and Windows leave in folders."""
    as_it_should_be(root, classes, random)
    told = []
    for entry in random.sample((*HIDDEN_FILES, *HIDDEN_FOLDERS), 3):
        place = random.choice([root, *(path for path in root.rglob("*") if path.is_dir())]) / entry
        if entry in HIDDEN_FILES:
            place.write_bytes(b"\x00\x05\x16\x07")
        else:
            place.mkdir()
            for name in random.choice(((), ("a.png", "b-checkpoint.png"))):
                Image.fromarray(pixels(random)).save(place / name)
        told.append(str(place.relative_to(root)))
    return f"hidden {', '.join(told)}"


def without_val(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """The images for training alone, under train/ or not."""
    filled(random.choice((root, root / "train")), classes, random)
    return "no val"


def of_one_class(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """One class only."""
    as_it_should_be(root, classes[:1], random)
    return "one class"


def nested(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """Groups of classes."""
    for split in ("train", "val"):
        filled(root / split / "group", classes[:2], random)
        filled(root / split / "other", classes[2:], random)
    return "groups"


def lacking_a_class(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """A class is missing in one split."""
    first, second = random.sample(("train", "val"), 2)
    filled(root / first, classes, random)
    filled(root / second, tuple(name for name in classes if name != classes[1]), random)
    return f"{second} lacks {classes[1]}"


def with_an_empty_class(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """A class without images."""
    as_it_should_be(root, classes, random)
    split = random.choice(sorted(root.iterdir()))
    (split / "empty").mkdir()
    return f"{split.name}/empty"


def with_files_in_the_way(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """Files where folders are expected, and other files among the images."""
    as_it_should_be(root, classes, random)
    for name in ("labels.csv", "README.md", "stray.png", f"train/{classes[0]}/notes.txt", "train/list.txt"):
        if random.random() < 0.6:
            (root / name).write_text("a,b\n")
    return "files in the way"


def with_a_bad_image(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """One image is damaged."""
    as_it_should_be(root, classes, random)
    path = random.choice(sorted(root.rglob("*.png")))
    path.write_bytes(path.read_bytes()[: random.randrange(60)])
    return f"bad {path.relative_to(root)}"


def nothing(root: Path, classes: tuple[str, ...], random: Random) -> str:
    """No images."""
    for name in random.choice(((), ("train",), ("train", "val"), ("train/a", "val/a"))):
        (root / name).mkdir(parents=True)
    return "nothing"


SHAPES: tuple[Callable[[Path, tuple[str, ...], Random], str], ...] = (
    *(as_it_should_be, with_hidden_entries, without_val, of_one_class, nested, lacking_a_class),
    *(with_an_empty_class, with_files_in_the_way, with_a_bad_image, nothing),
)
WHOLE = (as_it_should_be, with_hidden_entries)
"""Shapes that nobody refuses."""


def visible(folder: Path) -> list[Path]:
    """Return the images in a folder's class folders, hidden ones left out."""
    found = [path for path in folder.rglob("*.png") if path.parent != folder]
    parts = {path: path.relative_to(folder).parts for path in found}
    return [path for path in found if not any(part[0] == "." or part == "__MACOSX" for part in parts[path])]


def make(random: Random, folder: Path) -> Case:
    """Make a folder of images; train on it, or evaluate a network on it."""
    classes, shape = random.choice(CLASSES), random.choice(SHAPES)
    root = folder / random.choice(("data", "[red]data", "my data", "d.parquet", "ä"))
    root.mkdir()
    about = f"{shape(root, classes, random)} of {classes[0]}, ..."
    expected = "done" if shape in WHOLE else "refused" if shape in (nothing, with_a_bad_image) else "either"
    names = (root.name, *classes, "class", "png")
    if random.random() < 0.3:
        settings = ["--data", root.name, "--epochs", "1", "--batch-size", "4", "--output", "run"]
        small = ["--data.preprocessing.image-size", "8", "--data.preprocessing.resize", "8"]
        check = lambda _, err: trained(folder / "run", root, err)  # noqa: E731
        return Case(about=f"train, {about}", argv=["train", "digits", *settings, *small], names=names, check=check)
    senet.save_pretrained(network(classes), folder / "model")
    argv = ["evaluate", "model", "--data", root.name, "--json"]
    split = next((root / s for s in ("val", "valid", "validation", "test", "train") if (root / s).is_dir()), root)
    bad = shape is with_a_bad_image and "train" in about
    return Case(
        about=f"evaluate, {about}",
        argv=argv,
        names=names,
        expected="done" if bad else expected,
        check=lambda out, _: compared(out, split, classes),
    )


def trained(run: Path, root: Path, said: str) -> str:
    """Check the classes of a run: the folders that hold images, or those around them if that is said."""
    names = senet.from_pretrained(run).class_names
    found = {path.parent.name for path in visible(root / "train" if (root / "train").is_dir() else root)}
    order = sorted(found, key=int) if all(name.isdigit() for name in found) else sorted(found)
    told = set(names) == {"group", "other"} and "group" in said
    return "" if told or list(names) == order else f"the run's classes are {names}, the folder's {order}"


def compared(out: str, split: Path, classes: tuple[str, ...]) -> str:
    """Compare number of images and loss with those of the images read one by one."""
    found, model = json.loads(out), network(classes)
    losses = []
    for path in visible(split):
        names = [name for name in path.relative_to(split).parts[:-1] if name in classes]
        with Image.open(path) as image:
            logits = logits_of(model, np.asarray(image.convert("RGB")))
        losses.append(-float(logits.log_softmax(0)[classes.index(names[-1])]))
    if found["num_images"] != len(losses):
        return f"{found['num_images']} images of {len(losses)}"
    right = sum(losses) / len(losses)
    return "" if abs(found["loss"] - right) < 1e-3 else f"loss {found['loss']:.4f}, expected {right:.4f}"
