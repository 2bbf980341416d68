"""Classes of data and network, matched by name."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from senet.data.classes import match_classes
from senet.data.images import ImageSplit
from senet.data.readers import Arrays
from senet.errors import SenetError

STRING_ORDER = ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
NUMBERS = tuple(map(str, range(12)))


def split(class_names, names_of_folders=True):
    """Return one image of each class."""
    read = Arrays(np.zeros((len(class_names), 2, 2), np.uint8), np.arange(len(class_names)))
    return ImageSplit(
        source="pictures",
        size=len(class_names),
        class_names=tuple(class_names),
        read_image=read,
        files=[(f"{name}/0.png", i) for i, name in enumerate(class_names)],
        names_of_folders=names_of_folders,
    )


def labels_of(images, names, num_classes=0):
    """Return the network's label of each class of the data, as images and their list of files say."""
    found = match_classes(images, names, lambda: num_classes)
    labels = [found[i][1] for i in range(len(found))]
    assert [label for _, label in found.files] == labels
    return labels


@pytest.mark.parametrize("names_of_folders", [True, False])
@pytest.mark.parametrize("own", [NUMBERS, STRING_ORDER, NUMBERS[3:5]])
@pytest.mark.parametrize("names", [NUMBERS, STRING_ORDER, tuple(f"{int(name):03}" for name in STRING_ORDER)])
def test_numbers_match_by_value(own, names, names_of_folders):
    expected = [[int(name) for name in names].index(int(name)) for name in own]
    assert labels_of(split(own, names_of_folders), names) == expected


def test_label_numbers_are_the_outputs_of_a_network_with_names():
    names = ("cat", "dog", "emu")
    assert labels_of(split("012", names_of_folders=False), names) == [0, 1, 2]
    with pytest.raises(SenetError, match="the network has 3 classes, but pictures has 2"):
        labels_of(split("01", names_of_folders=False), names)
    with pytest.raises(SenetError, match=r"have names \(cat, dog, emu\), but .* are numbers \(0, 2, 1\)"):
        labels_of(split("021", names_of_folders=False), names)  # names of the data's own, which mean something else


def test_accents_match_however_they_are_stored():
    names = ("café", "naïve")
    stored = [unicodedata.normalize("NFD", name) for name in names]
    assert stored[0] != names[0]
    assert labels_of(split(stored), names) == [0, 1]


def test_a_network_without_names_takes_folders_in_their_order(caplog):
    assert labels_of(split(["ash", "elm", "oak"]), None, 3) == [0, 1, 2]
    assert "in the order of their names, ash, elm, oak; set model.class_names" in caplog.text


def test_of_several_processes_the_first_one_speaks(caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert labels_of(split(["birch", "yew"]), None, 2) == [0, 1]
    assert not caplog.records


def test_the_remedy_for_numbers_that_are_no_folders_is_to_name_them():
    images = split(NUMBERS, names_of_folders=False)
    names = tuple(str(i) for i in range(1, 13))
    with pytest.raises(SenetError, match=r"no class '0'.* by data\.class_names"):
        match_classes(images, names, lambda: 12)
    assert match_classes(replace(images, class_names=names), names, lambda: 12).class_names == names
