"""After a power cut at any moment, what was written before is whole: every rename is synchronized, in this order."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import senet
from drivers import ENVIRONMENT, command
from recorded_writes import recorded
from senet import files
from senet.checksums import is_whole
from senet.cli import main
from senet.data.sharding import write_shards
from senet.files import read_jsonl, written_beside
from senet.paper.ablation import reproduce_ablations
from senet.recipes.digits import digits
from senet.shards.index import INDEX
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig
from senet.training.state import STATE_KEYS
from small_pictures import QUICK, write_pictures

SHORT = replace(digits(), epochs=2, compute=ComputeConfig(cpu=True))
MODEL = ["README.md", "config.json", "model.safetensors", "model.safetensors.sha256"]
STATE = ["training_state.pt", "training_state.pt.sha256"]


@pytest.fixture(autouse=True)
def _on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(root):
    senet.train(SHORT, root / "run")


def finetune(root):
    pictures = write_pictures(root.parent / "pictures")
    senet.finetune(pictures, root / "run", model="cifar_se_resnet20", epochs=1, settings=QUICK)


def ablate(root):
    reproduce_ablations([11], replace(SHORT, epochs=1), root / "ablation", seeds=1)


def record(root):
    model = senet.create_model("cifar_se_resnet20", num_classes=2)
    loader = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))]
    senet.record_excitations(model, loader).save(root / "deep" / "recording.safetensors")


def shard(root):
    write_shards(write_pictures(root.parent / "pictures"), root / "shards", megabytes=0.02)


def save(root):
    senet.save_pretrained(senet.create_model("cifar_resnet20"), root / "deep" / "model")
    senet.save_pretrained(senet.create_model("cifar_resnet20"), root / "deep" / "model")


def insert_and_convert(root):
    source = root.parent / "plain"
    senet.save_pretrained(senet.create_model("cifar_resnet20"), source)
    assert main(["insert", str(source), "--output", str(root / "inserted")]) == 0
    assert main(["convert", "cifar_resnet20", str(source / "model.safetensors"), "--output", str(root / "new")]) == 0


def export_a_file(root):
    senet.export("cifar_se_resnet20", root / "exports" / "network.pt2", to="torch_export", num_images=2)


def export_a_folder(root):
    senet.export("cifar_se_resnet20", root / "models", layout="triton", num_images=2)


WRITTEN = {
    train: [*MODEL, *STATE],
    finetune: [*MODEL, *STATE],
    ablate: [*MODEL, *STATE, "ablation.json"],
    record: ["recording.safetensors"],
    shard: ["all-000000.tar", INDEX],
    save: ["model", *MODEL],
    insert_and_convert: ["inserted", "new"],
    export_a_file: ["network.pt2", "network.pt2.parity.json"],
    export_a_folder: ["models", "models.parity.json"],
}


LIKE_OTHERS = (export_a_file, ablate, finetune)
"""What is written by the same functions as by the others; these tests are slow ones."""
CASES = [pytest.param(each, marks=pytest.mark.slow) if each in LIKE_OTHERS else each for each in WRITTEN]


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("writes", CASES, ids=lambda writes: writes.__name__)
def test_every_rename_comes_between_the_file_and_its_folder(tmp_path, request, writes):
    if writes in (train, ablate):
        request.getfixturevalue("few_digits")
    root = tmp_path / "root"
    root.mkdir()
    with recorded(root) as seen:
        writes(root)
    assert set(WRITTEN[writes]) <= set(seen.assert_in_order())
    names = {path.name for path in root.rglob("*")}
    assert not [name for name in names if name.endswith((".part", ".moving", ".lock"))]


@pytest.mark.parametrize("broken", ["before", "after", "changed"])
def test_a_wrong_order_is_seen(tmp_path, monkeypatch, broken):
    real = files.synchronize

    def synchronize(path):
        if broken == "changed" or path.is_dir() == (broken == "before"):
            real(path)
        if broken == "changed" and path.is_file():
            path.write_text("changed since")

    monkeypatch.setattr(files, "synchronize", synchronize)
    with recorded(tmp_path) as seen, written_beside(tmp_path / "file") as beside:
        beside.write_text("new")
    with pytest.raises(AssertionError, match=r"synchronized|after the rename"):
        seen.assert_in_order()


@pytest.mark.slow
def test_the_system_is_really_asked_in_this_order(tmp_path):
    """As strace sees it, whatever library calls: of a whole training run in a process of its own."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    run, log = tmp_path / "run", tmp_path / "calls"
    calls = "fsync,rename,renameat,renameat2,link,linkat"
    words = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={calls}", "-o", str(log)]
    done = subprocess.run(
        [*words, *command("digits_to_be_killed.py", run)], env=ENVIRONMENT, capture_output=True, text=True
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("this process may not trace others")
    assert done.returncode == 0, done.stderr
    # 4711 fsync(5</tmp/run/last>) = 0, and 4711 rename("/tmp/run/last/.a.part", "/tmp/run/last/a") = 0
    path = rf"({run}[^\n\">]*)"
    seen = re.findall(rf"(fsync|rename|link)\w*\([^\n]*?{path}(?:[^\n]*?{path})?", log.read_text())
    renames = [number for number, (what, *_) in enumerate(seen) if what == "rename"]
    assert len(renames) > 30
    for number in renames:
        _, source, target = seen[number]
        assert ("fsync", source, "") in seen[:number], source
        assert seen[number + 1] == ("fsync", str(Path(target).parent), ""), target


# ---- what a cut leaves -----------------------------------------------------------------------------------------------


def cuts_of(seen, root):
    """Yield each state that a power cut may leave, with the number of saves that were complete before."""
    saves, known = 0, set()
    for event, called in enumerate(seen.events):
        renamed = seen.events[event - 1] if event else None
        if called[0] == "fsync" and renamed is not None and renamed[0] == "rename":
            saves += renamed[2] == root / "run" / "last" / "training_state.pt"
        for state in seen.states_after(event):
            key = saves, *sorted((str(path), digest) for path, digest in state.items() if ".part" not in str(path))
            if key not in known:
                known.add(key)
                yield state, saves


def test_a_power_cut_in_any_save_leaves_what_was_saved(tmp_path):
    """After each call: a disk that has lost what was not synchronized, or has the names of it without the content."""
    root, model = tmp_path / "root", senet.create_model("cifar_se_resnet20")
    root.mkdir()
    with recorded(root) as seen:
        run = RunFolder(root / "run")
        with run.claimed():
            run.start(SHORT)
            for epoch in (1, 2, 3):
                run.append_metrics({"epoch": epoch})
                (run.path / "steps.jsonl").open("a").write(f'{{"step": {epoch}}}\n')
                state = dict.fromkeys(STATE_KEYS) | {
                    "position": {"epoch": epoch, "batch": 0, "step": 0, "seconds": 0.0}
                }
                run.save(model, state, {}, best=epoch != 2)
    assert seen.assert_in_order()
    found = []
    for number, (left, saves) in enumerate(cuts_of(seen, root)):
        run = RunFolder(seen.write(left, tmp_path / f"cut{number}") / "run")
        state = run.load_state(STATE_KEYS) if run.path.exists() else None
        found.append(0 if state is None else state["position"]["epoch"])
        assert found[-1] >= saves
        assert [row["epoch"] for row in run.metrics()][: found[-1]] == [*range(1, found[-1] + 1)]
        assert [row["step"] for row in read_jsonl(run.path / "steps.jsonl")][: found[-1]] == [*range(1, found[-1] + 1)]
        if found[-1]:
            run.read_config()
            assert is_whole(run.last / "model.safetensors")
            assert is_whole(run.best / "model.safetensors")
            assert {"config.json", "README.md"} <= {path.name for path in run.best.iterdir()}
    assert set(found) == {0, 1, 2, 3}
    assert len(found) > 30


@pytest.mark.slow
def test_a_run_goes_on_after_a_power_cut(tmp_path, few_digits):
    """To the same weights, bit for bit, from each fifth of the states of the disk that may be left."""
    root = tmp_path / "root"
    root.mkdir()
    with recorded(root) as seen:
        train(root)
    whole = (root / "run" / "last" / "model.safetensors").read_bytes()
    for number, (state, _) in enumerate(cuts_of(seen, root)):
        if number % 5:
            continue
        run = seen.write(state, tmp_path / f"cut{number}") / "run"
        if (run / "config.json").exists():
            senet.resume(run)
        else:
            senet.train(SHORT, run)
        assert is_whole(run / "last" / "training_state.pt")
        assert (run / "last" / "model.safetensors").read_bytes() == whole
        shutil.rmtree(run)
