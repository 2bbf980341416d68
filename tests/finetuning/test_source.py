"""What `--model` means."""

import re

import pytest

import senet
from senet.errors import MissingFileError, SenetError
from senet.finetuning.source import Source, resolve_source
from senet.weights.hub import is_hub_id

NAMES = {
    "cifar_se_resnet20": Source(name="cifar_se_resnet20", weights="cifar10"),
    "se_resnet50": Source(name="se_resnet50", weights="timm/seresnet50.ra2_in1k"),
    "timm/resnet50": Source(name="timm/resnet50", weights="timm/resnet50"),
    "timm/resnet50.a1_in1k": Source(name="timm/resnet50", weights="timm/resnet50.a1_in1k"),
    "torchvision/vit_b_16.IMAGENET1K_V1": Source(
        name="torchvision/vit_b_16", weights="torchvision/vit_b_16.IMAGENET1K_V1"
    ),
    "somebody/flowers": Source(name="", weights="somebody/flowers"),
}


@pytest.mark.parametrize(("word", "source"), NAMES.items(), ids=NAMES)
def test_a_name_or_an_id(word, source):
    assert resolve_source(word) == source


def test_a_folder_a_file_and_a_network_at_random(tmp_path):
    senet.save_pretrained(senet.create_model("cifar_resnet20", 2), tmp_path / "model")
    for path in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        assert resolve_source(str(path)) == Source(name="", weights=str(path))
    for name in ("cifar_resnet20", "timm/resnet50"):
        assert resolve_source(name, pretrained=False) == Source(name=name, weights=None)


@pytest.mark.parametrize(
    ("word", "pretrained", "said"),
    [
        ("cifar_se_resnet2", True, "no network is called 'cifar_se_resnet2'; the nearest are cifar_se_resnet"),
        ("cifar_resnet20", True, "cifar_resnet20 has no public weights to start from"),
        ("timm/resnet5o", True, "timm has no network 'resnet5o'; the nearest are resnet"),
        ("timm/resnet50.a1_in1k", False, "pretrained=False contradicts timm/resnet50.a1_in1k"),
        ("absent/folder/deep", True, "there is no folder absent/folder/deep"),
        ("runs/min", True, "there is no folder runs/min; the nearest folders in runs are mine; a model of the hub is"),
        (".", True, ". is neither a model folder"),
    ],
)
def test_what_is_none_is_refused_in_one_sentence(word, pretrained, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(SenetError, match=re.escape(said)) as caught:
        resolve_source(word, pretrained)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, MissingFileError) == word.startswith(("absent", "runs"))


def test_a_misspelled_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    """Asking for it would take a minute where there is no connection."""
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("runs/min")
    assert is_hub_id("timm/resnet50")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "timm").mkdir()
    assert not is_hub_id("runs/min")
    assert is_hub_id("hf-hub:runs/min")
    assert is_hub_id("timm/resnet50")
    for word in ("runz", "./runz"):
        with pytest.raises(SenetError, match=f"the nearest folders in {tmp_path.name} are runs"):
            resolve_source(word)
