"""Networks of timm and torchvision by name: a name means the same thing everywhere, and a tag means its weights."""

import re

import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.models._manipulate import adapt_input_conv

import senet
from networks import randomize, relative_difference
from senet.cli import main
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained, load_model
from senet.models.build import surgery_of
from senet.models.catalog import CARDS
from senet.models.config import ModelConfig
from senet.models.external import describe_external
from senet.weights.loading import load_weights
from senet.weights.words import names_a_network
from tiers import slow_after

TIMM, TORCHVISION = "timm/resnet18.a1_in1k", "torchvision/resnet18.IMAGENET1K_V1"


@pytest.fixture(scope="module")
def published():
    """The weights that both libraries "download" here: keys and shapes are the same."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    randomize(model)
    return model.state_dict()


@pytest.fixture
def libraries(monkeypatch, published):
    """Stand in for the downloads of timm and torchvision; what was asked for is noted."""
    asked = []

    def of_timm(repo, *_, **__):
        asked.append(repo)
        return dict(published)

    def of_torchvision(weights, *_, **__):
        asked.append(str(weights))
        return dict(published)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", of_timm)
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", of_torchvision)
    return asked


@pytest.mark.parametrize(("name", "asked"), [(TIMM, "timm/resnet18.a1_in1k"), (TORCHVISION, "IMAGENET1K_V1")])
def test_a_tag_means_these_weights(name, asked, libraries, published):
    for build in (create_model, from_pretrained, load_model):
        model = build(name)
        assert model.training == (build is create_model)
        assert type(model).__module__ == f"{name.partition('/')[0]}.models.resnet"
        assert torch.equal(model.layer4[1].conv2.weight, published["layer4.1.conv2.weight"])
        assert model.config.name == name.partition(".")[0]  # what is saved does not download again
        assert len(model.preprocessing.mean) == 3
    assert len(libraries) == 3
    assert all(asked in each for each in libraries)


def test_without_a_tag_create_model_starts_at_random_and_a_trained_network_is_the_default_one(libraries, published):
    for name in ("timm/resnet18", "torchvision/resnet18"):
        model = create_model(name)
        assert not libraries
        assert model.training
        assert not torch.equal(model.conv1.weight, published["conv1.weight"])
        assert torch.equal(load_model(name).conv1.weight, published["conv1.weight"])
        assert not torch.equal(load_model(name, pretrained=False).conv1.weight, published["conv1.weight"])
        libraries.clear()


@pytest.fixture
def digits_like(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "data" / "val" / label).mkdir(parents=True)
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for part in ("val", "train"):
            Image.effect_noise((40, 40), 80).convert("RGB").save(tmp_path / "data" / part / label / "0.png")
    return tmp_path / "data"


@pytest.mark.parametrize("name", [TIMM, TORCHVISION])
def test_a_name_is_the_same_network_in_every_command(name, libraries, digits_like, tmp_path, monkeypatch, capsys):
    """evaluate, predict, record, explain, prune and insert; the class of what each of them opens is noted."""
    opened = []

    def noting(source, **options):
        opened.append(type(load_model(source, **options)))
        raise SenetError("opened")

    for module in ("cli.networks", "evaluation.batches"):
        monkeypatch.setattr(f"senet.{module}.load_model", noting)
    data, output, photo = str(digits_like), str(tmp_path / "out"), str(digits_like / "val" / "a" / "0.png")
    for words in (
        ["evaluate", name, "--data", data],
        ["predict", photo, "--model", name],
        ["record", name, "--data", data, "--output", f"{output}.safetensors"],
        ["explain", name, "--data", data, "--output", f"{output}.html"],
        ["prune", name, "--output", output, "--data", data],
        ["insert", name, "--output", output],
    ):
        assert main(words) == 2
        assert "senet: opened" in capsys.readouterr().err, words
    with pytest.raises(SenetError, match="opened"):
        senet.evaluate(name, data)
    with pytest.raises(SenetError, match="opened"):
        senet.predict(name, [photo])
    assert len(opened) == 8
    assert len(set(opened)) == 1
    assert opened[0].__module__.startswith(name.partition("/")[0])


def test_the_weights_of_a_tag_cannot_be_contradicted(libraries, tmp_path, capsys):
    with pytest.raises(SenetError, match="means the weights 'a1_in1k'; leave one out"):
        create_model(TIMM, weights="weights.pth")
    assert main(["insert", TIMM, "--output", str(tmp_path / "out"), "--no-pretrained"]) == 2
    assert "leave them out of the name to start at random" in capsys.readouterr().err
    assert main(["insert", "cifar_se_resnet20", "--output", str(tmp_path / "out"), "--no-pretrained"]) == 2
    assert "--no-pretrained has no effect on cifar_se_resnet20" in capsys.readouterr().err
    assert not libraries


def test_a_tag_and_another_number_of_classes(libraries, published):
    model = create_model(TIMM, num_classes=7)
    assert model.fc.out_features == 7
    assert torch.equal(model.conv1.weight, published["conv1.weight"])
    with pytest.raises(SenetError, match=r"torchvision/resnet18\..* cannot be created: .*unexpected keyword"):
        create_model(TORCHVISION, num_classes=7, depth=3)


def test_weights_of_torchvision_with_other_classes_and_channels(libraries, published, tmp_path):
    """What is saved builds again without torchvision's weights; the input is converted as timm converts it."""
    model = create_model(TORCHVISION, num_classes=7, in_channels=5)
    assert (model.fc.out_features, model.conv1.weight.shape) == (7, (64, 5, 7, 7))
    converted = adapt_input_conv(5, published["conv1.weight"])
    torch.testing.assert_close(model.conv1.weight, converted, rtol=0, atol=1e-6)
    assert torch.equal(model.layer4[1].conv2.weight, published["layer4.1.conv2.weight"])
    assert model.preprocessing.in_channels == 5
    senet.save_pretrained(model, tmp_path / "model")
    libraries.clear()
    again = from_pretrained(tmp_path / "model")
    assert not libraries
    x = torch.randn(2, 5, 64, 64)
    assert torch.equal(again(x), model.eval()(x))
    gray = create_model("torchvision/resnet18", 3, 1, weights=tmp_path / "model")
    torch.testing.assert_close(gray.conv1.weight, converted.sum(1, keepdim=True), rtol=0, atol=1e-5)
    with pytest.raises(
        SenetError, match=r"is for images of 5 channels, the model for 1; create the model with in_channels=5, or conv"
    ):
        load_weights(create_model("torchvision/resnet18", 7, 1), tmp_path / "model")


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture", slow_after(2, ["squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5", "googlenet"])
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_the_classifier_of_every_kind_of_network_is_replaced(architecture, tmp_path, monkeypatch):
    """GoogLeNet's classifiers in the middle, which only training runs, are left out; MNASNet asks for its version."""
    random_weights = torchvision.models.get_model(architecture, weights=None)
    randomize(random_weights)
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: random_weights.state_dict()
    )
    x = torch.randn(2, 3, 64, 64)
    whole = create_model(f"torchvision/{architecture}", pretrained=True).eval()
    expected = torchvision.models.get_model(architecture, weights="DEFAULT").eval()(x)
    assert torch.equal(whole(x), expected)
    model = create_model(f"torchvision/{architecture}", 5, pretrained=True)
    assert model.train()(x).shape == (2, 5)
    head = "classifier.1.weight" if architecture == "squeezenet1_1" else None
    trained = random_weights.state_dict()
    different = {key for key, tensor in model.state_dict().items() if tensor.shape != trained[key].shape}
    assert {len(model.state_dict()[key]) for key in different} == {5}
    assert head is None or head in different
    for saved in (whole, model):
        senet.save_pretrained(saved, tmp_path / "model")
        assert torch.equal(from_pretrained(tmp_path / "model")(x), saved.eval()(x))


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_a_network_at_random_has_one_output_too():
    model = create_model("torchvision/googlenet", 5, init_weights=False).train()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(SenetError, match=r"aux_logits=True makes googlenet return several outputs .* leave it out"):
        create_model("torchvision/googlenet", 5, init_weights=False, aux_logits=True)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_googlenet_reads_gray_images_in_the_range_of_its_weights():
    """With color it converts ImageNet's normalization to that of its weights, from -1 to 1, by itself."""
    assert describe_external(ModelConfig(name="torchvision/googlenet"), "torchvision/googlenet").mean[0] == 0.485
    gray = ModelConfig(name="torchvision/googlenet", in_channels=1)
    found = describe_external(gray, "torchvision/googlenet")
    assert (found.mean, found.std) == ((0.5,), (0.5,))


def test_a_folder_that_timm_wrote_is_opened_as_timm_s_network(tmp_path):
    model = timm.create_model("test_efficientnet", num_classes=4, in_chans=1)
    timm.models.save_for_hf(model, tmp_path, model_args={})
    opened = from_pretrained(tmp_path)
    assert (opened.config.name, opened.num_classes) == ("timm/test_efficientnet", 4)
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(opened(x), model.eval()(x))


@pytest.mark.parametrize("name", ["timm/resnet18.imagenet", "torchvision/resnet18.imagenet"])
def test_an_unknown_tag_is_refused_with_those_that_there_are(name):
    with pytest.raises(SenetError, match="its weights are") as caught:
        create_model(name)
    assert "\n" not in str(caught.value)
    tags = re.search("its weights are (.*)$", str(caught.value))[1].split(", ")
    assert {"timm": "a1_in1k", "torchvision": "IMAGENET1K_V1"}[name.partition("/")[0]] in tags


def test_a_network_without_weights_is_not_opened_at_random():
    name = next(name for name in timm.list_models("res*") if not timm.is_model_pretrained(name) and name not in CARDS)
    with pytest.raises(SenetError, match="cannot be created"):
        load_model(f"timm/{name}")


def test_a_file_of_weights_in_another_librarys_network(tmp_path, published):
    file = tmp_path / "weights.pth"
    torch.save({"model": {f"module.{key}": tensor for key, tensor in published.items()}}, file)
    assert torch.equal(create_model("timm/resnet18", weights=file).fc.weight, published["fc.weight"])
    old = {key: tensor for key, tensor in published.items() if not key.endswith("num_batches_tracked")}  # PyTorch 0.4
    torch.save(old, tmp_path / "old.pth")
    assert torch.equal(create_model("timm/resnet18", weights=tmp_path / "old.pth").fc.weight, published["fc.weight"])
    few = create_model("torchvision/resnet18", 7, weights=file)
    assert (few.num_classes, few.fc.out_features) == (7, 7)
    assert torch.equal(few.conv1.weight, published["conv1.weight"])
    model = timm.create_model("resnet18", num_classes=7)
    with pytest.raises(SenetError, match="has 1000 classes, the model 7; create the model with num_classes=1000"):
        load_weights(model, file)
    assert load_weights(model, file, adapt=("classifier",)).adaptations == (
        "the classifier of 7 classes starts at random",
    )
    with pytest.raises(SenetError, match="layout has no effect"):
        load_weights(model, file, layout="senet")
    with pytest.raises(SenetError, match="is of another architecture"):
        create_model("timm/resnet34", weights=file)
    with pytest.raises(SenetError, match="layout='senet' has no effect"):
        create_model("timm/resnet18", weights=file, layout="senet")
    with pytest.raises(SenetError, match=r"create it without, and call senet\.insert_se"):
        create_model("timm/resnet18", se=senet.SEOptions())


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm/resnet18", "resnet18"])
def test_a_plain_file_in_a_model_with_inserted_blocks_loads_the_trunk(name, tmp_path, published):
    model = create_model(name, **({} if "/" in name else {"stem_pool": "pad"}))
    senet.insert_se(model, preserve_outputs=False)
    gates = {key: tensor.clone() for key, tensor in model.state_dict().items() if ".se." in key}
    assert gates
    torch.save(published, tmp_path / "weights.pth")
    report = load_weights(model, tmp_path / "weights.pth")
    assert report.adaptations == ("8 inserted SE blocks keep their gates: the weights have none of them",)
    state = model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in {**published, **gates}.items())


def test_weights_with_inserted_blocks_keep_them(tmp_path):
    model = create_model("timm/resnet18")
    senet.insert_se(model)
    senet.save_pretrained(model, tmp_path / "model")
    with pytest.raises(SenetError, match=re.escape("open it with them: senet.from_pretrained(")):
        load_weights(create_model("timm/resnet18"), tmp_path / "model")
    assert surgery_of(from_pretrained(tmp_path / "model")) == surgery_of(model)
    other = create_model("timm/resnet18")
    senet.insert_se(other, senet.SEOptions(gate="hard_sigmoid"))
    with pytest.raises(SenetError, match=r"inserted_se.gate='sigmoid_x2'.*create it with blocks inserted with gate="):
        load_weights(other, tmp_path / "model")
    gray = create_model("timm/resnet18", in_channels=1, weights=tmp_path / "model")
    expected = adapt_input_conv(1, model.conv1.weight.detach())
    torch.testing.assert_close(gray.conv1.weight.detach(), expected, rtol=0, atol=1e-6)
    assert surgery_of(gray) == surgery_of(model)
    assert gray.preprocessing.in_channels == 1


@pytest.mark.parametrize(
    "open_network", [lambda: create_model(TORCHVISION), lambda: create_model("resnet18", weights=TORCHVISION)]
)
def test_a_download_of_torchvision_prints_nothing_among_results(open_network, published, monkeypatch, capsys):
    def downloading(*_, **__):
        print("Downloading: ...")  # as torch.hub does
        return dict(published)

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", downloading)
    open_network()
    assert capsys.readouterr() == ("", "Downloading: ...\n")


@torch.no_grad()
def test_weights_of_torchvision_in_this_librarys_class(libraries, published):
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(published)
    x = torch.randn(2, 3, 64, 64)
    for weights in (TORCHVISION, "torchvision/resnet18"):
        model = create_model("resnet18", weights=weights)
        assert type(model).__module__ == "senet.models.resnet"
        assert relative_difference(model.eval()(x), theirs.eval()(x)) < 1e-5
        assert (model.preprocessing.image_size, model.preprocessing.resize) == (224, 256)
    assert torch.equal(create_model("torchvision/resnet18", weights=TORCHVISION).fc.weight, published["fc.weight"])
    for weights, said in (
        ("torchvision/resnet18.none", "torchvision has no weights 'none' of resnet18; it has IMAGENET1K_V1"),
        ("torchvision/resnet5000", "torchvision has no network 'resnet5000'"),
        ("torchvision/resnet34", "holds resnet34, not resnet18: create resnet34"),
    ):
        with pytest.raises(SenetError, match=re.escape(said)):
            create_model("resnet18", weights=weights)


def test_an_id_of_the_hub_is_no_name_of_a_network():
    with pytest.raises(SenetError, match=r"open a folder or a model on the hub by senet\.from_pretrained"):
        create_model("me/flowers")


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_pretrained_is_the_librarys_default(name, libraries, published):
    model = create_model(name, pretrained=True)
    assert model.training
    assert torch.equal(model.conv1.weight, published["conv1.weight"])


# ---- files and words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "is_network"),
    [
        ("weights.pth", True),
        ("resnet20.th", True),
        ("checkpoint.pth.tar", True),
        ("timm/resnet18", True),
        ("owner/name", True),
        ("cifar_se_resnet20", True),
        ("photo.jpg", False),
        ("pictures/absent.PNG", False),
        ("photo", False),
    ],
)
def test_what_predict_takes_for_a_network(word, is_network):
    assert names_a_network(word) == is_network


def test_a_file_that_says_what_it_is_works_in_every_command(tmp_path, digits_like, capsys):
    model = create_model("cifar_se_resnet20", num_classes=2)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    photo = str(digits_like / "val" / "a" / "0.png")
    assert main(["predict", photo, "--model", str(tmp_path / "weights.pth"), "--json"]) == 0
    assert main(["evaluate", str(tmp_path / "weights.pth"), "--data", str(digits_like), "--json"]) == 0
    assert torch.equal(load_model(tmp_path / "weights.pth").conv1.weight, model.conv1.weight)
    capsys.readouterr()


def test_a_file_that_does_not_is_refused_with_the_command_that_helps(tmp_path, digits_like, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(create_model("cifar_se_resnet20", num_classes=2).state_dict()), "weights.pth")
    photo = str(digits_like / "val" / "a" / "0.png")
    said = []
    for words in (
        ["predict", photo, "--model", "weights.pth"],
        ["evaluate", "weights.pth", "--data", str(digits_like)],
    ):
        assert main(words) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "(its tensors fit cifar_se_resnet20)" in said[0]
    command = said[0].strip().partition(": senet convert ")[2].split()
    assert command == ["cifar_se_resnet20", "weights.pth", "--output", "FOLDER"]
    assert main(["convert", *command]) == 0
    assert main(["predict", photo, "--model", "FOLDER"]) == 0
    capsys.readouterr()
