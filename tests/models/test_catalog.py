"""The registry: names, options, messages, and configurations through JSON."""

import json

import pytest
import torch

from senet.data.preprocessing import CIFAR, IMAGENET
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.build import build
from senet.models.catalog import list_models, model_card
from senet.models.config import ModelConfig, config_from_dict, config_to_dict
from senet.nn.block import SEBlock, SEOptions


def assert_same_network(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """The same modules with the same settings and parameters of the same shapes."""
    assert str(first) == str(second)
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (first, second)]
    assert shapes[0] == shapes[1]
    assert first.config == second.config
    assert first.preprocessing == second.preprocessing


def test_names():
    expected = {
        *(f"{se}resnet{depth}" for se in ("", "se_") for depth in (18, 34, 50, 101, 152)),
        *(f"{se}resnext{depth}_32x4d" for se in ("", "se_") for depth in (50, 101)),
        "senet154",
        *(f"cifar_{se}resnet{depth}" for se in ("", "se_") for depth in (20, 32, 44, 56, 110)),
        *(f"cifar_{se}preact_resnet{depth}" for se in ("", "se_") for depth in (110, 164)),
    }
    assert expected <= set(list_models())
    assert len(list_models()) == len(set(list_models()))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resnet50", ["resnet50"]),
        ("*resnet50", ["resnet50", "se_resnet50"]),
        ("se_resnext*", ["se_resnext50_32x4d", "se_resnext101_32x4d"]),
        ("cifar_*preact_resnet1?0", ["cifar_preact_resnet110", "cifar_se_preact_resnet110"]),
        ("RESNET50", []),
        ("vgg99*", []),
    ],
)
def test_list_models(pattern, expected):
    assert list_models(pattern) == expected


def test_every_plain_network_has_an_se_twin():
    for name in list_models():
        card = model_card(name)
        assert card.name == name
        assert card.has_se == ("se_" in name or name == "senet154")
        if not card.has_se:
            twin = model_card(card.twin)
            assert twin.name.replace("se_", "") == name
            assert twin.has_se
            assert twin.twin == name
            assert (twin.family, twin.options, twin.release_options) == (
                card.family,
                card.options,
                card.release_options,
            )


@pytest.mark.parametrize(
    ("name", "preprocessing", "num_classes"), [("se_resnet50", IMAGENET, 1000), ("cifar_resnet20", CIFAR, 10)]
)
def test_a_model_carries_its_configuration(name, preprocessing, num_classes):
    with torch.device("meta"):
        model = create_model(name)
    assert model.config == ModelConfig(name=name, num_classes=num_classes)
    assert model.preprocessing == preprocessing
    assert model.class_names is None
    assert model.num_classes == num_classes
    assert model.fc.out_features == num_classes
    assert model.training


def test_every_option_of_every_card_reaches_the_network():
    values = {
        "stride_on": ("1x1", "3x3"),
        "stem_pool": ("ceil", "pad"),
        "relu_last": (False, True),
        "activation": ("relu", "relu6"),
        "shortcut": ("pad", "projection"),
        "depth": (26, 38),
        "shake_forward": ("shake", "even"),
        "shake_backward": ("shake", "even"),
        "dropout": (0.1, 0.6),
        "drop_path": (0.1, 0.6),
        "zero_init_last": (True,),
    }
    for name in (
        "resnet18",
        "se_resnet50",
        "mobilenet_v1",
        "cifar_resnet20",
        "cifar_preact_resnet164",
        "cifar_shake_shake26_2x96d",
    ):
        strides = (2, 4) if name.startswith("cifar_") else (8, 16)
        for option in model_card(name).options:
            networks = []
            wanted = strides if option == "output_stride" else values[option]
            for value in wanted:
                with torch.device("meta"):
                    networks.append(create_model(name, **{option: value}))
                assert networks[-1].config.options == {option: value}
            if len(networks) == 2:
                assert str(networks[0]) != str(networks[1])


def test_se_options_reach_every_block():
    with torch.device("meta"):
        model = create_model("se_resnet50", se=SEOptions(reduction=8, squeeze="max", gate="tanh", bias=False))
    blocks = [m for m in model.modules() if isinstance(m, SEBlock)]
    assert len(blocks) == 16
    for block in blocks:
        assert block.hidden_channels == block.channels // 8
        assert (block.squeeze, block.gate_name, block.fc1.bias) == ("max", "tanh", None)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("se_resnet51", "se_resnet50"), ("seresnet50", "se_resnet50"), ("cifar_resnet21", "cifar_resnet20")],
)
def test_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(SenetError, match=rf"no network is called '{name}'; the nearest are .*\b{nearest}\b"):
        create_model(name)
    with pytest.raises(SenetError, match=nearest):
        model_card(name)


def test_name_that_is_like_no_other():
    with pytest.raises(SenetError, match=r"no network is called 'zzz'; .*`senet models` lists all"):
        create_model("zzz")


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("resnet50", "se_resnet50"),
        ("cifar_resnet20", "cifar_se_resnet20"),
        ("cifar_preact_resnet164", "cifar_se_preact_resnet164"),
    ],
)
@pytest.mark.parametrize("se", [SEOptions(), SEOptions(reduction=8)])
def test_se_on_a_plain_network_names_the_twin(name, twin, se):
    with pytest.raises(SenetError, match=rf"se is given, but {name} is a plain network; .* is {twin}$"):
        create_model(name, se=se)


@pytest.mark.parametrize(
    ("name", "option", "known"),
    [
        ("se_resnet50", "drop_block", ("stride_on", "stem_pool", "dropout", "drop_path", "zero_init_last")),
        ("resnet18", "stride_on", ("stem_pool", "dropout", "zero_init_last")),
        ("cifar_resnet20", "stem_pool", ("dropout", "zero_init_last")),
        ("cifar_preact_resnet164", "zero_init_last", ("stride_on", "dropout")),
        ("resnet50", "groups", ("stride_on",)),
    ],
)
def test_unknown_option_lists_the_options(name, option, known):
    with pytest.raises(SenetError, match=f"{name} has no option '{option}'; its options are") as caught:
        create_model(name, **{option: 1})
    for other in known:
        assert other in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "num_classes is -1; expected at least 0"),
        ({"in_channels": 0}, "in_channels is 0; expected at least 1"),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(SenetError, match=message):
        create_model("cifar_resnet20", **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("senet154", {"num_classes": 7}),
        ("se_resnet50", {"in_channels": 1, "stride_on": "3x3", "stem_pool": "pad", "dropout": 0.25}),
        (
            "se_resnet50",
            {"se": SEOptions(reduction=4, squeeze="none", gate="relu", bias=False, placement="3x3", stages=(2, 4))},
        ),
        ("cifar_se_preact_resnet110", {"num_classes": 0, "se": SEOptions(placement="identity")}),
    ],
)
def test_configuration_through_json(name, arguments):
    with torch.device("meta"):
        model = create_model(name, **arguments)
        text = json.dumps(config_to_dict(model.config))
        config = config_from_dict(json.loads(text))
        assert config == model.config
        assert hash(config.se) == hash(model.config.se)
        assert_same_network(build(config), model)


def test_json_names_every_setting():
    config = ModelConfig(name="se_resnet50", se=SEOptions(stages=(5,)), options={"dropout": 0.5})
    assert json.loads(json.dumps(config_to_dict(config))) == {
        "name": "se_resnet50",
        "num_classes": None,
        "in_channels": 3,
        "se": {
            "excitation": "se",
            "reduction": 16,
            "squeeze": "avg",
            "gate": "sigmoid",
            "bias": True,
            "placement": "standard",
            "stages": [5],
        },
        "options": {"dropout": 0.5},
    }


def test_configuration_with_what_is_missing_at_its_default():
    assert config_from_dict({"name": "resnet18"}) == ModelConfig(name="resnet18")


def test_configuration_with_an_unknown_field():
    with pytest.raises(SenetError, match=r"model\.depth is unknown"):
        config_from_dict({"name": "resnet18", "depth": 3})


def test_configuration_of_a_plain_network_with_se():
    config = ModelConfig(name="resnet18", se=SEOptions(reduction=8))
    with pytest.raises(SenetError, match="se has no effect: resnet18 is a plain network"):
        build(config)
