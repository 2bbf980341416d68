"""Networks whose classes are the same, in another order or spelling."""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.evaluation.batches import run_data
from senet.evaluation.functions import class_names_of
from senet.evaluation.networks import open_network, output_orders

SMALL = Preprocessing(image_size=8, resize=8, mean=(0.5,) * 3, std=(0.2,) * 3)


def network(*class_names):
    """Return a network of these classes."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(class_names)))
    model.preprocessing, model.class_names = SMALL, class_names
    return model


def test_outputs_are_ordered_by_name_also_where_an_accent_is_stored_as_a_character():
    composed, decomposed = (unicodedata.normalize(form, "épagneul") for form in ("NFC", "NFD"))
    assert composed != decomposed
    models = [network("chat", composed, "loup"), network(decomposed, "loup", "chat")]
    assert output_orders([open_network(model) for model in models]) == [None, [2, 0, 1]]


def test_other_classes_are_named():
    networks = [open_network(network("a", "b")), open_network(network("a", "c"))]
    with pytest.raises(SenetError, match="Sequential does not have the class b"):
        output_orders(networks)
    with pytest.raises(SenetError, match="several of their classes have the same name"):
        output_orders([open_network(network("a", "b", "a")), open_network(network("a", "a", "b"))])


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        np.array(["cat", "dog"]),
        {0: "cat", 1: "dog"},
        {"1": "dog", "0": "cat"},  # as JSON has Hugging Face's id2label
        {"dog": 1, "cat": 0},  # class_to_idx
    ],
)
def test_class_names_come_in_the_order_of_the_outputs(names):
    assert class_names_of(SimpleNamespace(class_names=names)) == ("cat", "dog")


@pytest.mark.parametrize("names", ["cat", {"cat", "dog"}, {1: "cat", 2: "dog"}, {"cat": "a", "dog": "b"}])
def test_class_names_without_an_order_are_refused(names):
    with pytest.raises(SenetError, match=r"model\.class_names is a .*(in the order of the outputs)"):
        class_names_of(SimpleNamespace(class_names=names))


def test_the_folder_around_has_no_data_for_a_network_that_is_named(tmp_path, monkeypatch):
    """A command in a run's folder names a network that has nothing to do with it."""
    monkeypatch.chdir(tmp_path)
    for text in ('{"data": {"dataset": "digits"}}', "[1, 2]"):
        (tmp_path / "config.json").write_text(text)
        assert run_data("cifar_se_resnet20") is None
        assert run_data("timm/resnet18") is None
    (tmp_path / "config.json").write_text('{"data": {"dataset": "digits"}}')
    (tmp_path / "best").mkdir()
    assert run_data("best").dataset == "digits"
    assert run_data(tmp_path).dataset == "digits"
