"""`senet demo`: a network and its SE twin side by side, then pictures to which a network is fine-tuned."""

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from senet.cli.parsing import Command
from senet.cli.progress import run_shown
from senet.errors import SenetError, check_installed
from senet.recipes.digits import digits
from senet.terminal import say

NEEDED = ("accelerate", "tensorboard", "sklearn", "timm", "plotly", "jinja2")
"""What the demo needs besides the library, see `senet.errors.EXTRAS`."""


@dataclass(frozen=True, kw_only=True)
class DemoCommand(Command):
    """Train a small network and its SE twin on handwritten digits, side by side; then fine-tune one to pictures.

    The pictures are of leaves; the page that is written at the end shows which are mistaken for which. Takes about two
    minutes on two CPU cores and downloads nothing.
    """

    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/demo")
    """the folder of all runs; a number is added if it is taken"""
    epochs: int = 8
    """passes over the 1437 digits"""
    seed: int = 0
    """of everything random"""

    def run(self) -> None:
        """Run the demo."""
        with run_shown():
            demo(self.output, epochs=self.epochs, seed=self.seed)


def free_folder(folder: Path) -> Path:
    """Return the folder, or, if it is taken, the same name with the first free number added."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def demo(output: Path, *, epochs: int = 8, seed: int = 0) -> None:
    """Run the demo into a folder.

    Args:
        output: folder; a number is added if it is taken.
        epochs: of the runs on digits.
        seed: of all runs.

    Raises:
        SenetError: `epochs` or `seed` out of range, or a folder that cannot be written.
        MissingExtraError: packages are not installed; all of them are named, before anything is trained.
    """
    check_installed("senet demo", NEEDED)
    from senet.cli.demo_digits import compare_twins  # these import what the check is about
    from senet.cli.demo_leaves import finetune_to_leaves

    recipe = replace(digits(), epochs=epochs, seed=seed)
    folder = free_folder(output)
    if folder != output:
        say(f"{output} is taken; writing to {folder}.")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SenetError(f"{folder} cannot be made ({error.strerror}); choose another --output") from error
    compare_twins(recipe, folder)
    finetune_to_leaves(folder, seed=seed)
    se, samples, leaves, mine = (quote(str(folder / name)) for name in ("se", "samples", "leaves/val", "finetuned"))
    say(
        f"Next:\n  senet evaluate {se}\n  senet predict {samples} --model {se}\n"
        f"  senet predict {leaves} --model {mine} --top 1\n"
        "  senet finetune YOUR_PICTURES --model timm/resnet50.a1_in1k --output runs/mine"
    )
