"""Networks whose classes are the same, in another order or spelling."""

import unicodedata

import pytest
from torch import nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
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
