"""Commands under torchrun: every image once, the same figures as in one process, one that speaks, and how it fails."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from drivers import ENVIRONMENT, command
from senet.analysis.recording import Recording
from senet.cli import COMMANDS, main
from senet.evaluation.outcomes import in_order

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
CPU = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
NETWORK = "cifar_se_resnet20"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PROCESSES = (2, 3)
HAS_ONNX = all(map(find_spec, ("onnx", "onnxscript", "onnxruntime")))
TIMES = {"seconds", "latency_ms", "date"}
"""What is never the same twice."""


def write_pictures(folder, number, names=NAMES):
    """Write noise in turn into folders of classes."""
    generator = np.random.default_rng(number)
    for i in range(number):
        place = folder / names[i % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(place / f"{i}.png")
    return folder


def write_detection(root):
    """Write a run folder that detects, which the driver opens as a tiny detector, and its photos."""
    generator, images, boxes = np.random.default_rng(0), [], []
    (root / "photos/images").mkdir(parents=True)
    for i in range(5):
        width, height = (80, 60) if i % 2 else (60, 80)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"photos/images/{i}.png")
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": width, "height": height})
        boxes.append({"id": i + 1, "image_id": 10 + i, "category_id": 4 + i % 2, "bbox": [5, 5, 40, 40]})
    boxes = [{**each, "area": 1600, "iscrowd": 0} for each in boxes]
    categories = [{"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}]
    truth = json.dumps({"images": images, "annotations": boxes, "categories": categories})
    for name in ("train", "val"):
        (root / f"photos/{name}.json").write_text(truth)
    (root / "detector/best").mkdir(parents=True)
    data = {"dataset": str(root / "photos"), "num_workers": 0}
    (root / "detector/config.json").write_text(json.dumps({"task": "detection", "data": data}))
    (root / "detector/best/config.json").write_text('{"task": "detection"}')
    (root / "detector/best/model.safetensors").touch()


def write_inputs(root):
    """Write what the commands below take."""
    write_pictures(root / "data/val", 23)
    write_pictures(root / "one/val", 1, ("cat",))
    write_pictures(root / "pets/val", 7, ("pet", "wild"))
    mapping = {name: "pet" if name in ("cat", "dog") else "wild" for name in NAMES[2:8]}
    (root / "classes.json").write_text(json.dumps(mapping))
    write_pictures(root / "mixed", 9, ("a",))
    (root / "mixed/a/4.png").write_bytes(b"no picture")
    write_detection(root)
    write_pictures(root / "tune", 30, ("left", "right"))
    torch.manual_seed(0)
    other = senet.create_model("cifar_resnet20", num_classes=10)
    other.class_names = NAMES
    other.preprocessing = senet.from_pretrained(NETWORK).preprocessing
    senet.save_pretrained(other, root / "other")
    if HAS_ONNX:
        assert main(["export", NETWORK, f"{root}/network.onnx", "--to", "onnx"]) == 0


def commands(root, out):
    """Return commands with their names; what they write goes into `out`."""
    data = ["--data", f"{root}/data", "--data.num-workers", "0", "--batch-size", "4"]
    one = ["--data", f"{root}/one", "--data.num-workers", "0"]
    detector = ["evaluate", f"{root}/detector", "--batch-size", "2", "--json"]
    mapped = ["--mapping", f"{root}/classes.json"]
    drawn = ["--output", f"{out}/drawn", "--threshold", "0.1"]
    short = ["--epochs", "1", "--data.num-workers", "0", "--compute.cpu"]
    return [
        ["evaluate", "evaluate", NETWORK, *data],
        ["crops", "evaluate", NETWORK, *data, "--ten-crop", "--batch-size", "20"],
        ["page", "evaluate", NETWORK, *data, "--json", "--report", f"{out}/page.html"],
        ["both", "evaluate", NETWORK, f"{root}/other", *data, "--ensemble", "--json", "--report", f"{out}/both.html"],
        ["ensemble", "evaluate", f"{root}/other", NETWORK, *data, "--ensemble"],
        ["mapped", "evaluate", NETWORK, "--data", f"{root}/pets", *mapped, "--classes-of-data", "--json"],
        ["one", "evaluate", NETWORK, *one, "--json"],
        ["predict", "predict", f"{root}/data", "--batch-size", "4", "--output", f"{out}/found.csv"],
        ["mixed", "predict", f"{root}/mixed", "--batch-size", "2", "--format", "jsonl", "--threshold", "0.5"],
        ["record", "record", NETWORK, *data, "--json", "--output", f"{out}/gates.safetensors"],
        ["record-one", "record", NETWORK, *one, "--json", "--output", f"{out}/one.safetensors"],
        ["explain", "explain", NETWORK, *data, "--output", f"{out}/explained.html"],
        ["prune", "prune", NETWORK, *data, "--json", "--output", f"{out}/pruned"],
        ["detector", *detector, "--report", f"{out}/detector.html", "--detections", f"{out}/detections.json"],
        ["boxes", "predict", f"{root}/detector", f"{root}/photos/images", *drawn, "--batch-size", "2"],
        ["ablate", "ablate", "digits", "--tables", "15", "--seeds", "1", *short, "--output", f"{out}/runs", "--json"],
        ["finetune", "finetune", f"{root}/tune", "--model", NETWORK, "--output", f"{out}/tuned", *short],
        ["models", "models", NETWORK, "--json"],
        *([["exported", "evaluate", f"{root}/network.onnx", *data, "--json"]] if HAS_ONNX else []),
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each number of processes makes of the commands: folder of its outputs, and what each process says."""
    root = tmp_path_factory.mktemp("inputs")
    write_inputs(root)
    found = {}
    for number in (1, *PROCESSES):
        out = tmp_path_factory.mktemp(f"of{number}")
        (out / "commands.json").write_text(json.dumps(commands(root, out)))
        driver = command("commands_in_processes.py", out)
        words = driver if number == 1 else [*TORCHRUN, str(number), *driver[1:]]
        done = subprocess.run(words, env=CPU, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr
        found[number] = out, {path.stem: json.loads(path.read_text()) for path in (out / "said").glob("*.json")}
    return found


def assert_same(found, expected, place=""):
    """Compare values as JSON has them: numbers to rounding, all else exactly, times not at all."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            if key not in TIMES:
                assert_same(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{place}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), place
    else:
        assert found == expected, place


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


@pytest.fixture(scope="module", params=PROCESSES)
def pair(results, request):
    """Outputs of several processes, what their first says, and the same of one process."""
    (out, said), (alone, expected) = results[request.param], results[1]
    for name, found in said.items():
        if not name.endswith(".0"):
            status = expected[f"{name.partition('.')[0]}.0"]["status"]
            assert found == {"status": 0, "stdout": "", "stderr": ""} or status, name
    first = {name[:-2]: found for name, found in said.items() if name.endswith(".0")}
    return out, first, alone, {name[:-2]: found for name, found in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["page", "both", "mapped", "one", "record", "record-one", "prune", "detector", "ablate"]
)
def test_figures_are_those_of_one_process(pair, name):
    _, said, _, expected = pair
    assert said[name]["status"] == expected[name]["status"] == 0, said[name]["stderr"]
    assert_same(json.loads(said[name]["stdout"]), json.loads(expected[name]["stdout"]))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")
def test_an_exported_file_has_the_figures_of_one_process_and_of_its_network(pair):
    _, said, _, expected = pair
    found, alone, network = (
        json.loads(each["stdout"]) for each in (said["exported"], expected["exported"], said["page"])
    )
    assert_same(found, alone)
    assert (found["num_images"], found["confusion"]) == (23, network["confusion"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "crops"])
def test_sentences_are_those_of_one_process(pair, name):
    _, said, _, expected = pair
    assert said[name] == expected[name]
    assert "on 23 images" in said[name]["stdout"]


@pytest.mark.slow
def test_a_table_is_that_of_one_process_but_for_the_times(pair):
    _, said, _, expected = pair
    tables = [re.sub(r"\d+\.\d\s+(?=[+-]|\n|$)", "", each["ensemble"]["stdout"]) for each in (said, expected)]
    assert tables[0].split()
    assert len(tables[0].split()) == len(tables[1].split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["page.html", "both.html", "explained.html", "detector.html"])
def test_pages_hold_the_data_of_one_process(pair, name):
    out, _, alone, _ = pair
    found, expected = data_of(out / name), data_of(alone / name)
    for each in (found, expected):
        each.pop("figures", None)  # drawn from the rest
    assert_same(found, expected)


@pytest.mark.slow
def test_predictions_are_in_the_order_of_the_images(pair):
    out, said, alone, expected = pair
    found, wanted = ([*csv.reader((each / "found.csv").open())] for each in (out, alone))
    assert len(wanted) == 24
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    for row, other in zip(found[1:], wanted[1:], strict=True):
        assert [float(value) for value in row[2::2]] == pytest.approx([float(v) for v in other[2::2]], rel=1e-4)
    assert said["mixed"]["status"] == expected["mixed"]["status"] == 1
    assert said["mixed"]["stderr"] == expected["mixed"]["stderr"]
    assert said["mixed"]["stderr"].count("4.png") == 1
    rows, others = ([json.loads(line) for line in each["mixed"]["stdout"].splitlines()] for each in (said, expected))
    assert len(rows) == 8
    assert_same(rows, others)


@pytest.mark.slow
def test_pictures_with_boxes_are_those_of_one_process(pair):
    out, _, alone, _ = pair
    names = sorted(path.name for path in (alone / "drawn").iterdir())
    assert len(names) == 6
    assert sorted(path.name for path in (out / "drawn").iterdir()) == names
    for name in names[:5]:
        assert (out / "drawn" / name).read_bytes() == (alone / "drawn" / name).read_bytes()
    assert_same(*(json.loads((each / "drawn/objects.json").read_text()) for each in (out, alone)))
    assert_same(*(json.loads((each / "detections.json").read_text()) for each in (out, alone)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gates.safetensors", "one.safetensors"])
def test_recordings_are_those_of_one_process(pair, name):
    out, _, alone, _ = pair
    found, expected = Recording.load(out / name), Recording.load(alone / name)
    assert found.class_names == expected.class_names
    for a, b in zip(found.blocks, expected.blocks, strict=True):
        assert a.block == b.block
        assert torch.equal(a.count, b.count)
        assert int((a.histogram - b.histogram).abs().sum()) <= 2  # a gate at the border of two bins
        torch.testing.assert_close(a.mean, b.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a.variance, b.variance, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_distributed_runs_are_bit_for_bit_those_of_one_process(pair):
    out, _said, alone, _ = pair
    runs = sorted(path.parent.relative_to(alone) for path in (alone / "runs").rglob("metrics.jsonl"))
    assert len(runs) == 2
    for run in runs:
        for name in ("last/model.safetensors", "best/model.safetensors"):
            assert (out / run / name).read_bytes() == (alone / run / name).read_bytes()
        assert torch.load(out / run / "last/training_state.pt")["num_processes"] == 1
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["3x3", "ablation.json", "se"]


@pytest.mark.slow
def test_finetuning_plans_once_and_counts_each_picture_once(pair, request):
    out, said, alone, expected = pair
    assert said["finetune"]["status"] == 0
    plan, planned = (json.loads((each / "tuned/config.json").read_text()) for each in (out, alone))
    assert (planned["batch_size"], plan["batch_size"]) == (16, 8)  # the least of a process with 3 of them
    assert said["finetune"]["stderr"].count("network: ") == expected["finetune"]["stderr"].count("network: ") == 1
    rows = [line.split() for line in said["finetune"]["stdout"].splitlines()]
    counts = {row[0]: int(row[1]) for row in rows if row and row[0] in ("left", "right")}
    assert counts == {"left": 3, "right": 3}


@pytest.mark.slow
def test_what_is_not_shared_is_said(pair):
    _, said, _, expected = pair
    assert said["models"]["stdout"] == expected["models"]["stdout"]
    assert "`senet models` works in one process: the first of" in said["models"]["stderr"]


# ---- failures --------------------------------------------------------------------------------------------------------


def torchrun(*words, number=2):
    """Run a command of senet's in several processes."""
    argv = [*TORCHRUN, str(number), "-m", "senet", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, env=CPU)


def assert_one_sentence(done, said):
    assert done.returncode == 1  # torchrun's
    sentences = [line for line in done.stderr.splitlines() if line.startswith("senet: ")]
    assert len(sentences) == 1, done.stderr
    assert said in sentences[0]
    frames = [line for line in done.stderr.splitlines() if line.lstrip().startswith("File ")]
    assert not [line for line in frames if "/senet/" in line], done.stderr  # the others are torchrun's own
    assert re.search(r"exitcode\s*: 2", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", ["record", "evaluate"])
def test_a_picture_that_one_process_cannot_read_ends_all(tmp_path, name, place):
    data, output = write_pictures(tmp_path / "data/val", 12).parent, tmp_path / "output"
    bad = sorted((data / "val").glob("*/*.png"))[place + 4]  # of the second batch of either process
    bad.write_bytes(bad.read_bytes()[:60])
    more = ["--output", output / "gates.safetensors"] if name == "record" else ["--report", output / "page.html"]
    done = torchrun(name, NETWORK, "--data", data, "--batch-size", 2, *more)
    assert_one_sentence(done, f"{bad} cannot be read")
    assert done.stdout == ""
    assert not list(output.glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "record", "explain"])
def test_an_output_that_is_something_else_stays(tmp_path, name):
    data, output = write_pictures(tmp_path / "data", 4), tmp_path / "notes.html"
    output.write_text("mine")
    words = {"predict": [data], "record": [NETWORK, "--data", data], "explain": [NETWORK, "--data", data]}
    done = torchrun(name, *words[name], "--output", output)
    assert_one_sentence(done, str(output))
    assert output.read_text() == "mine"


@pytest.mark.slow
def test_predictions_that_are_stopped_are_whole_so_far(tmp_path):
    data, output = write_pictures(tmp_path / "data", 20), tmp_path / "found.json"
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, sorted(data.glob("*/*.png")) * 2000)))
    words = ["predict", "--list", str(listed), "--batch-size", "2", "--output", str(output)]
    argv = [*TORCHRUN, "2", "-m", "senet", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=CPU) as started:
        deadline = time.monotonic() + 200
        growing = output.with_name(f"{output.name}.part")
        while not (growing.exists() and growing.stat().st_size > 2000):
            assert started.poll() is None, started.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)
        said = started.communicate(timeout=120)[0]
    assert started.returncode != 0
    found = json.loads(output.read_text())
    names = sorted(map(str, data.glob("*/*.png")))
    assert [row["image"] for row in found] == [names[i % 20] for i in range(len(found))]
    assert 2 <= len(found) < 40_000, said


@pytest.mark.slow
def test_the_first_process_alone_reads_standard_input(tmp_path):
    data = write_pictures(tmp_path / "data", 7)
    names = [str(path) for path in sorted(data.glob("*/*.png"))]
    argv = [*TORCHRUN, "2", "-m", "senet", "predict", "-", "--format", "jsonl", "--batch-size", "2"]
    done = subprocess.run(argv, input="\n".join(names), capture_output=True, text=True, timeout=300, env=CPU)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == names


# ---- what is decided without processes -------------------------------------------------------------------------------


def test_every_command_says_what_several_processes_do():
    ways = {name: entry.load().in_processes for name, entry in COMMANDS.items()}
    shared = {name for name, way in ways.items() if way == "share"}
    assert shared == {"evaluate", "predict", "record", "explain", "prune"}
    assert {name for name, way in ways.items() if way == "train"} == {"train", "finetune", "ablate"}


def test_shares_are_put_in_order():
    labels = np.arange(7) * 10
    places = [np.array([0, 2, 4, 6]), np.array([1, 3, 5])]
    (whole,) = in_order([((labels[each],), each) for each in places])
    assert whole.tolist() == labels.tolist()
