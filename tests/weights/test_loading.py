"""Weights are loaded whole or not at all, and nothing in a file is ever executed."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from senet.errors import SenetError
from senet.factory import create_model
from senet.weights.loading import load_weights
from senet.weights.tensors import read_state

NAME = "cifar_se_resnet20"


def network(seed=0):
    torch.manual_seed(seed)
    return create_model(NAME)


def snapshot(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    assert not [key for key, tensor in expected.items() if not torch.equal(actual[key], tensor)]


def assert_refused(path, *said):
    """Loading raises one sentence that names the file and leaves the model as it was."""
    model = network(seed=1)
    before = snapshot(model)
    with pytest.raises(SenetError) as caught:
        load_weights(model, path)
    for words in (str(path), *said):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_same_tensors(model.state_dict(), before)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_pytorch_file_loads_bare_or_wrapped(tmp_path: Path, suffix, wrap):
    source, path = network(), tmp_path / f"weights{suffix}"
    state = source.state_dict()
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, path)
    model = network(seed=1)
    load_weights(model, str(path))
    assert_same_tensors(model.state_dict(), state)


def test_a_safetensors_file_loads(tmp_path: Path):
    source = network()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    assert_same_tensors(read_state(tmp_path / "weights.safetensors").tensors, source.state_dict())


def test_weights_of_another_architecture_name_the_first_difference(tmp_path: Path):
    state, path = network().state_dict(), tmp_path / "weights.pth"

    torch.save({key: tensor for key, tensor in state.items() if ".se.fc2." not in key}, path)
    assert_refused(path, "18 missing (layer1.0.se.fc2.weight, ...) keys")

    torch.save({**state, "head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}, path)
    assert_refused(path, "2 unexpected (head.weight, ...) keys")

    torch.save({"head.bias" if key == "fc.bias" else key: tensor for key, tensor in state.items()}, path)
    assert_refused(path, "1 missing (fc.bias, ...) and 1 unexpected (head.bias, ...) keys")

    torch.save({**state, "fc.weight": torch.zeros(100, 64)}, path)
    assert_refused(path, "has 100 classes, the model 10")

    torch.save({**state, "bn1.weight": torch.zeros(3)}, path)
    assert_refused(path, "bn1.weight is (3,) there", "(16,) in the model")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(network().state_dict(), path)
    else:
        save_file(network().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def test_a_pickle_that_would_execute_code_does_not(tmp_path: Path):
    proof, path = tmp_path / "proof.txt", tmp_path / "weights.pth"
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.read_text() == "executed"  # the payload is alive
    proof.unlink()

    torch.save({**network().state_dict(), "payload": Payload(proof)}, path)
    assert_refused(path, "is refused", "may execute code")
    path.write_bytes(pickle.dumps(Payload(proof)))
    assert_refused(path, "is refused", "may execute code")
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"epoch": 3}, {"state_dict": {"epoch": 3}}, torch.zeros(3), {"state_dict": [torch.zeros(3)]}],
    ids=["list", "numbers", "wrapped numbers", "tensor", "wrapped list"],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content):
    torch.save(content, tmp_path / "weights.pth")
    assert_refused(tmp_path / "weights.pth", "does not hold a state dict")


def test_text_and_absent_files_are_refused(tmp_path: Path):
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"weights{suffix}"
        assert_refused(path, "there is no weights file")
        path.write_text("<html>not found</html>")
        assert_refused(path)
    assert_refused(tmp_path, "is neither a model folder")
