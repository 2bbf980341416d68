"""Names of files and classes are printed as they are, whatever they look like."""

import ast
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import senet
from senet.cli import main
from senet.recipes.digits import digits
from senet.terminal import Table, bars_shown, console, printable, say, text_of, tracked

PACKAGE = Path(senet.__file__).parent
NAMES = (
    "[red]x.jpg",
    "x [/b].jpg",
    "[link=https://a.b]c.png",
    ":smile:.jpg",
    "<b>x.jpg",
    "[[bold]] \\[x].png",
    "ä 猫.png",
)


class Screen(io.StringIO):
    """A terminal, as far as anybody can tell."""

    def isatty(self) -> bool:
        return True


def test_one_module_alone_prints_with_rich():
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 50
    for path in modules:
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [getattr(node, "module", None) or node.names[0].name for node in nodes]
        assert path.name == "terminal.py" or not any(name.split(".")[0] == "rich" for name in names), path


@pytest.mark.parametrize("name", NAMES)
def test_lines_tables_and_bars_hold_a_name_as_it_is(name, capsys, monkeypatch):
    say(f"one {name} more")
    table = Table("image", name, title=name)
    table.add_row(name, "y")
    console().print(table)
    assert capsys.readouterr().out.count(name) == 4
    assert text_of(table).count(name) == 3
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    assert list(tracked([1, 2], f"Reading {name}", 2)) == [1, 2]
    assert screen.getvalue() == ""  # a program that uses the library shows what it wants itself
    with bars_shown():
        assert list(tracked([1, 2], f"Reading {name}", 2)) == [1, 2]
    assert f"Reading {name}" in screen.getvalue()


def test_what_would_command_a_terminal_is_escaped(capsys):
    assert printable("a\n\x1b[31mb\tc\udcff\u2028") == r"a\n\x1b[31mb\tc\udcff\u2028"
    assert printable("ä 猫 \u200d") == "ä 猫 \u200d"
    say("two\nlines\x07")
    assert capsys.readouterr().out == "two\nlines\\x07\n"


def test_no_name_is_cut_where_there_is_no_terminal(capsys):
    table = Table("image", "class")
    table.add_row("a" * 500, "b" * 500)
    console().print(table)
    assert "a" * 500 in capsys.readouterr().out


def test_a_narrow_terminal_shows_long_names_in_several_lines(monkeypatch):
    monkeypatch.setattr("sys.stdout", screen := Screen())
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("image")
    table.add_row("a" * 100)
    console().print(table)
    assert screen.getvalue().count("a") == 100 + 1  # and that of "image"


def test_a_stream_that_lacks_a_letter_gets_an_escape(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert main(["猫"]) == 2
    assert written.getvalue().startswith(rb"senet: no command is called '\u732b'")


def test_a_reader_that_goes_away_ends_a_command_as_documented(monkeypatch):
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert main(["models", "cifar_se_resnet20"]) == 141


# ---- through the commands --------------------------------------------------------------------------------------------

CLASSES = ("[red]a", ":smile:", "[link=x]c", "<script>")


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command says, on either stream."""
    capsys.readouterr()
    status = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert status == 0, err
    return out + err


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images whose every name looks like markup."""
    folder = tmp_path_factory.mktemp("data") / "x [" / "b]"
    for split in ("train", "val"):
        for k, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                Image.new("L", (8, 8), 60 * k + 10 * i).save(folder / split / name / f"[red]{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on them, in such a folder."""
    folder = tmp_path_factory.mktemp("runs") / "x [" / "b] [red]run"
    stderr = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        command = ["train", "digits", "--data", str(images), "--epochs", "1", "--batch-size", "8"]
        assert main([*command, "--output", str(folder)]) == 0, stderr.getvalue()
    assert "b] [red]run: epoch 1/1" in stderr.getvalue()
    return folder


def test_predict_names_files_and_classes(run, images, capsys):
    files = [images / "val" / name / "[red]1.png" for name in CLASSES]
    text = said(capsys, "predict", *files, "--model", run)
    for path, name in zip(files, CLASSES, strict=True):
        assert str(path) in text
        assert text.count(name) >= len(files)


def test_evaluate_names_the_data(run, images, capsys):
    assert f"24 images of {images}" in said(capsys, "evaluate", run)


def test_record_explain_and_prune_name_their_folders(run, tmp_path, capsys):
    gates, page, pruned = (tmp_path / f"x [/b] [red]{name}" for name in ("gates.safetensors", "page.html", "model"))
    assert f"{gates} holds the gates" in said(capsys, "record", run, "--output", gates)
    assert f"{page} is the report" in said(
        capsys, "explain", run, "--recording", gates, "--output", page, "--no-knockout"
    )
    assert "<script>c" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    command = ("prune", run, "--output", pruned, "--recording", gates, "--blocks", "SE_4_3")
    assert f"{pruned} holds the model" in said(capsys, *command)


def test_insert_names_its_folder(tmp_path, capsys):
    folder = tmp_path / "x [/b] [red]model"
    source = tmp_path / "plain"
    senet.save_pretrained(senet.create_model("cifar_resnet20"), source)
    assert f"{folder} holds the model" in said(capsys, "insert", source, "--output", folder)


@pytest.mark.slow
def test_ablate_and_demo_name_their_folders(images, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "x [/b] [red]runs"
    settings = ("--data", images, "--epochs", "1", "--batch-size", "8")
    text = said(capsys, "ablate", "digits", "--tables", "12", "--seeds", "1", *settings, "--output", folder)
    assert f"1 of 3: {folder}" in text
    assert f"{folder} holds the runs" in text
    monkeypatch.setattr(
        "senet.cli.demo.digits", lambda: replace(digits(), data=replace(digits().data, dataset=str(images)))
    )
    monkeypatch.setattr("senet.cli.demo_leaves.EPOCHS", 1)
    demo = tmp_path / "x [/b] [red]demo"
    demo.mkdir(parents=True)
    text = said(capsys, "demo", "--epochs", "1", "--output", demo)
    assert f"{demo} is taken; writing to {demo}-2" in text
    assert f"Curves: {demo}-2/curves.html" in text
    assert f"{demo}-2/mistakes.html is the report" in text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("words", [["models", "cifar_se_resnet20"], ["--version"]])
def test_a_full_disk_is_one_sentence(words):
    """Also where the output is so short that it is written at the very end."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "senet", *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "senet: the output cannot be written (No space left on device); make room, or name another place"
    )
