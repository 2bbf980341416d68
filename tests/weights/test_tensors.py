"""Checkpoints as people have them: wrapped, prefixed, beside other things, in any precision; exactly, or by name."""

import argparse
import collections
import datetime
import decimal
import enum
import json
import re
import types
import uuid
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from torch import nn

import senet
from senet.cli import main
from senet.errors import SenetError
from senet.factory import create_model
from senet.weights.loading import load_weights
from senet.weights.tensors import read_state

NAME = "cifar_se_resnet20"


@pytest.fixture(scope="module")
def state():
    """The tensors of a network without the description that our state dicts carry."""
    torch.manual_seed(0)
    return dict(create_model(NAME).state_dict())


@pytest.fixture
def save(tmp_path):
    def save(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def model():
    torch.manual_seed(1)
    return create_model(NAME)


def loaded(model, file, state, **arguments):
    """Load, and check that every tensor has come; return what was adapted."""
    report = load_weights(model, file, **arguments)
    assert not [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, state[key])]
    return report.adaptations


def refusal(model, file, **arguments):
    """Return the sentence of a refusal, which leaves the model as it was."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(SenetError) as caught:
        load_weights(model, file, **arguments)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    return str(caught.value)


def prefixed(state, *prefixes):
    return {prefix + key: tensor for prefix in prefixes for key, tensor in state.items()}


# ---- where in the file -----------------------------------------------------------------------------------------------

PREFIXES = (
    "model.",
    "net.",
    "encoder.",
    "backbone.",
    "student.",
    "module.",
    "_orig_mod.",
    "a.b.c.",
    "1.",
    "m._orig_mod.",
)


@pytest.mark.parametrize("prefix", [*PREFIXES, "module._fsdp_wrapped_module.", "model.backbone."])
def test_any_prefix_that_all_keys_share_is_taken_off(prefix, model, save, state):
    assert loaded(model, save(prefixed(state, prefix)), state) == ()


def test_units_that_were_compiled_or_wrapped_one_by_one(model, save, state):
    wrapped = {re.sub(r"^(layer\d\.\d)", r"\1._orig_mod._checkpoint_wrapped_module", k): x for k, x in state.items()}
    assert loaded(model, save(wrapped), state) == ()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "weight", "model_ema", "net", "params", "whatever"])
def test_any_wrapper_one_or_two_levels_down_is_opened(wrapper, model, save, state):
    assert loaded(model, save({wrapper: state, "epoch": 3}), state) == ()
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    deep = {"optimizer": optimizer, "checkpoint": {wrapper: prefixed(state, "model."), "best": 0.5}}
    assert loaded(create_model(NAME), save(deep), state) == ()


@pytest.mark.parametrize("described", [True, False])
def test_several_networks_are_named_and_a_key_chooses(described, model, save, state):
    average = create_model(NAME).state_dict() if described else {k: torch.zeros_like(x) for k, x in state.items()}
    file = save({"state_dict": state, "state_dict_ema": average})
    said = refusal(model, file)
    assert "several networks" in said
    assert all(repr(key) in said for key in ("state_dict", "state_dict_ema"))
    for key, expected in (("state_dict", state), ("state_dict_ema", average)):
        assert loaded(model, file, expected, key=key) == ()


@pytest.mark.parametrize("key", ["teacher", "state_dict.teacher"])
def test_a_key_may_be_a_prefix_or_its_end(key, model, save, state):
    student = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    file = save({"state_dict": {**prefixed(student, "student."), **prefixed(state, "teacher.")}})
    said = refusal(model, file)
    assert "'state_dict.student', 'state_dict.teacher'; say which by key='state_dict.student'" in said
    assert f"`senet convert NETWORK {file} --key state_dict.student --output FOLDER`" in said
    assert loaded(model, file, state, key=key) == ()


def test_a_key_that_is_not_there_is_refused_with_those_that_are(model, save, state):
    said = refusal(model, save({"model": state, "model_ema": state}), key="ema")
    assert "nothing under key='ema'; pass one of 'model', 'model_ema'" in said
    assert "leave it out" in refusal(model, save(state), key="ema")


def test_a_key_goes_wherever_weights_go(save, state, tmp_path, capsys):
    file = save({"model": {key: torch.zeros_like(x) for key, x in state.items()}, "ema": state})
    assert torch.equal(create_model(NAME, weights=file, key="ema").conv1.weight, state["conv1.weight"])
    assert (
        main(["convert", NAME, str(file), "--output", str(tmp_path / "out"), "--key", "ema", "--layout", "senet"]) == 0
    )
    assert torch.equal(senet.from_pretrained(tmp_path / "out").conv1.weight, state["conv1.weight"])
    assert main(["convert", NAME, str(file), "--output", str(tmp_path / "other")]) == 2
    assert "holds several networks: 'model', 'ema'" in capsys.readouterr().err
    with pytest.raises(SenetError, match="key='ema' has no effect"):
        create_model(NAME, weights=tmp_path / "out", key="ema")
    with pytest.raises(SenetError, match="key='ema' has no effect without weights"):
        create_model(NAME, key="ema")


def test_what_lies_beside_the_network_is_left_out_and_said(model, save, state):
    decoder = {"decoder.blocks.0.conv1.0.weight": torch.zeros(3), "head.weight": torch.zeros(2, 2)}
    (said,) = loaded(model, save({"state_dict": {**prefixed(state, "encoder."), **decoder}}), state)
    assert said == "what is not in state_dict.encoder is left out: state_dict.decoder.blocks.0.conv1.0.weight, ..."


def test_counters_of_other_tools_are_left_out(model, save, state):
    """thop's in every module, and the one of torch.optim.swa_utils.AveragedModel."""
    thop = {
        f"{module}{name}": torch.zeros(1) for module in ("", "conv1.", "fc.") for name in ("total_ops", "total_params")
    }
    assert loaded(model, save({**state, **thop}), state) == ("6 counters of other tools are left out",)
    averaged = torch.optim.swa_utils.AveragedModel(create_model(NAME)).state_dict()
    assert loaded(create_model(NAME), save(averaged), {k.removeprefix("module."): x for k, x in averaged.items()}) == ()


def test_a_suffix_that_lies_does_not_matter(model, save, state):
    assert loaded(model, save(state, "weights.safetensors"), state) == ()
    assert loaded(model, save(state, "checkpoint.pth.tar"), state) == ()


# ---- what else is in the file ----------------------------------------------------------------------------------------

HARMLESS = {
    "scalars": [np.float64(3.5), np.float32(1), np.int64(3), np.bool_(True), np.str_("x"), np.datetime64("2020-01-01")],
    "arrays": [np.arange(3), np.ones((2, 2)), np.array(["a", "b"]), np.random.RandomState(0).get_state()],
    "paths": [Path("/data"), PurePosixPath("runs/1")],
    "dates": [datetime.datetime.now(datetime.UTC), datetime.date(2020, 1, 1), datetime.timedelta(3), datetime.time(3)],
    "records": [
        argparse.Namespace(lr=0.1, data=Path("x")),
        types.SimpleNamespace(a=2),
        uuid.uuid4(),
        decimal.Decimal("1.5"),
    ],
    "containers": [
        collections.OrderedDict(a=1),
        collections.defaultdict(list, {"loss": [1.0, 2.0]}),
        collections.defaultdict(dict),
        collections.Counter("abc"),
        collections.deque([1, 2], maxlen=3),
        {1, 2},
        frozenset([1]),
        range(3),
    ],
    "of PyTorch": [torch.Size([1, 2]), torch.float32, torch.device("cpu"), torch.get_rng_state()],
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_things_beside_the_weights_do_not_matter(kind, model, save, state):
    assert loaded(model, save({"state_dict": state, "beside": HARMLESS[kind]}), state) == ()


class Phase(enum.Enum):
    TRAIN = 1


class Configuration(dict):
    """As omegaconf's: a mapping of a class that is not known here."""


@pytest.mark.parametrize("beside", [Phase.TRAIN, Configuration(lr=0.1), nn.Linear(2, 2)])
def test_other_classes_are_refused_by_name_and_the_remedy_helps(beside, model, save, state, tmp_path):
    file = save({"state_dict": state, "config": beside})
    said = refusal(model, file)
    assert type(beside).__qualname__ in said
    call = re.search(r"torch\.load\('.*?', weights_only=False\)", said)[0]
    torch.save(eval(call, {"torch": torch})["state_dict"], tmp_path / "alone.pth")
    assert loaded(model, tmp_path / "alone.pth", state) == ()


def test_a_whole_module_is_refused_by_its_class(model, save):
    assert "needs senet.models.resnet.ResNet" in refusal(model, save(create_model(NAME)))


def test_a_torchscript_archive_is_refused_and_the_remedy_helps(tmp_path, monkeypatch):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.jit.save(torch.jit.trace(plain.eval(), torch.zeros(1, 3, 8, 8)), tmp_path / "traced.pt")
    said = refusal(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), tmp_path / "traced.pt")
    monkeypatch.chdir(tmp_path)
    exec(said.partition("alone: ")[2], {"torch": torch})
    loaded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), Path("weights.pth"), plain.state_dict())


def test_a_pointer_of_git_lfs_is_named(model, tmp_path):
    (tmp_path / "weights.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert "git lfs pull" in refusal(model, tmp_path / "weights.pth")


# ---- what the tensors are --------------------------------------------------------------------------------------------


def each(state, change, dim=None):
    return {k: change(x) if x.is_floating_point() and dim in (None, x.dim()) else x for k, x in state.items()}


EXACT = {
    "float64": lambda x: x.double(),
    "a Parameter": lambda x: nn.Parameter(x, requires_grad=True),
    "not contiguous": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "sparse": lambda x: x.to_sparse(),
}


@pytest.mark.parametrize("kind", EXACT)
def test_tensors_of_other_kinds_load_exactly(kind, model, save, state):
    assert loaded(model, save(each(state, EXACT[kind])), state) == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_short_floats_load_exactly(dtype, model, save, state):
    assert loaded(model, save(each(state, lambda x: x.to(dtype))), each(state, lambda x: x.to(dtype).float())) == ()


def test_shared_tensors_and_counts_of_other_shapes_load(model, save, state):
    shared = {**state, "layer1.0.bn1.bias": state["layer1.0.bn1.weight"]}
    assert loaded(model, save(shared), shared) == ()
    counts = {k: x.float().reshape(1) if k.endswith("tracked") else x for k, x in state.items()}
    assert loaded(create_model(NAME), save(counts), state) == ()


def test_rounding_is_said(model, save, state):
    finer = each(state, lambda x: x.double() + 1e-12)
    number = sum(x.is_floating_point() and not torch.equal(x, x.float().double()) for x in finer.values())
    report = load_weights(model, save(finer))
    assert report.adaptations == (f"{number} tensors are rounded to the model's float32",)
    assert loaded(model.double(), save(finer), finer) == ()


REFUSED = {
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "fc.weight is quantized"),
    "integers": (lambda x: x.to(torch.int8), "fc.weight is int8, not floating-point"),
    "complex": (lambda x: x.to(torch.complex64), "fc.weight is complex64"),
    "nan": (lambda x: x.clone().fill_(float("nan")), "fc.weight has values that are infinite or not a number"),
    "infinity": (lambda x: x / 0, "fc.weight has values that are infinite or not a number"),
    "meta": (lambda x: x.to("meta"), "fc.weight is without values"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_exact_value_is_refused_by_name(kind, model, save, state):
    change, said = REFUSED[kind]
    assert said in refusal(model, save(each(state, change, dim=2)))


def test_values_beyond_the_models_precision_are_refused_and_the_remedy_helps(model, save, state):
    large = {**state, "fc.bias": torch.full((10,), 1e6)}
    assert "beyond float16; call model.float()" in refusal(model.half(), save(large))
    assert loaded(model.float(), save(large), large) == ()


@pytest.mark.parametrize("content", [{"blocks.0.attn.weight": torch.zeros(3, 3)}, {0: torch.zeros(3)}])
def test_another_architecture_is_not_taken_for_a_missing_classifier(content, model, save):
    said = refusal(model, save({"model": content}))
    assert "is of another architecture" in said
    assert "classifier" not in said


@pytest.mark.parametrize("prefix", ["", "model.", "a.b."])
def test_any_module_finds_its_state_by_its_own_names(prefix, save):
    """Names as short as "weight" end those of many other layers."""
    model, theirs = nn.Linear(2, 2), nn.Linear(2, 2)
    others = {f"other.layer{i}.weight": torch.zeros(3, 3) for i in range(20)}
    file = save({"state_dict": {**prefixed(dict(theirs.state_dict()), prefix), **(others if prefix else {})}})
    loaded(model, file, theirs.state_dict())


@pytest.mark.parametrize("shape", [(), (4,), (0, 64, 1, 1), (64, 4, 1, 1)])
@pytest.mark.parametrize("name", ["layer1.0.se.fc1.weight", "fc.weight"])
def test_tensors_of_impossible_shapes_are_refused_by_name(name, shape, state, save):
    file = save(state | {name: torch.ones(shape)})
    with pytest.raises(SenetError) as caught:
        create_model(NAME, weights=file)
    assert name.removesuffix(".fc1.weight") in str(caught.value) or "classes" in str(caught.value)


def test_no_remedy_is_named_where_blocks_lack_inside_a_stage(state, save):
    file = save({key: tensor for key, tensor in state.items() if not key.startswith("layer2.1.se.")})
    with pytest.raises(SenetError, match=r"8 SE blocks, the model 9 .*; the file is incomplete or of another network$"):
        create_model(NAME, weights=file)


@pytest.mark.parametrize(("length", "start"), [(0x180, b"\x80"), (0x4B50, b"PK")])
def test_a_safetensors_file_that_begins_as_a_pickle_does_is_read(length, start, tmp_path):
    """Its first eight bytes are the length of its header, any number."""
    header = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length)
    content = length.to_bytes(8, "little") + header.encode() + np.float32(3).tobytes()
    assert content.startswith(start)
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert read_state(tmp_path / "weights.safetensors").tensors["conv1.weight"].item() == 3
