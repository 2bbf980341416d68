"""A disk that is full or turns read-only: one sentence whose remedy works, and what was written before is whole."""

import re
import shlex

import pytest
import torch

import senet
from senet import files
from senet.checksums import is_whole
from senet.cli import main
from small_disks import Disk
from small_pictures import write_pictures


@pytest.fixture(autouse=True)
def _on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def disk(tmp_path):
    """Return a function that makes the disk of so many kilobytes."""
    made = []

    def make(kilobytes):
        made.append(Disk(tmp_path / "disk", kilobytes))
        return made[-1]

    yield make
    for each in made:
        each.close()


CALLS = {"train": 30, "finetune": 30, "ablate": 30, "record": 1, "evaluate": 1}
"""Files and folders that are synchronized before the disk turns read-only."""


@pytest.fixture(autouse=True)
def _timed_twice(monkeypatch):
    monkeypatch.setattr("senet.deployment.timing.MIN_ROUNDS", 2)
    monkeypatch.setattr("senet.deployment.timing.MAX_ROUNDS", 2)


@pytest.fixture(autouse=True)
def _room_is_not_looked_for(monkeypatch):
    monkeypatch.setattr("senet.finetuning.plan.check_space", lambda model, output: None)


@pytest.fixture(autouse=True)
def _few_of_the_digits(request):
    if request.node.callspec.params["name"] in ("train", "ablate"):
        request.getfixturevalue("few_digits")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What commands read: pictures, and a network without SE."""
    top = tmp_path_factory.mktemp("sources")
    for split in ("train", "val"):
        write_pictures(top / "pictures" / split, side=28)
    senet.save_pretrained(senet.create_model("cifar_resnet20", num_classes=3), top / "plain")
    senet.save_pretrained(senet.create_model("cifar_se_resnet20", num_classes=3), top / "gated")
    return top


def commands(sources, out):
    """Return the command line by name; each writes to `out` alone."""
    pictures, plain, gated = sources / "pictures", sources / "plain", sources / "gated"
    small, on_cpu = f"--data {pictures / 'val'}", "--compute.cpu --data.num-workers 0"
    lines = {
        "train": f"train digits --output {out}/run --epochs 2 {on_cpu}",
        "finetune": f"finetune {pictures} --model {gated} --output {out}/run --epochs 1 {on_cpu}",
        "ablate": f"ablate digits --tables 11 --seeds 1 --epochs 1 --output {out}/ablation",
        "shard": f"shard {pictures} {out}/shards --megabytes 0.02",
        "record": f"record {gated} {small} --output {out}/gates.safetensors",
        "evaluate": f"evaluate {gated} {small} --report {out}/report.html",
        "predict": f"predict {pictures / 'val'} --model {gated} --output {out}/predictions.jsonl",
        "convert": f"convert cifar_resnet20 {plain / 'model.safetensors'} --output {out}/converted",
        "insert": f"insert {plain} --output {out}/inserted",
        "export": f"export {gated} {out}/network.pt2 --to torch_export --num-images 2",
        "onnx": f"export {gated} {out}/network.onnx --num-images 2",
        "openvino": f"export {gated} {out}/network.xml --to openvino --num-images 2",
    }
    return {name: shlex.split(line) for name, line in lines.items()}


def said_in(capsys):
    """Return the one sentence of a command that failed."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    sentences = [line for line in err.splitlines() if line.startswith("senet: ")]
    assert len(sentences) == 1, err
    return sentences[0]


def goes_on(argv, sentence):
    """Do what a sentence names: the command in it, or the same one again."""
    named = re.search(r"`senet (.*)`", sentence)
    assert main(shlex.split(named[1]) if named else argv) == 0


def assert_no_half(folder):
    """Expect no file that was being written, and that weights and states are whole."""
    names = [path.name for path in folder.rglob("*")]
    assert not [name for name in names if name.endswith((".part", ".moving", ".lock"))], names
    for noted in folder.rglob("*.sha256"):
        assert is_whole(noted.with_name(noted.name.removesuffix(".sha256")))


CASES = [
    *(("train", size) for size in (2, 500, 1700, 4000, 5000)),
    *(("finetune", 3000), ("ablate", 6000), ("shard", 100), ("record", 4), ("evaluate", 30), ("predict", 1)),
    *(("convert", 600), ("insert", 4), ("export", 600), ("onnx", 600), ("onnx", 1100), ("openvino", 600)),
]
SLOW = {"finetune", "ablate", "export", "onnx", "openvino"}


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("name", "kilobytes"), [pytest.param(*case, marks=[pytest.mark.slow] if case[0] in SLOW else []) for case in CASES]
)
def test_a_full_disk_is_one_sentence_and_then_it_goes_on(disk, sources, tmp_path, capsys, name, kilobytes):
    small = disk(kilobytes)
    argv = commands(sources, small.path)[name]
    assert main(argv) == 2
    sentence = said_in(capsys)
    assert re.search(r"cannot be written \((No space left on device|.*iostream error)\); ", sentence), sentence
    if name == "predict":  # it keeps the lines that fit, under a name that says so
        assert (small.path / "predictions.jsonl.part").exists()
        assert not (small.path / "predictions.jsonl").exists()
    else:
        assert_no_half(small.path)
    small.grow()
    goes_on(argv, sentence)
    assert_no_half(small.path)


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in ("train", "shard", "record", "evaluate", "convert", "insert", *sorted(SLOW - {"onnx"}))
    ],
)
def test_a_folder_that_turns_read_only_is_one_sentence_and_then_it_goes_on(disk, sources, capsys, monkeypatch, name):
    whole = disk(10**6)
    argv = commands(sources, whole.path)[name]
    real, calls = files.synchronize, []

    def turning(path):
        real(path)
        calls.append(path)
        if len(calls) == CALLS.get(name, 2):
            whole.make_read_only()

    with monkeypatch.context() as patch:
        patch.setattr(files, "synchronize", turning)
        assert main(argv) == 2
    sentence = said_in(capsys)
    assert "cannot be written (Read-only file system); " in sentence
    whole.make_writable()
    goes_on(argv, sentence)


@pytest.mark.parametrize("name", ["train", "shard", "record", "evaluate", "predict", "convert", "insert", "export"])
def test_a_read_only_disk_is_said_before_the_work(disk, sources, capsys, name):
    locked = disk(1000)
    locked.make_read_only()
    assert main(commands(sources, locked.path)[name]) == 2
    assert re.search(r"cannot be (written|made) \((permission denied|Read-only file system)\); ", said_in(capsys))
    assert list(locked.path.iterdir()) == []
