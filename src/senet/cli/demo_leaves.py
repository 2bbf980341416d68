"""The demo's second half: the network of the package, fine-tuned to pictures of five kinds of leaves."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senet.cli.evaluation import EvaluateCommand
from senet.errors import SenetError
from senet.finetuning.run import finetune
from senet.terminal import say

PICTURES = Path(__file__).parent.parent / "pictures"
"""Folders train/ and val/, each with a folder for each kind, see docs/leaves.py."""
NETWORK = "cifar_se_resnet20"
EPOCHS = 16


def finetune_to_leaves(
    folder: Path, *, seed: int = 0, pictures: Path = PICTURES, settings: Mapping[str, Any] | None = None
) -> Path:
    """Copy the pictures, fine-tune the network of the package to them, and write the page of its evaluation.

    Args:
        folder: exists; what is written goes there.
        seed: of the run.
        pictures: which pictures.
        settings: see `senet.finetune`; None for the demo's.

    Returns:
        The run folder.

    Raises:
        SenetError: a file that cannot be written.
    """
    copied, run, page = folder / "leaves", folder / "finetuned", folder / "mistakes.html"
    try:
        shutil.copytree(pictures, copied)
    except (OSError, shutil.Error) as error:
        raise SenetError(f"{copied} cannot be written ({error}); choose another --output") from error
    say(f"\nFine-tuning {NETWORK}, trained on CIFAR-10, to pictures of leaves in {copied} ...")
    chosen = {"epochs": EPOCHS} if settings is None else settings
    finetune(copied, run, model=NETWORK, seed=seed, settings=chosen)
    EvaluateCommand.read([str(run), "--report", str(page)], "senet evaluate").run()
    return run
