"""Outputs counted as other classes: some of them, or several as one."""

import json
import unicodedata

import pytest
import torch

from senet.data.grouping import group_classes, read_mapping
from senet.errors import MissingFileError, SenetError

PETS = ("beagle", "tabby", "pug", "siamese", "car")
KINDS = {"beagle": "dog", "pug": "dog", "tabby": "cat", "siamese": "cat"}


def logits(scale=1.0):
    return scale * torch.randn(6, len(PETS), generator=torch.Generator().manual_seed(0))


def test_probabilities_of_a_class_add_up():
    groups = group_classes(PETS, KINDS)
    assert groups.names == ("dog", "cat", "car")
    p = logits().double().softmax(1)
    by_hand = torch.stack([p[:, 0] + p[:, 2], p[:, 1] + p[:, 3], p[:, 4]], 1)
    torch.testing.assert_close(groups(logits()).softmax(1).double(), by_hand, atol=1e-6, rtol=0)


def test_of_chosen_classes_the_softmax_is_theirs_alone():
    groups = group_classes(PETS, only=("siamese", "beagle"))
    by_hand = logits()[:, [3, 0]].softmax(1)
    torch.testing.assert_close(groups(logits()).softmax(1), by_hand)
    both = group_classes(PETS, KINDS, ("cat", "dog"))
    p = logits().double().softmax(1)
    cats, dogs = p[:, 1] + p[:, 3], p[:, 0] + p[:, 2]
    torch.testing.assert_close(both(logits()).softmax(1)[:, 0].double(), cats / (cats + dogs), atol=1e-6, rtol=0)


def test_what_underflows_keeps_its_loss():
    found = group_classes(PETS, KINDS)(logits(1000.0)).log_softmax(1)
    assert found.isfinite().all()
    assert found.min() < -800  # of a probability that even float64 has not


def test_gradients_of_half_precision_logits():
    assert group_classes(PETS, KINDS)(logits().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_file_of_a_mapping(tmp_path, kind):
    file = tmp_path / f"map.{kind}"
    if kind == "json":
        file.write_text(json.dumps(KINDS))
    else:
        file.write_text("\n".join(f"{name},{other}" for name, other in KINDS.items()) + "\n\n")
    assert read_mapping(file) == KINDS
    assert group_classes(PETS, file) == group_classes(PETS, KINDS)


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8-sig"), (";", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16")]
)
def test_files_of_excel(tmp_path, separator, encoding):
    """A byte order mark, semicolons or tabs, Windows line ends, and rows of which the cells were emptied."""
    file = tmp_path / "map.csv"
    rows = [("épagneul", '"dog, or wolf"'), ("tabby", "cat"), ("", "")]
    file.write_bytes("".join(f"{separator.join(row)}\r\n" for row in rows).encode(encoding))
    assert read_mapping(file) == {"épagneul": "dog, or wolf", "tabby": "cat"}


def test_classes_of_the_same_name_are_not_counted_as_one():
    """ImageNet's short names have two cranes, a bird and a machine."""
    birds = ("crane", "robin", "crane")
    assert group_classes(birds, {"robin": "bird"}).group_of == (0, 1, 2)
    with pytest.raises(SenetError, match="2 classes of the network are 'crane'; give each a name of its own"):
        group_classes(birds, {"crane": "bird"})
    with pytest.raises(SenetError, match="2 classes of the network are 'crane'"):
        group_classes(birds, only=("crane", "robin"))


def test_accents_match_however_they_are_stored():
    stored = unicodedata.normalize("NFD", "épagneul")
    assert group_classes((stored, "tabby"), {"épagneul": "dog"}).names == ("dog", "tabby")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[1]", "expected JSON with one object of texts, or CSV with two columns"),
        ("a.json", '{"beagle": 1}', "expected JSON with one object of texts"),
        ("a.json", '{"beagle": {"a": "b"}}', "expected JSON with one object of texts"),
        ("a.json", "{}", "expected JSON with one object of texts"),
        ("a.json", "{", "expected JSON with one object of texts"),
        ("a.json", '{"pug": "dog", "pug": "cat"}', "names the class 'pug' twice"),
        ("a.csv", "pug,dog\npug,cat", "names the class 'pug' twice"),
        ("a.csv", "pug,dog,cat", "or CSV with two columns"),
        ("a.csv", "pug,", "or CSV with two columns"),
        ("a.csv", "", "or CSV with two columns"),
    ],
)
def test_files_that_are_no_mapping(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SenetError, match=message):
        read_mapping(tmp_path / name)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"no\.csv does not exist; expected a mapping of classes"):
        read_mapping(tmp_path / "no.csv")
    with pytest.raises(SenetError, match="has 'poodle', one of 1 names that are no class of the network; the nearest"):
        group_classes(PETS, {"poodle": "dog"})
    with pytest.raises(SenetError, match="no class 'cat'; the nearest are"):
        group_classes(PETS, only=("cat",))
    with pytest.raises(SenetError, match="no class names, by which classes are chosen or mapped"):
        group_classes(None, KINDS)
