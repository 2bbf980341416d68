"""`senet predict`: what it takes, the formats that it writes, and what is left when it is stopped."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import senet
from senet.cli import main
from senet.cli.prediction import WRITERS, write_all
from senet.evaluation.prediction import ClassProbability, Prediction

NAMES = ("b.png", "a/10.png", "a/2.png")
"""In the order in which a folder is gone through: its own files first."""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("photos/a").mkdir(parents=True)
    names = [f"photos/{name}" for name in NAMES]
    for i, name in enumerate(names):
        Image.effect_noise((8, 8), 40 + 20 * i).save(name)
    return names


def test_a_folder_is_written_in_every_format(
    digits_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = senet.predict(digits_run, photos, top=2)
    pairs = [[(p.class_name, pytest.approx(p.probability, abs=1e-4)) for p in found] for found in expected]
    command = ["predict", "photos", "--model", str(digits_run), "--top", "2"]

    assert main([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == photos
    for row, pair in zip(rows, pairs, strict=True):
        assert [(row["class"], float(row["probability"])), (row["class_2"], float(row["probability_2"]))] == pair
        assert set(row) == {"image", "class", "probability", "class_2", "probability_2"}

    for options in (["--format", "jsonl"], ["--format", "json"], ["--json"]):
        assert main([*command, *options]) == 0
        out = capsys.readouterr().out
        found = [json.loads(line) for line in out.splitlines()] if "jsonl" in options else json.loads(out)
        assert [row["image"] for row in found] == photos
        assert [[(c["class_name"], c["probability"]) for c in row["classes"]] for row in found] == pairs
        assert all(set(row) == {"image", "classes"} for row in found)

    assert main(command) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + 2 * len(photos)


def test_lists_are_read_from_a_file_and_from_standard_input(
    digits_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("list.txt").write_text("".join(f"{name}\n" for name in photos[1:]))
    command = ["predict", "--model", str(digits_run), "--format", "jsonl", "--top", "1"]
    assert main([*command, photos[0], "--list", "list.txt"]) == 0
    from_file = capsys.readouterr().out
    assert [json.loads(line)["image"] for line in from_file.splitlines()] == photos
    for words in (["-"], ["--list", "-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(photos)))
        assert main([*command, *words]) == 0
        assert capsys.readouterr().out == from_file


def test_a_file_is_written_and_never_written_over(
    digits_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", "photos/*.png", "photos/a", "--model", str(digits_run), "--top", "1"]
    assert main([*command, "--output", "new/found.csv", "--threshold", "0"]) == 0
    assert capsys.readouterr().out == "new/found.csv holds the predictions of 3 images\n"
    rows = list(csv.DictReader(Path("new/found.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == photos
    assert {row["certain"] for row in rows} == {"true"}
    assert main([*command, "--output", "new/found.csv"]) == 2
    assert capsys.readouterr().err.startswith("senet: new/found.csv exists already; name another file by --output")
    assert len(Path("new/found.csv").read_text().splitlines()) == 4
    for name, form in (("x.ndjson", "jsonl"), ("x.json", "json"), ("x.txt", "table")):
        assert main([*command, "--output", name]) == 0
        text = Path(name).read_text()
        assert main([*command, "--format", form]) == 0
        assert text == capsys.readouterr().out.partition("images\n")[2]


def test_several_networks_predict_together(
    digits_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = senet.create_model("cifar_resnet20", in_channels=1, num_classes=10)
    other.class_names = tuple(map(str, reversed(range(10))))
    senet.save_pretrained(other, "other")
    expected = senet.predict([digits_run, "other"], photos[:1], top=3)[0]
    command = ["predict", photos[0], "--model", str(digits_run), "--model", "other", "--top", "3", "--json"]
    assert main(command) == 0
    (row,) = json.loads(capsys.readouterr().out)
    found = [(c["class_name"], pytest.approx(c["probability"])) for c in row["classes"]]
    assert [(p.class_name, p.probability) for p in expected] == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos/*.bmp"], "photos/*.bmp matches no images; check the path"),
        (["photos", "--json", "--format", "csv"], "--json contradicts --format csv"),
        (["photos", "--output", "photos"], "photos exists already"),
        (["photos", "--output", "photos/b.png/x.csv"], "photos/b.png/x.csv cannot be written (photos/b.png is not"),
        (["photos", "--threshold", "80"], "--threshold is 80.0; expected 0 to 1"),
        (["photos", "--num-workers", "-1"], "--num-workers is -1; expected at least 0"),
        (["photos", "--device", "abacus"], "--device is 'abacus', which is not there"),
        (["photos", "--list", "absent.txt"], "there is no list absent.txt"),
        (["photos", "-"], "- is a list on standard input, which takes no other images"),
        (["photos", "--model", "cifar_se_resnet20"], "cannot predict together: "),
    ],
)
@pytest.mark.usefixtures("photos")
def test_bad_input_is_one_sentence(
    digits_run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *words, "--model", str(digits_run)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


LIKELY = (ClassProbability(class_name="a, b", probability=0.5), ClassProbability(class_name="[c]", probability=0.25))


def stopped() -> object:
    """Two predictions, and then Ctrl-C."""
    yield Prediction(image='one "1".png', classes=LIKELY)
    yield Prediction(image="two.png", classes=LIKELY, certain=False)
    raise KeyboardInterrupt


@pytest.mark.parametrize("form", WRITERS)
def test_what_is_written_is_whole_after_each_prediction(form: str) -> None:
    text = io.StringIO()
    writer = WRITERS[form](text, 2, True, 10)
    with pytest.raises(KeyboardInterrupt):
        write_all(writer, stopped())  # type: ignore[arg-type]
    rows: list[tuple[str, object]]
    if form == "csv":
        rows = [(row["image"], row["certain"] == "true") for row in csv.DictReader(io.StringIO(text.getvalue()))]
        assert next(csv.DictReader(io.StringIO(text.getvalue())))["class"] == "a, b"
    elif form == "table":
        assert text.getvalue().splitlines()[1:] == [
            'one "1".png      50.00 %  a, b',
            "                25.00 %  [c]",
            "two.png         50.00 %  a, b  (uncertain)",
            "                25.00 %  [c]",
        ]
        return
    else:
        out = text.getvalue()
        found = [json.loads(line) for line in out.splitlines()] if form == "jsonl" else json.loads(out)
        rows = [(row["image"], row["certain"]) for row in found]
    assert rows == [('one "1".png', True), ("two.png", False)]


def test_an_empty_array_is_an_array() -> None:
    text = io.StringIO()
    assert write_all(WRITERS["json"](text, 5, False, 10), iter(())) == (0, [])
    assert json.loads(text.getvalue()) == []


@pytest.mark.slow
def test_ctrl_c_leaves_whole_lines_and_status_130(photos: list[str]) -> None:
    """Names come one by one on standard input, which stays open: the command waits for more when it is stopped."""
    words = ["predict", "-", "--format", "jsonl", "--batch-size", "1", "--num-workers", "0"]
    command = [sys.executable, "-m", "senet", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name in photos:
            process.stdin.write(f"{name}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["image"] == name  # comes before the next is named
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == b""


def test_an_array_is_closed_when_the_command_is_terminated(capsys, monkeypatch):
    def found(*_args, **_options):
        yield Prediction(image="a.png", classes=(ClassProbability(class_name="0", probability=1.0),))
        os.kill(os.getpid(), signal.SIGTERM)
        yield Prediction(image="b.png")

    monkeypatch.setattr("senet.evaluation.prediction.predict_each", found)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["predict", "a.png", "--json"]) == 143
    assert [each["image"] for each in json.loads(capsys.readouterr().out)] == ["a.png"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def predicting(monkeypatch, tmp_path):
    """Predict a class for a.png, then call what the test appends to this list, then predict one for b.png."""
    between: list = []

    def found(*_args, **_options):
        yield Prediction(image="a.png", classes=(ClassProbability(class_name="0", probability=1.0),))
        for call in between:
            call()
        yield Prediction(image="b.png", classes=(ClassProbability(class_name="1", probability=1.0),))

    monkeypatch.setattr("senet.evaluation.prediction.predict_each", found)
    monkeypatch.chdir(tmp_path)
    return between


TO_FILE = ["predict", "a.png", "b.png", "--output", "found.csv", "--format", "csv"]


def rows_of(name):
    return [row["image"] for row in csv.DictReader(Path(name).read_text().splitlines())]


def test_an_output_gets_its_name_when_it_is_complete(predicting):
    """What a killed process has left blocks nobody: the same command starts again."""
    Path("found.csv.part").write_text("image,class,probability\nkilled.png,0,1\n")
    Path(".found.csv.lock").touch()
    seen = []
    predicting.append(lambda: seen.append((Path("found.csv").exists(), rows_of("found.csv.part"))))
    assert main(TO_FILE) == 0
    assert seen == [(False, ["a.png"])]
    assert rows_of("found.csv") == ["a.png", "b.png"]
    assert [path.name for path in Path().iterdir()] == ["found.csv"]


def test_an_output_has_what_was_done_until_a_signal(predicting):
    predicting.append(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(TO_FILE) == 143
    assert rows_of("found.csv") == ["a.png"]
    assert [path.name for path in Path().iterdir()] == ["found.csv"]


def test_a_full_disk_leaves_no_output_that_lacks_results(predicting, capsys):
    def fill():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    predicting.append(fill)
    assert main(TO_FILE) == 2
    assert capsys.readouterr().err == (
        "senet: found.csv cannot be written (No space left on device); make room, or name another file by --output; "
        "found.csv.part may hold what was done until then\n"
    )
    assert [path.name for path in Path().iterdir()] == ["found.csv.part"]


def test_an_error_before_the_first_result_leaves_nothing(capsys):
    assert main(["predict", "absent.png", "--output", "found.csv"]) == 2
    assert "absent.png" in capsys.readouterr().err
    assert not list(Path().glob("*found.csv*"))


def test_two_commands_do_not_write_to_one_output(predicting, capsys):
    """The second one starts in a process of its own, for locks are those of a process."""
    taken = []

    def start_another():
        code = "from senet.cli.writing import opened\nfrom pathlib import Path\nwith opened(Path('found.csv')): pass"
        taken.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True))

    predicting.append(start_another)
    assert main(TO_FILE) == 0
    assert "another process writes found.csv; wait until it ends, or name another --output" in taken[0].stderr
    assert rows_of("found.csv") == ["a.png", "b.png"]


@pytest.mark.usefixtures("photos")
def test_a_word_that_is_neither_a_picture_nor_a_network_is_no_reason_to_ask_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The packaged network would answer for the rest, and its classes look as good as any."""
    for word in ("runs/mien", "net.onnx/x", "se_resnet5"):
        assert main(["predict", word, "photos"]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == (
            f"senet: there is no picture or network {word}; check the path, or name a network of the hub by "
            "--model OWNER/NAME\n"
        )
    assert main(["predict", "cifar_se_resnet20", "photos", "--top", "1", "--format", "csv"]) == 0
    named = capsys.readouterr().out
    assert main(["predict", "photos", "--top", "1", "--format", "csv"]) == 0
    assert capsys.readouterr().out == named
    assert main(["predict", "gone.png", "photos", "--top", "1"]) == 1  # a picture that is missing is told at the end
    assert "there is no image gone.png" in capsys.readouterr().err


@pytest.mark.usefixtures("photos")
def test_an_extension_that_says_no_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "photos", "--output", "found.xlsx"]) == 2
    assert "found.xlsx ends in .xlsx, which says no format; expected .csv, " in capsys.readouterr().err
    assert not Path("found.xlsx").exists()
