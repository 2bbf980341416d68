"""A model folder gives back the network that was written, or says in one sentence why it cannot."""

import copy
import importlib
import json
import pickle
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

from checks import assert_one_sentence
from senet.checksums import checksum_of
from senet.data.preprocessing import CIFAR, Preprocessing
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained, load_model
from senet.models.base import Network
from senet.models.build import surgery_of
from senet.models.config import ModelConfig
from senet.models.description import Surgery
from senet.models.resnet import ResNet
from senet.models.vgg import VGG16
from senet.nn.block import SEBlock, SEOptions
from senet.surgery.insertion import insert_se
from senet.weights import folder as folders
from senet.weights.card import model_card_of
from senet.weights.folder import save_pretrained
from senet.weights.loading import load_weights
from senet.weights.matching import ADAPTABLE_SE
from senet.weights.reading import find_model_folder

NAME = "cifar_se_resnet20"
GRAY = Preprocessing(image_size=8, resize=9, mean=(0.3,), std=(0.4,))
SE = SEOptions(reduction=4, squeeze="max", gate="hard_sigmoid", bias=False, placement="identity", stages=(3, 4))


def trained_network():
    """Build a network in which nothing has its default value."""
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=3, in_channels=1, se=SE, dropout=0.25, zero_init_last=True)
    model.preprocessing, model.class_names = GRAY, ("one", "two", "thrée")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model.to(memory_format=torch.channels_last)


@pytest.fixture
def saved(tmp_path: Path):
    save_pretrained(create_model(NAME, num_classes=3), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch):
    """Stand in for the weights that come with the package: one network under two tags."""
    root = tmp_path / "pretrained"
    monkeypatch.setattr(folders, "PACKAGED", root)
    for tag, num_classes in (("cifar10", 10), ("cifar100", 100)):
        model = create_model(NAME, num_classes=num_classes)
        model.class_names = tuple(f"{tag} {i}" for i in range(num_classes))
        save_pretrained(model, root / NAME / tag)
    return root


def test_a_round_trip_gives_back_the_same_network(tmp_path: Path):
    model = trained_network()
    save_pretrained(model, tmp_path / "deep" / "model", {"top1": 12.5})
    again = from_pretrained(tmp_path / "deep" / "model")

    assert not again.training
    assert again.config == model.config
    assert again.config == ModelConfig(
        name=NAME, num_classes=3, in_channels=1, se=SE, options={"dropout": 0.25, "zero_init_last": True}
    )
    assert again.preprocessing == GRAY
    assert again.class_names == ("one", "two", "thrée")
    assert again.dropout.p == 0.25
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x.contiguous(memory_format=torch.channels_last)))
    assert json.loads((tmp_path / "deep" / "model" / "config.json").read_text())["metrics"] == {"top1": 12.5}
    assert {path.name for path in (tmp_path / "deep" / "model").iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "model.safetensors.sha256")
    }


def test_a_run_folder_gives_its_best_model_and_else_its_last(tmp_path: Path):
    model = create_model(NAME)
    save_pretrained(model, tmp_path / "last")
    assert find_model_folder(tmp_path) == tmp_path / "last"
    save_pretrained(model, tmp_path / "best")
    assert find_model_folder(str(tmp_path)) == tmp_path / "best"
    (tmp_path / "best" / "config.json").unlink()  # half a folder is none
    assert find_model_folder(tmp_path) == tmp_path / "last"


def test_other_modules_cannot_be_saved(tmp_path: Path):
    with pytest.raises(SenetError, match="Linear cannot be saved") as caught:
        save_pretrained(nn.Linear(2, 2), tmp_path / "model")
    assert_one_sentence(caught)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"model": {"name": "cifar_se_res',
        "[]",
        "3",
        "{}",
        '{"model": {"name": "cifar_se_resnet20", "depth": 20}}',
        '{"model": {"name": "cifar_se_resnet20", "se": {"reductions": 16}}}',
        '{"model": {"name": "cifar_se_resnet20", "se": {"gate": "softplus"}}}',
        '{"model": {"name": "cifar_se_resnet20", "num_classes": 3}}',
        '{"model": {"name": "cifar_se_resnet20", "num_classes": 3}, "preprocessing": {"size": 3}, "class_names": null}',
        '{"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}',
    ],
)
def test_a_corrupt_or_foreign_config_is_refused(saved: Path, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, saved / "config.json")


def test_a_config_of_an_unknown_network_is_refused(saved: Path):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text.replace(NAME, "cifar_se_resnet21"))
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, "no network is called 'cifar_se_resnet21'")


def test_a_folder_whose_files_do_not_belong_together_is_refused(saved: Path):
    description = json.loads((saved / "config.json").read_text())
    description["model"]["num_classes"] = 4
    (saved / "config.json").write_text(json.dumps(description))
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, saved, "has 3 classes, the model 4")


def test_incomplete_absent_and_foreign_folders_are_refused(saved: Path):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, weights, "damaged")
    checksum_of(weights).unlink()
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, weights, "truncated")

    weights.unlink()
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, saved, "is neither a model folder")

    with pytest.raises(SenetError) as caught:
        from_pretrained(saved / "absent")
    assert_one_sentence(caught, saved / "absent", "there is no folder")


def test_create_model_takes_folders_files_and_tags(saved: Path, packaged: Path, tmp_path: Path):
    model = create_model(NAME, weights=saved)
    assert model.training
    assert model.num_classes == 3
    assert torch.equal(model.fc.weight, from_pretrained(saved).fc.weight)

    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    from_file = create_model(NAME, num_classes=3, weights=tmp_path / "weights.pth")
    assert torch.equal(from_file.fc.weight, model.fc.weight)

    assert create_model(NAME, weights="cifar100").class_names[99] == "cifar100 99"
    assert create_model(NAME, weights="cifar10").preprocessing == CIFAR


def test_create_model_takes_what_is_asked_for_over_what_is_stored(saved: Path):
    stored = from_pretrained(saved)
    model = create_model(NAME, num_classes=5, in_channels=1, weights=saved, dropout=0.5, se=SEOptions(reduction=8))
    assert model.config == ModelConfig(
        name=NAME, num_classes=5, in_channels=1, se=SEOptions(reduction=8), options={"dropout": 0.5}
    )
    assert torch.equal(model.layer3[2].conv2.weight, stored.layer3[2].conv2.weight)
    assert not torch.equal(model.layer1[0].se.fc1.weight[:1], model.layer1[0].se.fc1.weight[1:])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"name": "cifar_se_resnet32"}, "holds cifar_se_resnet20, not cifar_se_resnet32: create cifar_se_resnet20"),
        ({"name": "cifar_resnet20"}, "holds cifar_se_resnet20, not cifar_resnet20"),
        ({"se": SEOptions(reduction=32, gate="tanh")}, "se.gate='sigmoid'"),
        ({"shortcut": "projection"}, "shortcut='pad'"),
    ],
)
def test_create_model_refuses_a_folder_of_another_network(saved: Path, wanted, said):
    with pytest.raises(SenetError) as caught:
        create_model(**{"name": NAME, "weights": saved, **wanted})
    assert_one_sentence(caught, saved, said)


def test_create_model_refuses_unknown_tags_and_files_that_do_not_fit(packaged: Path, tmp_path: Path):
    with pytest.raises(SenetError) as caught:
        create_model(NAME, weights="imagenet")
    assert_one_sentence(caught, "weights is 'imagenet'", "(for cifar_se_resnet20: cifar10, cifar100)")
    with pytest.raises(SenetError) as caught:
        create_model("se_resnet50", weights="imagenet")
    assert_one_sentence(caught, "(for se_resnet50: none)")

    file = packaged / NAME / "cifar10" / "model.safetensors"
    with pytest.raises(SenetError) as caught:
        create_model("se_resnet50", weights=file)
    assert_one_sentence(caught, file, "holds cifar_se_resnet20, not se_resnet50")


def test_load_model_takes_folders_and_names(saved: Path, packaged: Path):
    assert load_model(saved).num_classes == 3
    assert load_model(NAME).class_names[0] == "cifar10 0"
    for source, said in (
        (saved / "absent.safetensors", "there is no weights file"),
        ("se_shufflenet_v1_g3", "se_shufflenet_v1_g3 has no public weights"),
        ("cifar_se_resnet21", "the nearest are"),
    ):
        with pytest.raises(SenetError) as caught:
            load_model(source)
        assert_one_sentence(caught, source, said)


def test_the_files_have_the_usual_permissions(tmp_path):
    save_pretrained(create_model("cifar_se_resnet20"), tmp_path / "model")
    (tmp_path / "usual").touch()
    modes = {file.stat().st_mode for file in [*(tmp_path / "model").iterdir(), tmp_path / "usual"]}
    assert len(modes) == 1


# ---- what cannot be read back ----------------------------------------------------------------------------------------


class DoublingBlock(SEBlock):
    def forward(self, x):
        return 2 * super().forward(x)


@dataclass(frozen=True, kw_only=True)
class DoublingOptions(SEOptions):
    def block(self, channels):
        return DoublingBlock(channels, self.reduction)


@dataclass(frozen=True, kw_only=True)
class LongerOptions(SEOptions):
    temperature: float = 1.0


def with_doubling_block():
    model = create_model(NAME)
    model.layer1[0].se = DoublingBlock(16)
    return model


def with_another_gate():
    model = create_model(NAME)
    model.layer1[0].se = SEBlock(16, gate="tanh")
    return model


def with_another_head():
    model = create_model(NAME)
    model.fc = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))
    return model


def with_another_activation():
    model = create_model(NAME)
    model.relu = nn.SiLU()
    return model


def with_a_module_as_option():
    return create_model("timm/resnet18", act_layer=nn.SiLU)


UNREADABLE = {
    "options of one's own": (lambda: create_model(NAME, se=DoublingOptions()), "config.se is of class DoublingOptions"),
    "more options": (lambda: create_model(NAME, se=LongerOptions()), "config.se is of class LongerOptions"),
    "a block of one's own": (with_doubling_block, "blocks of class DoublingBlock"),
    "another gate": (with_another_gate, "layer1.0.se is not what its config describes"),
    "another head": (with_another_head, "fc.0.weight is not what its config describes"),
    "another activation": (with_another_activation, "relu is not what its config describes"),
    "a class as option": (with_a_module_as_option, "an option of its config is no plain value"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_back_is_not_saved_and_the_remedy_helps(kind, tmp_path: Path):
    build, said = UNREADABLE[kind]
    torch.manual_seed(0)
    model = build()
    with pytest.raises(SenetError) as caught:
        save_pretrained(model, tmp_path / "model")
    assert_one_sentence(caught, "cannot be saved", said, "save its state_dict() by torch.save instead")
    assert not (tmp_path / "model").exists()

    torch.save(model.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    again = build()
    if kind == "another head":
        again.load_state_dict(torch.load(tmp_path / "weights.pth"))
    else:
        load_weights(again, tmp_path / "weights.pth")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))


def test_weights_of_another_class_of_blocks_are_refused_by_its_name(tmp_path: Path):
    """The keys and shapes are the same, and the outputs would not be."""
    doubling = create_model(NAME, se=DoublingOptions())
    torch.save(doubling.state_dict(), tmp_path / "weights.pth")
    for load in (
        lambda: create_model(NAME, weights=tmp_path / "weights.pth"),
        lambda: load_weights(create_model(NAME), tmp_path / "weights.pth"),
        lambda: load_model(tmp_path / "weights.pth"),
    ):
        with pytest.raises(SenetError) as caught:
            load()
        assert_one_sentence(caught, "weights.pth", "of class DoublingBlock, the model has SEBlock")
    save_pretrained(create_model(NAME), tmp_path / "plain")
    with pytest.raises(SenetError, match="of class SEBlock, the model has DoublingBlock"):
        load_weights(doubling, tmp_path / "plain")


@pytest.mark.parametrize(
    "field", [field.name for field in fields(SEOptions) if field.name not in (*ADAPTABLE_SE, "excitation")]
)
def test_every_se_option_is_compared_unless_it_is_adaptable(field, tmp_path: Path):
    values = {"squeeze": "max", "gate": "tanh", "placement": "post", "stages": (3, 4)}
    save_pretrained(create_model(NAME, se=SEOptions(**{field: values[field]})), tmp_path / "model")
    with pytest.raises(SenetError) as caught:
        load_weights(create_model(NAME), tmp_path / "model")
    assert_one_sentence(caught, f"se.{field}={values[field]!r}", f"create it with SEOptions({field}={values[field]!r})")
    load_weights(create_model(NAME, se=SEOptions(**{field: values[field]})), tmp_path / "model")


def test_what_torch_compile_returns_is_saved_as_the_network_inside(tmp_path: Path):
    model = create_model(NAME)
    save_pretrained(torch.compile(model), tmp_path / "model")
    assert torch.equal(from_pretrained(tmp_path / "model").fc.weight, model.fc.weight)


# ---- methods, cards and formats --------------------------------------------------------------------------------------


def test_the_functions_are_methods_too(tmp_path: Path):
    model = create_model(NAME, num_classes=3)
    assert model.save_pretrained(tmp_path / "model", metrics={"top1": 12.5}) is None
    again = type(model).from_pretrained(tmp_path / "model")
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(again.fc.weight, model.fc.weight)
    assert torch.equal(Network.from_pretrained(tmp_path / "model").fc.weight, model.fc.weight)
    with pytest.raises(SenetError, match=r"is a ResNet, not a VGG16; open it by senet\.from_pretrained"):
        VGG16.from_pretrained(tmp_path / "model")
    with pytest.raises(SenetError, match="private has no effect without push_to_hub=True"):
        model.save_pretrained(tmp_path / "model", private=True)


def test_the_methods_change_nothing_else():
    model = create_model(NAME)
    assert pickle.loads(pickle.dumps(model)).config == copy.deepcopy(model).config == model.config
    assert set(vars(model)) == set(vars(copy.deepcopy(model)))
    assert not any("hub" in name for name in vars(model))


def test_a_model_card_is_written_and_one_of_ones_own_stays(tmp_path: Path):
    model = create_model(NAME)
    for top1 in (12.5, 34.5):
        model.save_pretrained(tmp_path, metrics={"top1": top1})
        card = ModelCard.load(tmp_path / "README.md")
        assert {"senet", "pytorch", "squeeze-and-excitation"} <= set(card.data.tags)
        assert f"| top1 | {top1} |" in card.text
    assert "insert_se" not in card.text
    (tmp_path / "README.md").write_text("# Mine\n")
    save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert "squeeze-and-excitation" not in str(model_card_of(create_model("cifar_resnet20"), Surgery(), {}))


@pytest.mark.parametrize("kind", ["inserted", "removed"])
def test_a_folder_of_the_first_format_is_read(kind, tmp_path: Path):
    """In "senet/1", what was inserted and removed is among the network's configuration."""
    model = create_model("cifar_resnet20" if kind == "inserted" else NAME).eval()
    if kind == "inserted":
        insert_se(model)
    else:
        model.layer1[0].se = nn.Identity()
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["format"] == "senet/2"
    assert next(iter(values["surgery"])) == kind
    values["format"] = "senet/1"
    values["model"] |= values.pop("surgery")
    if kind == "inserted":  # a gate of twice the sigmoid was a sigmoid with a factor, a buffer
        values["model"]["inserted_se"] |= {"gate": "sigmoid", "factor": 2.0}
        factors = {f"{site.partition('=')[0]}.se.factor": torch.tensor(2.0) for site in surgery_of(model).inserted}
        save_file({**load_file(tmp_path / "model.safetensors"), **factors}, tmp_path / "model.safetensors")
        checksum_of(tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text(json.dumps(values))
    again = from_pretrained(tmp_path)
    assert (again.config, surgery_of(again)) == (model.config, surgery_of(model))
    save_pretrained(again, tmp_path / "again")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))


def test_a_newer_format_is_refused(saved: Path):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(values | {"format": "senet/9"}))
    with pytest.raises(SenetError) as caught:
        from_pretrained(saved)
    assert_one_sentence(caught, saved / "config.json", "its format is 'senet/9'", "update senet")


def test_options_of_the_hub_have_no_effect_elsewhere(saved: Path):
    for source in (saved, "timm/resnet18", NAME):
        with pytest.raises(SenetError, match=r"revision has no effect on .*; it is for models on the hub"):
            from_pretrained(source, revision="main")


def test_a_relative_path_to_nothing_is_a_missing_folder_not_a_hub_id():
    with pytest.raises(FileNotFoundError, match="there is no folder absent"):
        from_pretrained("./absent")


def test_what_torchvision_calls_weights_is_refused_with_the_way_to_public_ones():
    with pytest.raises(SenetError, match="`senet models --weights` lists the public ones, and pretrained=True"):
        create_model(NAME, weights="DEFAULT")


def test_what_only_timm_can_do_is_refused_with_the_way_to_timm():
    with pytest.raises(SenetError, match=r"no option 'features_only'; pass it to timm\.create_model, after import"):
        create_model(NAME, features_only=True)


def test_the_names_of_timms_arguments_are_refused_with_those_of_this_library():
    for theirs, own in (("in_chans", "in_channels"), ("drop_rate", "dropout"), ("checkpoint_path", "weights")):
        with pytest.raises(SenetError, match=f"has no option '{theirs}'; it is called {own} here"):
            create_model(NAME, **{theirs: 1})


def test_pretrained_is_refused_where_there_are_no_weights():
    for options, said in (
        ({"name": "cifar_resnet20"}, "cifar_resnet20 has no public weights"),
        ({"name": NAME, "weights": "cifar10"}, "pretrained is True and weights is 'cifar10'; leave one out"),
    ):
        with pytest.raises(SenetError, match=said):
            create_model(**options, pretrained=True)
    model = create_model(NAME, pretrained=True)
    assert model.training
    assert torch.equal(model.fc.weight, from_pretrained(NAME).fc.weight)


def test_a_class_of_ones_own_would_come_back_as_another(tmp_path: Path) -> None:
    class Halved(ResNet):
        def forward(self, x):
            return super().forward(x) / 2

    model = create_model("cifar_resnet20")
    model.__class__ = Halved
    with pytest.raises(SenetError, match=r"Halved cannot be saved: it would come back as ResNet; .*register_model"):
        save_pretrained(model, tmp_path)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("architecture", ["seresnet18", "resnet18", "test_resnet", "se_resnet18"])
@pytest.mark.parametrize("names", [["cat", "dog", "fox"], {0: "cat", 1: "dog", 2: "fox"}, ["of", "another"], None])
def test_class_names_of_a_folder_that_timm_wrote_are_read(architecture, names, tmp_path, caplog):
    """Its trainers write them as "label_names", in either form."""
    importlib.import_module("senet.integrations.timm")  # has se_resnet18
    theirs = timm.create_model(architecture, num_classes=3)
    timm.models.save_for_hf(theirs, tmp_path, model_config={} if names is None else {"label_names": names})
    given = 0 if names is None else len(names)
    assert from_pretrained(tmp_path).class_names == (("cat", "dog", "fox") if given == 3 else None)
    assert ("are 2, for 3 classes in its config.json; they are not used" in caplog.text) == (given == 2)


@torch.no_grad()
@pytest.mark.parametrize("left_out", ["input_size", "all of it"])
def test_what_a_folder_does_not_say_of_its_images_is_as_timm_has_it(left_out, tmp_path):
    """A config.json written by hand."""
    theirs = timm.create_model("resnet18", num_classes=3).eval()
    timm.models.save_for_hf(theirs, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["pretrained_cfg"].pop("input_size")
    if left_out == "all of it":
        values = {"architecture": "resnet18", "num_classes": 3}
    (tmp_path / "config.json").write_text(json.dumps(values))
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    wants = timm.data.resolve_model_data_config(opened)
    model = from_pretrained(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), opened(x))
    own = model.preprocessing
    wants = {name: tuple(value) if isinstance(value, list) else value for name, value in wants.items()}
    assert ((3, own.image_size, own.image_size), own.mean, own.std) == tuple(
        wants[k] for k in ("input_size", "mean", "std")
    )
    assert (own.interpolation, own.resize) == (wants["interpolation"], int(own.image_size / wants["crop_pct"]))


@pytest.mark.parametrize("options", [{}, {"drop_path_rate": 0.1}])
@torch.no_grad()
def test_timm_opens_a_folder_of_its_own_network(options, tmp_path):
    model = create_model("timm/test_resnet", num_classes=3, in_channels=4, **options).eval()
    model.class_names = ("cat", "dog", "fox")
    save_pretrained(model, tmp_path)
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 4, 64, 64)
    torch.testing.assert_close(opened(x), model(x), rtol=0, atol=0)
    wants = timm.data.resolve_model_data_config(opened)
    own = model.preprocessing
    assert tuple(wants["input_size"]) == (4, own.image_size, own.image_size)
    assert (tuple(wants["mean"]), tuple(wants["std"])) == (own.mean, own.std)
    assert opened.pretrained_cfg["label_names"] == ["cat", "dog", "fox"]
    again = from_pretrained(tmp_path)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
