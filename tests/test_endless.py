"""Small files that claim to be large, or are nested without end: refused before time or memory is taken."""

import ast
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import senet
from boxed_pictures import write_coco, write_voc, write_yolo
from caffe_files import payload
from senet.cli import main
from senet.data.config import DataConfig
from senet.data.datasets import open_split
from senet.data.preprocessing import Preprocessing
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_splits
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained
from senet.files import parse_json, read_jsonl
from senet.shards.foreign import numbered
from senet.shards.index import Shard
from senet.shards.samples import Shape
from senet.shards.tar import samples_in
from senet.terminal import shortened
from senet.training.run import RunFolder
from senet.training.state import STATE_KEYS, is_position
from senet.weights.caffe import read_caffemodel
from senet.weights.loading import load_weights
from senet.weights.tensors import nested, read_state

NAME = "cifar_se_resnet20"
PACKAGE = Path(senet.__file__).parent
OWN = ("files.py", "weights/folder.py", "analysis/pages.py", "analysis/curves.py", "deployment/onnxruntime_web.py")
"""Files that read JSON of the program itself, and the one that reads that of others."""


@pytest.fixture(scope="module")
def model():
    return create_model(NAME, num_classes=10)


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "{"])
def test_json_of_any_kind_is_a_value_or_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_of_others_is_read_by_one_function():
    """The other one, json.loads, has an error of another kind for what is nested too deeply."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() not in OWN:
            calls = [
                ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            ]
            assert not {"json.loads", "json.load"} & set(calls), path


def test_lines_of_json_in_another_encoding_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1, "\xe4": 1}\n')
    with pytest.raises(SenetError, match=r"metrics\.jsonl cannot be read .* restore it"):
        read_jsonl(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"3", b"null", b"", b'{"\xe4": 1}'])
def test_data_of_a_run_that_cannot_be_read_are_refused(content, tmp_path):
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(SenetError, match=r"data\.json cannot be read"):
        RunFolder(tmp_path).check_same_data({"train_size": 10})


# ---- weights ---------------------------------------------------------------------------------------------------------


def circle():
    found = {"a": torch.zeros(1)}
    found["b"] = found
    return found


def laughs():
    found = {"a": torch.zeros(1)}
    for _ in range(12):
        found = dict.fromkeys("abcdefghij", found)
    return found


def deep():
    found = {"a": torch.zeros(1)}
    for _ in range(100):
        found = {"a": found}
    return found


@pytest.mark.parametrize("content", [circle, laughs, deep])
def test_dictionaries_without_end_are_refused(content, tmp_path):
    torch.save(content(), tmp_path / "w.pth")
    with pytest.raises(SenetError, match=r"w\.pth has dictionaries inside dictionaries without end"):
        read_state(tmp_path / "w.pth")


def test_dictionaries_of_an_optimizer_are_not_without_end():
    content = {"model": {"a": torch.zeros(1)}, "optimizer": {"state": {n: {"step": n} for n in range(5000)}}}
    assert [prefix for prefix, _ in nested(content)][:4] == ["", "model.", "optimizer.", "optimizer.state."]
    assert len(list(nested(content))) == 5004


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(1, 1, 1, 1).expand(1 << 15, 1 << 15, 3, 3),
        torch.sparse_coo_tensor(size=(1 << 16, 3, 1 << 10, 1 << 10)),
    ],
)
def test_a_tensor_that_is_much_larger_than_its_file_is_refused(weight, model, tmp_path):
    torch.save({**model.state_dict(), "conv1.weight": weight}, tmp_path / "w.pth")
    with pytest.raises(SenetError, match=r"w\.pth would take [\d,]+ bytes of memory, 67,108,864 at most"):
        load_weights(model, tmp_path / "w.pth")


def test_a_zip_file_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/data/0", bytes(2**27))
    with pytest.raises(SenetError, match=r"w\.pth would take 134,\d+,\d+ bytes"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "fc.bias is a nested tensor"),
        (lambda: torch.zeros([1] * 100), "fc.bias is of more than 64 dimensions"),
    ],
)
def test_tensors_of_odd_kinds_are_refused(odd, said, model, tmp_path):
    torch.save({**model.state_dict(), "fc.bias": odd()}, tmp_path / "w.pth")
    with pytest.raises(SenetError, match=said):
        load_weights(model, tmp_path / "w.pth")


def changed(folder, **values):
    content = json.loads((folder / "config.json").read_text())
    for key, value in values.items():
        content[key] = {**content.get(key, {}), **value}
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"num_classes": 10**12}}, "describes a network of 65,"),
        ({"model": {"in_channels": 10**9}}, "in_channels is 1000000000; expected at most 65,536"),
        ({"model": {"in_channels": 2**16}}, "describes a network of 9,"),
        ({"model": {"name": "../../x"}}, r"config\.json: no network is called '../../x'"),
        ({"surgery": {"inserted": [1]}}, r"config\.json is not a senet model configuration"),
        ({"preprocessing": {"image_size": 10**9, "resize": 10**9}}, "expected at most 32,768 pixels"),
    ],
)
def test_a_folder_that_describes_another_network_than_its_weights_is_refused(values, said, model, tmp_path):
    senet.save_pretrained(model, tmp_path)
    changed(tmp_path, **values)
    with pytest.raises(SenetError, match=said):
        from_pretrained(tmp_path)


def test_images_may_be_large():
    assert Preprocessing(image_size=2**15, resize=2**15, mean=(0,), std=(1,)).image_size == 2**15


def test_a_name_in_a_caffe_model_that_is_no_text_is_refused(tmp_path):
    blob = payload(7, payload(5, bytes(4)) + payload(7, payload(1, b"\1")))
    (tmp_path / "net.caffemodel").write_bytes(payload(100, payload(1, b"\xff\xfe") + blob))
    with pytest.raises(SenetError, match="truncated or not a Caffe model"):
        read_caffemodel(tmp_path / "net.caffemodel")


@pytest.mark.parametrize("position", [None, {}, {"epoch": "x", "batch": 0, "step": 0, "seconds": 1.0}, [1]])
def test_a_training_state_that_stands_nowhere_is_refused(position, tmp_path):
    (tmp_path / "last").mkdir()
    torch.save({**{key: {} for key in STATE_KEYS}, "position": position}, tmp_path / "last" / "training_state.pt")
    with pytest.raises(SenetError, match="is not a training state"):
        RunFolder(tmp_path).load_state(STATE_KEYS)


def test_positions_of_today_and_of_former_versions():
    today = {"epoch": 1, "batch": 2, "step": 3, "loss_sum": 0.5, "seconds": 1.0, "loss_sums": [0.5], "data_wait_s": 0.0}
    assert is_position(today)
    assert is_position({"epoch": 1, "batch": 2, "step": 3, "loss_sum": 0.5, "seconds": 1.0, "best_top1": 50.0})


# ---- data ------------------------------------------------------------------------------------------------------------


def read_tar(content):
    return samples_in(io.BytesIO(content), len(content), "x.tar", frozenset({"png"}), Shape())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_file_of_headers_without_end_is_refused(kind):
    entry = tarfile.TarInfo("x")
    entry.type = kind
    with pytest.raises(SenetError, match=r"x\.tar cannot be read as a tar file; it is damaged"):
        read_tar(entry.tobuf(tarfile.GNU_FORMAT) * 3000)


def test_a_class_of_a_large_number_is_refused():
    shard = Shard(
        name="x.tar", split="all", size=1, sha256=None, packed=False, labels=None, offsets=None, sizes=None, names=()
    )
    with pytest.raises(
        SenetError, match=r"x\.tar has the class 9+, .* from 0 to 9+; expected numbers from 0 to 1048575"
    ):
        numbered([(shard, [0, 999_999_999_999_999], ())])


def test_classes_of_long_digits_are_names(tmp_path):
    digits = "9" * 5000
    (tmp_path / "t.csv").write_text(f"image,label,split\n0.png,{digits},train\n1.png,1,train\n1.png,1,val\n")
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    with pytest.raises(SenetError, match=r"\d\.png cannot be read"):
        open_split(DataConfig(dataset=str(tmp_path / "t.csv")), "train")


def boxes(root):
    return open_detection_splits(DetectionDataConfig(dataset=str(root)))


LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]" for n in range(10))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda good: f"{LAUGHS}\n{good}", "more than 100,000 values"),
        (lambda good: "names: &a [*a]\n", "more than 100,000 values"),
        (lambda good: "names: " + "[" * 100_000, "cannot be read as yaml"),
        (lambda good: f"{good}date: 2001-13-45\n", "cannot be read as yaml"),
        (lambda good: f"{good}nc: {'9' * 5000}\n", "cannot be read as yaml"),
        (lambda good: good.replace("images/train", "a" * 5000), "names aaa"),
        (lambda good: good.replace("path: .", f"path: {'a' * 5000}"), ""),
    ],
)
def test_a_yaml_without_end_is_refused(change, said, tmp_path):
    write_yolo(tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(change(path.read_text()))
    if said:
        with pytest.raises(SenetError, match=said):
            boxes(tmp_path)
    else:  # a path that is not there has always been passed over
        boxes(tmp_path)


def test_names_longer_than_any_file_may_have_are_refused(tmp_path):
    write_voc(tmp_path / "voc")
    (tmp_path / "voc/ImageSets/Main/train.txt").write_text("a" * 5000 + " 1\n")
    with pytest.raises(SenetError, match="cannot be read as an xml"):
        boxes(tmp_path / "voc")
    write_coco(tmp_path / "coco")
    file = tmp_path / "coco/train.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "a" * 300 + "/x.png"
    file.write_text(json.dumps(content))
    with pytest.raises(SenetError, match="which is not there"):
        boxes(tmp_path / "coco")


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_a_long_message_is_said_without_its_middle():
    assert shortened("a" * 2000) == "a" * 2000
    assert shortened("a" * 5000 + "b" * 5000) == "a" * 1000 + " ... " + "b" * 1000


@pytest.mark.parametrize("words", [["predict", "a" * 300 + ".png"], ["evaluate", "a" * 300], ["runs", "a" * 300]])
def test_a_name_longer_than_any_file_may_have_is_one_sentence(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("senet: ") == 1
