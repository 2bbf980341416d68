"""The pictures that are part of the package: as many as it says, those that the script draws, none of them twice."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import senet
from leaves import COUNTS, SIDE, draw

PICTURES = Path(senet.__file__).parent / "pictures"


def test_the_package_has_every_picture_once():
    files = {
        split: {kind: len(list((PICTURES / split / kind).iterdir())) for kind in kinds}
        for split, kinds in COUNTS.items()
    }
    assert files == COUNTS
    contents = [path.read_bytes() for path in PICTURES.rglob("*") if path.is_file()]
    assert len(contents) == sum(sum(kinds.values()) for kinds in COUNTS.values())  # and nothing besides
    assert len({hashlib.sha256(content).digest() for content in contents}) == len(contents)
    assert sum(map(len, contents)) < 600_000


@pytest.mark.parametrize("kind", COUNTS["train"])
@pytest.mark.parametrize("split", COUNTS)
def test_the_script_draws_the_pictures_of_the_package(kind, split):
    number = COUNTS[split][kind] - 1
    with Image.open(PICTURES / split / kind / f"{number:03}.jpg") as shipped:
        assert shipped.size == (SIDE, SIDE)
        difference = np.abs(np.asarray(shipped, float) - np.asarray(draw(kind, split, number), float)).mean()
    assert difference < 6  # of 255: what JPEG loses
    assert np.abs(np.asarray(shipped, float) - np.asarray(draw(kind, split, number + 1), float)).mean() > 12
