"""Networks of "senet/1", which had a constant factor of the gate, in their options and as a buffer of each block."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from senet import SEOptions, create_model, from_pretrained, insert_se, load_weights, save_pretrained
from senet.errors import SenetError
from senet.models.config import se_from_dict

NAME = "cifar_se_resnet20"


def as_written_before(folder: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Tensor]:
    """Rewrite a model folder in the older form; return its tensors."""
    described = json.loads((folder / "config.json").read_text())
    described |= {"format": "senet/1", "model": described["model"] | described.pop("surgery", {})}
    change(described["model"])
    state = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}  # maps the file
    blocks = [key.removesuffix(".fc1.weight") for key in state if key.endswith(".se.fc1.weight")]
    state |= {f"{block}.factor": torch.tensor(2.0) for block in blocks}
    (folder / "config.json").write_text(json.dumps(described))
    save_file(state, folder / "model.safetensors", metadata={"senet": json.dumps(described)})
    (folder / "model.safetensors.sha256").unlink()
    return state


def doubled(se: dict[str, Any]) -> None:
    se |= {"gate": se["gate"].removesuffix("_x2"), "factor": 2.0}
    del se["excitation"]


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".se." in name:
            nn.init.normal_(parameter)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("gate", ["sigmoid_x2", "hard_sigmoid_x2"])
def test_networks_with_factors(gate, tmp_path):
    options = SEOptions(gate=gate, placement="post")
    model, x = randomized(create_model(NAME, se=options)), torch.randn(2, 3, 32, 32)
    save_pretrained(model, tmp_path / "old")
    state = as_written_before(tmp_path / "old", lambda config: doubled(config["se"]))
    again = from_pretrained(tmp_path / "old")
    assert again.config == model.config
    assert torch.equal(again(x), model(x))

    torch.save(state, tmp_path / "bare.pth")  # without a word of the network
    half = create_model(NAME, se=SEOptions(gate=gate.removesuffix("_x2"), placement="post"))
    load_weights(half, tmp_path / "bare.pth")
    assert half.config.se == options
    assert torch.equal(half.eval()(x), model(x))


@torch.no_grad()
def test_models_with_inserted_blocks_with_factors(tmp_path):
    model, x = create_model("timm/resnet18", num_classes=5), torch.randn(2, 3, 64, 64)
    insert_se(model)
    randomized(model)
    save_pretrained(model, tmp_path / "old")
    as_written_before(tmp_path / "old", lambda config: doubled(config["inserted_se"]))
    assert torch.equal(from_pretrained(tmp_path / "old")(x), model(x))


@pytest.mark.parametrize(("gate", "factor"), [("sigmoid", 1.5), ("tanh", 2), ("relu", 2.0)])
def test_factors_that_no_gate_has(gate, factor):
    with pytest.raises(SenetError, match=f"a {gate} gate with a factor of {factor:g}, which this version lacks"):
        se_from_dict({"gate": gate, "factor": factor})


def test_a_factor_of_one_is_none():
    assert se_from_dict({"gate": "tanh", "factor": 1.0}) == SEOptions(gate="tanh")
